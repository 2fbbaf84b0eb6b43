"""Class indices become label numbers: those of the user's classes, or of single objects. Torch-free."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from napari_mlbseg.events import Preview, Stage
from napari_mlbseg.instances import link_objects, objects_of
from napari_mlbseg.task import SegmentationTask, Volume
from napari_mlbseg.training.results import ResultArray

__all__ = ["instance_note", "label_numbers", "link_slices"]

_MANY_CLASSES = 20  # from which on somebody may have meant single objects
_SPEAK_SECONDS = 0.5  # between two previews
_SMALLEST_OBJECT = 8  # pixels: a slice holds at most so many times fewer objects


def label_numbers(task: SegmentationTask, classes: np.ndarray, z: int) -> np.ndarray:
    """Label numbers of a slice, (Y, X).

    Objects get numbers that no other slice has, until `link_slices` finds out which of them are the same.

    Parameters
    ----------
    task : SegmentationTask
    classes : ndarray of int, (Y, X)
        Class indices.
    z : int
        The slice.
    """
    if task.last_instance is None:
        return np.asarray(task.class_values)[classes]
    first = task.last_instance + 1 + z * math.ceil(classes.size / _SMALLEST_OBJECT)
    return objects_of(classes, first)


def link_slices(
    array: ResultArray, task: SegmentationTask, volume: Volume, seconds: Callable[[], float] = lambda: 0.0
) -> Iterator[Preview]:
    """Let objects keep the number of the clean slice that they run through, from slice to slice; in place.

    Does nothing where label numbers are classes, or nothing was kept.

    Parameters
    ----------
    array : array of int, (Z, Y, X)
        Pseudo-labels of all slices.
    task : SegmentationTask
    volume : Volume
    seconds : callable
        Seconds since the start of the job.
    """
    if task.last_instance is None or not array.shape:
        return
    clean = volume.clean_slices or (0,)
    new, changed, spoke = task.last_instance + 1, list[int](), time.monotonic()

    def said() -> Preview:
        names = ("pseudo_labels",)
        return Preview(volume=volume.name, slices=tuple(changed), arrays=names, stage=Stage.PREDICT, seconds=seconds())

    for z in sorted(range(volume.n_slices), key=lambda z: min(abs(z - c) for c in clean)):
        if volume.clean[z] or volume.independent_slices:
            continue
        nearest = min(clean, key=lambda c: abs(z - c))
        beside = z + (nearest > z) - (nearest < z)
        known = np.zeros_like(array[z]) if beside == z else np.asarray(array[beside])
        array[z], new = link_objects(np.asarray(array[z]), known, new)
        changed.append(z)
        if time.monotonic() - spoke > _SPEAK_SECONDS:
            yield said()
            changed, spoke = [], time.monotonic()
    if changed:
        yield said()


def instance_note(task: SegmentationTask) -> dict[str, str]:
    """What there is to say of many label numbers, for `Metrics`: what they were taken for, and how to say otherwise."""
    if task.last_instance is not None:
        return {
            "note_instances": "Every label number is taken for a single object: foreground and borders are learnt, and "
            "objects are given back. If the numbers are classes, set label_kind to 'classes'."
        }
    if task.n_classes > _MANY_CLASSES and task.config.label_kind == "auto":
        return {
            "note_instances": f"{task.n_classes - 1} label numbers are learnt as that many classes, which takes long. "
            "If each stands for a single object, such as a cell, set label_kind to 'instances'."
        }
    return {}
