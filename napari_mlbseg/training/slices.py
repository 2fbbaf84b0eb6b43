"""Slices as tensors: robustly normalised, finite, with their neighbours as context, padded to what a network takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mlbseg.method.normalisation import Normalisation, needs_tiling
from napari_mlbseg.task import Volume

__all__ = ["SliceStore", "no_data_note", "pad_to", "round_up"]


_CACHED_BYTES = 2**28  # of one volume
_CACHED_SLICES = 96  # of one volume
_CACHED_IN_ALL = 1024  # of all volumes of a training: else every one of many would be in memory twice


class SliceStore:
    """Normalised slices of a volume on a device.

    Parameters
    ----------
    volume : Volume
    context : int
        Neighbours on each side that become further channels; at the ends the last slice is repeated. Unrelated slices
        have only themselves as neighbours.
    device : torch.device
    n_volumes : int
        Volumes with a store beside this one, itself included: they share what may be cached.

    Attributes
    ----------
    no_data : list of float
        Values that count as no data in any channel.
    """

    def __init__(self, volume: Volume, context: int, device: torch.device, n_volumes: int = 1) -> None:
        self.volume = volume
        self.device = device
        self._offsets = range(-context, context + 1)
        self._normalise = Normalisation(volume)
        self.no_data = sorted({value for values in self._normalise.no_data for value in values})
        rows, columns = volume.slice_shape
        fitting = _CACHED_BYTES // (4 * volume.n_channels * rows * columns)
        cached = max(2 * len(self._offsets), min(_CACHED_SLICES, _CACHED_IN_ALL // n_volumes, fitting))
        self._plane = lru_cache(maxsize=cached)(self._load)

    def __getitem__(self, z: int) -> Tensor:
        """Slice `z` with its context, (C * (2 * context + 1), Y, X)."""
        return self._with_context(z, self._plane)

    def window(self, z: int, rows: slice, columns: slice) -> Tensor:
        """Part of slice `z` with its context; of a large slice no more than that is read."""
        if not needs_tiling(self.volume.slice_shape):
            return self[z][:, rows, columns]
        return self._with_context(z, lambda plane: self._tensor(self.volume.image_window(plane, rows, columns)))

    def _with_context(self, z: int, read: Callable[[int], Tensor]) -> Tensor:
        if self.volume.independent_slices:
            return read(z).repeat(len(self._offsets), 1, 1)
        last = self.volume.n_slices - 1
        planes = [read(min(max(z + offset, 0), last)) for offset in self._offsets]
        return planes[0] if len(planes) == 1 else torch.cat(planes)

    def _load(self, z: int) -> Tensor:
        return self._tensor(self.volume.image_slice(z))

    def _tensor(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(self._normalise(image)).to(self.device)


def no_data_note(stores: Iterable[SliceStore]) -> dict[str, str]:
    """What there is to say of values that count as no data, for `Metrics`; empty where there are none."""
    found = [
        f"'{store.volume.name}': {' and '.join(map('{:g}'.format, store.no_data))}" for store in stores if store.no_data
    ]
    words = f"Values that lie far outside all others count as no data: {'; '.join(found)}."
    return {"note_no_data": words} if found else {}


def round_up(size: int, divisor: int) -> int:
    """Smallest multiple of `divisor` that is at least `size`."""
    return -(-size // divisor) * divisor


def pad_to(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column of (..., H, W) until it has the given sides."""
    down, right = height - x.shape[-2], width - x.shape[-1]
    if not (down or right):
        return x
    flat = x.reshape(1, -1, *x.shape[-2:])
    return F.pad(flat, (0, right, 0, down), mode="replicate").reshape(*x.shape[:-2], height, width)
