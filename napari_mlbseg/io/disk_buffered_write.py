"""Large arrays on their way into a file: never whole in memory, whatever the order of axes that the file wants."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg.io.image_file import minimal_dtype

__all__ = ["write_disk_buffered"]


def write_disk_buffered(
    array: Any, path: Path, order: Literal["C", "F"], write: Callable[[np.ndarray], object]
) -> None:
    """Give `write` the array in the smallest number type that image viewers read, mapped from a temporary file.

    Parameters
    ----------
    array : ndarray or ArrayView
        Read one slice after the other, along the axis along which it is stored; of real numbers once, of label numbers
        twice, as their smallest type has to be found first.
    path : Path
        Of the file that is to be written. The temporary one lies beside it: there must be room for the whole array.
    order : {"C", "F"}
        In which `write` will go through the array.
    write : callable
        It must not keep the array.

    Raises
    ------
    OSError
        If there is no room for it.
    ImageFileError
        If a label number does not fit into 32 bits.
    """
    axis = _stored_along(array)
    slices = [(slice(None),) * axis + (index,) for index in range(array.shape[axis])]
    dtype = minimal_dtype(np.dtype(array.dtype), (np.asarray(array[at]) for at in slices))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.spool")
    stored: np.ndarray | None = None
    try:
        stored = np.memmap(temporary, dtype, "w+", shape=tuple(array.shape), order=order)
        with temporary.open("r+b") as file:  # a full disk is found now: found at a mapped page, it would kill us
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, stored.nbytes)
        for at in slices:
            stored[at] = array[at]
        write(stored)
    finally:
        stored = None  # Windows deletes no file that is mapped
        temporary.unlink(missing_ok=True)


def _stored_along(array: Any) -> int:
    """Axis along which the slices of an array lie one after the other where it is stored."""
    if isinstance(array, ArrayView):
        return array.axes.index(min(array.axes))
    return int(np.argmax(np.abs(array.strides)))
