"""Tables and plot of where to annotate next, from lines as the benchmark writes them."""

from __future__ import annotations

import json

import pytest

from benchmarks.suggest import summarise


def test_curves_over_the_number_of_clean_slices(tmp_path):
    pytest.importorskip("matplotlib")
    dice = {("error", 3): 0.8, ("error", 5): 0.9, ("even", 3): 0.8, ("even", 5): 0.85}
    runs = [
        {"strategy": strategy, "volume": volume, "slices": slices, "dice": value, "dice_all": value}
        for (strategy, slices), value in dice.items()
        for volume in ("la00", "la01")
    ]
    summarise(tmp_path, runs)
    rows = json.loads((tmp_path / "summary.json").read_text())
    areas = {row["strategy"]: row["area"] for row in rows if row["measure"] == "dice"}
    assert areas == {"error": pytest.approx(0.85), "even": pytest.approx(0.825)}
    assert (tmp_path / "dice.png").read_bytes().startswith(b"\x89PNG")
