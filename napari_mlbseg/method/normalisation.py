"""Intensities of a volume on one scale: robust, finite, and blind to what means no data. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from napari_mlbseg.task import Volume

__all__ = ["Normalisation", "WHOLE_SIDE", "needs_tiling", "no_data_values"]

#: Slices up to this side are seen whole; larger ones, in parts.
WHOLE_SIDE = 768
_SAMPLED_SLICES = 48  # slices from which the intensity range of a volume is read
_SAMPLED_SIDE = 512  # of a large slice, so much is read
_TAIL = 2.0  # standard deviations beyond the percentiles from which on values are clearly compressed
_HUGE = 1e30  # no intensity is as large
_FAR = 10.0  # ranges of all other values
_FEWEST_REPEATED = 20  # sampled pixels that hold a value which means no data
_FEWEST_OTHERS = 16  # other values: of few grey levels, none lies apart (fewer suffice beside the end of a type)
_LOOKED_AT = 100_000  # values among which others are looked for
_STRUCTURE = 0.1  # of what is painted: a value that holds so much of it is no padding
_ROUNDING = 1e-12  # of the mean: what summing up leaves of a constant
_GOLDEN = 0.6180339887  # its multiples, modulo 1, are spread evenly however many there are


class Normalisation:
    """Intensity scaling of a volume: zero mean and unit variance between two percentiles, logarithmic beyond them.

    Beyond the percentiles values are compressed and not cut off at once: a structure that fills less than half a
    percent of the volume lies there. They are cut off where single pixels lie, and never within what is painted. What
    stands for *no data* (see `no_data_values`), NaN and infinity become 0, the mean, and count in no statistic.

    Attributes
    ----------
    low, high, mean, std : ndarray, (C,)
        Percentiles of each channel, and what lies between them. A constant channel becomes 0 (its std is taken as 1).
    limits : ndarray, (2, C)
        Where values are cut off.
    no_data : list of list of float
        Values that mean *no data*, by channel.
    """

    def __init__(self, volume: Volume) -> None:
        picked = np.linspace(0, volume.n_slices - 1, min(_SAMPLED_SLICES, volume.n_slices)).astype(int).tolist()
        read = _windows(volume, picked) if needs_tiling(volume.slice_shape) else map(volume.image_slice, picked)
        pixels = _SAMPLED_SIDE**2 if needs_tiling(volume.slice_shape) else math.prod(volume.slice_shape)
        step = max(1, int(np.sqrt(len(picked) * pixels / 2e6)))
        planes = np.stack([plane[..., ::step, ::step] for plane in read])  # (n, C, Y, X)
        channels = [channel[np.isfinite(channel)].astype(np.float64) for channel in np.moveaxis(planes, 1, 0)]
        dtype = np.dtype(volume.image.dtype)
        painted = _painted_values(volume)
        self.no_data = [
            [value for value in no_data_values(values, dtype) if not _is_painted(value, shown)]
            for values, shown in zip(channels, painted, strict=True)
        ]
        channels = [values[~np.isin(values, gone)] for values, gone in zip(channels, self.no_data, strict=True)]
        self.low, self.high, self.mean, self.std = np.array([_scale(values) for values in channels]).T
        self.limits = np.array([_limits(values, shown) for values, shown in zip(channels, painted, strict=True)]).T

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(C, Y, X) in any number type -> float32."""
        values = self.masked(image)
        per_channel = (self.low, self.high, self.mean, self.std, *self.limits)
        low, high, mean, std, least, most = (v.astype(values.dtype)[:, None, None] for v in per_channel)
        inside = np.clip(values, low, high)
        beyond = (np.clip(values, least, most) - inside) / std
        if beyond.any():  # NaN counts as well
            beyond = np.sign(beyond) * _TAIL * np.log1p(np.abs(beyond) / _TAIL)
        return np.nan_to_num((inside - mean) / std + beyond).astype(np.float32)

    def masked(self, image: np.ndarray) -> np.ndarray:
        """(C, Y, X) in any number type -> float32 or float64, NaN where there is no data."""
        is_precise = image.dtype.itemsize <= (4 if image.dtype.kind == "f" else 2)
        values = image.astype(np.float32 if is_precise else np.float64)  # a copy, also of floats
        values[~np.isfinite(image)] = np.nan
        for channel, gone in enumerate(self.no_data):
            if gone:
                values[channel][np.isin(image[channel], gone)] = np.nan
        return values


