"""The last pass of a training on one rank, or on one of several: events and arrays, to be compared.

    python ranked_final.py SCENARIO ...

runs the scenarios as the rank that the environment names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.engine.initial_labels import known_labels
from napari_mlbseg.engine.place import Place
from napari_mlbseg.engine.predict import Predictor
from napari_mlbseg.engine.publisher import Publisher
from napari_mlbseg.engine.ranks import Ranks, join
from napari_mlbseg.engine.results import ForgottenResults, MemoryResults
from napari_mlbseg.engine.training import Training
from napari_mlbseg.events import Event, Finished, Metrics, Preview, Progress
from napari_mlbseg.jobs.startup import run
from napari_mlbseg.task import Volume, resolve_task

__all__ = ["ALIKE", "Last", "last_of"]

N_SLICES, SIDES = 13, (30, 44)
SLICES_A_BATCH = 2  # so that there are several rounds, and one in which a rank has nothing to do


class Last(NamedTuple):
    """Events of the last part of a training without what clocks say, its arrays, and slices it did not reach."""

    events: list[Any]
    statistics: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]
    unreached: list[int]


def as_it_is(publisher: Publisher) -> None:
    """Nothing is changed."""


def short_of_time(publisher: Publisher) -> None:
    """One view, and no slice is weighed: so says rank 0, while another rank has all the time."""
    if publisher._ranks.is_first:
        publisher.costs.affordable_views = lambda: 1  # type: ignore[method-assign]
        publisher.costs.can_visit = lambda *_: False  # type: ignore[method-assign]


def too_late(publisher: Publisher) -> None:
    """The time is up after the first round: so says rank 0's clock, which the others do not see."""
    if publisher._ranks.is_first:
        asked: list[int] = []
        publisher.costs.is_overdue = lambda *_: asked.append(1) or len(asked) > 1  # type: ignore[method-assign, func-returns-value]


def failing(publisher: Publisher) -> None:
    """Another rank than 0 meets an error in its share of a round."""
    if not publisher._ranks.is_first:

        def fail(*_: object) -> Any:
            raise ValueError("Something broke.")

        publisher._predicted = fail  # type: ignore[method-assign]


#: What is changed in the publisher, and how often rank 0 asks before somebody has asked to stop.
SCENARIOS: dict[str, tuple[Callable[[Publisher], None], float]] = {
    "all slices": (as_it_is, np.inf),
    "short of time": (short_of_time, np.inf),
    "too late": (too_late, np.inf),
    "stopped": (as_it_is, 2),  # the first time is before the pass, the second before the first round
    "untrained": (as_it_is, np.inf),
    "failing": (failing, np.inf),
}
#: Those in which N ranks do exactly what one does.
ALIKE = ("all slices", "short of time", "untrained")


def last_of(scenario: str, ranks: Ranks) -> Last:
    """Train, every rank for itself alike, and finish together; volume and slice in view are known to rank 0 alone."""
    change, patience = SCENARIOS[scenario]
    training, results = _training(scenario != "untrained", ranks)
    task, publisher = training.task, training.publisher
    list(training.initial_labels({"stack": known_labels(task, task.volumes[0], "interpolation")}))
    with ranks.apart():
        list(training.bootstrap())
        list(training.weighted())
        if ranks.is_first:
            assert [publisher.maps.covers((0, z)) for z in range(N_SLICES)].count(True) <= 4  # the rest is weighed
    change(publisher)
    asked: list[int] = []
    training._stop = lambda: asked.append(1) or len(asked) > patience  # type: ignore[func-returns-value]
    batch_size = Predictor.batch_size
    Predictor.batch_size = lambda self, shape: SLICES_A_BATCH  # type: ignore[method-assign]
    try:
        events = list(training.finish())
    finally:
        Predictor.batch_size = batch_size  # type: ignore[method-assign]
    statistics = [event.statistics for event in events if isinstance(event, Preview)]
    arrays = results["stack"] if isinstance(results, MemoryResults) else {}
    return Last([_without_clocks(event) for event in events], statistics, arrays, publisher.unreached.get(0, []))


def _training(trains: bool, ranks: Ranks) -> tuple[Training, MemoryResults | ForgottenResults]:
    z, y, x = np.indices((N_SLICES, *SIDES))
    ball = (2 * (z - 6)) ** 2 + (y - 15) ** 2 + (x - 22) ** 2 < 13**2
    image = 100 + 80 * ball + np.random.default_rng(0).normal(0, 12, ball.shape)
    volume = Volume("stack", image.astype(np.float32), ball.astype(np.uint8), np.isin(np.arange(N_SLICES), (2, 5, 10)))
    small = {"features": (8, 16, 16), "patch_size": 48, "batch_size": 2, "initial_labels": "interpolation"}
    small["mixed_precision"] = False  # in which a rounding is large
    steps = {"time_budget": None, "bootstrap_steps": 3 if trains else 0, "steps": 2 if trains else 0}
    task = resolve_task([volume], TrainingConfig.from_preset("quick", **small, **steps))
    results = MemoryResults(task) if ranks.is_first else ForgottenResults()
    focus = (lambda: ("stack", 8)) if ranks.is_first else lambda: None
    return Training(task, "cpu", results, lambda: False, focus, None, None, 0.0, ranks=ranks), results


def _without_clocks(event: Event) -> Any:
    match event:
        case Preview():
            return event.slices, event.arrays
        case Progress():
            return round(event.fraction, 6)
        case Metrics():
            return sorted(event.values)
        case Finished():
            return event.reason, event.steps, event.unreached
    return type(event).__name__


def main() -> int:
    torch.set_num_threads(1)
    for scenario, meeting in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        last_of(scenario, join(Place(1, 2, 1, 2, meeting)))  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    run(main)  # see `ranked`
