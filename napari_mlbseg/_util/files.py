"""Files that appear whole or not at all, and stay after a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["FULL_DISK", "atomic_path", "safe_name", "synchronise", "write_atomically"]

#: Numbers of errors that say there is no room left, for anybody or for this person.
FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, for a file or a folder, which takes its place at the end of the block.

    A reader sees what was there or the whole new one. After an error what was there stays, and nothing is left.

    Parameters
    ----------
    path : Path
        What is there is replaced; a folder that is there must be empty by the end of the block.
    durable : bool
        Whether a file is on the disk when the block ends: without it, a power cut may leave it empty.

    Raises
    ------
    OSError
        If it cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        if durable:
            synchronise(temporary)
        temporary.replace(path)
        if durable:
            synchronise(path.parent)
    finally:
        with suppress(OSError):
            _remove(temporary)


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write text (UTF-8) or bytes, see `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def synchronise(path: Path) -> None:
    """Have the disk keep what was written to a file, or which names a folder holds; what is not there is left."""
    if os.name == "nt" and path.is_dir():
        return  # Windows knows no such thing for folders
    with suppress(FileNotFoundError):
        number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows wants a handle to write with
        try:
            os.fsync(number)
        finally:
            os.close(number)


def safe_name(name: str) -> str:
    """`name` as a folder name on every file system."""
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ")[:80] or "volume"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
