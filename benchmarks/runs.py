"""What resumable benchmarks share: a line of JSON a run, and budgets in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["append_run", "limits", "read_runs"]


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
