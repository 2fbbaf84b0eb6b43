"""Where to annotate next: Dice over the number of clean slices, which several strategies choose.

    python -m benchmarks.suggest --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --steps 60+5 --out DIR

The annotator is an oracle: a slice that is chosen gets its true labels. All strategies begin with the same three
slices, evenly from the first to the last that shows the structure, and add two at a time, after a training on those
they have:

- ``error``: `napari_mlbseg.session.suggestions`, by what the training before was uncertain of; it knows no truth.
- ``gap``: the same without statistics: the middle of the widest gap, ends of the stack included.
- ``even``: evenly from the first to the last slice that shows the structure, all placed anew for each number. It knows
  where the structure begins and ends, and throws away what was annotated between.
- ``random``: two more slices, drawn among those that show the structure; it knows where that is.

Every training is a line of ``runs.jsonl``; one that stands there already, of any strategy, is not repeated. Without
``--steps`` labels are only propagated: seconds instead of an hour, but ``error`` has nothing to go by.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import Curve, plot_curves
from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.volumes import evenly, find_volumes, load_volume, shrunk, with_clean
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.metrics import dice
from napari_mlbseg.session.suggestions import latest_statistics, rank_slices
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.trainer import train

__all__ = ["STRATEGIES", "main"]

STRATEGIES = ("error", "gap", "even", "random")


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the tables and the plot."""
    parser = training_parser("suggest", __doc__)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--counts", default="3,5,7,9", help="numbers of clean slices at which to train")
    parser.add_argument("--steps", default="0+0", help="bootstrap and weighted steps of each training")
    parser.add_argument("--shrink", type=int, default=1, help="times fewer rows and columns: quicker")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    config = config_of(options, options.steps, preview_interval=600)
    counts = [int(count) for count in options.counts.split(",")]
    settings = f"{options.preset} {options.steps} shrink={options.shrink} {' '.join(options.set)}".strip()
    trainings = _Trainings(options.out / "runs.jsonl", config, settings)
    for path in find_volumes(options.volumes):
        for strategy in options.strategies.split(","):
            _follow(shrunk(load_volume(path, counts[0]), options.shrink), strategy, counts, trainings, options.seed)
    summarise(options.out, read_runs(options.out / "runs.jsonl"))


class _Trainings:
    """Trainings on any choice of clean slices, remembered in a file."""

    def __init__(self, lines: Path, config: TrainingConfig, settings: str) -> None:
        self._lines, self._config, self._settings = lines, config, settings

    def __call__(self, volume: Volume, strategy: str) -> dict[str, Any]:
        """Scores and statistics of a training on the volume's clean slices."""
        clean = list(volume.clean_slices)
        shared = {"volume": volume.name, "clean": clean, "settings": self._settings, "seed": self._config.seed}
        same = [run for run in read_runs(self._lines) if all(run[name] == value for name, value in shared.items())]
        found = next((run for run in same if run["strategy"] == strategy), None)
        if found is None:
            figures = {name: same[0][name] for name in _FIGURES} if same else _figures(volume, self._config)
            found = {"strategy": strategy, "slices": len(clean), **shared, **figures}
            append_run(self._lines, found)
            print(volume.name, strategy, len(clean), f"Dice {found['dice']:.4f}", flush=True)
        return found


_FIGURES = ("dice", "dice_all", "uncertainty")


def _figures(volume: Volume, config: TrainingConfig) -> dict[str, Any]:
    """Train on the clean slices; Dice over the others and over all, and the uncertainty of each slice."""
    task = resolve_task([volume], config)
    results = MemoryResults(task)
    events = list(train(task, "cpu", results=results))
    predicted, truth = results[volume.name]["pseudo_labels"] > 0, np.asarray(volume.labels) > 0
    others = list(volume.unlabelled_slices)
    known = latest_statistics(events, volume.name, volume.n_slices)
    return {
        "dice": dice(predicted[others], truth[others]),
        "dice_all": dice(predicted, truth),
        "uncertainty": known["uncertainty"].tolist() if "uncertainty" in known else None,
    }


