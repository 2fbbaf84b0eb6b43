"""Do the weight maps tell the truth? How well they find wrong initial labels, over training time, beside plainer maps.

    python -m benchmarks.weights --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --shrink 2 --out DIR

A training of a few clean slices gets initial labels y^n with real errors (``interpolation``, ``propagation``) or, as
given labels, the truth with one error planted into half of the slices (``shifted``, ``eroded``, ``missed``,
``swapped``). A pixel of an unlabelled slice is wrong where y^n is not the truth. Every detector is a map of doubt, and
its AUROC the chance that a wrong pixel is doubted more than a right one: over all pixels of all unlabelled slices, and
over those near an outline of y^n or of the truth. Far away nearly all is right and looks it, so that even the distance
to y^n's outline, which knows nothing of the image, does well over all pixels: it is among the detectors.

*Shown* maps are the running means that a user sees at that time, at the end those written as results; *single* ones are
one step's weights of the slices in its batch, each step for itself; *either way* takes the larger of a step's AUROC and
1 - AUROC, which is what its map would know if its sign were known. Steps, not seconds, so that the machine's load
changes nothing. Runs are lines of ``runs.jsonl``; those that stand there are not repeated.
"""

from __future__ import annotations

import itertools
import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.errors import auroc, in_halves, plant
from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.volumes import find_volumes, load_volume, shrunk
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.method.signed_distance import signed_distance
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.inference import Predictor
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.stages import Training
from napari_mlbseg.training.weight_maps import WeightMaps

__all__ = ["KINDS", "main"]

REAL = ("interpolation", "propagation")
KINDS = (*REAL, "shifted", "eroded", "missed", "swapped")
REGIONS = ("all", "near")

#: Doubt by the weights w^n and w^p, (..., Y, X) each.
WEIGHTS = {
    "low w^n": lambda initial, pseudo: -initial,
    "preference for y^p": lambda initial, pseudo: _ratio(pseudo - initial, pseudo + initial),
    "both: w^p - w^n": lambda initial, pseudo: pseudo - initial,
    "high w^n + w^p": lambda initial, pseudo: pseudo + initial,
}
PREDICTION, OUTLINE = "initial doubt: prediction against y^n", "nearness to y^n's outline"
DETECTORS = (*WEIGHTS, PREDICTION, OUTLINE)

_PLANTED_SHARE = 0.5  # of the unlabelled slices that show enough of the structure
_SMALLEST = 300  # pixels of it on a slice that gets an error
_SHIFT = 5.0  # pixels that a shifted outline is moved
_FAR = 1e3  # pixels to an outline on a slice without one


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the tables and the plot."""
    parser = training_parser("weights", __doc__)
    parser.add_argument("--slices", type=int, default=5, help="number of clean slices")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--steps", default="100+40", help="bootstrap and weighted steps")
    parser.add_argument("--points", default="0.1,0.25,0.5,0.75,1", help="shares of the weighted steps to look after")
    parser.add_argument("--near", type=float, default=6, help="pixels from an outline that are near it")
    parser.add_argument("--shrink", type=int, default=1, help="times fewer rows and columns: quicker")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = options.out / "runs.jsonl"
    done = {run["key"] for run in read_runs(lines)}
    points = [float(point) for point in options.points.split(",")]
    for path, kind in itertools.product(find_volumes(options.volumes), options.kinds.split(",")):
        settings = (path.name, options.slices, kind, options.steps, options.points, options.near, options.shrink)
        key = "|".join(map(str, (*settings, options.preset, options.seed, *options.set)))
        if key in done:
            continue
        volume = shrunk(load_volume(path, options.slices), options.shrink)
        volume, source = _with_errors(volume, kind, options.seed, options.shrink)
        config = config_of(options, options.steps, initial_labels=source, find_label_errors=False, preview_interval=600)
        run = _run(volume, config, points, options.near / options.shrink, options.device)
        append_run(lines, {"key": key, "kind": kind, "seed": options.seed, **run})
        print(path.name, kind, f"{run['wrong']} wrong pixels, {run['seconds']:.0f} s", flush=True)
    _summarise(options.out, read_runs(lines))


def _with_errors(volume: Volume, kind: str, seed: int, shrink: int) -> tuple[Volume, str]:
    """The volume with initial labels that have errors, and the source that the config has to name."""
    labels = (np.asarray(volume.labels) > 0).astype(np.uint8)
    if kind in REAL:
        return replace(volume, labels=labels), kind
    rng = np.random.default_rng([seed, zlib.crc32(f"{volume.name} {kind}".encode())])
    labels = in_halves(labels) if kind == "swapped" else labels
    classes = range(1, labels.max() + 1)
    initial = labels.copy()
    for z in volume.unlabelled_slices:
        smallest = min((labels[z] == k).sum() for k in classes) * len(classes)
        if smallest * shrink**2 >= _SMALLEST and rng.random() < _PLANTED_SHARE:
            initial[z] = plant(kind, labels[z], rng, _SHIFT / shrink)
    return replace(volume, labels=labels, initial_labels=initial), "given"


# -- a run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Visit:
    """One step's weights of one slice, where its patch lay."""

    z: int
    where: tuple[slice, slice]
    initial: np.ndarray
    pseudo: np.ndarray


