"""What resumable benchmarks share: a line of JSON a run, and budgets in words."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from napari_mlbseg.config import TrainingConfig

__all__ = ["append_run", "config_of", "limits", "read_runs", "training_parser"]


def read_runs(lines: Path) -> list[dict[str, Any]]:
    """All runs of a ``runs.jsonl``; none if there is no such file."""
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def append_run(lines: Path, run: dict[str, Any]) -> None:
    """Add a run: one write, so that several processes may share the file."""
    with lines.open("a") as file:
        file.write(json.dumps(run) + "\n")


def limits(budget: str) -> dict[str, Any]:
    """Fields of the config for a budget: seconds, or bootstrap and weighted steps such as ``200+40``."""
    if "+" not in budget:
        return {"time_budget": float(budget)}
    bootstrap, weighted = map(int, budget.split("+"))
    return {"time_budget": None, "bootstrap_steps": bootstrap, "steps": weighted}


def training_parser(module: str, summary: str, *, volumes: bool = True) -> argparse.ArgumentParser:
    """The options that all benchmarks of trainings have: volumes, preset, seed, fields of the config and a folder.

    Parameters
    ----------
    module : str
        Name within ``benchmarks``.
    summary : str
        The module's docstring; its first line is shown.
    volumes : bool
        Whether there is an option for the volumes.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=summary.splitlines()[0])
    if volumes:
        parser.add_argument("--volumes", default=os.path.join(os.environ.get("MLBSEG_LA_DIR", "."), "la*.nii.gz"))
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every training")
    parser.add_argument("--out", type=Path, default=Path("bench-output") / module.replace("_", "-"))
    return parser


def config_of(options: argparse.Namespace, budget: str, **changes: Any) -> TrainingConfig:
    """The config that the options of `training_parser` name, within a budget (see `limits`)."""
    given = dict(pair.split("=", 1) for pair in options.set)
    return TrainingConfig.from_preset(options.preset, **{**limits(budget), "seed": options.seed, **given, **changes})
