"""Whether a process runs."""

from __future__ import annotations

import psutil

__all__ = ["lives"]


def lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and that nobody has asked for its exit code does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