def no_data_values(values: np.ndarray, dtype: np.dtype) -> list[float]:
    """Values of an image that stand for *no data*: a border, a padding, what was outside the field of view.

    Such a value is the smallest or the largest there is, is repeated, and lies far outside all others: farther than ten
    times their range, or than their range where it is one that programs choose for this (the ends of the number type,
    and what is beyond 1e30, as netCDF and GDAL have it).

    Parameters
    ----------
    values : ndarray of float64, (n,)
        Finite values, sampled all over the image.
    dtype : numpy.dtype
        Of the image as it is stored.
    """
    found: list[float] = []
    for extreme in (np.min, np.max, np.min, np.max):
        if not values.size:
            break
        value = float(extreme(values))
        others = values[values != value]
        is_repeated = values.size - others.size >= max(_FEWEST_REPEATED, 1e-4 * values.size)
        if is_repeated and _lies_apart(value, others, dtype):
            found.append(value)
            values = others
    return found


def _lies_apart(value: float, others: np.ndarray, dtype: np.dtype) -> bool:
    """Whether an extreme value lies so far from all others that it can be no intensity, see `no_data_values`."""
    is_huge = abs(value) >= _HUGE
    is_end = dtype.kind in "iu" and value in (np.iinfo(dtype).min, np.iinfo(dtype).max)
    fewest = 1 if is_huge else _FEWEST_OTHERS // 4 if is_end else _FEWEST_OTHERS
    if len(np.unique(others[:_LOOKED_AT])) < fewest:
        return False
    low, high = np.percentile(others, [0.1, 99.9])
    return bool(np.abs(others - value).min() > (1 if is_huge or is_end else _FAR) * (high - low))


def _painted_values(volume: Volume) -> list[np.ndarray]:
    """Values of each channel where something is painted on clean slices, of some of them if there are many."""
    clean = volume.clean_slices
    found: list[list[np.ndarray]] = [[] for _ in range(volume.n_channels)]
    for z in clean[:: max(1, len(clean) // _SAMPLED_SLICES)]:
        painted = np.flatnonzero(volume.label_slice(z))
        painted = painted[:: 1 + len(painted) // _LOOKED_AT]
        for values, channel in zip(found, volume.image_slice(z), strict=True):
            values.append(channel.ravel()[painted])
    return [np.concatenate(values) if values else np.empty(0) for values in found]


def _is_painted(value: float, painted: np.ndarray) -> bool:
    """Whether a value is one of a structure that somebody painted, and not one that the brush went over."""
    return abs(value) < _HUGE and painted.size > 0 and float(np.mean(painted == value)) > _STRUCTURE


def _limits(values: np.ndarray, painted: np.ndarray) -> tuple[float, float]:
    """Where values (n,) are cut off: beyond all but single pixels, and beyond nearly all that is painted."""
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, 0.01, method="higher"), np.percentile(values, 99.99, method="lower")
    shown = painted[np.isfinite(painted) & (np.abs(painted) < _HUGE)]
    if shown.size:
        least, most = np.percentile(shown, [0.5, 99.5])
        low, high = min(low, least), max(high, most)
    return float(low), float(high)


def _scale(values: np.ndarray) -> tuple[float, float, float, float]:
    """Low and high percentile of values (n,), and mean and standard deviation of what lies between."""
    if not values.size:
        return 0.0, 0.0, 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    inside = np.clip(values, low, high)
    # where nearly all is one value, such as a background of zeros, what is left has to tell the scale
    spreads = (spread for spread in (inside.std(), values.std()) if spread > _ROUNDING * abs(inside.mean()))
    return float(low), float(high), float(inside.mean()), float(next(spreads, 1.0))


def needs_tiling(shape: tuple[int, int]) -> bool:
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
