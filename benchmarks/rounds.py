"""Is a warm start from the last round's model worth it? Rounds with ever more clean slices, at equal steps or seconds.

    python -m benchmarks.rounds --volumes "$MLBSEG_LA_DIR/la*.nii.gz" --budget 100+10 --out DIR

The slices are nested: of nine, evenly from the first to the last that shows the structure, the first round has the
outer two and the middle, the second the quarters too, the third the two between the outer ones and theirs. Every
variant shares the first round, which is cold. A training is a line of ``runs.jsonl`` and is not repeated; its model
stays in DIR for the round that starts from it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runs import append_run, config_of, read_runs, training_parser
from benchmarks.volumes import evenly, find_volumes, load_volume, shrunk, with_clean
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Metrics
from napari_mlbseg.method.metrics import dice
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.trainer import train

__all__ = ["VARIANTS", "main"]

#: Which of nine even slices each round has.
_ROUNDS = ((0, 4, 8), (0, 2, 4, 6, 8), (0, 1, 2, 4, 6, 7, 8))
#: What each variant changes in the config of the rounds after the first; all but "cold" start from the last model.
VARIANTS: dict[str, dict[str, Any]] = {
    "cold": {},
    "warm": {},
    "warm-third-rate": {"learning_rate": 6e-4},
    "warm-tenth-rate": {"learning_rate": 2e-4},
    "warm-no-bootstrap": {"bootstrap_steps": 0},
}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, then write the tables."""
    parser = training_parser("rounds", __doc__)
    parser.add_argument("--variants", default="cold,warm", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--budget", default="100+10", help="of a round: bootstrap and weighted steps, or seconds")
    parser.add_argument("--shrink", type=int, default=1, help="times fewer rows and columns: quicker")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    config = config_of(options, options.budget, preview_interval=600)
    settings = " ".join([options.preset, options.budget, f"shrink={options.shrink}", *options.set])
    for path in find_volumes(options.volumes):
        volume = shrunk(load_volume(path, 9), options.shrink)
        for variant in options.variants.split(","):
            _follow(volume, variant, config, settings, options.out)
    _summarise(options.out, read_runs(options.out / "runs.jsonl"))


def _follow(volume: Volume, variant: str, config: TrainingConfig, settings: str, out: Path) -> None:
    """All rounds of one variant on one volume."""
    lines, model = out / "runs.jsonl", None
    nine = evenly(np.asarray(volume.labels), 9)
    for number, members in enumerate(_ROUNDS, start=1):
        name = "first" if number == 1 else variant
        key = "|".join((volume.name, name, str(number), settings, str(config.seed)))
        save_to = out / (re.sub(r"[^\w.=+-]", "_", key) + ".safetensors")
        if key not in {run["key"] for run in read_runs(lines)}:
            clean = with_clean(volume, [nine[member] for member in members])
            changed = config if number == 1 else config.updated(**VARIANTS[variant])
            run = _round(clean, changed, None if variant == "cold" else model, save_to)
            append_run(
                lines,
                {
                    "key": key,
                    "volume": volume.name,
                    "variant": name,
                    "round": number,
                    "slices": len(members),
                    "settings": settings,
                    **run,
                },
            )
            print(key, f"Dice {run['dice']:.4f}", flush=True)
        model = save_to


def _round(volume: Volume, config: TrainingConfig, previous: Path | None, save_to: Path) -> dict[str, Any]:
    """Train once; Dice over all slices that are not clean."""
    task = resolve_task([volume], config)
    results, facts, began = MemoryResults(task), {}, time.monotonic()
    for event in train(task, "cpu", results=results, warm_start=previous, save_to=save_to):
        if isinstance(event, Metrics):
            facts.update(event.values)
    others = list(volume.unlabelled_slices)
    predicted, truth = results[volume.name]["pseudo_labels"][others] > 0, np.asarray(volume.labels)[others] > 0
    return {"dice": dice(predicted, truth), "seconds": time.monotonic() - began, "facts": facts}


def _summarise(out: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Means over the volumes that every variant has whole, as a table and as JSON."""
    lines = ["| settings | variant | volumes | " + " | ".join(f"round {n}" for n in range(1, len(_ROUNDS) + 1))]
    lines[0] += " | better than cold, last round |"
    lines.append("|---" * (len(_ROUNDS) + 4) + "|")
    rows = []
    for settings in sorted({run["settings"] for run in runs}):
        of_these = [run for run in runs if run["settings"] == settings]
        scores = {(run["variant"], run["volume"], run["round"]): run["dice"] for run in of_these}
        variants = [name for name in VARIANTS if any(run["variant"] == name for run in of_these)]
        later = range(2, len(_ROUNDS) + 1)
        volumes = sorted({run["volume"] for run in of_these})
        whole = [v for v in volumes if all((name, v, n) in scores for name in variants for n in later)]
        for name in variants if whole else []:
            curves = np.array([[scores["first", v, 1], *(scores[name, v, n] for n in later)] for v in whole])
            better = sum(scores[name, v, later[-1]] > scores.get(("cold", v, later[-1]), np.inf) for v in whole)
            means = curves.mean(0).tolist()
            rows.append({"settings": settings, "variant": name, "volumes": len(whole), "dice": means, "better": better})
            cells = [settings, name, len(whole), *(f"{mean:.4f}" for mean in means), better]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    (out / "summary.json").write_text(json.dumps(rows, indent=1))
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
