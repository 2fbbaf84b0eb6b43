"""What a command's exit code says."""

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Exit codes of all commands."""

    DONE = 0
    FAILED = 1  #: The job failed.
    BAD_INPUT = 2  #: The input does not fit: one line says why, and nothing was written.
    INTERRUPTED = 130  #: What there was has been written.
