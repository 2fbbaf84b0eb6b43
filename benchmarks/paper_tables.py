"""Tables of `benchmarks.paper`: our figures beside the published ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import markdown

__all__ = ["PUBLISHED", "summarise"]

#: Dice (%) and HD95 (voxels) on the 20 test volumes as published: method, labelled and unlabelled volumes, source.
#: Figures of one method differ by up to 3 points between the tables of different papers.
PUBLISHED = (
    ("V-Net, labelled volumes only", "8 + 0", "82.7", "13.3", "quoted by BCP, CrossMatch and others"),
    ("UA-MT", "8 + 72", "84.3 to 87.8", "", "MICCAI 2019, as quoted in tables of later papers"),
    ("MC-Net+", "8 + 72", "87.7", "10.5", "Medical Image Analysis 2022"),
    ("BCP", "8 + 72", "89.6", "7.1", "CVPR 2023"),
    ("CrossMatch", "8 + 72", "91.3", "5.3", "2024"),
    ("V-Net, all volumes labelled", "80 + 0", "91.4", "5.5", "quoted by BCP, CrossMatch and others"),
)

_MEASURES = ("dice", "jaccard", "hd95_voxels", "asd_voxels", "hd95_mm", "asd_mm")
_PARTS = {"test": "test", "unlabelled": "unlabelled, as if never seen", "initial": "unlabelled, y^n of the bootstrap"}
_NOTE = """\
Mean ± standard deviation over the volumes. Distances are the 95th percentile and the mean of both surfaces' distances
to each other, pooled; published mean distances are often one-sided. A volume in which nothing was predicted counts with
Dice 0 and has no distances."""


def summarise(out: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Means and standard deviations over the volumes beside the published figures, as Markdown and as JSON."""
    groups: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for run in runs:
        if run["part"] != "training":
            groups.setdefault((run["run"], run["part"], run["largest"]), []).append(run)
    rows = [
        {"run": name, "part": part, "largest": largest, **_statistics(members)}
        for (name, part, largest), members in sorted(groups.items(), key=lambda item: _order(item[0]))
    ]
    trainings = [run for run in runs if run["part"] == "training"]
    (out / "summary.json").write_text(json.dumps({"rows": rows, "trainings": trainings}, indent=1))
    header = [
        "run",
        "volumes",
        "n",
        "Dice (%)",
        "Jaccard (%)",
        "HD95 (voxels)",
        "ASD (voxels)",
        "HD95 (mm)",
        "ASD (mm)",
    ]
    published = markdown(
        ["published", "labelled + unlabelled", "Dice (%)", "HD95 (voxels)", "source"],
        [(name, volumes, score, distance, source) for name, volumes, score, distance, source in PUBLISHED],
    )
    ours = markdown(header, [_cells(row) for row in rows])
    text = f"{published}\n{ours}\n{_NOTE}\n\n" + "".join(_told(training) for training in trainings)
    (out / "table.md").write_text(text)
    print(text)


def _order(group: tuple[str, str, bool]) -> tuple[str, int, bool]:
    name, part, largest = group
    return name, list(_PARTS).index(part), largest


def _statistics(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Number of volumes, and mean and deviation of every score over those that have it."""
    found: dict[str, Any] = {"volumes": len(members)}
    for name in _MEASURES:
        values = [member[name] for member in members if member.get(name) is not None]
        if values:
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found[name] = {"mean": float(np.mean(values)), "std": deviation, "n": len(values)}
    return found


def _cells(row: dict[str, Any]) -> list[object]:
    part = _PARTS[row["part"]] + (", largest component" if row["largest"] else "")
    scores = [_cell(row.get(name), 100 if name in ("dice", "jaccard") else 1, row["volumes"]) for name in _MEASURES]
    return [row["run"], part, row["volumes"], *scores]


def _cell(statistics: dict[str, Any] | None, factor: float, volumes: int) -> str:
    if statistics is None:
        return ""
    deviation = "" if statistics["std"] is None else f" ± {factor * statistics['std']:.2f}"
    fewer = "" if statistics["n"] == volumes else f" (of {statistics['n']})"
    return f"{factor * statistics['mean']:.2f}{deviation}{fewer}"


def _told(training: dict[str, Any]) -> str:
    """What a training was, as an item of a list."""
    facts = training["facts"]
    return (
        f"- `{training['run']}`: {training['split']} {training['clean_slices']} clean and "
        f"{training['unlabelled_slices']} unlabelled slices; {facts.get('bootstrap_steps', 0)} bootstrap and "
        f"{facts.get('steps', 0)} weighted steps in {training['seconds']:.0f} s on {facts.get('device')}, peak memory "
        f"{facts.get('peak_memory_bytes', 0) / 2**30:.1f} GiB.\n"
    )
