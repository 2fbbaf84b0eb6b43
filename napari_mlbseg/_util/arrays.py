"""Arrays that stay on the disk: their axes in another order, some fixed, and nothing read until a part is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "MAPPED_BYTES",
    "ArrayView",
    "expanded_key",
    "flipped",
    "is_lazy",
    "is_on_disk",
    "moved_axis",
    "native_byte_order",
    "plain_dtype",
]

#: Files of arrays larger than this are not read into memory where their format allows it.
MAPPED_BYTES = 2**28


def plain_dtype(dtype: Any) -> np.dtype:
    """`dtype` as what it is worth, in this machine's byte order.

    NumPy has two types of 64-bit integers on most systems, which compare equal; zarr (3.1) knows one of them, and
    tifffile (2026.3) gives out the other. napari (0.9) draws label 2 of big-endian labels as 512.
    """
    return np.dtype(np.dtype(dtype).str).newbyteorder("=")


def native_byte_order(array: Any) -> Any:
    """An array whose numbers are in this machine's byte order; of one on the disk, once they are read."""
    dtype = np.dtype(array.dtype)
    if dtype.isnative and dtype.char == plain_dtype(dtype).char:
        return array
    if is_on_disk(array):
        return array if isinstance(array, ArrayView) else ArrayView(array)
    return array.astype(plain_dtype(array.dtype), copy=False)


class ArrayView:
    """Array-like over another one; `numpy.moveaxis` and `transpose` make a view of it, not a copy.

    Parameters
    ----------
    array : array-like
        Takes integers and slices as indices: of zarr, dask, nibabel or numpy.
    axes : sequence of int, optional
        Axes of `array` in the order of the view; by default all of them, as they are.
    fixed : mapping of int to int, optional
        Axes of `array` that are left out, and the index at which they are read.
    """

    def __init__(self, array: Any, axes: Sequence[int] | None = None, fixed: Mapping[int, int] | None = None) -> None:
        self.array = array
        self.fixed = dict(fixed or {})
        self.axes = tuple(axis for axis in range(array.ndim) if axis not in self.fixed) if axes is None else tuple(axes)
        self.shape = tuple(int(array.shape[axis]) for axis in self.axes)
        self.dtype = plain_dtype(array.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the whole array would take in memory."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> ArrayView:  # noqa: N802 (as of numpy)
        """The view with its axes reversed."""
        return self.transpose()

    def transpose(self, *order: Any) -> ArrayView:
        """The view with its axes in another order, as of a numpy array."""
        if len(order) == 1 and not isinstance(order[0], int | np.integer):
            order = tuple(order[0])
        order = order or tuple(range(self.ndim))[::-1]
        return ArrayView(self.array, [self.axes[axis] for axis in order], self.fixed)

    def take(self, index: int, axis: int) -> ArrayView:
        """The view at one index of an axis."""
        axis %= self.ndim
        left = [a for position, a in enumerate(self.axes) if position != axis]
        return ArrayView(self.array, left, {**self.fixed, self.axes[axis]: int(index)})

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        """Read a part: integers, slices and an ellipsis; anything else as numpy does, from the whole array."""
        keys = expanded_key(key, self.ndim)
        if keys is None:
            return np.asarray(self)[key]
        wanted: list[Any] = [None] * self.array.ndim
        for axis, index in self.fixed.items():
            wanted[axis] = index
        reversed_axes = []
        for axis, k in zip(self.axes, keys, strict=True):
            wanted[axis], is_reversed = _forward(k, int(self.array.shape[axis]))
            reversed_axes += [axis] if is_reversed else []
        part = np.asarray(self.array[tuple(wanted)]).astype(self.dtype, copy=False)
        kept = [axis for axis in range(self.array.ndim) if isinstance(wanted[axis], slice)]
        part = np.flip(part, tuple(kept.index(axis) for axis in reversed_axes)) if reversed_axes else part
        return part.transpose([kept.index(axis) for axis in self.axes if axis in kept])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole array."""
        return np.asarray(self[(slice(None),) * self.ndim], dtype=dtype)


def is_lazy(array: Any) -> bool:
    """Whether an array is more than numpy's own: what must not be converted as a whole."""
    return not isinstance(array, np.ndarray)


def is_on_disk(array: Any) -> bool:
    """Whether a part of an array can be read without all of it being in memory."""
    return is_lazy(array) or isinstance(array, np.memmap)


def moved_axis(array: Any, source: int, target: int) -> Any:
    """`numpy.moveaxis` that reads nothing, whatever the array."""
    if source == target:
        return array
    knows_axes: Any = array if hasattr(array, "transpose") else ArrayView(array)
    return np.moveaxis(knows_axes, source, target)


def flipped(array: Any, axes: Sequence[int]) -> Any:
    """`numpy.flip` that reads nothing, whatever the array."""
    if not axes:
        return array
    return np.flip(array, tuple(axes)) if isinstance(array, np.ndarray) else ArrayView(_Flipped(array, axes))


class _Flipped:
    """An array that is read backwards along some axes."""

    def __init__(self, array: Any, axes: Sequence[int]) -> None:
        self._array, self._axes = array, frozenset(axes)
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """A part; `ArrayView` asks with one integer or forward slice for each axis."""
        turned = tuple(self._backwards(k, axis) if axis in self._axes else k for axis, k in enumerate(key))
        return np.asarray(self._array[turned])

    def _backwards(self, key: Any, axis: int) -> Any:
        indices = range(self.shape[axis])[::-1][key]
        if isinstance(indices, int):
            return indices
        return slice(indices.start, indices.stop if indices.stop >= 0 else None, indices.step)


def _forward(key: Any, size: int) -> tuple[Any, bool]:
    """An integer or slice that counts from the start and up, and whether its result is to be reversed."""
    if not isinstance(key, slice):
        return range(size)[key], False
    numbers = range(size)[key]
    if numbers.step > 0:
        return slice(numbers.start, numbers.stop, numbers.step), False
    if not numbers:
        return slice(0, 0), False
    return slice(numbers[-1], numbers[0] + 1, -numbers.step), True


def expanded_key(key: Any, ndim: int) -> tuple[Any, ...] | None:
    """One integer or slice an axis, or None where `key` is anything else."""
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    if dots:
        keys[dots[0] : dots[0] + 1] = [slice(None)] * (ndim - len(keys) + 1)
    keys += [slice(None)] * (ndim - len(keys))
    plain = all(isinstance(k, slice) or (isinstance(k, int | np.integer) and not isinstance(k, bool)) for k in keys)
    return tuple(keys) if plain and len(keys) == ndim else None