class _Visits(WeightMaps):
    """Running means that also keep every visit since they were last asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._latest: list[_Visit] = []

    def add(
        self,
        key: tuple[int, int],
        shape: tuple[int, int],
        corner: tuple[int, int],
        initial: Tensor,
        pseudo: Tensor,
    ) -> None:
        super().add(key, shape, corner, initial, pseudo)
        self.count += 1
        rows, columns = (min(n, side - start) for n, side, start in zip(initial.shape, shape, corner, strict=True))
        where = slice(corner[0], corner[0] + rows), slice(corner[1], corner[1] + columns)
        planes = (plane[:rows, :columns].cpu().numpy() for plane in (initial, pseudo))
        self._latest.append(_Visit(key[1], where, *planes))

    def take(self) -> list[_Visit]:
        """Visits since the last call, in their order."""
        latest, self._latest = self._latest, []
        return latest


class _Probe:
    """Measures the maps of a training at the wanted steps. It is asked between steps whether to stop, and never does.

    Parameters
    ----------
    volume : Volume
        Its labels are the whole truth.
    steps : collection of int
        Numbers of weighted steps after which to measure.
    near : float
        Pixels from an outline that are near it.
    """

    def __init__(self, volume: Volume, steps: Sequence[int], near: float) -> None:
        self.maps, self.measured = _Visits(), dict[int, dict[str, Any]]()
        self._volume, self._steps, self._near = volume, steps, near
        self._training: Training | None = None

    def watch(self, training: Training) -> None:
        """Look at a training whose initial labels are there."""
        self._training = training
        training.prediction_writer.maps = self.maps
        slices = range(self._volume.n_slices)
        self.initial = np.stack([training.sampler.initial_slice((0, z)) for z in slices])
        self.truth = np.stack([training.task.class_indices(self._volume.label_slice(z)) for z in slices])
        self.wrong = self.initial != self.truth
        self.distance = _outline_distance(self.initial)
        self.near = np.minimum(self.distance, _outline_distance(self.truth)) <= self._near

    def __call__(self) -> bool:
        training = self._training
        if training is not None:
            step = self.maps.count // training.task.config.batch_size
            if step in self._steps and step not in self.measured:
                self.measured[step] = {"shown": self._shown(), "single": self._single(self.maps.take())}
        return False

    def scores(self, doubts: dict[str, np.ndarray], slices: Sequence[int]) -> dict[str, list[float]]:
        """AUROC of maps (len(slices), Y, X) over all pixels and over those near an outline."""
        wrong, near = self.wrong[slices], self.near[slices]
        return {name: [auroc(d, wrong), auroc(d[near], wrong[near])] for name, d in doubts.items()}

    def others(self, slices: Sequence[int]) -> dict[str, np.ndarray]:
        """Doubt of those detectors that use no weights, as a preview would show it."""
        training = self._training
        assert training is not None
        predict = Predictor(training.learner.teacher.network, training.task.config, n_views=1)
        predicted = np.stack([predict([training.sampler.network_input((0, z))])[0][0].cpu().numpy() for z in slices])
        agreed = np.take_along_axis(predicted, self.initial[slices][:, None].astype(np.int64), 1)[:, 0]
        return {PREDICTION: 1 - agreed, OUTLINE: -self.distance[slices]}

    def _shown(self) -> dict[str, Any]:
        """Scores of the running means, over the slices that were visited."""
        means = {z: self.maps.mean((0, z)) for z in self._volume.unlabelled_slices}
        visited = [z for z, mean in means.items() if mean is not None]
        initial, pseudo = (np.stack([means[z][i] for z in visited]) for i in range(2))
        doubts = {name: doubt(initial, pseudo) for name, doubt in WEIGHTS.items()}
        return {"visited": len(visited), **self.scores({**doubts, **self.others(visited)}, visited)}

    def _single(self, visits: list[_Visit]) -> list[dict[str, list[float]]]:
        """Scores of each step's weights, over the patches of its batch."""
        training = self._training
        assert training is not None
        size = training.task.config.batch_size
        return [self._of_step(visits[first : first + size]) for first in range(0, len(visits), size)]

    def _of_step(self, visits: list[_Visit]) -> dict[str, list[float]]:
        wrong, near, initial, pseudo = (
            np.concatenate([part.ravel() for part in parts])
            for parts in (
                [self.wrong[v.z][v.where] for v in visits],
                [self.near[v.z][v.where] for v in visits],
                [v.initial for v in visits],
                [v.pseudo for v in visits],
            )
        )
        doubts = {name: doubt(initial, pseudo) for name, doubt in WEIGHTS.items()}
        return {name: [auroc(d, wrong), auroc(d[near], wrong[near])] for name, d in doubts.items()}


