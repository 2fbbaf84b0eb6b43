"""The session folder, ``NAME.mlbseg``: what is kept of a session, and how it is written so that nothing is lost.

::

    NAME.mlbseg/session.json           volumes, classes, clean slices with provenance, config, rounds
                annotations/VOL.zarr   the human's voxels, one chunk a slice
                images/VOL.zarr        images that have no file of their own, one chunk a slice
                rounds/001/...         job folders
                checks/001/...         job folders of leave-one-clean-slice-out
                lock, .lock            who has it open: see `napari_mlbseg.session.persistence.lock`

A file is written to a temporary name, synchronised and renamed: a reader sees the old one or the new one. Nothing here
is pickled.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mlbseg._util.files import atomic_path, synchronise, write_atomically
from napari_mlbseg._util.zarr_arrays import create_array, open_array
from napari_mlbseg.io.image_file import split_series
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.session.persistence.lock import LOCK_FILES, SessionLock
from napari_mlbseg.session.persistence.schema import SessionError, SessionRecord, parse_record

if TYPE_CHECKING:
    import zarr

__all__ = ["SUFFIX", "SessionFolder", "SliceArray", "content_hash", "folder_bytes", "is_session"]

SUFFIX = ".mlbseg"
_RECORD = "session.json"
_HASHED_WHOLE = 2**26  # bytes of a file up to which all of it is read for its fingerprint
_PIECE = 2**16


class SliceArray:
    """A zarr array with one chunk a slice along any axis.

    Parameters
    ----------
    path : Path
    slice_axis : int
    """

    def __init__(self, path: Path, slice_axis: int) -> None:
        self.path = path
        self.slice_axis = slice_axis
        self._array: zarr.Array[Any] | None = None

    def create(self, shape: Sequence[int], dtype: Any) -> None:
        """Make it, all zero.

        Raises
        ------
        FileExistsError
            If there is an array already: nothing that was painted is ever written over.
        """
        if self.exists():
            raise FileExistsError(17, "an array of another form is there already", str(self.path))
        shape = tuple(int(n) for n in shape)
        chunks = tuple(1 if axis == self.slice_axis else max(1, n) for axis, n in enumerate(shape))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._array = create_array(self.path, shape, chunks, np.dtype(dtype).newbyteorder("="))

    def open(self) -> zarr.Array[Any]:
        """The array, for reading and writing; raises FileNotFoundError."""
        if self._array is None:
            self._array = open_array(self.path, "r+")
        return self._array

    def exists(self) -> bool:
        """Whether there is an array."""
        return (self.path / "zarr.json").exists()

    def fits(self, shape: Sequence[int], dtype: Any) -> bool:
        """Whether there is an array of this shape, type and slice axis."""
        if not self.exists():
            return False
        array = self.open()
        dtype = np.dtype(dtype).newbyteorder("=")  # zarr keeps the byte order apart from the type
        whole = all(chunk == (1 if axis == self.slice_axis else n) for axis, (chunk, n) in
                    enumerate(zip(array.chunks, array.shape, strict=True)))  # fmt: skip
        return whole and array.shape == tuple(shape) and array.dtype.newbyteorder("=") == dtype

    def read(self) -> np.ndarray:
        """All of it; slices that were never written take no memory."""
        array = self.open()
        pixels = np.zeros(array.shape, array.dtype)
        for z in range(array.shape[self.slice_axis]):
            if self._chunk(z).exists():
                pixels[self._index(z)] = array[self._index(z)]
        return pixels

    def write(self, z: int, plane: np.ndarray, *, at_once: bool = True) -> None:
        """Write a slice: a reader sees it as it was or as it is. It is on the disk when this returns, if `at_once`."""
        self.open()[self._index(z)] = plane
        if at_once:
            chunk = self._chunk(z)
            synchronise(chunk)
            for folder in chunk.parents:  # a slice that had no file before has a name, or a folder, that is new
                synchronise(folder)
                if folder == self.path:
                    break

    def _index(self, z: int) -> tuple[Any, ...]:
        return tuple(z if axis == self.slice_axis else slice(None) for axis in range(self.open().ndim))

    def _chunk(self, z: int) -> Path:
        """File of a slice."""
        array = self.open()
        numbers = tuple(z if axis == self.slice_axis else 0 for axis in range(array.ndim))
        return self.path / array.metadata.encode_chunk_key(numbers)


class SessionFolder:
    """Paths of a session folder, and what is read from and written to them."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.record_file = self.path / _RECORD
        self._lock = SessionLock(self.path)
        self.rounds_path = self.path / "rounds"
        self.checks_path = self.path / "checks"

    # -- the record ----------------------------------------------------------------------------------------------

    def read(self) -> SessionRecord:
        """The record.

        Raises
        ------
        SessionError
            If there is none, it is damaged, or a newer version wrote it.
        """
        try:
            text = self.record_file.read_text(encoding="utf-8")
        except OSError as error:
            raise SessionError(
                f"{self.path} is no session ({_RECORD} cannot be read: {error.strerror}): choose a folder that ends in "
                f"{SUFFIX}."
            ) from error
        return parse_record(text, str(self.record_file))

    def write(self, record: SessionRecord) -> None:
        """Write the record; raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.record_file, record.model_dump_json(indent=1) + "\n")
        synchronise(self.path)

    # -- arrays --------------------------------------------------------------------------------------------------

    def array(self, relative: str, slice_axis: int) -> SliceArray:
        """An array within the folder."""
        return SliceArray(self.path / relative, slice_axis)

    # -- rounds --------------------------------------------------------------------------------------------------

    def round_path(self, number: int) -> Path:
        """Job folder of a round."""
        return self.rounds_path / f"{number:03d}"

    def remove_half_rounds(self, known: Collection[int]) -> None:
        """Delete job folders of rounds that never began, because the process died while it wrote them.

        Parameters
        ----------
        known : collection of int
            Rounds of the session, whose folders stay, whatever they lack.
        """
        for path in self.rounds_path.glob("*"):
            is_half = path.name.isdigit() and not JobFolder(path).request_file.exists()
            if is_half and int(path.name) not in known:
                shutil.rmtree(path, ignore_errors=True)

    def next_check_path(self) -> Path:
        """A job folder for a leave-one-clean-slice-out."""
        taken = [int(path.name) for path in self.checks_path.glob("*") if path.name.isdigit()]
        return self.checks_path / f"{max(taken, default=0) + 1:03d}"

    # -- one process at a time -----------------------------------------------------------------------------------

    def lock(self) -> None:
        """Take the folder for this session; raises SessionBusyError or OSError as `SessionLock.acquire`."""
        self._lock.acquire()

    def unlock(self) -> None:
        """Let go of the folder, if this session holds it."""
        self._lock.release()

    @property
    def is_locked(self) -> bool:
        """Whether this session holds the folder."""
        return self._lock.is_held

    def transfer(self, target: SessionFolder, keep: bool, *, rounds: bool = True) -> None:
        """Move everything to another folder, or copy it there, but for the lock, which must not be held to move it.

        Raises OSError, and then nothing has changed.
        """
        if not keep:
            try:
                self.path.rename(target.path)
                return
            except OSError:  # another disk: copy, then delete
                pass
        trained = () if rounds else (self.rounds_path.name, self.checks_path.name)
        ignored = shutil.ignore_patterns(*LOCK_FILES, *trained)
        with atomic_path(target.path) as temporary:
            shutil.copytree(self.path, temporary, copy_function=_second_name, ignore=ignored)
        if not keep:
            self.remove()

    def has_strokes(self) -> bool:
        """Whether any annotation within holds something."""
        return any(path.is_file() for path in self.path.glob("annotations/*/c/**/*"))

    def remove(self) -> None:
        """Delete the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def is_session(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a session folder, by its name and its record."""
    return os.fspath(path).rstrip("/\\").lower().endswith(SUFFIX) and (Path(path) / _RECORD).is_file()


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for root, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # it went meanwhile
                status = os.lstat(os.path.join(root, name))
                total += status.st_size // max(1, status.st_nlink)  # what several names share counts once
    return total


def content_hash(path: Path) -> str:
    """Fingerprint of a file, or of a folder's names and sizes: of a large file, its size and pieces spread over it."""
    digest = hashlib.blake2b(digest_size=16)
    path, _ = split_series(path)
    if path.is_dir():
        for root, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                inner = Path(root, name)
                digest.update(f"{inner.relative_to(path)} {inner.stat().st_size}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        if size <= _HASHED_WHOLE:
            digest.update(file.read())
        else:
            for start in np.linspace(0, size - _PIECE, 256).astype(int):
                file.seek(int(start))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


def _second_name(source: str, target: str) -> None:
    """Copy a file by a second name where that can be: all but logs are replaced when they change, never written to."""
    if not source.endswith((".jsonl", ".log")):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)
