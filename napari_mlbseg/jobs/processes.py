"""Processes: whether one runs, which one a worker cannot do without, and how much of the machine it takes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import psutil

__all__ = ["PARENT", "lower_priority", "is_running", "n_cores", "parent"]

#: Environment variable that names the process without which a worker ends: nobody would read its events.
PARENT = "NAPARI_MLBSEG_PARENT"


def is_running(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for its exit code does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def parent() -> psutil.Process | None:
    """The process without which this one is of no use, if one was named."""
    number = os.environ.get(PARENT)
    return psutil.Process(int(number)) if number else None


def n_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def lower_priority(threads: int | None) -> None:
    """Lower priority, so that painting and scrolling come first; at most `threads` threads.

    Call it before torch is imported.
    """
    with suppress(psutil.AccessDenied, OSError):  # where it is not allowed, the job still runs
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else 10)
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what Metal lacks is computed on the CPU
    if threads is not None:
        # Beside a window, a thread that waits for another must not burn the core on which the window wants to draw.
        # Alone on the machine it may: waiting awake is faster.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
