"""Initial labels that are there at once, without a network or a registration. Torch-free."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from napari_mlbseg.config import InitialLabelSource
from napari_mlbseg.initial_labels.interpolation import Interpolation
from napari_mlbseg.initial_labels.label_stack import LabelStack, index_dtype
from napari_mlbseg.task import SegmentationTask, Volume

__all__ = ["clean_labels", "is_interpolable", "is_known_beforehand", "is_out_of_core", "known_labels"]

#: Volumes of more voxels than this are never held whole: what is said of their slices is made when it is asked for.
_MOST_VOXELS = 2**27


def is_out_of_core(volume: Volume) -> bool:
    """Whether nothing of the size of the volume should be held in memory."""
    return math.prod(volume.shape) > _MOST_VOXELS


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


def known_labels(task: SegmentationTask, volume: Volume, source: InitialLabelSource) -> LabelStack | None:
    """Class indices y^n of every slice that are known without any network or registration, (Z, Y, X), else None.

    Of a large volume (see `is_out_of_core`) they are made slice by slice when they are asked for, else at once.

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
    return stack if is_out_of_core(volume) else np.stack([stack[z] for z in range(volume.n_slices)])


def is_known_beforehand(volume: Volume, source: InitialLabelSource) -> bool:
    """Whether `known_labels` has an answer: labels are given, or there is something to interpolate between."""
    interpolates = source in ("interpolation", "propagation", "auto")
    return _given(volume, source) is not None or (interpolates and is_interpolable(volume))


def is_interpolable(volume: Volume) -> bool:
    """Whether there is anything between which to interpolate: two clean slices of one coherent stack."""
    return len(volume.clean_slices) >= 2 and not volume.independent_slices


def _given(volume: Volume, source: InitialLabelSource) -> Any | None:
    """Labels from elsewhere (Z, Y, X), where they are wanted and there are some."""
    return volume.initial_labels if source in ("given", "auto") else None


def clean_labels(task: SegmentationTask, volume: Volume) -> np.ndarray:
    """Class indices on the clean slices, (number of clean slices, Y, X)."""
    labels = CleanLabels(task, volume)
    planes = [labels[i] for i in range(len(volume.clean_slices))]
    return np.stack(planes) if planes else np.zeros((0, *volume.slice_shape), index_dtype(task.n_classes))
