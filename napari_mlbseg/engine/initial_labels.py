"""Where y^n, the initial labels of unannotated slices, come from before any network. Torch-free: they are there at
once.

Shapes of neighbouring clean slices are interpolated; a given layer is taken as it is. Propagation along the image,
which needs torch, is `propagation`'s; the paper's own source, a network bootstrapped on the clean slices, the training
loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

from napari_mlbseg.config import InitialLabelSource
from napari_mlbseg.engine.metrics import dice
from napari_mlbseg.task import SegmentationTask, Volume

__all__ = [
    "Filler",
    "class_distances",
    "clean_labels",
    "decide",
    "held_out_dice",
    "index_dtype",
    "interpolate",
    "is_interpolable",
    "is_known_beforehand",
    "known_labels",
    "signed_distance",
]

#: Signed distances are cut off here: farther away, how far does not matter. In voxels of the slice.
_FAR = 64.0
#: Depth of a structure that is missing on a slice: about the radius of what its neighbours still show of it, in pixels.
_VANISHED = 8.0

Filler = Callable[[Sequence[int], np.ndarray, int], np.ndarray]


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline of `mask` in pixels, positive inside; cut off at +-64. (Y, X) bool -> float32.

    An empty mask is far outside everywhere, a full one far inside.
    """
    if not mask.any():
        return np.full(mask.shape, -_FAR, np.float32)
    if mask.all():
        return np.full(mask.shape, _FAR, np.float32)
    inner = ndimage.distance_transform_edt(mask)
    outer = ndimage.distance_transform_edt(~mask)
    return np.clip(np.where(mask, inner - 0.5, 0.5 - outer), -_FAR, _FAR).astype(np.float32)


def interpolate(labels: np.ndarray, clean: Sequence[int], wanted: Sequence[int], n_classes: int) -> np.ndarray:
    """Shape interpolation between clean slices; background outside their range.

    Between two clean slices, signed distances are interpolated linearly along the slice axis: that of the foreground
    decides where there is any, the largest of its classes which. What is missing on one of both shrinks on the way.

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
    distances = cache(lambda i: class_distances(labels[i], n_classes))  # of those slices alone that are needed
    filled = np.zeros((len(wanted), *labels.shape[1:]), index_dtype(n_classes))
    for out, z in zip(filled, wanted, strict=True):
        right = int(np.searchsorted(clean, z))
        if right < len(clean) and clean[right] == z:
            out[:] = labels[right]
        elif 0 < right < len(clean):
            left = right - 1
            share = (z - clean[left]) / (clean[right] - clean[left])
            out[:] = decide((1 - share) * distances(left) + share * distances(right))
    return filled


def class_distances(plane: np.ndarray, n_classes: int) -> np.ndarray:
    """Signed distances of the whole foreground (index 0) and of each foreground class (1..K-1), (K, Y, X).

    The foreground as a whole has its own, so that no gap opens between classes that touch. What is missing on a slice
    lies `_VANISHED` pixels outside everywhere, so that it shrinks to its middle on the way there.
    """
    masks = [plane > 0, *(plane == k for k in range(1, n_classes))]
    return np.stack([signed_distance(m) if m.any() else np.full(m.shape, -_VANISHED, np.float32) for m in masks])


def decide(distances: np.ndarray) -> np.ndarray:
    """Class indices (Y, X) of signed distances as `class_distances` gives them."""
    return np.where(distances[0] > 0, 1 + distances[1:].argmax(0), 0)


def known_labels(task: SegmentationTask, volume: Volume, source: InitialLabelSource) -> np.ndarray | None:
    """Class indices y^n of every slice that are known without any network or registration, (Z, Y, X), else None.

    Given labels where `source` is ``"given"`` or ``"auto"`` and the volume has some; otherwise shapes interpolated
    between its clean slices, also for ``"propagation"``, which improves on them later. Clean slices keep the user's
    labels.
    """
    if not is_known_beforehand(volume, source):
        return None
    clean = volume.clean_slices
    truth = clean_labels(task, volume)
    given = _given(volume, source)
    if given is not None:
        filled = np.empty(volume.shape, index_dtype(task.n_classes))
        for z in range(volume.n_slices):
            filled[z] = task.class_indices(np.asarray(given[z]))
        filled[list(clean)] = truth
        return filled
    return interpolate(truth, clean, range(volume.n_slices), task.n_classes)


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
    planes = [task.class_indices(volume.label_slice(z)) for z in volume.clean_slices]
    return np.stack(planes) if planes else np.zeros((0, *volume.slice_shape), np.int64)