def _follow(volume: Volume, strategy: str, counts: Sequence[int], trainings: _Trainings, seed: int) -> None:
    """Train with each number of clean slices, chosen one strategy's way."""
    rng = np.random.default_rng([seed, *volume.name.encode()])
    run = trainings(volume, strategy)
    for count in counts[1:]:
        volume = with_clean(volume, _chosen(volume, strategy, count, run["uncertainty"], rng))
        run = trainings(volume, strategy)


def _chosen(
    volume: Volume, strategy: str, count: int, uncertainty: list[float] | None, rng: np.random.Generator
) -> list[int]:
    """The `count` slices that are to be clean next."""
    clean, truth = volume.clean_slices, np.asarray(volume.labels)
    if strategy == "even":
        return evenly(truth, count)
    more = count - len(clean)
    if strategy == "random":
        shown = np.setdiff1d(np.flatnonzero(truth.any((1, 2))), clean)
        return [*clean, *rng.choice(shown, more, replace=False).tolist()]
    known = strategy == "error" and uncertainty is not None
    ranked = rank_slices(volume.n_slices, clean, {"uncertainty": np.array(uncertainty, float)} if known else {})
    return [*clean, *(suggestion.slice for suggestion in ranked[:more])]


def summarise(out: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Means over the volumes that every strategy has whole, as a table, as JSON and as a plot."""
    strategies = [name for name in STRATEGIES if any(run["strategy"] == name for run in runs)]
    counts = sorted({run["slices"] for run in runs})
    curves = {
        measure: _complete({(r["strategy"], r["volume"], r["slices"]): r[measure] for r in runs}, strategies, counts)
        for measure in ("dice", "dice_all")
    }
    rows = []
    for measure, table in curves.items():  # (strategy, volume, count)
        areas = np.trapezoid(table, counts, axis=2) / (counts[-1] - counts[0])
        for name, curve, area in zip(strategies, table, areas, strict=True):
            rows.append(
                {
                    "measure": measure,
                    "strategy": name,
                    "volumes": len(curve),
                    **{str(count): float(value) for count, value in zip(counts, curve.mean(0), strict=True)},
                    "area": float(area.mean()),
                    "better_than_even": int((area > areas[strategies.index("even")]).sum())
                    if "even" in strategies
                    else None,
                }
            )
    (out / "summary.json").write_text(json.dumps(rows, indent=1))
    lines = ["| measure | strategy | volumes | " + " | ".join(map(str, counts)) + " | area | better than even |"]
    lines.append("|---" * (len(counts) + 5) + "|")
    for row in rows:
        means = " | ".join(f"{row[str(count)]:.4f}" for count in counts)
        cells = (row["measure"], row["strategy"], row["volumes"], means, f"{row['area']:.4f}", row["better_than_even"])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    plot_curves(
        out / "dice.png",
        [
            Curve(name, counts, curve, colour)
            for colour, (name, curve) in enumerate(zip(strategies, curves["dice"].mean(1), strict=True))
        ],
        title="Where to annotate next",
        xlabel="clean slices",
        ylabel="Dice over all other slices",
        xticks=counts,
    )


def _complete(
    values: dict[tuple[str, str, int], float], strategies: Sequence[str], counts: Sequence[int]
) -> np.ndarray:
    """Scores of the volumes for which there are all, (strategy, volume, count)."""
    volumes = sorted({volume for _, volume, _ in values})
    whole = [v for v in volumes if all((s, v, c) in values for s in strategies for c in counts)]
    if not whole:
        raise SystemExit("No volume has all strategies and counts yet: run the benchmark to its end.")
    return np.array([[[values[s, v, c] for c in counts] for v in whole] for s in strategies])


if __name__ == "__main__":
    main()
