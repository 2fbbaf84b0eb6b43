"""Whether a process runs, and which one a worker cannot do without."""

from __future__ import annotations

import psutil

__all__ = ["PARENT", "lives"]

#: Environment variable that names the process without which a worker ends: nobody would read its events.
PARENT = "NAPARI_MLBSEG_PARENT"


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for its exit code does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
