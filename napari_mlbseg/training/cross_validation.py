"""How well clean slices are predicted by a training that has not seen them: each is left out in turn.

Dice and HD95 on slices that the training saw say little. Here every score is that of a slice whose labels took part in
nothing: not in the initial labels, not in the shape prior, not in the training.

Like `train`, this module imports no torch at its top.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from napari_mlbseg.events import Cancelled, Event, Finished, HeldOut, Progress, Stage, Started
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.method.metrics import ClassScores, compare_labels, compare_masks
from napari_mlbseg.task import FEWEST_TO_LEAVE_OUT, SegmentationTask, TaskError
from napari_mlbseg.training.imports import gc_disabled
from napari_mlbseg.training.results import NullArray, NullResults

__all__ = ["leave_one_out"]

Key = tuple[int, int]  # number of the volume, and the slice

_MOST = 8  # slices that are left out; of more, evenly chosen ones
_LEAST_SECONDS = 5.0  # of a training; rather than shorter ones, there are fewer
_LONGEST_INTERVAL = 600.0  # between previews: nobody looks at them


def leave_one_out(
    task: SegmentationTask,
    device: str = "auto",
    *,
    stop: Callable[[], bool] = lambda: False,
    start: float | None = None,
) -> Iterator[Event]:
    """Leave each clean slice out in turn, train on the others, and compare the prediction with what was painted.

    Parameters
    ----------
    task : SegmentationTask
        With at least three clean slices in all. Of more than eight, eight are left out, evenly chosen.
    device : {"auto", "cpu", "cuda", "mps"}
    stop : callable
        Asked between steps; once it says yes, the last event is `Cancelled`.
    start : float, optional
        `time.monotonic` at the start of the job: the time budget, which all trainings share evenly, counts from there.
        A step budget is that of each training.

    Yields
    ------
    Event
        One `HeldOut` a slice, `Progress` between; last exactly one of `Finished` and `Cancelled`. Errors are raised.

    Raises
    ------
    TaskError
        If there are fewer than three clean slices, or the device is not there.

    Notes
    -----
    No training starts from an earlier model, which has seen the slice. The first and the last clean slice of a volume
    are predicted from one side only, which is harder than what a training on all clean slices has to do. Labels that
    were given from elsewhere are used as they are: where they came from a model that saw the slice, the score flatters.
    """
    start = time.monotonic() if start is None else start
    clean = [(number, z) for number, volume in enumerate(task.volumes) for z in volume.clean_slices]
    if len(clean) < FEWEST_TO_LEAVE_OUT:
        raise TaskError(
            f"Only {len(clean)} slice{'s are' if len(clean) > 1 else ' is'} marked clean: to score each by a training "
            f"on the others, mark at least {FEWEST_TO_LEAVE_OUT}."
        )
    yield Started(device=device, seed=task.config.seed)
    chosen = _evenly(clean, task.config.time_budget)
    steps = 0
    for done, key in enumerate(chosen):
        for event in _without(task, key, device, stop, _share(task, start, len(chosen) - done)):
            if isinstance(event, Progress):
                yield _in_all(event, task, start, done, len(chosen))
            elif isinstance(event, HeldOut):
                yield event
            else:
                steps += event.steps
                if isinstance(event, Cancelled) or done == len(chosen) - 1:
                    yield event.model_copy(update={"steps": steps, "seconds": time.monotonic() - start})
                    return


def _evenly(clean: list[Key], time_budget: float | None) -> list[Key]:
    """The slices to leave out: all, or as many as there is time for, evenly chosen."""
    affordable = math.inf if time_budget is None else time_budget / _LEAST_SECONDS
    n = int(max(1, min(len(clean), _MOST, affordable)))
    return [clean[i] for i in np.round(np.linspace(0, len(clean) - 1, n)).astype(int)]


def _share(task: SegmentationTask, start: float, left: int) -> float | None:
    """Seconds of the next training if `left` of them share what is left of the time budget."""
    budget = task.config.time_budget
    return None if budget is None else max(0.0, budget - (time.monotonic() - start)) / left


def _without(
    task: SegmentationTask, key: Key, device: str, stop: Callable[[], bool], seconds: float | None
) -> Iterator[Progress | HeldOut | Finished | Cancelled]:
    """Train without the clean slice `key` for `seconds`: its `Progress`, the score, and its terminal event."""
    began = time.monotonic()
    yield Progress(stage=Stage.INITIAL_LABELS, fraction=0)  # something to see before torch is imported
    with gc_disabled():
        from napari_mlbseg.training.stages import Training

    blind, found = _unmarked(task, key, seconds), _OneSlice(task, key)
    known = {volume.name: known_labels(blind, volume, blind.config.initial_labels) for volume in blind.volumes}
    training = Training(blind, device, found, stop, lambda: None, None, None, began, only=[key])
    for event in chain(training.initial_labels(known), training.bootstrap(), training.weighted(), training.finish()):
        if isinstance(event, Finished):
            yield _compared(task, key, found.labels)
        if isinstance(event, Progress | Finished | Cancelled):
            yield event


def _unmarked(task: SegmentationTask, key: Key, seconds: float | None) -> SegmentationTask:
    """The task without the clean slice `key`; its classes stay, even one that only that slice showed."""
    volumes = list(task.volumes)
    clean = np.array(volumes[key[0]].clean)
    clean[key[1]] = False
    volumes[key[0]] = replace(volumes[key[0]], clean=clean)
    # unvalidated: the share of a short time budget may be shorter than a budget may be
    changes = {"time_budget": seconds, "preview_interval": _LONGEST_INTERVAL, "find_label_errors": False}
    config = task.config.model_copy(update=changes)
    return replace(task, volumes=tuple(volumes), config=config)


def _compared(task: SegmentationTask, key: Key, prediction: np.ndarray) -> HeldOut:
    """Scores of a slice's prediction (Y, X) against its painted labels."""
    volume, z = task.volumes[key[0]], key[1]
    painted, spacing = volume.label_slice(z), volume.spacing[1:]
    dice, hd95 = _pair(compare_masks(prediction > 0, painted > 0, spacing))
    scored = compare_labels(prediction, painted, spacing) if task.last_instance is None else {}
    classes = {value: _pair(scores) for value, scores in scored.items()}
    return HeldOut(volume=volume.name, slice=z, dice=dice, hd95=hd95, classes=classes)


