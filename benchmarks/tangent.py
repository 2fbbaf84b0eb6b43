"""Ways to find the derivative along the clean gradient: how right, how repeatable, and what each costs.

    python -m benchmarks.tangent --out DIR

A training of so many steps; at its last weighted steps, the weights of the batch's pixels by every way. *Off* is the
largest difference from forward mode in double precision. *Repeated* is the largest difference from the same way with
parameters and gradient changed by one rounding of single precision, at random: what another order of sums does to
them. Both relative to the largest weight, the worst of the steps. *Passes* is the
processor's time in units of a plain pass of the network over the batch, beside the pass of the student, which is there
anyway. *Halves* is the largest difference between the logits of a batch and those of its halves.

``pieces`` is a difference of two passes in which the second keeps the branches that leaky rectifiers took in the first.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.runs import config_of, training_parser
from benchmarks.tables import markdown
from benchmarks.volumes import find_volumes, load_volume, shrunk
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.method import pixel_weights
from napari_mlbseg.method.pixel_weights import alignment, logit_difference, logit_tangent, normalised_weights
from napari_mlbseg.task import resolve_task
from napari_mlbseg.training.results import NullResults
from napari_mlbseg.training.stages import Training

__all__ = ["main"]

_STEPS = (1e-6, 1e-5, 1e-4, 1e-3)  # of a difference, in lengths of the parameters; the second is the method's
_ROUNDING = 6e-8
_LAST = 3  # weighted steps that are looked at
_REPEATS = 5

Parameters = Mapping[str, Tensor]
Way = Callable[[nn.Module, Parameters, Tensor, Parameters, Tensor], Tensor]


class _State(NamedTuple):
    """What a weighted step asked for: the student, its batch, the direction, and both labels."""

    network: nn.Module
    x: Tensor
    direction: dict[str, Tensor]
    initial: Tensor
    pseudo: Tensor
    mask: Tensor


def main(arguments: list[str] | None = None) -> None:
    """Compare the ways and print a table."""
    parser = training_parser("tangent", __doc__)
    parser.add_argument("--steps", default="20+10", help="bootstrap and weighted steps")
    parser.add_argument("--slices", type=int, default=5, help="clean slices")
    parser.add_argument("--shrink", type=int, default=2, help="times fewer rows and columns")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    volume = shrunk(load_volume(find_volumes(options.volumes)[0], options.slices), options.shrink)
    states = _states(resolve_task([volume], config_of(options, options.steps, device="cpu", mixed_precision=False)))
    found = [{"way": name, **_measured(way, states)} for name, way in _ways().items()]
    halves = max(_halves(state) for state in states)
    (options.out / "tangent.json").write_text(json.dumps({"ways": found, "halves": halves}, indent=1))
    rows = [[row["way"], f"{row['off']:.1e}", f"{row['repeated']:.1e}", f"{row['passes']:.1f}"] for row in found]
    table = markdown(["way", "off", "repeated", "passes"], rows) + f"\nHalves: {halves:.1e}\n"
    (options.out / "table.md").write_text(table)
    print(table)


def _ways() -> dict[str, Way]:
    def exact(network: nn.Module, at: Parameters, x: Tensor, along: Parameters, logits: Tensor) -> Tensor:
        return logit_tangent(network, at, x, along)[1]

    ways: dict[str, Way] = {"exact": exact}
    for step in _STEPS:
        ways[f"difference, step {step:.0e}"] = partial(_difference, step=step)
        ways[f"difference in double precision, step {step:.0e}"] = partial(_in_double, step=step)
        ways[f"difference to both sides, step {step:.0e}"] = partial(_to_both_sides, step=step)
        ways[f"pieces, step {step:.0e}"] = partial(_within_pieces, step=step)
    return ways


def _difference(
    network: nn.Module, at: Parameters, x: Tensor, along: Parameters, logits: Tensor, *, step: float
) -> Tensor:
    with _step_of(step):
        return logit_difference(network, at, x, along, logits)[1]


def _in_double(
    network: nn.Module, at: Parameters, x: Tensor, along: Parameters, logits: Tensor, *, step: float
) -> Tensor:
    twice = copy.deepcopy(network).double()
    with _step_of(step):
        return logit_difference(twice, _doubled(at), x.double(), _doubled(along))[1]


def _to_both_sides(
    network: nn.Module, at: Parameters, x: Tensor, along: Parameters, logits: Tensor, *, step: float
) -> Tensor:
    against = {name: -value for name, value in along.items()}
    with _step_of(step):
        there = logit_difference(network, at, x, along, logits)[1]
        return (there - logit_difference(network, at, x, against, logits)[1]) / 2


def _within_pieces(
    network: nn.Module, at: Parameters, x: Tensor, along: Parameters, logits: Tensor, *, step: float
) -> Tensor:
    rectifiers = [module for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    taken: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        taken[module] = inputs[0] > 0

    def keep(module: nn.LeakyReLU, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where(taken[module], inputs[0], module.negative_slope * inputs[0])

    with torch.no_grad():
        for hook in (note, keep):
            handles = [module.register_forward_hook(hook) for module in rectifiers]
            if hook is keep:
                tangent = _difference(network, at, x, along, logits, step=step)
            else:  # in a training the student's own pass, which is why `_measured` takes a pass off
                torch.func.functional_call(network, dict(at), (x,))
            for handle in handles:
                handle.remove()
    return tangent


@contextmanager
def _step_of(length: float) -> Iterator[None]:
    before, pixel_weights._STEP = pixel_weights._STEP, length
    try:
        yield
    finally:
        pixel_weights._STEP = before


def _measured(way: Way, states: list[_State]) -> dict[str, float]:
    off, repeated = [], []
    for number, state in enumerate(states):
        at = {name: value.detach() for name, value in state.network.named_parameters()}
        twice = copy.deepcopy(state.network).double()
        logits, tangent = logit_tangent(twice, _doubled(at), state.x.double(), _doubled(state.direction))
        right = _weights(state, logits, tangent)
        found = _weights(state, logits, way(state.network, at, state.x, state.direction, _plain(state, at)))
        rng = torch.Generator().manual_seed(number)
        rounded, direction = _rounded(at, rng), _rounded(state.direction, rng)
        again = _weights(state, logits, way(state.network, rounded, state.x, direction, _plain(state, rounded)))
        off.append(float((found - right).abs().max() / right.max()))
        repeated.append(float((again - found).abs().max() / right.max()))
    plain = partial(_plain, state, at)
    passes = _seconds(partial(way, state.network, at, state.x, state.direction, plain())) / _seconds(plain)
    is_pieces = isinstance(way, partial) and way.func is _within_pieces
    return {"off": max(off), "repeated": max(repeated), "passes": passes - is_pieces}


def _weights(state: _State, logits: Tensor, tangent: Tensor) -> Tensor:
    alignments = (alignment(logits, tangent.double(), y.double()) for y in (state.initial, state.pseudo))
    return torch.stack(normalised_weights(*alignments, state.mask.double())[:2])


@torch.no_grad()
def _plain(state: _State, at: Parameters) -> Tensor:
    logits: Tensor = torch.func.functional_call(state.network, dict(at), (state.x,))
    return logits


def _halves(state: _State) -> float:
    at = dict(state.network.named_parameters())
    parts = [_plain(state._replace(x=part), at) for part in state.x.chunk(2)]
    return float((torch.cat(parts) - _plain(state, at)).abs().max())


def _rounded(values: Parameters, rng: torch.Generator) -> dict[str, Tensor]:
    return {name: x * (1 + _ROUNDING * torch.randn(x.shape, generator=rng)) for name, x in values.items()}


def _doubled(values: Parameters) -> dict[str, Tensor]:
    return {name: value.double() for name, value in values.items()}


def _seconds(action: Callable[[], object]) -> float:
    """Of the processor, the least of some times: others use it, too."""
    seconds = []
    for _ in range(_REPEATS):
        began = time.process_time()
        action()
        seconds.append(time.process_time() - began)
    return min(seconds)


def _states(task: Any) -> list[_State]:
    """The last weighted steps of a training."""
    training = Training(task, "cpu", NullResults(), lambda: False, lambda: None, None, None, time.monotonic())
    learner, states = training.learner, list[_State]()
    weigh = learner._weights

    def noting(tangent: Any, batch: Any, y_p: Tensor) -> Any:
        states.append(
            _State(copy.deepcopy(learner.student), batch.student, *asked[-1:], batch.initial, y_p, batch.mask)
        )
        return weigh(tangent, batch, y_p)

    asked: list[dict[str, Tensor]] = []
    find = learner._tangent

    def asking(batch: Any, direction: dict[str, Tensor], *logits: Tensor) -> Any:
        asked.append({name: value.clone() for name, value in learner._as_step(direction).items()})
        return find(batch, direction, *logits)

    learner._weights, learner._tangent = noting, asking  # type: ignore[method-assign]
    volume = task.volumes[0]
    list(training.initial_labels({volume.name: known_labels(task, volume, task.config.initial_labels)}))
    list(training.bootstrap())
    list(training.weighted())
    return [_State(*state[:3], *(x.detach() for x in state[3:])) for state in states[-_LAST:]]


if __name__ == "__main__":
    main()
