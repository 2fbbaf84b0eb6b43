"""Arrays that a job is given: where they lie, and how they are frozen into its folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_mlbseg.io.array_view import ArrayView
from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.jobs.arrays import create_array, local_path, open_array

__all__ = ["ArrayReference", "share_fetched", "store_array", "store_slices"]


_MANY = 64  # slices
_NOT_LARGE = 2**28  # bytes


class ArrayReference(BaseModel):
    """Where an input array lies: a ``.npy`` file (memory-mapped) or a zarr array; relative to the job folder.

    A ``.npy`` file with a `source` need not be there yet: the worker makes it from that file when it begins, so that
    whoever asks for a job over many files reads none of them. Of a file that can be read in parts, it makes none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["npy", "zarr"]
    path: str
    source: FileSource | None = None
    axes: tuple[int, ...] | None = None  # of a zarr array, in the order of the image; None: as they are
    fixed: dict[int, int] = {}  # its axes that the image does not have, and where they are read

    def open(self, folder: Path) -> Any:
        """The array, lazily."""
        path = folder / self.path
        if self.source is not None and not path.exists():
            return FileArray(self.source)
        if self.format == "npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        array = open_array(path)
        return array if self.axes is None else ArrayView(array, self.axes, self.fixed)

    def fetch(self, folder: Path, *, to_send: bool = False) -> None:
        """Make the file from its source, if it is not there yet; raises ValueError or OSError if that fails.

        A source that can be read in parts is left where it is, unless the array is `to_send` to another machine.
        """
        path = folder / self.path
        if self.source is None or path.exists() or (self.source.in_parts and not to_send):
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npy")
        np.save(temporary, np.ascontiguousarray(FileArray(self.source).read()), allow_pickle=False)
        temporary.replace(path)


def store_array(folder: Path, stem: str, array: Any, like: Path | None = None) -> ArrayReference:
    """Keep a whole array: files and local zarr arrays by their path, arrays in memory as .npy, others slice by slice.

    Parameters
    ----------
    folder : Path
        Of the job.
    stem : str
        Path in the folder, without a suffix.
    array : array_like
    like : Path, optional
        Another job's folder: what is the same there is shared on the disk.
    """
    if (path := local_path(array)) is not None:
        return ArrayReference(format="zarr", path=str(path))
    if isinstance(array, ArrayView) and (path := local_path(array.array)) is not None:
        return ArrayReference(format="zarr", path=str(path), axes=array.axes, fixed=array.fixed)
    if isinstance(array, FileArray):
        return ArrayReference(format="npy", path=f"{stem}.npy", source=array.source)
    if isinstance(array, np.ndarray):
        if like is None or not _share(like / f"{stem}.npy", folder / f"{stem}.npy", array):
            np.save(folder / f"{stem}.npy", array, allow_pickle=False)
        return ArrayReference(format="npy", path=f"{stem}.npy")
    return store_slices(folder, stem, array, range(array.shape[0]))


def store_slices(folder: Path, stem: str, array: Any, slices: Iterable[int]) -> ArrayReference:
    """Keep some slices of an array; the others read as zero. See `store_array`.

    A few become zarr, one chunk a slice. Many of an array that is not large become one ``.npy``: else a window that
    waits for it would wait for thousands of files.
    """
    slices = list(slices)
    if len(slices) > _MANY and int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize <= _NOT_LARGE:
        kept = np.zeros(array.shape, dtype=array.dtype)
        for z in slices:
            kept[z] = array[z]
        np.save(folder / f"{stem}.npy", kept, allow_pickle=False)
        return ArrayReference(format="npy", path=f"{stem}.npy")
    target = create_array(folder / f"{stem}.zarr", tuple(array.shape), (1, *array.shape[1:]), np.dtype(array.dtype))
    for z in slices:
        target[z] = np.asarray(array[z])
    return ArrayReference(format="zarr", path=f"{stem}.zarr")


def share_fetched(folder: Path, reference: ArrayReference, like: Path, other: ArrayReference) -> None:
    """Give what another job has fetched from the same file a second name, where the file system knows such."""
    if reference.source is not None and reference.source == other.source:
        with suppress(OSError):  # not fetched there either, or a file system without second names
            os.link(like / other.path, folder / reference.path)


def _share(source: Path, target: Path, array: np.ndarray) -> bool:
    """Give a file a second name instead of writing `array` again, where it holds just that; whether it did."""
    try:
        stored = np.load(source, mmap_mode="r", allow_pickle=False)
        if stored.dtype != array.dtype or not np.array_equal(stored, array, equal_nan=array.dtype.kind == "f"):
            return False
        target.unlink(missing_ok=True)
        os.link(source, target)
    except (OSError, ValueError):  # no such file, or a file system without second names
        return False
    return True
