"""Arrays that a job is given: where they lie, and how they are frozen into its folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_mlbseg.jobs.arrays import create_array, local_path, open_array

__all__ = ["ArrayReference", "store_array", "store_slices"]


class ArrayReference(BaseModel):
    """Where an input array lies: a ``.npy`` file (memory-mapped) or a zarr array; relative to the job folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["npy", "zarr"]
    path: str

    def open(self, folder: Path) -> Any:
        """The array, lazily."""
        path = folder / self.path
        if self.format == "npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return open_array(path)


def store_array(folder: Path, stem: str, array: Any, like: Path | None = None) -> ArrayReference:
    """Keep a whole array: a local zarr array by its path, an array in memory as .npy, others slice by slice.

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
    if isinstance(array, np.ndarray):
        if like is None or not _share(like / f"{stem}.npy", folder / f"{stem}.npy", array):
            np.save(folder / f"{stem}.npy", array, allow_pickle=False)
        return ArrayReference(format="npy", path=f"{stem}.npy")
    return store_slices(folder, stem, array, range(array.shape[0]))


def store_slices(folder: Path, stem: str, array: Any, slices: Iterable[int]) -> ArrayReference:
    """Keep some slices of an array as zarr, one chunk a slice; the others read as zero. See `store_array`."""
    target = create_array(folder / f"{stem}.zarr", tuple(array.shape), (1, *array.shape[1:]), np.dtype(array.dtype))
    for z in slices:
        target[z] = np.asarray(array[z])
    return ArrayReference(format="zarr", path=f"{stem}.zarr")


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
