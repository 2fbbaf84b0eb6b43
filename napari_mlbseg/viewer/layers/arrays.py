"""Results as napari sees them: read lazily, slice by slice, in the axis order of the user's layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from napari_mlbseg._util.arrays import expanded_key

__all__ = ["Reader", "SliceReader", "as_is", "highest_foreground", "preference"]

#: Reads slices ``start:stop`` of a result, (n, Y, X).
Reader = Callable[[slice], np.ndarray]


class SliceReader:
    """An array-like over a reader of slices; what it reads from can be changed under the layer that shows it.

    Parameters
    ----------
    read : callable
        Takes a slice of slice numbers and gives (n, Y, X).
    shape : tuple of int
        Three axes in the user's order.
    dtype : dtype
    slice_axis : int
        Axis of `shape` along which the slices lie.

    Notes
    -----
    It cannot be written to, so neither a brush nor an undo of napari's can change a result.
    """

    def __init__(self, read: Reader, shape: tuple[int, ...], dtype: Any, slice_axis: int) -> None:
        self.read = read
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.slice_axis = slice_axis

    @property
    def ndim(self) -> int:
        """Number of axes, 3."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))

    def read_from(self, read: Reader) -> None:
        """Show what `read` gives from now on."""
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        """Read only the slices that `key` asks for."""
        keys = expanded_key(key, self.ndim)
        if keys is None:  # fancy indexing: rare, and numpy knows best
            return np.asarray(self)[key]
        wanted = keys[self.slice_axis]
        n_slices = self.shape[self.slice_axis]
        if isinstance(wanted, slice):
            numbers = range(n_slices)[wanted]
            first, stop = (min(numbers), max(numbers) + 1) if len(numbers) else (0, 0)
            local: Any = slice(None, None, numbers.step)
        else:
            first = range(n_slices)[wanted]
            stop, local = first + 1, 0
        block = np.moveaxis(self._block(first, stop), 0, self.slice_axis)
        return block[tuple(local if axis == self.slice_axis else k for axis, k in enumerate(keys))]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole array."""
        whole = np.moveaxis(self._block(0, self.shape[self.slice_axis]), 0, self.slice_axis)
        return whole.astype(dtype or self.dtype, copy=False)

    def _block(self, first: int, stop: int) -> np.ndarray:
        return np.asarray(self.read(slice(first, stop))).astype(self.dtype, copy=False)


def as_is(array: Any) -> Reader:
    """Reader of a (Z, Y, X) array."""
    return lambda slices: np.asarray(array[slices])


def highest_foreground(probability: Any) -> Reader:
    """Reader of the highest probability among the foreground classes of a (Z, C, Y, X) array."""
    return lambda slices: np.asarray(probability[slices])[:, 1:].max(axis=1).astype(np.float32)


def preference(weight_initial: Any, weight_pseudo: Any) -> Reader:
    """Reader of (w^p - w^n) / (w^p + w^n): 1 trusts the pseudo-label, -1 the initial label, 0 neither more."""

    def read(slices: slice) -> np.ndarray:
        initial, pseudo = np.asarray(weight_initial[slices]), np.asarray(weight_pseudo[slices])
        total = initial + pseudo
        return np.divide(pseudo - initial, total, out=np.zeros_like(total), where=total > 0)

    return read
