"""A training on one rank, or on one of several: what it found, to be compared.

    python ranked.py

runs all cases as the rank that the environment names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.engine.augment import Batch
from napari_mlbseg.engine.initial_labels import known_labels
from napari_mlbseg.engine.learner import Learner, StepReport
from napari_mlbseg.engine.place import Place
from napari_mlbseg.engine.ranks import Ranks, join
from napari_mlbseg.engine.results import ForgottenResults
from napari_mlbseg.engine.training import Training
from napari_mlbseg.jobs.startup import run
from napari_mlbseg.task import Volume, resolve_task

__all__ = ["CASES", "found_by", "training_of"]


class Case(NamedTuple):
    """What is trained, and how far two ranks may differ from one, relative to the largest value."""

    changes: dict[str, Any]
    tolerance: float = 1e-9
    is_double: bool = True


CASES = {
    "as the quick preset": Case({"steps": 1}),
    "in single precision": Case({"tangent": "exact"}, 1e-5, is_double=False),
    "an odd batch and one clean slice": Case({"batch_size": 3, "clean_batch_size": 1, "tangent": "exact"}),
    "the paper's step": Case(
        {
            "meta_gradient": "virtual",
            "tangent": "exact",
            "optimiser": "sgd",
            "pseudo_labels_from": "student",
            "supervised_loss": "ce",
            "norm": "instance",
            "gradient_clip": 0.2,
        }
    ),
    "labels by the network, and one slice a batch": Case(
        {"initial_labels": "network", "batch_size": 1, "weighting": "uniform"}, 1e-5, is_double=False
    ),
    "initial labels in the bootstrap": Case({"bootstrap_prior": 0.5, "bootstrap_steps": 1, "steps": 0}),
}


def stack() -> Volume:
    """Twelve slices of a ball, its left half of another class, in noise; the slices 2, 5 and 9 clean."""
    z, y, x = np.indices((12, 30, 44))
    ball = (2.2 * (z - 6)) ** 2 + (y - 15) ** 2 + (x - 22) ** 2 < 13**2
    labels = np.where(ball & (x < 22), 7, ball).astype(np.uint8)
    image = 100 + 80 * ball + 30 * (labels == 7) + np.random.default_rng(0).normal(0, 12, ball.shape)
    return Volume("stack", image.astype(np.float32), labels, np.isin(np.arange(12), (2, 5, 9)))


def training_of(changes: dict[str, Any], ranks: Ranks) -> Training:
    """A small training that has not begun."""
    small = {"features": (8, 16, 16), "time_budget": None, "bootstrap_steps": 2, "steps": 3, "patch_size": 32}
    small["mixed_precision"] = False  # in which a rounding is large
    task = resolve_task([stack()], TrainingConfig.from_preset("quick", **{**small, **changes}))
    return Training(task, "cpu", ForgottenResults(), _no, lambda: None, None, None, 0.0, ranks=ranks)


def found_by(case: str, ranks: Ranks) -> dict[str, np.ndarray]:
    """Losses of every step, weights of every weighted step and their running means, parameters at the end."""
    changes, _, is_double = CASES[case]
    training = training_of(changes, ranks)
    task = training.task
    losses, weights = list[list[float]](), list[StepReport]()
    learner = training.learner
    learner.supervised_step = _kept(learner.supervised_step, losses, is_double)  # type: ignore[method-assign]
    learner.weighted_step = _kept(learner.weighted_step, weights, is_double)  # type: ignore[method-assign]
    list(training.initial_labels({"stack": known_labels(task, task.volumes[0], task.config.initial_labels)}))
    if is_double:
        training.publisher.reserve_final = _no  # type: ignore[method-assign]  # it predicts in single precision
        _double(learner)
    list(training.bootstrap())
    list(training.weighted())
    maps = [training.publisher.maps.mean((0, z)) for z in range(task.volumes[0].n_slices)]
    return {
        "bootstrap losses": np.array([list(step.values()) for step in losses]),
        "weighted losses": np.array([list(report.losses.values()) for report in weights]),
        "weights": np.array([torch.stack(report.weights[:2]).numpy() for report in weights]),
        "weight maps": np.array([pair for pair in maps if pair is not None]),
        "initial labels": np.array(training.pool.initial[0]),
        "parameters": np.stack([_flat(learner.student), _flat(learner.teacher.network)]),
    }


def _kept(step: Callable[..., Any], log: list[Any], is_double: bool) -> Callable[..., Any]:
    """A step that writes down what it returns."""

    def run(*given: Any) -> Any:
        log.append(step(*(_doubled(x) if is_double and isinstance(x, Batch) else x for x in given)))
        return log[-1]

    return run


def _double(learner: Learner) -> None:
    """Compute in double precision from what was drawn in single precision."""
    learner.student.double()
    learner.teacher.network.double()
    doubted = learner._doubted
    learner._doubted = lambda b: doubted(replace(b, image=b.image.float(), prior=b.prior.float())).double()


def _doubled(batch: Batch) -> Batch:
    return replace(batch, **{name: getattr(batch, name).double() for name in ("image", "prior", "labels", "mask")})


def _flat(network: torch.nn.Module) -> np.ndarray:
    return torch.cat([p.detach().double().flatten() for p in network.parameters()]).numpy()


def _no(**_: object) -> bool:
    return False


def main() -> int:
    torch.set_num_threads(1)
    ranks = join(Place.of_this_process())
    for case in CASES:
        found_by(case, ranks)
    ranks.leave()
    return 0


if __name__ == "__main__":
    run(main)  # ends as a follower does: in an orderly end, gloo's threads now and then abort the process
