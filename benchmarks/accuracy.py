"""Dice, Jaccard, HD95 and ASD of several methods at equal seconds or equal steps, on volumes with a known truth.

    python -m benchmarks.accuracy --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --slices 5 --budgets 60 --out DIR

Every run is a line of ``runs.jsonl``; a run that stands there already is not repeated, so a benchmark can be stopped,
resumed and split by volumes over machines. ``table.md``, ``summary.json`` and, of runs with several budgets,
``dice_over_seconds.png`` are made from all lines. With ``--against METHOD`` the table says on how many volumes every
method has a higher Dice than that one. ``--volumes`` takes whatever lies as ``NAME.*`` beside ``NAME_label.*``.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import Curve, plot_curves
from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.tables import markdown
from benchmarks.volumes import find_volumes, load_volume
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Metrics
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.initial_labels.selection import select_initial_labels
from napari_mlbseg.method.metrics import compare_labels, compare_masks
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.trainer import train

__all__ = ["METHODS", "main", "summarise"]

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
    "longer-bootstrap": {"bootstrap_share": 0.65},
    "bootstrap-only": {"bootstrap_share": 1.0},
    "uniform": {"weighting": "uniform"},
    "no-shape-prior": _PLAIN,
    "no-views": {"n_views": 1},
    "no-teacher": {"teacher_weight": 0.0},
    "no-consistency": {"consistency_weight": 0.0},
    "context-1": {"context": 1},
    "virtual": {"meta_gradient": "virtual"},
    "full-precision": {"mixed_precision": False},
}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the tables."""
    parser = training_parser("accuracy", __doc__)
    parser.add_argument("--slices", default="5", help="numbers of clean slices, such as 3,5,9")
    parser.add_argument("--budgets", default="60", help="seconds of a run, such as 30,60,240")
    parser.add_argument("--steps", help="bootstrap and weighted steps instead of seconds, such as 200+40")
    parser.add_argument("--methods", default="interpolation,default", help=f"of {', '.join(METHODS)}; or 'all'")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--against", metavar="METHOD", help="count on how many volumes each method is better than this")
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
        shown, initial = (run["facts"].get(name) for name in ("dice_classes", "dice_classes_initial"))
        compared = "" if shown is None else f", of all classes {shown:.4f} (initial labels {initial:.4f})"
        print(path.name, n_clean, budget, method, f"Dice {run['dice']:.4f}{compared}", flush=True)
    summarise(options.out, read_runs(lines), options.against)


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
        facts["dice_classes"] = _mean_of_classes(labels, volume)
        facts["dice_classes_initial"] = _mean_of_classes(results[volume.name]["initial_labels"], volume)
    return {
        "volume": volume.name,
        "method": method,
        "seconds": time.monotonic() - start,
        **_scores(labels, volume),
        "facts": facts,
    }


def _without_training(task: SegmentationTask, volume: Volume, method: str) -> np.ndarray:
    if method == "propagation":
        return select_initial_labels(task, "propagation")[0][volume.name]
    labels = known_labels(task, volume, "interpolation")
    if labels is None:
        raise SystemExit(f"{volume.name} has fewer than two clean slices: nothing can be interpolated.")
    return labels


def _mean_of_classes(labels: np.ndarray, volume: Volume) -> float:
    """Mean Dice of all classes over all but the clean slices."""
    scores = compare_labels(labels, np.asarray(volume.labels), volume.spacing, exclude=volume.clean_slices)
    return float(np.mean([of_class.dice for of_class in scores.values()]))


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


# -- tables and the plot ---------------------------------------------------------------------------------------------

_MEANS = ("dice", "dice_between", "jaccard", "hd95", "asd", "seconds")
_Group = tuple[int, str]  # number of clean slices, and budget: what is compared with each other
_Scores = dict[str, dict[str, float]]  # method -> volume -> Dice, the mean where a volume has several runs


def summarise(out: Path, runs: Sequence[dict[str, Any]], against: str | None = None) -> None:
    """Write means over the volumes and Dice of every volume, as Markdown and JSON, and the plot.

    Parameters
    ----------
    out : Path
    runs : sequence of dict
        Lines of ``runs.jsonl``.
    against : str, optional
        Method with which the others are compared volume by volume.
    """
    groups = sorted({(run["slices"], run["budget"]) for run in runs}, key=_in_order)
    rows, sections = [], []
    for group in groups:
        scores = _by_volume(runs, group)
        rows += [_row(runs, group, method, scores, against) for method in scores]
        sections.append(_volume_table(group, scores, against))
    (out / "summary.json").write_text(json.dumps(rows, indent=1))
    header = [
        "clean slices",
        "budget",
        "method",
        "volumes",
        "Dice",
        "Dice between",
        "Jaccard",
        "HD95",
        "ASD",
        "seconds",
    ]
    better = [f"better than {against}"] if against else []
    table = markdown([*header, *better], [_cells(row) for row in rows])
    (out / "table.md").write_text("\n".join([table, *sections]))
    print(table)
    _plot(out / "dice_over_seconds.png", runs)