def _run(volume: Volume, config: TrainingConfig, points: Sequence[float], near: float, device: str) -> dict[str, Any]:
    """Train, and measure the maps on the way and at the end."""
    task = resolve_task([volume], config)
    start = time.monotonic()
    steps = {max(1, round(point * (config.steps or 0))): point for point in points}
    probe, results = _Probe(volume, list(steps), near), MemoryResults(task)
    known = {volume.name: known_labels(task, volume, config.initial_labels)}
    training = Training(task, device, results, probe, lambda: None, None, None, start)
    for event in training.initial_labels(known):
        del event
    probe.watch(training)
    for stage in (training.bootstrap(), training.weighted(), training.finish()):
        for event in stage:
            del event
    unlabelled, arrays = list(volume.unlabelled_slices), results[volume.name]
    doubts = {
        name: doubt(arrays["weight_initial"][unlabelled], arrays["weight_pseudo"][unlabelled])
        for name, doubt in WEIGHTS.items()
    }
    doubts |= {PREDICTION: arrays["initial_doubt"][unlabelled], OUTLINE: -probe.distance[unlabelled]}
    return {
        "volume": volume.name,
        "unlabelled": len(unlabelled),
        "wrong": int(probe.wrong[unlabelled].sum()),
        "seconds": time.monotonic() - start,
        "points": {str(steps[step]): found for step, found in probe.measured.items()},
        "end": probe.scores(doubts, unlabelled),
    }


def _outline_distance(labels: np.ndarray) -> np.ndarray:
    """Pixels to the nearest outline of any class, (Z, Y, X) of class indices."""
    return np.stack([_plane_distance(plane) for plane in labels])


def _plane_distance(plane: np.ndarray) -> np.ndarray:
    masks = [plane == k for k in np.unique(plane)]
    distances = [np.abs(signed_distance(mask)) for mask in masks if not mask.all()]
    return np.min(distances, 0) if distances else np.full(plane.shape, _FAR, np.float32)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


# -- tables ----------------------------------------------------------------------------------------------------------


