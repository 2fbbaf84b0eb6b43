"""The left-atrium protocol of the literature: 8 labelled and 72 unlabelled volumes to train on, 20 to test on.

    python -m benchmarks.paper --data DIR --out OUT                                    (a GPU)
    python -m benchmarks.paper --data DIR --subset 2,2,2 --preset quick --budget 180   (a CPU: the same path, smaller)

All slices of the labelled volumes are clean, none of the others'. The trained model then predicts each test volume as
one that it has never seen. DIR is laid out as `benchmarks.cases` says. Without ``--budget``, a training lasts
``--epochs``: an epoch is one pass over the slices of the unlabelled volumes, as in the reference code; the bootstrap
before it has as many passes over those of the labelled ones.

A finished training's model stays in OUT and is not repeated. Every score is a line of ``runs.jsonl``; what stands there
already is not repeated either. ``table.md`` and ``summary.json`` are made from all lines.
"""

from __future__ import annotations

import argparse
import math
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.cases import Case, Split, find_split, read_case
from benchmarks.paper_tables import summarise
from benchmarks.runs import append_run, config_of, read_runs, training_parser
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Finished, Metrics, Progress
from napari_mlbseg.method.metrics import compare_masks, dice
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
from napari_mlbseg.training.checkpoint import load_model
from napari_mlbseg.training.inference import predict_volume
from napari_mlbseg.training.results import NullResults
from napari_mlbseg.training.trainer import train

__all__ = ["epoch_steps", "largest_component", "main", "training_task"]

_SPEAK_SECONDS = 30.0


def main(arguments: list[str] | None = None) -> None:
    """Train if that was not done yet, score what was not scored yet, then write the tables."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    split = find_split(options.data, options.subset)
    name, lines = _run_name(options, split), options.out / "runs.jsonl"
    model = options.out / f"{name}.safetensors"
    if not (model.exists() and model.with_suffix(".json").exists()):
        for line in _train(options, split, model):
            append_run(lines, {"run": name, **line})
    parts = {"test": split.test, "unlabelled": split.unlabelled if options.unlabelled else ()}
    for part, cases in parts.items():
        _score_all(options, {"run": name, "part": part}, model, cases, lines)
    summarise(options.out, read_runs(lines))


def _parser() -> argparse.ArgumentParser:
    parser = training_parser("paper", __doc__, volumes=False)
    parser.set_defaults(preset="paper")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="train.list, test.list and the cases")
    parser.add_argument("--subset", type=_three(int), metavar="L,U,T", help="labelled, unlabelled and test volumes")
    parser.add_argument("--budget", help="seconds, or bootstrap and weighted steps such as 2000+6000")
    parser.add_argument("--epochs", type=float, default=120.0, help="length of a training without --budget")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--largest", action="store_true", help="score the largest connected component as well")
    parser.add_argument("--unlabelled", action="store_true", help="score the unlabelled training volumes as well")
    parser.add_argument("--spacing", type=_three(float), metavar="Z,Y,X", help="of h5 volumes in mm; they tell none")
    return parser


def _three(kind: type[int] | type[float]) -> Any:
    """Parser of three numbers."""

    def parse(text: str) -> tuple[Any, ...]:
        numbers = tuple(kind(part) for part in text.split(","))
        if len(numbers) != 3:
            raise argparse.ArgumentTypeError(f"three numbers such as 1,2,1 are needed, not {text!r}")
        return numbers

    return parse


def _run_name(options: argparse.Namespace, split: Split) -> str:
    """A file's name for all that decides about a training; which volumes are for the test does not."""
    cases = " ".join(case.name for case in (*split.labelled, *split.unlabelled))
    parts = (
        options.preset,
        options.budget or f"{options.epochs:g}epochs",
        f"{len(split.labelled)}+{len(split.unlabelled)}",
        f"{zlib.crc32(cases.encode()):08x}",
        f"seed{options.seed}",
        *sorted(options.set),
    )
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))


# -- training --------------------------------------------------------------------------------------------------------


def epoch_steps(config: TrainingConfig, n_clean: int, n_unlabelled: int, epochs: float) -> tuple[int, int]:
    """Bootstrap and weighted steps of so many passes over the clean and over the unlabelled slices."""
    return (
        math.ceil(epochs * n_clean / config.clean_batch_size),
        math.ceil(epochs * n_unlabelled / config.batch_size),
    )


def training_task(split: Split, options: argparse.Namespace) -> SegmentationTask:
    """All slices of the labelled volumes clean, none of the unlabelled ones, whose truth is not even kept."""
    volumes = []
    for case in split.labelled:
        volume = read_case(case, options.spacing)
        volumes.append(replace(volume, labels=_foreground(volume), clean=np.ones(volume.n_slices, bool)))
    for case in split.unlabelled:
        volume = read_case(case, options.spacing)
        volumes.append(replace(volume, labels=np.broadcast_to(np.uint8(0), volume.shape)))
    return resolve_task(volumes, _config(options, volumes))


