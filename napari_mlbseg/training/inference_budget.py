"""What the last pass over all slices takes, and what of it the time that is left allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from napari_mlbseg.initial_labels.known import is_out_of_core
from napari_mlbseg.method.normalisation import needs_tiling
from napari_mlbseg.task import FEWEST_TO_LEAVE_OUT
from napari_mlbseg.training.dataset import SliceSampler
from napari_mlbseg.training.inference import Predictor, probe
from napari_mlbseg.training.schedule import Schedule
from napari_mlbseg.training.step import Learner
from napari_mlbseg.training.weight_maps import WeightMaps

__all__ = ["InferenceBudget"]

_WRITE_SECONDS = 0.014  # to write a slice's seven arrays
_WRITTEN_PIXELS = 2**17  # of a slice that takes so long; larger ones, longer
_OVERTIME = 0.05  # of the time budget, after which slices that are not predicted yet are left
_LOOKING = 3.0  # seconds to look again at a clean slice, in seconds to weigh one (measured: 2.5)


class InferenceBudget:
    """Seconds that a slice takes, measured once, and what follows from them.

    Parameters
    ----------
    sampler : SliceSampler
    learner : Learner
    schedule : Schedule
    wanted : callable
        Number of a volume -> its slices that are to be predicted.
    """

    def __init__(
        self, sampler: SliceSampler, learner: Learner, schedule: Schedule, wanted: Callable[[int], Sequence[int]]
    ) -> None:
        self._sampler, self._learner, self._schedule = sampler, learner, schedule
        self._volumes, self._config = sampler.task.volumes, sampler.task.config
        self._wanted = wanted
        self._slices: list[tuple[float, float]] = []  # seconds to predict and to weigh a slice of each volume, together

    def reserve(self, maps: WeightMaps, training_visits: bool) -> None:
        """Keep the time of the pass free in the schedule.

        Parameters
        ----------
        maps : WeightMaps
            What was weighed so far.
        training_visits : bool
            Whether weighted steps have begun: slices that they did not reach so far will have to be weighed at the end.
        """
        if not self._slices:
            self._measure()
        needed = 0.0
        for number, (volume, (predicting, weighing)) in enumerate(zip(self._volumes, self._slices, strict=True)):
            wanted = self._wanted(number)
            unseen = set(wanted) - set(volume.clean_slices) if training_visits else ()
            visits = len(set(wanted) & set(volume.clean_slices))
            visits += sum(not maps.covers((number, z)) for z in unseen)
            needed += predicting * len(wanted) + weighing * visits
        self._schedule.reserve(needed + self.looking_seconds())

    def affordable_views(self) -> int:
        """Views of the final prediction: as many as the time left allows, at least the slice itself."""
        wanted = self._config.n_views_predict
        seconds = sum(cost[0] * len(self._wanted(number)) for number, cost in enumerate(self._slices))
        affordable = wanted * self._schedule.remaining / max(seconds, 1e-3)
        return wanted if affordable >= wanted else max(1, int(affordable))

    def can_visit(self, number: int, slices: int, left: int) -> bool:
        """Whether there is time to weigh slices of a volume beside predicting all that are left: those come first.

        To weigh a large slice takes longer than to predict it: where nothing is learnt, nobody would wait for that.
        """
        if not self._slices or (self._is_large(number) and not self._config.learns):
            return False  # there was not even time to measure what it takes, or it takes too long
        predicting, weighing = self._slices[number]
        return self._schedule.remaining > predicting * left + weighing * slices

    def is_overdue(self, number: int, slices: int, slowest: float) -> bool:
        """Whether slices of a large volume would be predicted too late, even in a single view; any other is finished.

        The machine may be busier than when the costs were measured: `slowest` is what a slice took since, in seconds.
        """
        budget = self._config.time_budget
        if not self._is_large(number):
            return False
        measured = self._slices[number][0] / self._config.n_views_predict if self._slices else 0.0
        seconds = slices * max(measured, slowest)
        return budget is not None and self._schedule.remaining + _OVERTIME * budget < seconds

    def looking_seconds(self) -> float:
        """Seconds that it takes to look again at what is painted; 0 where there is nothing to do."""
        if not self._slices or not self._config.find_label_errors or len(self._sampler.clean) < FEWEST_TO_LEAVE_OUT:
            return 0.0
        if any(needs_tiling(self._volumes[number].slice_shape) for number, _ in self._sampler.clean):
            return 0.0  # gradients of whole slices would take more memory than anything else
        weighing = sum(self._slices[number][1] for number, _ in self._sampler.clean)
        return _LOOKING * weighing

    def _is_large(self, number: int) -> bool:
        return is_out_of_core(self._volumes[number]) or needs_tiling(self._volumes[number].slice_shape)

    def _measure(self) -> None:
        """Predict and weigh a slice of each volume; once where slices are padded alike.

        Of large slices only a part is predicted in one view, and a part is weighed.
        """
        direction = self._learner.clean_gradient(self._sampler.draw_clean(1, augment=False))
        measured: dict[tuple[int, ...], tuple[float, float]] = {}
        for number in range(len(self._volumes)):
            if not self._wanted(number):
                self._slices.append((0.0, 0.0))
                continue
            tile, n_tiles = next(self._sampler.tiles((number, 0))), self._sampler.n_tiles(number)
            shape = (*tile.image.shape, n_tiles)
            if shape not in measured:
                weighing = n_tiles * _seconds(self._learner.weights, tile, direction)
                measured[shape] = self._seconds_to_predict(number), weighing
            self._slices.append(measured[shape])

    def _seconds_to_predict(self, number: int) -> float:
        """Seconds to predict a slice of a volume with all views, and to write it."""
        volume, n_views = self._volumes[number], self._config.n_views_predict
        part, times = probe(self._sampler.network_input((number, 0)))
        predictor = Predictor(self._learner.teacher.network, self._config, n_views if times == 1 else 1)
        n = min(predictor.batch_size(volume.slice_shape), volume.n_slices)
        if times == 1:
            seconds = _seconds(predictor, [self._sampler.network_input((number, z)) for z in range(n)]) / n
        else:
            seconds = _seconds(predictor, [part]) * times * n_views
        return seconds + _WRITE_SECONDS * max(1.0, math.prod(volume.slice_shape) / _WRITTEN_PIXELS)


def _seconds(action: Callable[..., object], *arguments: object) -> float:
    """What `action` takes the second time: the first also sets things up."""
    action(*arguments)
    began = time.monotonic()
    action(*arguments)
    return time.monotonic() - began
