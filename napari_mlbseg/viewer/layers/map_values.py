"""Numbers of the weight maps: of a slice, of a pixel, along the slices. No Qt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_mlbseg.viewer.layers.arrays import SliceReader, preference
from napari_mlbseg.viewer.layers.result_kinds import RESULT_KINDS, ResultKind
from napari_mlbseg.viewer.layers.result_layers import ResultLayers

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_mlbseg.session import Round

__all__ = ["MAP_KINDS", "SliceMeans", "VolumeMaps", "histogram"]

#: Kinds of result that are maps of weights, by key.
MAP_KINDS: dict[str, ResultKind] = {
    kind.key: kind for kind in RESULT_KINDS if set(kind.arrays) <= {"weight_initial", "weight_pseudo"}
}

_N_BINS = 60
_STRIDES = (64, 16, 4, 1)  # first a sketch of the whole stack, then what lies between


@dataclass(frozen=True, eq=False)
class VolumeMaps:
    """The weight maps of one volume as they are shown now."""

    image: Image
    results: ResultLayers
    readers: Mapping[str, SliceReader]
    round: Round | None

    @classmethod
    def of(cls, results: ResultLayers, image: Image) -> VolumeMaps | None:
        """Those of an image, or None where nothing was weighed yet."""
        readers = results.readers_of(image)
        shown, _ = results.origin_of(image)
        return cls(image, results, readers, shown) if set(MAP_KINDS) <= set(readers) else None

    def reads_like(self, other: VolumeMaps | None) -> bool:
        """Whether `other` reads the same arrays of the same round, whatever their pixels are by now."""
        if other is None or self.round is not other.round:
            return False
        return all(self.readers[key] is other.readers.get(key) for key in MAP_KINDS)

    @property
    def slice_axis(self) -> int:
        """Axis of the image along which the slices lie."""
        return self.readers["weight_initial"].slice_axis

    @property
    def n_slices(self) -> int:
        """Number of slices."""
        return self.readers["weight_initial"].shape[self.slice_axis]

    def has(self, z: int) -> bool:
        """Whether slice `z` was weighed."""
        return all(self.results.was_written(self.image, key, z) for key in ("weight_initial", "weight_pseudo"))

    def slice(self, z: int) -> dict[str, np.ndarray] | None:
        """All maps of slice `z`, (Y, X), or None if it was not weighed yet."""
        if not self.has(z):
            return None
        initial, pseudo = (self.readers[key].read(slice(z, z + 1)) for key in ("weight_initial", "weight_pseudo"))
        both = preference(initial, pseudo)(slice(0, 1))
        return {"weight_initial": initial[0], "weight_pseudo": pseudo[0], "preference": both[0]}


class SliceMeans:
    """Mean of every map over each slice, read a few slices at a time.

    Parameters
    ----------
    n_slices : int
    read : callable
        Takes a slice number and gives maps by key, or None where there are none.
    """

    def __init__(self, n_slices: int, read: Callable[[int], Mapping[str, np.ndarray] | None]) -> None:
        self._read = read
        self.means = {key: np.full(n_slices, np.nan) for key in MAP_KINDS}
        self._waiting = dict.fromkeys(z for stride in _STRIDES for z in range(0, n_slices, stride))

    def forget(self, slices: Iterable[int]) -> None:
        """These slices were written anew."""
        self._waiting |= dict.fromkeys(slices)

    @property
    def is_complete(self) -> bool:
        """Whether no slice waits to be read."""
        return not self._waiting

    def advance(self, seconds: float) -> None:
        """Read at least one slice of those that wait, and more until the time is up."""
        deadline = time.monotonic() + seconds
        while self._waiting:
            z = next(iter(self._waiting))
            del self._waiting[z]
            maps = self._read(z)
            for key, means in self.means.items():
                means[z] = np.nan if maps is None else maps[key].mean()
            if time.monotonic() > deadline:
                return


def histogram(values: np.ndarray, limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of pixels in equal bins between the limits, and the edges; what lies beyond counts in the last bin."""
    counts, edges = np.histogram(np.clip(values, *limits), bins=_N_BINS, range=limits)
    return counts, edges