def _config(options: argparse.Namespace, volumes: Sequence[Volume]) -> TrainingConfig:
    """The config that the options ask for; without unlabelled volumes all time is the bootstrap's."""
    n_clean = sum(len(volume.clean_slices) for volume in volumes)
    n_unlabelled = sum(len(volume.unlabelled_slices) for volume in volumes)
    changes: dict[str, Any] = {"find_label_errors": False}  # nobody painted these slices
    if not n_unlabelled:
        changes["bootstrap_share"] = 1.0
    if options.budget:
        return config_of(options, options.budget, **changes)
    bootstrap, weighted = epoch_steps(config_of(options, "0+0"), n_clean, n_unlabelled, options.epochs)
    return config_of(options, f"{bootstrap}+{weighted}", **changes)


def _train(options: argparse.Namespace, split: Split, model: Path) -> list[dict[str, Any]]:
    """Train and save the model; lines with what it took, and with Dice of the unlabelled volumes' initial labels."""
    task = training_task(split, options)
    initial = {v.name: np.zeros(v.shape, np.uint8) for v in task.volumes[len(split.labelled) :]}
    results = NullResults({name: {"initial_labels": labels} for name, labels in initial.items()})
    facts: dict[str, Any] = {}
    began = spoke = time.monotonic()
    for event in train(task, options.device, results=results, save_to=model, only=()):
        if isinstance(event, Metrics):
            facts.update(event.values)
        elif isinstance(event, Finished):
            facts["reason"] = event.reason.value
        elif isinstance(event, Progress) and time.monotonic() - spoke > _SPEAK_SECONDS:
            spoke = time.monotonic()
            left = "" if event.seconds_left is None else f", {event.seconds_left:.0f} s left"
            print(f"{event.stage.value} step {event.step}, {event.seconds:.0f} s{left} {event.message}", flush=True)
    training = {
        "key": f"{model.stem}|training",
        "part": "training",
        "split": split.note,
        "seconds": time.monotonic() - began,
        "clean_slices": sum(len(volume.clean_slices) for volume in task.volumes),
        "unlabelled_slices": sum(len(volume.unlabelled_slices) for volume in task.volumes),
        "config": task.config.model_dump(mode="json"),
        "facts": facts,
    }
    return [training, *(_initial_score(case, initial[case.name], model) for case in split.unlabelled)]


def _initial_score(case: Case, labels: np.ndarray, model: Path) -> dict[str, Any]:
    """Dice of what the network said of an unlabelled volume after the bootstrap: y^n."""
    return {
        "key": f"{model.stem}|initial|{case.name}",
        "part": "initial",
        "volume": case.name,
        "largest": False,
        "dice": dice(labels > 0, _foreground(read_case(case)) > 0),
    }


def _foreground(volume: Volume) -> np.ndarray:
    """The truth as background and one structure, (Z, Y, X)."""
    return (np.asarray(volume.labels) > 0).astype(np.uint8)


# -- scores ----------------------------------------------------------------------------------------------------------


def _score_all(
    options: argparse.Namespace, fields: dict[str, str], model: Path, cases: Sequence[Case], lines: Path
) -> None:
    """Predict and score what has no line yet, one volume in memory at a time."""
    done = {run["key"] for run in read_runs(lines)}
    loaded = None
    for case in cases:
        keys = {
            largest: f"{fields['run']}|{fields['part']}|{case.name}{'|largest' if largest else ''}"
            for largest in ((False, True) if options.largest else (False,))
        }
        if set(keys.values()) <= done:
            continue
        loaded = loaded or load_model(model)
        volume, began = read_case(case, options.spacing), time.monotonic()
        predicted = predict_volume(loaded, volume, options.device)["pseudo_labels"] > 0
        seconds = time.monotonic() - began
        for largest in (largest for largest, key in keys.items() if key not in done):
            scores = _scores(largest_component(predicted) if largest else predicted, volume)
            line = {"key": keys[largest], **fields, "volume": case.name, "largest": largest, **scores}
            append_run(lines, {**line, "seconds": seconds})
            print(fields["part"], case.name, "largest" if largest else "", f"Dice {scores['dice']:.4f}", flush=True)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest of the parts that touch by a face, an edge or a corner; an empty mask stays empty."""
    parts, n = ndimage.label(mask, np.ones((3, 3, 3)))
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if n else mask


def _scores(prediction: np.ndarray, volume: Volume) -> dict[str, float | None]:
    """Overlap, and distances in voxels as in the published tables; in mm only where the file tells what a voxel is."""
    truth = np.asarray(volume.labels) > 0
    voxels = compare_masks(prediction, truth)
    found = {"dice": voxels.dice, "jaccard": voxels.jaccard, "hd95_voxels": voxels.hd95, "asd_voxels": voxels.asd}
    if volume.unit == "mm":
        real = compare_masks(prediction, truth, volume.spacing)
        found |= {"hd95_mm": real.hd95, "asd_mm": real.asd}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}  # JSON knows no nan


if __name__ == "__main__":
    main()
