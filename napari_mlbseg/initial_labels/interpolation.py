"""Where y^n, the initial labels of unannotated slices, come from before any network. Torch-free: they are there at
once.

Shapes of neighbouring clean slices are interpolated; a given layer is taken as it is. Propagation along the image,
which needs torch, is `propagation`'s; the paper's own source, a network bootstrapped on the clean slices, the training
loop's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from napari_mlbseg.initial_labels.label_stack import LabelStack, index_dtype
from napari_mlbseg.method.signed_distance import ABSENT_DISTANCE, bounding_box, labels_from_sdf, per_class_sdf

__all__ = ["Fading", "Interpolation", "class_areas", "interpolate"]

#: Distances that are kept for the next slice.
_DISTANCE_BYTES = 2**28
#: A structure goes on beyond the last clean slice if that shows so much of it, in largest areas on a clean slice.
_GOING_ON = 0.5


def interpolate(labels: np.ndarray, clean: Sequence[int], wanted: Sequence[int], n_classes: int) -> np.ndarray:
    """Shape interpolation between clean slices, and what they show outside their range as their areas go on.

    Between two clean slices, signed distances are interpolated linearly along the slice axis: that of the foreground
    decides where there is any, the largest of its classes which. What is missing on one of both shrinks on the way.
    Before the first and after the last, its shapes stay, and shrink as they did between it and the next (`Fading`).

    Parameters
    ----------
    labels : ndarray of int, (len(clean), Y, X)
        Class indices on the clean slices.
    clean : sequence of int
        Their positions, ascending.
    wanted : sequence of int
        Positions to fill.
    n_classes : int

    Returns
    -------
    ndarray of int, (len(wanted), Y, X)

    Notes
    -----
    Raya and Udupa, "Shape-based interpolation of multidimensional objects", 1990.
    """
    between = Interpolation(labels, clean, labels.shape[1:], n_classes)
    filled = np.zeros((len(wanted), *labels.shape[1:]), index_dtype(n_classes))
    for out, z in zip(filled, wanted, strict=True):
        out[:] = between[z]
    return filled


class Interpolation:
    """Shapes interpolated between clean slices, a slice at a time; see `interpolate`.

    Parameters
    ----------
    labels : LabelStack
        Class indices of clean slice number 0, 1, ..., (Y, X) each.
    clean : sequence of int
        Their positions, ascending.
    shape : tuple of int
        Rows and columns of a slice.
    n_classes : int
    """

    def __init__(self, labels: LabelStack, clean: Sequence[int], shape: tuple[int, ...], n_classes: int) -> None:
        self._labels, self._clean, self._shape, self._n_classes = labels, clean, shape, n_classes
        painted = np.zeros(shape, bool)
        areas = []
        for i in range(len(clean)):
            painted |= labels[i] > 0
            areas.append(class_areas(labels[i], n_classes))
        self._areas = np.array(areas)
        # what is interpolated lies within what is painted on either side; a pixel more shows where that ends
        self._here = bounding_box(painted, margin=1)
        # slices are asked for outwards: by turns on one side and on the other, each between two clean slices
        kept = 2 if self._here is None else _DISTANCE_BYTES // max(1, 4 * n_classes * painted[self._here].size)
        self._distances = lru_cache(maxsize=min(4, max(2, kept)))(self._distances_of)

    def __getitem__(self, z: int) -> np.ndarray:
        """Class indices (Y, X) of slice `z`."""
        clean, right = self._clean, int(np.searchsorted(self._clean, z))
        plane = np.zeros(self._shape, index_dtype(self._n_classes))
        if right < len(clean) and clean[right] == z:
            plane[:] = self._labels[right]
        elif self._here is not None and len(clean) > 1 and right in (0, len(clean)):
            outer, order = (0, -1) if right == 0 else (right - 1, 1)
            fading, steps = Fading(self._areas[::order], clean[::order]), abs(z - clean[outer])
            if steps < fading.reach:
                plane[self._here] = labels_from_sdf(fading(self._distances(outer), steps))
        elif 0 < right < len(clean) and self._here is not None:
            left = right - 1
            share = (z - clean[left]) / (clean[right] - clean[left])
            plane[self._here] = labels_from_sdf((1 - share) * self._distances(left) + share * self._distances(right))
        return plane

    def _distances_of(self, i: int) -> np.ndarray:
        return per_class_sdf(self._labels[i][self._here], self._n_classes)


def class_areas(plane: np.ndarray, n_classes: int) -> np.ndarray:
    """Pixels of the whole foreground (index 0) and of each foreground class (1..K-1), (K,)."""
    areas = np.bincount(plane.ravel(), minlength=n_classes)
    areas[0] = areas[1:].sum()
    return areas


class Fading:
    """How shapes go on beyond the last clean slice: their areas fall as towards it, and as unsteadily as before it.

    A structure that every clean slice shows alike goes on to the end of the stack. One that has shrunk to less than
    half of its largest area ends with the last clean slice; of others less is left with every slice.

    Parameters
    ----------
    areas : ndarray of int, (n, K)
        `class_areas` of all clean slices, at least two, the last one at the end.
    clean : sequence of int
        Their positions, in the same order.

    Attributes
    ----------
    reach : float
        Slices after which nothing is left; infinite if some class does not shrink.
    """

    def __init__(self, areas: np.ndarray, clean: Sequence[int]) -> None:
        changes = np.diff(areas, axis=0) / np.abs(np.diff(clean))[:, None]  # with each slice
        last = areas[-1]
        goes_on = (last > 0) & (last >= _GOING_ON * areas.max(0))
        self._loss = np.ones(areas.shape[1])  # share of the area of the last slice, with each slice
        self._loss[goes_on] = (np.maximum(-changes[-1], 0) + changes.std(0))[goes_on] / last[goes_on]
        slowest = float(self._loss[1:].min(initial=1))
        self.reach = 1 / slowest if slowest > 0 else math.inf

    def __call__(self, distances: np.ndarray, steps: int) -> np.ndarray:
        """Signed distances so many slices on, (K, Y, X), of those of the last clean slice."""
        left = np.sqrt(np.clip(1 - self._loss * steps, 0, 1))[:, None, None]
        depth = distances.max((1, 2), keepdims=True)
        return np.where(left > 0, distances - depth * (1 - left), -ABSENT_DISTANCE).astype(np.float32)
