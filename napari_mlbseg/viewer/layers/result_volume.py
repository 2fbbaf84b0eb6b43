"""What has come of the results of one volume, and from which round."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_mlbseg.viewer.layers.arrays import Reader, SliceReader
from napari_mlbseg.viewer.layers.binding import VolumeBinding, spatial_shape
from napari_mlbseg.viewer.layers.result_kinds import RESULT_KINDS, ResultKind

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["FallbackReader", "ResultVolume"]


class ResultVolume:
    """Where the results of one volume go, and what came so far in this round.

    Parameters
    ----------
    binding : VolumeBinding
    slice_axis : int
        Along which the round saw its slices.
    """

    def __init__(self, binding: VolumeBinding, slice_axis: int) -> None:
        self.binding = binding
        self.slice_axis = slice_axis
        self.layers: dict[str, Layer] = {}
        self.readers: dict[str, SliceReader] = {}  # of this round or, until it has something, of the one before
        self.arrays: dict[str, Any] = {}  # this and the following: of this round only
        self.sources: dict[str, FallbackReader] = {}
        self.written: dict[str, set[int]] = defaultdict(set)
        self.waiting: set[str] = set()  # kinds whose layers are made when the volume comes into view
        self.shown: set[str] | None = None  # kinds that a person wants to see; None: nobody said so

    def forget_what_does_not_carry_over(self) -> None:
        """Show nothing of kinds whose earlier values would mislead, until this round writes its own."""
        for kind in RESULT_KINDS:
            if not kind.carries_over and self.readers.pop(kind.key, None) is not None and kind.key in self.layers:
                layer = self.layers[kind.key]
                shape = [n for axis, n in enumerate(layer.data.shape) if axis != layer.data.slice_axis]
                layer.data.read_from(lambda slices, shape=tuple(shape): np.zeros((slices.stop - slices.start, *shape)))
                layer.refresh(extent=False)

    def open(self, kind: ResultKind, before: SliceReader | None) -> None:
        """Begin to read a kind of result from this round; slices that are not there yet come from `before`."""
        newest = kind.reader(self.arrays)
        dtype = self.arrays[kind.arrays[0]].dtype
        written = [self.written[array] for array in kind.arrays]
        fits = before is not None and before.shape == spatial_shape(self.binding.image)
        self.sources[kind.key] = FallbackReader(
            newest, written, before.read if before is not None and fits else None, dtype
        )


@dataclass(eq=False)
class FallbackReader:
    """Reads the slices that this round has written, and the others from the round before."""

    newest: Reader
    written: list[set[int]]  # live: grows with every Preview
    before: Reader | None
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))

    def has(self, z: int) -> bool:
        """Whether slice `z` was written, in this round or before."""
        if all(z in written for written in self.written):
            return True
        return isinstance(self.before, FallbackReader) and self.before.has(z)

    def __call__(self, slices: slice) -> np.ndarray:
        """Slices ``start:stop``, (n, Y, X)."""
        if self.before is None:
            return self.newest(slices)
        missing = [z for z in range(slices.start, slices.stop) if not all(z in written for written in self.written)]
        if not missing:
            return self.newest(slices)
        block = np.array(self.newest(slices))
        for z in missing:
            block[z - slices.start] = self.before(slice(z, z + 1))[0]
        return block