def _in_order(group: _Group) -> tuple[int, float, str]:
    """Budgets by length, not by their letters; steps after seconds."""
    slices, budget = group
    return slices, math.inf if "+" in budget else float(budget), budget


def _by_volume(runs: Sequence[dict[str, Any]], group: _Group) -> _Scores:
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        if (run["slices"], run["budget"]) == group:
            found.setdefault(run["method"], {}).setdefault(run["volume"], []).append(run["dice"])
    methods = sorted(found, key=_rank)
    return {name: {volume: float(np.mean(values)) for volume, values in found[name].items()} for name in methods}


def _rank(method: str) -> tuple[int, str]:
    """Methods in the order in which they are declared; others, from earlier versions, last."""
    known = list(METHODS)
    return (known.index(method) if method in known else len(known)), method


def _row(
    runs: Sequence[dict[str, Any]], group: _Group, method: str, scores: _Scores, against: str | None
) -> dict[str, Any]:
    members = [run for run in runs if (run["slices"], run["budget"], run["method"]) == (*group, method)]
    row = {"slices": group[0], "budget": group[1], "method": method, "volumes": len(scores[method])}
    row |= {name: float(np.mean([member[name] for member in members])) for name in _MEANS}
    return row | ({"against": against, **_compared(scores, method, against)} if against else {})


def _compared(scores: _Scores, method: str, against: str) -> dict[str, Any]:
    """On how many of the volumes that both have `method` has a higher Dice, and by how much on average."""
    both = [volume for volume in scores[method] if volume in scores.get(against, {})]
    if method == against or not both:
        return {"better": None, "of": len(both), "mean_difference": None}
    differences = [scores[method][volume] - scores[against][volume] for volume in both]
    better = sum(difference > 0 for difference in differences)
    return {"better": better, "of": len(both), "mean_difference": float(np.mean(differences))}


def _cells(row: dict[str, Any]) -> list[object]:
    means = [f"{row[name]:.4f}" for name in _MEANS[:3]] + [f"{row[name]:.2f}" for name in _MEANS[3:]]
    return [
        row["slices"],
        row["budget"],
        row["method"],
        row["volumes"],
        *means,
        *([_won(row)] if "better" in row else []),
    ]


def _won(compared: dict[str, Any]) -> str:
    if compared["better"] is None:
        return ""
    return f"{compared['better']} of {compared['of']} ({compared['mean_difference']:+.4f})"


def _volume_table(group: _Group, scores: _Scores, against: str | None) -> str:
    """Dice of every volume by every method."""
    slices, budget = group
    volumes = sorted({volume for of_method in scores.values() for volume in of_method})
    rows: list[list[object]] = [
        [volume, *(f"{of_method[volume]:.4f}" if volume in of_method else "" for of_method in scores.values())]
        for volume in volumes
    ]
    rows.append(["**mean**", *(f"**{np.mean(list(of_method.values())):.4f}**" for of_method in scores.values())])
    if against:
        rows.append([f"better than {against}", *(_won(_compared(scores, method, against)) for method in scores)])
    unit = "steps" if "+" in budget else "s"
    return f"## Dice with {slices} clean slices, {budget} {unit}\n\n" + markdown(["volume", *scores], rows)


def _plot(path: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Dice over measured seconds: a curve for each method and number of clean slices, a point for each budget."""
    counts = sorted({run["slices"] for run in runs})
    methods = sorted({run["method"] for run in runs}, key=_rank)
    curves = []
    for (style, count), (colour, method) in itertools.product(enumerate(counts), enumerate(methods)):
        points = _points([run for run in runs if (run["slices"], run["method"]) == (count, method)])
        label = f"{method}, {count} slices"
        if METHODS.get(method, {}) is None and points:  # there at once, whatever the budget
            curves.append(Curve(label, (), [points[-1][1]], colour, style))
        elif points:
            seconds, scores = zip(*points, strict=True)
            curves.append(Curve(label, seconds, scores, colour, style))
    if any(curve.x for curve in curves):
        plot_curves(
            path,
            curves,
            title="Mean Dice over the time of a run",
            xlabel="seconds, measured",
            ylabel="Dice over all other slices",
        )


def _points(runs: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Mean seconds and mean Dice of each budget in seconds, over the volumes that have them all."""
    budgets = {run["budget"] for run in runs if "+" not in run["budget"]}
    having = [{run["volume"] for run in runs if run["budget"] == budget} for budget in budgets]
    whole = set.intersection(*having) if having else set()
    points = []
    for budget in budgets if whole else ():
        members = [run for run in runs if run["budget"] == budget and run["volume"] in whole]
        seconds, score = (float(np.mean([run[name] for run in members])) for name in ("seconds", "dice"))
        points.append((seconds, score))
    return sorted(points)


if __name__ == "__main__":
    main()
