"""What a worker says of an error that ended its job."""

from __future__ import annotations

from pathlib import Path

from napari_mlbseg._util.files import FULL_DISK
from napari_mlbseg.events import Failed
from napari_mlbseg.jobs.folder import JobFolder

__all__ = ["failure", "full_disk", "is_out_of_memory"]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: torch has a type for CUDA and only words for the CPU."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("out of memory" in words or "not enough memory" in words))
    )


def failure(error: Exception, folder: JobFolder) -> Failed:
    """The terminal event of a job that met `error`: a sentence for mistakes in the input, more for all others."""
    if is_out_of_memory(error):
        return Failed(
            message="There was not enough memory, even with a smaller batch.",
            advice="Close other programs, or choose a smaller patch_size, features or n_views (Advanced).",
            log_tail=folder.log_tail(),
        )
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return full_disk(folder, error.filename or "the results")
    if isinstance(error, OSError) and error.errno is not None:
        return Failed(
            message=f"A file could not be read or written: {error}.",
            advice="Make room on the disk or choose a folder that can be written, then press Train again.",
            log_tail=folder.log_tail(),
        )
    if isinstance(error, ValueError) and str(error):
        return Failed(message=str(error), log_tail=folder.log_tail())
    return Failed(
        message=f"The training met an unexpected {type(error).__name__}: {error}",
        advice=f"Please report this with the log, {Path(folder.log_file).name}.",
        log_tail=folder.log_tail(),
    )


def full_disk(folder: JobFolder, what: str = "the results") -> Failed:
    """The terminal event of a job that found no room for `what`."""
    return Failed(
        message=f"The disk of {folder.path} is full: there was no room for {what}.",
        advice="Make room there or choose a folder on another disk, then train again.",
        log_tail=folder.log_tail(),
    )