def _summarise(out: Path, runs: list[dict[str, Any]]) -> None:
    """Mean AUROC by detector, kind of error and time, as Markdown tables, as JSON and as a plot."""
    kinds = [kind for kind in KINDS if any(run["kind"] == kind for run in runs)]
    rows = [
        {
            "detector": detector,
            "form": form,
            "point": point,
            "auroc": {
                kind: _mean([_score(r, form, point, detector) for r in runs if r["kind"] == kind]) for kind in kinds
            },
        }
        for form, point, detector in _cells(runs)
    ]
    for row in rows:
        row["auroc"]["all kinds"] = _mean(list(row["auroc"].values()))
    counts = {kind: sum(run["kind"] == kind for run in runs) for kind in kinds}
    (out / "summary.json").write_text(json.dumps({"runs": counts, "rows": rows}, indent=1))
    table = _tables(rows, counts)
    (out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))
    _plot(out / "auroc.png", rows)


def _cells(runs: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(form, point, detector) of all rows."""
    points = sorted({point for run in runs for point in run["points"]}, key=float)
    cells = [("shown", "end", detector) for detector in DETECTORS]
    cells += [("shown", point, detector) for point in points for detector in DETECTORS]
    return cells + [(form, p, d) for form in ("single", "single, either way") for p in points for d in WEIGHTS]


def _score(run: dict[str, Any], form: str, point: str, detector: str) -> list[float]:
    """AUROC (all, near) of a run; of single steps their mean, either way round if the form says so."""
    if point == "end":
        return run["end"][detector]
    found = run["points"].get(point)
    if found is None:
        return [np.nan] * len(REGIONS)
    if form == "shown":
        return found["shown"][detector]
    steps = np.array([step[detector] for step in found["single"]], float)
    return _mean((np.maximum(steps, 1 - steps) if form != "single" else steps).tolist())


def _mean(scores: list[list[float]]) -> list[float]:
    """Mean over runs of (all, near), without those that have no wrong pixel."""
    scores = [pair for pair in scores if not np.isnan(pair).any()]
    return np.mean(scores, 0).tolist() if scores else [np.nan] * len(REGIONS)


def _tables(rows: list[dict[str, Any]], counts: dict[str, int]) -> list[str]:
    """By kind of error at the end of the training, then over time."""
    points = list(dict.fromkeys(row["point"] for row in rows if row["point"] != "end"))
    last = points[-1]
    heads = [f"{kind} ({n})" for kind, n in counts.items()] + ["all kinds"]
    table = ["| AUROC all / near, at the end | maps | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for row in rows:
        if row["point"] == "end" or (row["form"] != "shown" and row["point"] == last):
            cells = [_cell(row["auroc"][kind]) for kind in (*counts, "all kinds")]
            table.append(f"| {row['detector']} | {row['form']} | " + " | ".join(cells) + " |")
    table += [
        "",
        "| AUROC all / near, all kinds, after a share of the weighted steps | maps | " + " | ".join(points) + " |",
    ]
    table.append("|---" * (len(points) + 2) + "|")
    for form, detector in dict.fromkeys((row["form"], row["detector"]) for row in rows):
        of = {r["point"]: r["auroc"]["all kinds"] for r in rows if (r["form"], r["detector"]) == (form, detector)}
        table.append(f"| {detector} | {form} | " + " | ".join(_cell(of[point]) for point in points) + " |")
    return table


def _cell(scores: list[float]) -> str:
    return " / ".join(f"{score:.3f}" for score in scores)


def _plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """AUROC over the share of the weighted steps, all kinds together."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No plot: install napari-mlbseg[bench] for it.")
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    for i, (region, title) in enumerate(zip(REGIONS, ("all pixels", "near an outline"), strict=True)):
        axes = figure.add_subplot(1, 2, i + 1, xlabel="share of the weighted steps", ylabel="AUROC", title=title)
        axes.axhline(0.5, color="black", linewidth=0.8)
        for number, detector in enumerate(DETECTORS):
            for form, style in (("shown", "-o"), ("single", ":")):
                of = [r for r in rows if (r["form"], r["detector"]) == (form, detector) and r["point"] != "end"]
                if of:
                    x, y = [float(row["point"]) for row in of], [row["auroc"]["all kinds"][i] for row in of]
                    axes.plot(x, y, style, color=f"C{number}", label=f"{detector}, {form}", markersize=3)
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        if region == REGIONS[-1]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