def _pair(scores: ClassScores) -> tuple[float, float | None]:
    """Dice and HD95, None where that is undefined."""
    return scores.dice, scores.hd95 if math.isfinite(scores.hd95) else None


def _in_all(event: Progress, task: SegmentationTask, start: float, done: int, total: int) -> Progress:
    """Progress of one of `total` trainings as progress of the job."""
    fraction, seconds = (done + event.fraction) / total, time.monotonic() - start
    budget = task.config.time_budget
    left = seconds * (1 - fraction) / fraction if fraction else None
    if budget is not None:
        left = max(0.0, budget - seconds)
    message = f"Slice {done + 1} of {total} is left out"
    return event.model_copy(update={"fraction": fraction, "seconds": seconds, "seconds_left": left, "message": message})


class _OneSlice(NullResults):
    """Results of which only one slice's labels are kept, so that no whole volume is allocated."""

    def __init__(self, task: SegmentationTask, key: Key) -> None:
        here = task.volumes[key[0]]
        self._slice = _Kept(key[1], np.zeros(here.slice_shape, np.int64))
        super().__init__({here.name: {"pseudo_labels": self._slice}})

    @property
    def labels(self) -> np.ndarray:
        """Label numbers that were last written into the slice, (Y, X)."""
        return self._slice.labels


class _Kept(NullArray):
    """An array of which one slice is kept."""

    def __init__(self, z: int, labels: np.ndarray) -> None:
        self._z, self.labels = z, labels

    def __setitem__(self, key: Any, value: Any) -> None:
        if key == self._z:
            self.labels[:] = value
