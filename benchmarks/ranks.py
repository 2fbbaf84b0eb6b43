"""Two ranks against one: how far apart the same training ends when two processes share every batch.

    python -m benchmarks.ranks --out DIR

One volume, rows and columns divided; so many bootstrap and weighted steps of a preset, once by one process, once by
two, each with one thread; then the last pass over all slices. Differences are the largest ones: of a loss relative to
the loss; of the weights of a step's pixels, of their running means and of the weight maps after the last pass, which
weighs what no step has seen, all relative to the largest weight; of a probability. All is in single precision.
``difference`` finds the derivative along the clean gradient by the difference of two passes, whose rounding is in the
weights whatever the number of ranks (see `benchmarks.tangent`); how far that is from ``exact`` on one rank stands
beside it. So does one process against one whose first parameters are off by one rounding, at random: that far apart
does the training itself bring what differs in the last digit.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.runs import config_of, training_parser
from benchmarks.tables import markdown
from benchmarks.volumes import find_volumes, load_volume, shrunk
from napari_mlbseg.engine.initial_labels import known_labels
from napari_mlbseg.engine.learner import Learner
from napari_mlbseg.engine.ranks import ALONE, Ranks
from napari_mlbseg.engine.results import MemoryResults
from napari_mlbseg.engine.training import Training
from napari_mlbseg.events import Metrics
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.ranks import Followers
from napari_mlbseg.task import SegmentationTask, resolve_task

__all__ = ["main"]

_HEADER = [
    "tangent",
    "compared",
    "losses",
    "weights, first step",
    "weights, last step",
    "weight maps",
    "all maps",
    "probability",
    "largest weight",
    "seconds of steps",
    "seconds of the last pass",
]

_ROUNDING = 6e-8


@dataclass(frozen=True)
class _Found:
    """What a training found: a row of losses a step, the weights of every step's pixels, the maps, its seconds."""

    losses: list[list[float]]
    weights: list[np.ndarray]
    maps: np.ndarray
    all_maps: np.ndarray
    probability: np.ndarray
    seconds: float
    last_seconds: float


def main(arguments: list[str] | None = None) -> None:
    """Train by one process and by two, and print how far apart they are."""
    parser = training_parser("ranks", __doc__)
    parser.add_argument("--steps", default="20+20", help="bootstrap and weighted steps")
    parser.add_argument("--slices", type=int, default=5, help="clean slices")
    parser.add_argument("--shrink", type=int, default=2, help="times fewer rows and columns")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    volume = shrunk(load_volume(find_volumes(options.volumes)[0], options.slices), options.shrink)
    rows: list[list[str]] = []
    exact: _Found | None = None
    for tangent in ("exact", "difference"):
        config = config_of(options, options.steps, device="cpu", nproc=2, tangent=tangent, mixed_precision=False)
        task = resolve_task([volume], config)
        one, two = _train(task, ALONE), _train_by_two(task)
        rows.append([tangent, "2 ranks to 1", *_apart(two, one), *_seconds(one, two)])
        rows.append([tangent, "1 rank, rounded, to 1", *_apart(_train(task, ALONE, is_rounded=True), one), "", ""])
        if exact is not None:
            rows.append([tangent, "to exact, 1 rank", *_apart(one, exact), "", ""])
        exact = one
        for row in rows[-3:]:
            print(" | ".join(row), flush=True)
    (options.out / "ranks.json").write_text(
        json.dumps([dict(zip(_HEADER, row, strict=True)) for row in rows], indent=1)
    )
    table = markdown(_HEADER, rows)
    (options.out / "table.md").write_text(table)
    print(table)


def _train_by_two(task: SegmentationTask) -> _Found:
    """The training of `_train` by this process and another, each with its share of every batch."""
    with tempfile.TemporaryDirectory() as path:
        folder = JobFolder(Path(path) / "job")
        request = folder.write_request(task)
        followers = Followers(folder, 2, threads=None)
        followers.start()
        try:
            return _train(task, followers.join(request))
        finally:
            followers.end()


def _train(task: SegmentationTask, ranks: Ranks, is_rounded: bool = False) -> _Found:
    results = MemoryResults(task)
    training = Training(task, "cpu", results, lambda: False, lambda: None, None, None, time.monotonic(), ranks=ranks)
    losses: list[list[float]] = []
    weights: list[np.ndarray] = []
    learner = training.learner
    learner.supervised_step = _noting(learner.supervised_step, lambda found: losses.append([*found.values()]))  # type: ignore[method-assign]
    learner.weighted_step = _noting(learner.weighted_step, lambda found: _note(found, losses, weights))  # type: ignore[method-assign]
    if is_rounded:
        _round(learner)
    volume = task.volumes[0]
    list(training.initial_labels({volume.name: known_labels(task, volume, task.config.initial_labels)}))
    began = time.monotonic()
    list(training.bootstrap())
    list(training.weighted())
    seconds = time.monotonic() - began
    means = [training.publisher.maps.mean((0, z)) for z in range(volume.n_slices)]
    (last,) = (e.values["seconds_predict"] for e in training.finish() if isinstance(e, Metrics))
    arrays = results[volume.name]
    return _Found(
        losses,
        weights,
        np.array([mean for mean in means if mean is not None]),
        np.stack([arrays["weight_initial"], arrays["weight_pseudo"]]),
        arrays["probability"].astype(np.float32),
        seconds,
        float(str(last)),
    )


@torch.no_grad()
def _round(learner: Learner) -> None:
    """Change parameters by about one rounding of single precision."""
    rng = torch.Generator().manual_seed(0)
    for name, value in learner.student.named_parameters():
        value *= 1 + _ROUNDING * torch.randn(value.shape, generator=rng)
        learner.teacher.network.get_parameter(name).copy_(value)


def _seconds(one: _Found, two: _Found) -> list[str]:
    return [f"{one.seconds:.1f}, {two.seconds:.1f}", f"{one.last_seconds:.1f}, {two.last_seconds:.1f}"]


def _noting(step: Callable[..., Any], note: Callable[[Any], object]) -> Callable[..., Any]:
    """A step whose answer is noted."""

    def run(*given: Any) -> Any:
        found = step(*given)
        note(found)
        return found

    return run


def _note(report: Any, losses: list[list[float]], weights: list[np.ndarray]) -> None:
    losses.append([report.losses[name] for name in ("clean", "weighted", "consistency")])
    both = torch.stack(report.weights[:2])
    weights.append((both * both[0].numel()).numpy())


def _apart(a: _Found, b: _Found) -> list[str]:
    """Largest differences of losses, weights, maps and probabilities, and how large the largest weights are."""
    losses = max(
        abs(x - y) / abs(y) for p, q in zip(a.losses, b.losses, strict=True) for x, y in zip(p, q, strict=True)
    )
    pairs = (
        (a.weights[0], b.weights[0]),
        (a.weights[-1], b.weights[-1]),
        (a.maps, b.maps),
        (a.all_maps, b.all_maps),
    )
    weights = [float(np.abs(x - y).max() / y.max()) for x, y in pairs]
    probability = float(np.abs(a.probability - b.probability).max())
    largest = " to ".join(f"{value:.0f}" for value in sorted({float(y.max()) for _, y in pairs})[:: len(pairs) - 1])
    return [f"{value:.1e}" for value in (losses, *weights, probability)] + [largest]


if __name__ == "__main__":
    main()
