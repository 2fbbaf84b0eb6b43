"""Dice, Jaccard, HD95 and ASD of several methods at equal seconds or equal steps, on volumes with a known truth.

    python -m benchmarks.accuracy --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --slices 5 --budgets 60 --out DIR

Every run is a line of ``runs.jsonl``; a run that stands there already is not repeated, so a benchmark can be stopped,
resumed and split by volumes over machines. ``table.md`` and ``summary.json`` are made from all lines.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.volumes import find_volumes, load_volume
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.engine.initial_labels import known_labels
from napari_mlbseg.engine.metrics import compare_masks
from napari_mlbseg.engine.results import MemoryResults
from napari_mlbseg.engine.train import train
from napari_mlbseg.events import Metrics
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task

__all__ = ["METHODS", "main"]

_PLAIN = {"shape_prior": False}
_CLEAN_ONLY = {**_PLAIN, "initial_labels": "network", "bootstrap_share": 1.0}

#: Methods by name: what each changes in the preset. None: initial labels alone, no training.
METHODS: dict[str, dict[str, Any] | None] = {
    "interpolation": None,
    "propagation": None,
    "supervised": _CLEAN_ONLY,
    "noisy-labels": {**_PLAIN, "initial_labels": "interpolation", "bootstrap_share": 1.0, "bootstrap_prior": 0.5},
    "mlb-uniform": {**_PLAIN, "initial_labels": "interpolation", "weighting": "uniform"},
    "mlb-meta": {**_PLAIN, "initial_labels": "interpolation", "weighting": "meta"},
    "paper-labels": {**_PLAIN, "initial_labels": "network"},
    "default": {},
    "from-interpolation": {"initial_labels": "interpolation"},
    "bootstrap-only": {"bootstrap_share": 1.0},
    "uniform": {"weighting": "uniform"},
    "no-shape-prior": _PLAIN,
    "no-views": {"n_views": 1},
    "no-teacher": {"teacher_weight": 0.0},
    "no-consistency": {"consistency_weight": 0.0},
    "context-1": {"context": 1},
    "virtual": {"meta_gradient": "virtual"},
}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the tables."""
    parser = training_parser("accuracy", __doc__)
    parser.add_argument("--slices", default="5", help="numbers of clean slices, such as 3,5,9")
    parser.add_argument("--budgets", default="60", help="seconds of a run, such as 30,60,240")
    parser.add_argument("--steps", help="bootstrap and weighted steps instead of seconds, such as 200+40")
    parser.add_argument("--methods", default="interpolation,default", help=f"of {', '.join(METHODS)}; or 'all'")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "runs.jsonl"
    done = {run["key"] for run in read_runs(lines)}
    methods = list(METHODS) if options.methods == "all" else options.methods.split(",")
    budgets = [options.steps] if options.steps else options.budgets.split(",")
    for path, n_clean, budget, method in itertools.product(
        find_volumes(options.volumes), map(int, options.slices.split(",")), budgets, methods
    ):
        key = "|".join(map(str, (path.name, n_clean, budget, method, options.preset, options.seed, options.set)))
        if key in done:
            continue
        config = config_of(options, budget, **(METHODS[method] or {}))
        run = _run(load_volume(path, n_clean), method, config, options.device)
        append_run(lines, {"key": key, "slices": n_clean, "budget": budget, **run})
        print(path.name, n_clean, budget, method, f"Dice {run['dice']:.4f}", flush=True)
    _summarise(options.out, read_runs(lines))


def _run(volume: Volume, method: str, config: TrainingConfig, device: str) -> dict[str, Any]:
    """One method on one volume: scores of its labels on all but the clean slices, and what it cost."""
    task = resolve_task([volume], config)
    start = time.monotonic()
    facts: dict[str, Any] = {}
    if METHODS[method] is None:
        labels = _without_training(task, volume, method)
    else:
        results = MemoryResults(task)
        for event in train(task, device, results=results):
            if isinstance(event, Metrics):
                facts.update(event.values)
        labels = results[volume.name]["pseudo_labels"]
    return {
        "volume": volume.name,
        "method": method,
        "seconds": time.monotonic() - start,
        **_scores(labels, volume),
        "facts": facts,
    }


def _without_training(task: SegmentationTask, volume: Volume, method: str) -> np.ndarray:
    if method == "propagation":
        from napari_mlbseg.engine.propagation import improve

        return improve(task, "propagation")[0][volume.name]
    labels = known_labels(task, volume, "interpolation")
    if labels is None:
        raise SystemExit(f"{volume.name} has fewer than two clean slices: nothing can be interpolated.")
    return labels


def _scores(labels: np.ndarray, volume: Volume) -> dict[str, float]:
    """Scores of the foreground over all but the clean slices, and between the first and the last clean one."""
    prediction, truth = labels > 0, np.asarray(volume.labels) > 0
    clean = volume.clean_slices
    scores = compare_masks(prediction, truth, volume.spacing, exclude=clean)
    outside = [z for z in range(volume.n_slices) if not clean[0] < z < clean[-1] or z in clean]
    inside = compare_masks(prediction, truth, volume.spacing, exclude=outside)
    return {
        "dice": scores.dice,
        "jaccard": scores.jaccard,
        "hd95": scores.hd95,
        "asd": scores.asd,
        "dice_between": inside.dice,
    }


_MEANS = ("dice", "dice_between", "jaccard", "hd95", "asd", "seconds")


def _summarise(out: Path, runs: list[dict[str, Any]]) -> None:
    """Means over the volumes, as a Markdown table and as JSON."""
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["slices"], run["budget"], run["method"]), []).append(run)
    rows = [
        {
            "slices": slices,
            "budget": budget,
            "method": method,
            "volumes": len(members),
            **{name: float(np.mean([member[name] for member in members])) for name in _MEANS},
        }
        for (slices, budget, method), members in sorted(groups.items())
    ]
    (out / "summary.json").write_text(json.dumps(rows, indent=1))
    table = ["| clean slices | budget | method | volumes | Dice | Dice between | Jaccard | HD95 | ASD | seconds |"]
    table.append("|---" * 10 + "|")
    for row in rows:
        means = [f"{row[name]:.4f}" for name in _MEANS[:3]] + [f"{row[name]:.2f}" for name in _MEANS[3:]]
        cells = [row["slices"], row["budget"], row["method"], row["volumes"], *means]
        table.append("| " + " | ".join(map(str, cells)) + " |")
    (out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
