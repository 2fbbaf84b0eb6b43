"""Shows y^n, which until a network knows better are also the pseudo-labels. Torch-free: it comes before all else."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence

from napari_mlbseg.events import Preview, Stage
from napari_mlbseg.initial_labels.known import is_out_of_core
from napari_mlbseg.initial_labels.label_stack import LabelStack, SparseLabels
from napari_mlbseg.task import SegmentationTask, Volume
from napari_mlbseg.training.label_planes import label_numbers
from napari_mlbseg.training.results import Results

__all__ = ["InitialWriter"]

_BOTH = ("initial_labels", "pseudo_labels")
_SPEAK_SECONDS = 0.5
_SHARE = 0.1  # of the time budget, that may pass before anything is learnt
_LEAST_SECONDS = 2.0


class InitialWriter:
    """Writes initial labels into results, the slice in view first.

    Parameters
    ----------
    results : Results
    task : SegmentationTask
    start : float
        `time.monotonic` at the start of the job.
    """

    def __init__(self, results: Results, task: SegmentationTask, start: float) -> None:
        self._results, self._task, self._start = results, task, start
        self._written: dict[str, set[int]] = {volume.name: set() for volume in task.volumes}

    def write(self, volume: Volume, labels: LabelStack | None) -> Iterator[Preview]:
        """Write the labels of every slice, or of a large volume as many as a tenth of the time allows.

        Where nothing will be learnt, nothing is written: every slice is predicted soon, and what is seen of it until
        then comes from an earlier round and is better than a first guess.

        Parameters
        ----------
        labels : LabelStack or None
            Class indices; None where only a network can tell: then clean slices alone are shown.
        """
        self._written[volume.name] = set()
        if not self._task.config.learns:
            return
        budget = self._task.config.time_budget
        end = math.inf if budget is None else self._start + max(_LEAST_SECONDS, _SHARE * budget)
        slices = _known(volume, labels) or volume.clean_slices
        yield from self._write(volume, labels, sorted(slices, key=lambda z: abs(z - (volume.focus or 0))), end)

    def write_rest(self, volume: Volume, labels: LabelStack | None, unpredicted: Collection[int]) -> Iterator[Preview]:
        """Write what `write` left: of a large volume for as long as the time budget lasts.

        Where slices were `unpredicted` by the predictions, they are the pseudo-labels, too, and come first.
        """
        budget = self._task.config.time_budget
        end = math.inf if budget is None or not is_out_of_core(volume) else self._start + budget
        for is_predicted in (False, True):
            if time.monotonic() < end:
                left = set(_known(volume, labels) or volume.clean_slices) - self._written[volume.name]
                slices = sorted(left.difference(unpredicted) if is_predicted else left.intersection(unpredicted))
                if slices:
                    yield from self._write(volume, labels, slices, end, ("initial_labels",) if is_predicted else _BOTH)

    def _write(
        self,
        volume: Volume,
        labels: LabelStack | None,
        slices: Sequence[int],
        end: float,
        names: tuple[str, ...] = _BOTH,
    ) -> Iterator[Preview]:
        arrays = self._results[volume.name]
        new: list[int] = []
        spoke = time.monotonic()
        for z in slices:
            if labels is None or volume.clean[z]:
                plane = volume.label_slice(z)
            else:
                plane = label_numbers(self._task, labels[z], z)
            for name in names:
                arrays[name][z] = plane
            new.append(z)
            now = time.monotonic()
            if now - spoke > _SPEAK_SECONDS or now > end:
                yield self._said(volume, new, names)
                new, spoke = [], now
            if now > end:
                return
        if new or not slices:
            yield self._said(volume, new, names)

    def _said(self, volume: Volume, slices: Sequence[int], names: tuple[str, ...]) -> Preview:
        self._written[volume.name] |= set(slices)
        return Preview(
            volume=volume.name,
            slices=tuple(sorted(slices)),
            arrays=names,
            stage=Stage.INITIAL_LABELS,
            seconds=time.monotonic() - self._start,
        )


def _known(volume: Volume, labels: LabelStack | None) -> Sequence[int]:
    """Slices of which there are labels."""
    if isinstance(labels, SparseLabels):
        return sorted(labels)
    return () if labels is None else range(volume.n_slices)
