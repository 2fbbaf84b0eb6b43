"""A dictionary of arrays that holds only so much in memory: the rest waits on the disk."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Hashable
from typing import IO

import numpy as np

__all__ = ["DiskCache"]


class DiskCache:
    """Arrays by key; those that were not asked for longest are written to a temporary file when memory gets short.

    Parameters
    ----------
    limit : int
        Bytes that are held in memory.

    Notes
    -----
    The file has no name where the system knows such files, so that nothing stays behind, however the process ends.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._places: dict[Hashable, tuple[int, tuple[int, ...], np.dtype]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held or key in self._places

    def __bool__(self) -> bool:
        return bool(self._held or self._places)

    def __setitem__(self, key: Hashable, array: np.ndarray) -> None:
        """Keep `array` under a key that is new."""
        self._hold(key, array)

    def __getitem__(self, key: Hashable) -> np.ndarray:
        """The array itself: what is changed in it is kept as long as no other is asked for. Raises KeyError."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        offset, shape, dtype = self._places[key]
        assert self._file is not None  # it has places
        self._file.seek(offset)
        array = np.frombuffer(bytearray(self._file.read(int(np.prod(shape)) * dtype.itemsize)), dtype).reshape(shape)
        self._hold(key, array)
        return array

    def _hold(self, key: Hashable, array: np.ndarray) -> None:
        self._held[key] = array
        self._bytes += array.nbytes
        while self._bytes > self._limit and len(self._held) > 1:
            self._write(*self._held.popitem(last=False))

    def _write(self, key: Hashable, array: np.ndarray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="napari-mlbseg-")  # noqa: SIM115 (as long as this object)
        if key not in self._places:
            self._places[key] = (self._end, array.shape, array.dtype)
            self._end += array.nbytes
        self._file.seek(self._places[key][0])
        self._file.write(np.ascontiguousarray(array).data)
        self._bytes -= array.nbytes
