"""Arrays that a job is given: where they lie, and how they are frozen into its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg._util.files import atomic_path
from napari_mlbseg._util.zarr_arrays import create_array, local_path, open_array
from napari_mlbseg.io.file_array import FileArray, FileSource

__all__ = [
    "ArrayReference",
    "CopyProgress",
    "InputPart",
    "ProgressCallback",
    "share_fetched",
    "store_array",
    "store_slices",
]


_MANY = 64  # slices
_NOT_LARGE = 2**28  # bytes

InputPart = Literal["image", "labels", "initial_labels"]

#: Called before and after a slice is read, with the number of slices that were stored and of all; what it raises ends
#: the copying.
ProgressCallback = Callable[[int, int], object]


@dataclass(frozen=True)
class CopyProgress:
    """How far the copying of an array is.

    Attributes
    ----------
    volume : str
        Name of the volume that the array belongs to.
    part : {"image", "labels", "initial_labels"}
    done, total : int
        Slices.
    """

    volume: str
    part: InputPart
    done: int
    total: int


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
        with atomic_path(path, durable=False) as temporary:  # it can be made again
            np.save(temporary, np.ascontiguousarray(FileArray(self.source).read()), allow_pickle=False)


def _go_on(done: int, total: int) -> None:
    """Nobody wants to know, nobody stops it."""


def store_array(
    folder: Path,
    stem: str,
    array: Any,
    reuse_from: Path | None = None,
    *,
    relative_to: Path | None = None,
    step: ProgressCallback = _go_on,
) -> ArrayReference:
    """Keep a whole array: files and local zarr arrays by their path, arrays in memory as .npy, others slice by slice.

    Parameters
    ----------
    folder : Path
        Of the job.
    stem : str
        Path in the folder, without a suffix.
    array : array_like
    reuse_from : Path, optional
        Another job's folder: what is the same there is shared on the disk.
    relative_to : Path, optional
        Folder around the job's that may be moved as a whole: a zarr array within is referred to as seen from the job.
    step : callable
        See `ProgressCallback`.
    """
    if (path := local_path(array)) is not None:
        return ArrayReference(format="zarr", path=_seen_from(folder, path, relative_to))
    if isinstance(array, ArrayView) and (path := local_path(array.array)) is not None:
        seen = _seen_from(folder, path, relative_to)
        return ArrayReference(format="zarr", path=seen, axes=array.axes, fixed=array.fixed)
    if isinstance(array, FileArray):
        return ArrayReference(format="npy", path=f"{stem}.npy", source=array.source)
    if isinstance(array, np.ndarray):
        if reuse_from is None or not _share(reuse_from / f"{stem}.npy", folder / f"{stem}.npy", array, step):
            _save(folder / f"{stem}.npy", array, step)
        return ArrayReference(format="npy", path=f"{stem}.npy")
    return store_slices(folder, stem, array, range(array.shape[0]), step)


def store_slices(
    folder: Path, stem: str, array: Any, slices: Iterable[int], step: ProgressCallback = _go_on
) -> ArrayReference:
    """Keep some slices of an array; the others read as zero. See `store_array`.

    A few become zarr, one chunk a slice. Many of an array that is not large become one ``.npy``, since thousands of
    files take long to write.
    """
    slices = list(slices)
    if len(slices) > _MANY and int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize <= _NOT_LARGE:
        kept = np.zeros(array.shape, dtype=array.dtype)
        for done, z in enumerate(slices):
            kept[z] = _read(array, z, done, len(slices), step)
        np.save(folder / f"{stem}.npy", kept, allow_pickle=False)
        return ArrayReference(format="npy", path=f"{stem}.npy")
    target = create_array(folder / f"{stem}.zarr", tuple(array.shape), (1, *array.shape[1:]), np.dtype(array.dtype))
    for done, z in enumerate(slices):
        target[z] = _read(array, z, done, len(slices), step)
    return ArrayReference(format="zarr", path=f"{stem}.zarr")


def share_fetched(folder: Path, reference: ArrayReference, reuse_from: Path, other: ArrayReference) -> None:
    """Give what another job has fetched from the same file a second name, where the file system knows such."""
    if reference.source is not None and reference.source == other.source:
        with suppress(OSError):  # not fetched there either, or a file system without second names
            os.link(reuse_from / other.path, folder / reference.path)


def _read(array: Any, z: int, done: int, total: int, step: ProgressCallback) -> np.ndarray:
    """A slice that may take long to compute: whoever waits may have given up meanwhile."""
    step(done, total)
    plane = np.asarray(array[z])
    step(done, total)
    return plane


def _seen_from(folder: Path, path: Path, relative_to: Path | None) -> str:
    """Path of an array: relative to the job's folder if both are moved together, otherwise as it is."""
    if relative_to is not None and path.is_relative_to(relative_to) and folder.is_relative_to(relative_to):
        return Path(os.path.relpath(path, folder)).as_posix()
    return str(path)


def _save(path: Path, array: np.ndarray, step: ProgressCallback) -> None:
    """What `numpy.save` does, slice by slice: a large image takes long to write."""
    if array.dtype.hasobject:
        raise ValueError(f"Object arrays are not stored ({array.dtype}): convert it to numbers.")
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for z, plane in enumerate(array):
            step(z, len(array))
            file.write(plane.tobytes())


def _share(source: Path, target: Path, array: np.ndarray, step: ProgressCallback) -> bool:
    """Give a file a second name instead of writing `array` again, where it holds just that; whether it did."""
    has_nan = array.dtype.kind == "f"
    try:
        stored = np.load(source, mmap_mode="r", allow_pickle=False)
        if stored.dtype != array.dtype or stored.shape != array.shape:
            return False
        for z, plane in enumerate(array):
            step(z, len(array))
            if not np.array_equal(stored[z], plane, equal_nan=has_nan):
                return False
        target.unlink(missing_ok=True)
        os.link(source, target)
    except (OSError, ValueError):  # no such file, or a file system without second names
        return False
    return True
