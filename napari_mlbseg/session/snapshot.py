"""What is painted at one moment, copied: a job does not learn from what is painted while it is being prepared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from napari_mlbseg.session.persistence.change_scanner import ChangeScanner
from napari_mlbseg.task import Volume

__all__ = ["SliceSnapshot", "with_snapshot"]


class SliceSnapshot:
    """Some slices of an annotation as they were; the others read as zero.

    Parameters
    ----------
    labels : array-like of int, (Z, Y, X)
    values : mapping of int to frozenset of int
        Slice -> label numbers on it, without background.
    """

    def __init__(self, labels: Any, values: dict[int, frozenset[int]]) -> None:
        self.shape = tuple(int(n) for n in labels.shape)
        self.dtype = np.dtype(labels.dtype)
        self._values = values
        self._planes = {z: np.array(labels[z]) for z in values}

    @property
    def ndim(self) -> int:
        """Number of axes, 3."""
        return len(self.shape)

    def __getitem__(self, z: int) -> np.ndarray:
        """A slice, (Y, X)."""
        return self._planes[z] if z in self._planes else np.zeros(self.shape[1:], self.dtype)

    def values_of(self, z: int) -> frozenset[int]:
        """Label numbers on a slice, without background."""
        return self._values.get(z, frozenset())


def with_snapshot(volume: Volume, watcher: ChangeScanner) -> Volume:
    """The same volume, its labels copied where they are painted or the slice is clean.

    Parameters
    ----------
    volume : Volume
    watcher : ChangeScanner
        Which has just looked at them.
    """
    wanted = watcher.painted.union(volume.clean_slices)
    return replace(volume, labels=SliceSnapshot(volume.labels, {z: watcher.values_of(z) for z in wanted}))
