"""What each of the reference's errors costs: the plain method, with one of them put back at a time.

    python -m benchmarks.reference_errors --volumes "$MLBSEG_LA_DIR/la0[0-4].nii.gz" --steps 100+40 --out DIR

The plain method is `mlb-meta` of `benchmarks.accuracy` (initial labels by interpolation, no shape prior) with the
paper's five views. Errors of the data are made before the training and undone after it, those of the method are put in
the place of what is right. Dice over all but the clean slices, against the labels as they are. A run that stands in
``runs.jsonl`` is not repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy import METHODS
from benchmarks.resized_labels import there_and_back
from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.tables import markdown
from benchmarks.volumes import find_volumes, load_volume
from napari_mlbseg.method.ensemble import Ensemble, consistency_loss, ensemble
from napari_mlbseg.method.mean_teacher import MeanTeacher
from napari_mlbseg.method.metrics import dice
from napari_mlbseg.method.views import View
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.trainer import train

__all__ = ["ERRORS", "main"]

_LEARNER = "napari_mlbseg.training.step"
_SIDE = 144  # of the reference's squares


@dataclass(frozen=True)
class _Error:
    """An error of the reference: what it does to a volume, how that is undone in the result, and what it patches."""

    of_data: Callable[[Volume], Volume] = lambda volume: volume
    undone: Callable[[np.ndarray, Sequence[int]], np.ndarray] = lambda labels, shape: labels
    of_method: Callable[[int], AbstractContextManager[object]] = lambda steps_per_epoch: nullcontext()


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the table."""
    parser = training_parser("reference_errors", __doc__)
    parser.add_argument("--slices", type=int, default=5, help="number of clean slices")
    parser.add_argument("--steps", default="100+40", help="bootstrap and weighted steps")
    parser.add_argument("--errors", default=",".join(ERRORS))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "runs.jsonl"
    done = {run["key"] for run in read_runs(lines)}
    for path, name in itertools.product(find_volumes(options.volumes), options.errors.split(",")):
        key = "|".join(map(str, (path.name, name, options.slices, options.steps, options.seed, options.set)))
        if key in done:
            continue
        config = config_of(options, options.steps, **{**(METHODS["mlb-meta"] or {}), "n_views": 5})
        volume, error = load_volume(path, options.slices), ERRORS[name]
        task = resolve_task([error.of_data(volume)], config)
        results = MemoryResults(task)
        with error.of_method(len(volume.unlabelled_slices) // config.batch_size):
            for _ in train(task, "cpu", results=results):
                pass
        labels = error.undone(results[volume.name]["pseudo_labels"], volume.slice_shape)
        others = ~volume.clean
        score = dice(labels[others] > 0, np.asarray(volume.labels)[others] > 0)
        append_run(lines, {"key": key, "volume": path.name, "error": name, "dice": score})
        print(path.name, name, f"{score:.4f}", flush=True)
    _summarise(options.out / "table.md", read_runs(lines))


def _summarise(path: object, runs: Sequence[dict[str, object]]) -> None:
    scores: dict[str, dict[str, float]] = {}
    for run in runs:
        scores.setdefault(str(run["error"]), {})[str(run["volume"])] = float(str(run["dice"]))
    plain = scores.get("none", {})
    rows: list[list[object]] = []
    for name, of_error in scores.items():
        both = sorted(set(of_error) & set(plain))
        differences = np.array([of_error[volume] - plain[volume] for volume in both])
        spread = differences.std(ddof=1) / np.sqrt(len(both)) if len(both) > 1 else np.nan
        cost = "" if name == "none" else f"{differences.mean():+.4f} ± {spread:.4f}"
        rows.append([name, len(both), f"{np.mean(list(of_error.values())):.4f}", cost])
    table = markdown(["error put back", "volumes", "Dice", "difference (standard error)"], rows)
    with open(str(path), "w") as file:
        file.write(table + "\n")
    print(table)


# -- of the data -------------------------------------------------------------------------------------------------------


def _in_8_bits(volume: Volume) -> Volume:
    image = np.asarray(volume.image).astype(np.float32)
    low, high = image.min(), image.max()
    return replace(volume, image=np.round(255 * (image - low) / max(high - low, 1e-6)).astype(np.uint8))


def _resized(stack: np.ndarray, shape: Sequence[int], mode: str) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(stack).astype(np.float32))[:, None]
    options = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(planes, tuple(shape), mode=mode, **options)[:, 0].numpy()


def _squashed(volume: Volume) -> Volume:
    image = _resized(np.asarray(volume.image), (_SIDE, _SIDE), "bilinear")
    labels = _resized(np.asarray(volume.labels), (_SIDE, _SIDE), "nearest").astype(np.uint8)
    return replace(volume, image=image, labels=labels)


def _unsquashed(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return _resized(labels, shape, "nearest")


def _dilated(volume: Volume) -> Volume:
    return replace(volume, labels=there_and_back(np.asarray(volume.labels) > 0, _SIDE, 0.0).astype(np.uint8))


# -- of the method -----------------------------------------------------------------------------------------------------


def _one_sided(views: Ensemble, mask: Tensor) -> Tensor:
    """Of each pair only the first view learns, and the last view, the flip, never."""
    cut = views.probabilities.detach().clone()
    total = views.probabilities.new_zeros(())
    n = len(cut)
    for i in range(n - 1):
        others = torch.cat([views.probabilities[i : i + 1], cut[i + 1 :]])
        seen = torch.cat([views.seen[i : i + 1], views.seen[i + 1 :]])
        for j in range(1, len(others)):
            pair = Ensemble(others[[0, j]], seen[[0, j]])
            total = total + consistency_loss(pair, mask)
    return total / max(1, n * (n - 1) // 2)


def _pasted_into_zeros(probabilities: Sequence[Tensor], views: Sequence[View]) -> Ensemble:
    """What a view did not see counts as background, with the same say as what another one saw."""
    found = ensemble(probabilities, views)
    background = torch.zeros_like(found.probabilities)
    background[:, :, 0] = 1
    return Ensemble(torch.where(found.seen, found.probabilities, background), torch.ones_like(found.seen))


@contextmanager
def _forgetful_teacher(steps_per_epoch: int) -> Iterator[None]:
    """The average begins anew with each epoch and is taken twice a step."""

    def update(self: MeanTeacher, student: nn.Module) -> None:
        for _ in range(2):
            keep = min(1 - 1 / (self.step % max(1, steps_per_epoch) + 1), self.decay)
            with torch.no_grad():
                torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), 1 - keep)
        self.step += 1

    with mock.patch.object(MeanTeacher, "update", update):
        yield


#: Errors by name.
ERRORS: dict[str, _Error] = {
    "none": _Error(),
    "masks dilated by resizing": _Error(of_data=_dilated),
    "slices squashed to squares": _Error(of_data=_squashed, undone=_unsquashed),
    "images of 8 bits": _Error(of_data=_in_8_bits),
    "consistency cut": _Error(of_method=lambda _: mock.patch(f"{_LEARNER}.consistency_loss", _one_sided)),
    "zoom-in without a mask": _Error(of_method=lambda _: mock.patch(f"{_LEARNER}.ensemble", _pasted_into_zeros)),
    "teacher forgets every epoch": _Error(of_method=_forgetful_teacher),
}


if __name__ == "__main__":
    main()
