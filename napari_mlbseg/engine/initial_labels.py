"""Where y^n, the initial labels of unannotated slices, come from before any network. Torch-free: they are there at
once.

Shapes of neighbouring clean slices are interpolated; a given layer is taken as it is. Propagation along the image,
which needs torch, is `propagation`'s; the paper's own source, a network bootstrapped on the clean slices, the training
loop's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from napari_mlbseg.config import InitialLabelSource
from napari_mlbseg.engine.metrics import dice
from napari_mlbseg.task import SegmentationTask, Volume

__all__ = [
    "Fading",
    "Filler",
    "Interpolation",
    "LabelStack",
    "SomeLabels",
    "bounding_box",
    "class_areas",
    "class_distances",
    "clean_labels",
    "decide",
    "held_out_dice",
    "index_dtype",
    "interpolate",
    "is_interpolable",
    "is_known_beforehand",
    "is_large",
    "known_labels",
    "signed_distance",
]

#: Signed distances are cut off here: farther away, how far does not matter. In voxels of the slice.
_FAR = 64
#: Distances that are kept for the next slice.
_DISTANCE_BYTES = 2**28
#: Depth of a structure that is missing on a slice: about the radius of what its neighbours still show of it, in pixels.
_VANISHED = 8.0
#: A structure goes on beyond the last clean slice if that shows so much of it, in largest areas on a clean slice.
_GOING_ON = 0.5
#: Volumes of more voxels than this are never held whole: what is said of their slices is made when it is asked for.
_MOST_VOXELS = 2**27

Filler = Callable[[Sequence[int], np.ndarray, int], np.ndarray]


class LabelStack(Protocol):
    """Class indices of a stack, slice by slice: an array (Z, Y, X), or what makes a slice when it is asked for."""

    def __getitem__(self, z: int, /) -> np.ndarray: ...


class SomeLabels(dict[int, np.ndarray]):
    """Class indices (Y, X) of some slices of a stack, by their number: what a network says of a large one."""


def is_large(volume: Volume) -> bool:
    """Whether nothing of the size of the volume should be held in memory."""
    return math.prod(volume.shape) > _MOST_VOXELS


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice] | None:
    """Rows and columns around all that is set in `mask` (Y, X), with a margin; None if nothing is."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    rows, columns = found[0]
    return (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline of `mask` in pixels, positive inside; cut off at +-64. (Y, X) bool -> float32.

    An empty mask is far outside everywhere, a full one far inside.
    """
    if not mask.any():
        return np.full(mask.shape, -_FAR, np.float32)
    if mask.all():
        return np.full(mask.shape, _FAR, np.float32)
    here = bounding_box(mask, margin=_FAR)  # beyond, it is cut off anyway
    assert here is not None  # something is set
    near = mask[here]
    inner = ndimage.distance_transform_edt(near)
    outer = ndimage.distance_transform_edt(~near)
    distance = np.full(mask.shape, -_FAR, np.float32)
    distance[here] = np.clip(np.where(near, inner - 0.5, 0.5 - outer), -_FAR, _FAR)
    return distance


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
                plane[self._here] = decide(fading(self._distances(outer), steps))
        elif 0 < right < len(clean) and self._here is not None:
            left = right - 1
            share = (z - clean[left]) / (clean[right] - clean[left])
            plane[self._here] = decide((1 - share) * self._distances(left) + share * self._distances(right))
        return plane

    def _distances_of(self, i: int) -> np.ndarray:
        return class_distances(self._labels[i][self._here], self._n_classes)


class CleanLabels:
    """Class indices of a volume's clean slices, read when they are asked for: number 0 is the first clean one."""

    def __init__(self, task: SegmentationTask, volume: Volume) -> None:
        self._task, self._volume = task, volume

    def __getitem__(self, i: int) -> np.ndarray:
        """Of clean slice number `i`, (Y, X)."""
        plane = self._task.class_indices(self._volume.label_slice(self._volume.clean_slices[i]))
        return plane.astype(index_dtype(self._task.n_classes))


class GivenLabels:
    """Labels from elsewhere as class indices, read when they are asked for; on clean slices the user's own."""

    def __init__(self, task: SegmentationTask, volume: Volume, given: Any) -> None:
        self._task, self._volume, self._given = task, volume, given

    def __getitem__(self, z: int) -> np.ndarray:
        """Of slice `z`, (Y, X)."""
        labels = self._volume.label_slice(z) if self._volume.clean[z] else np.asarray(self._given[z])
        return self._task.class_indices(labels).astype(index_dtype(self._task.n_classes))


def class_distances(plane: np.ndarray, n_classes: int) -> np.ndarray:
    """Signed distances of the whole foreground (index 0) and of each foreground class (1..K-1), (K, Y, X).

    The foreground as a whole has its own, so that no gap opens between classes that touch. What is missing on a slice
    lies `_VANISHED` pixels outside everywhere, so that it shrinks to its middle on the way there.
    """
    masks = [plane > 0, *(plane == k for k in range(1, n_classes))]
    return np.stack([signed_distance(m) if m.any() else np.full(m.shape, -_VANISHED, np.float32) for m in masks])


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
        return np.where(left > 0, distances - depth * (1 - left), -_VANISHED).astype(np.float32)


def decide(distances: np.ndarray) -> np.ndarray:
    """Class indices (Y, X) of signed distances as `class_distances` gives them."""
    return np.where(distances[0] > 0, 1 + distances[1:].argmax(0), 0)


def known_labels(task: SegmentationTask, volume: Volume, source: InitialLabelSource) -> LabelStack | None:
    """Class indices y^n of every slice that are known without any network or registration, (Z, Y, X), else None.

    Of a large volume (see `is_large`) they are made slice by slice when they are asked for, else at once.

    Given labels where `source` is ``"given"`` or ``"auto"`` and the volume has some; otherwise shapes interpolated
    between its clean slices, also for ``"propagation"``, which improves on them later. Clean slices keep the user's
    labels.
    """
    if not is_known_beforehand(volume, source):
        return None
    given, labels = _given(volume, source), CleanLabels(task, volume)
    stack: LabelStack
    if given is not None:
        stack = GivenLabels(task, volume, given)
    else:
        stack = Interpolation(labels, volume.clean_slices, volume.slice_shape, task.n_classes)
    return stack if is_large(volume) else np.stack([stack[z] for z in range(volume.n_slices)])


def is_known_beforehand(volume: Volume, source: InitialLabelSource) -> bool:
    """Whether `known_labels` has an answer: labels are given, or there is something to interpolate between."""
    interpolates = source in ("interpolation", "propagation", "auto")
    return _given(volume, source) is not None or (interpolates and is_interpolable(volume))


def index_dtype(n_classes: int) -> np.dtype:
    """Smallest integer type for class indices: a stack of them may be as large as the image."""
    return np.min_scalar_type(n_classes - 1)


def is_interpolable(volume: Volume) -> bool:
    """Whether there is anything between which to interpolate: two clean slices of one coherent stack."""
    return len(volume.clean_slices) >= 2 and not volume.independent_slices


def held_out_dice(fill: Filler, clean: Sequence[int], truth: np.ndarray, n_classes: int) -> list[float]:
    """Dice of every class on every inner clean slice, each predicted by `fill` from the clean slices beside it.

    What lies farther away has no say in either source; asking it anyway would take the square of the number of slices.

    Parameters
    ----------
    fill : callable
        (positions of clean slices, their labels, position wanted) -> labels (Y, X).
    clean : sequence of int
    truth : ndarray of int, (len(clean), Y, X)
    n_classes : int
    """
    scores = []
    for i in range(1, len(clean) - 1):
        beside = [i - 1, i + 1]
        guess = fill([clean[j] for j in beside], truth[beside], clean[i])
        scores += [dice(guess == k, truth[i] == k) for k in range(1, n_classes) if (truth[i] == k).any()]
    return scores


def _given(volume: Volume, source: InitialLabelSource) -> Any | None:
    """Labels from elsewhere (Z, Y, X), where they are wanted and there are some."""
    return volume.initial_labels if source in ("given", "auto") else None


def clean_labels(task: SegmentationTask, volume: Volume) -> np.ndarray:
    """Class indices on the clean slices, (number of clean slices, Y, X)."""
    labels = CleanLabels(task, volume)
    planes = [labels[i] for i in range(len(volume.clean_slices))]
    return np.stack(planes) if planes else np.zeros((0, *volume.slice_shape), index_dtype(task.n_classes))
