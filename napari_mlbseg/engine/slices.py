"""Slices as tensors: robustly normalised, finite, with their neighbours as context, padded to what a network takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mlbseg.task import Volume

__all__ = ["Normalisation", "SliceStore", "WHOLE_SIDE", "is_large", "pad_to", "round_up"]

#: Slices up to this side are seen whole; larger ones, in parts.
WHOLE_SIDE = 768

_SAMPLED_SLICES = 48  # slices from which the intensity range of a volume is read
_SAMPLED_SIDE = 512  # of a large slice, so much is read
_GOLDEN = 0.6180339887  # its multiples, modulo 1, are spread evenly however many there are
_CACHED_BYTES = 2**28  # of one volume
_CACHED_SLICES = 96  # of one volume
_CACHED_IN_ALL = 1024  # of all volumes of a training: else every one of many would be in memory twice


class Normalisation:
    """Affine intensity scaling of a volume, robust against outliers: clip to percentiles, zero mean, unit variance.

    Attributes
    ----------
    low, high, mean, std : ndarray, (C,)
        Of each channel. A constant channel becomes 0 (its std is taken as 1).
    """

    def __init__(self, volume: Volume) -> None:
        picked = np.linspace(0, volume.n_slices - 1, min(_SAMPLED_SLICES, volume.n_slices)).astype(int).tolist()
        read = _windows(volume, picked) if is_large(volume.slice_shape) else map(volume.image_slice, picked)
        pixels = _SAMPLED_SIDE**2 if is_large(volume.slice_shape) else math.prod(volume.slice_shape)
        step = max(1, int(np.sqrt(len(picked) * pixels / 2e6)))
        planes = np.stack([plane[..., ::step, ::step] for plane in read]).astype(np.float32)  # (n, C, Y, X)
        values = np.moveaxis(planes, 1, 0).reshape(planes.shape[1], -1)
        values = np.where(np.isfinite(values), values, np.nan)
        values = np.where(np.isnan(values).all(1, keepdims=True), 0, values)
        self.low, self.high = np.nanpercentile(values, [0.5, 99.5], axis=1).astype(np.float32)
        clipped = np.clip(values, self.low[:, None], self.high[:, None])
        self.mean = np.nanmean(clipped, axis=1)
        spread = np.nanstd(clipped, axis=1)
        self.std = np.where(spread > 1e-6 * np.maximum(1, np.abs(self.mean)), spread, 1)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(C, Y, X) in any number type -> float32; NaN and infinity become the mean."""
        low, high, mean, std = (v[:, None, None] for v in (self.low, self.high, self.mean, self.std))
        scaled = (np.clip(image.astype(np.float32), low, high) - mean) / std
        return np.where(np.isfinite(image), scaled, 0).astype(np.float32)


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
    """

    def __init__(self, volume: Volume, context: int, device: torch.device, n_volumes: int = 1) -> None:
        self.volume = volume
        self.device = device
        self._offsets = range(-context, context + 1)
        self._normalise = Normalisation(volume)
        rows, columns = volume.slice_shape
        fitting = _CACHED_BYTES // (4 * volume.n_channels * rows * columns)
        cached = max(2 * len(self._offsets), min(_CACHED_SLICES, _CACHED_IN_ALL // n_volumes, fitting))
        self._plane = lru_cache(maxsize=cached)(self._load)

    def __getitem__(self, z: int) -> Tensor:
        """Slice `z` with its context, (C * (2 * context + 1), Y, X)."""
        return self._with_context(z, self._plane)

    def window(self, z: int, rows: slice, columns: slice) -> Tensor:
        """Part of slice `z` with its context; of a large slice no more than that is read."""
        if not is_large(self.volume.slice_shape):
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


def is_large(shape: tuple[int, int]) -> bool:
    """Whether slices of this shape are seen in parts."""
    return max(shape) > WHOLE_SIDE


def _windows(volume: Volume, slices: Sequence[int]) -> Iterator[np.ndarray]:
    """A part of each of `slices`, all of one shape and spread evenly over the slices' rows and columns."""
    sides = [min(side, _SAMPLED_SIDE) for side in volume.slice_shape]
    for number, z in enumerate(slices):
        shares = (number * _GOLDEN) % 1, (number * _GOLDEN**2) % 1
        starts = [int(s * (n - side)) for s, n, side in zip(shares, volume.slice_shape, sides, strict=True)]
        rows, columns = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        yield volume.image_window(z, rows, columns)


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
