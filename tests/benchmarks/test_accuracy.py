"""Tables and plot of the accuracy, from lines as the benchmark writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import summarise


def line(volume: str, method: str, dice: float, budget: str = "60", slices: int = 5, seconds: float = 58.0):
    scores = {"dice": dice, "jaccard": dice - 0.1, "hd95": 4.0, "asd": 1.0, "dice_between": dice + 0.01}
    key = "|".join((volume, str(slices), budget, method, "quick", "0", "[]"))
    return {
        "key": key,
        "slices": slices,
        "budget": budget,
        "volume": volume,
        "method": method,
        "seconds": seconds,
        **scores,
        "facts": {},
    }


def rows(folder: Path) -> dict[tuple[str, str], dict]:
    found = json.loads((folder / "summary.json").read_text())
    return {(row["budget"], row["method"]): row for row in found}


@pytest.fixture
def lines() -> list[dict]:
    return [
        line("la00", "mlb-uniform", 0.90),
        line("la01", "mlb-uniform", 0.88),
        line("la02", "mlb-uniform", 0.80),
        line("la00", "mlb-meta", 0.91),
        line("la01", "mlb-meta", 0.90),
        line("la02", "mlb-meta", 0.79),
        line("la00", "interpolation", 0.85, seconds=0.01),
        line("la00", "mlb-meta", 0.93, budget="240", seconds=239.0),
    ]


def test_means_over_the_volumes(lines, tmp_path, capsys):
    summarise(tmp_path, lines)
    found = rows(tmp_path)
    assert list(found) == [("60", "interpolation"), ("60", "mlb-uniform"), ("60", "mlb-meta"), ("240", "mlb-meta")]
    assert found["60", "mlb-meta"]["dice"] == pytest.approx(2.6 / 3)
    assert found["60", "mlb-meta"]["volumes"] == 3
    assert "better" not in found["60", "mlb-meta"]
    assert "| 5 | 60 | mlb-meta | 3 | 0.8667 | 0.8767 | 0.7667 | 4.00 | 1.00 | 58.00 |" in capsys.readouterr().out


def test_every_volume_by_every_method(lines, tmp_path):
    summarise(tmp_path, lines)
    table = (tmp_path / "table.md").read_text()
    section = table.split("## Dice with 5 clean slices, 60 s\n\n")[1].split("\n\n")[0]
    assert section.splitlines()[0] == "| volume | interpolation | mlb-uniform | mlb-meta |"
    assert "| la00 | 0.8500 | 0.9000 | 0.9100 |" in section
    assert "| la02 |  | 0.8000 | 0.7900 |" in section
    assert "better than" not in table


def test_how_often_a_method_beats_another(lines, tmp_path):
    summarise(tmp_path, lines, "mlb-uniform")
    found = rows(tmp_path)["60", "mlb-meta"]
    assert (found["against"], found["better"], found["of"]) == ("mlb-uniform", 2, 3)
    assert found["mean_difference"] == pytest.approx(0.02 / 3)
    table = (tmp_path / "table.md").read_text()
    assert "| better than mlb-uniform | 0 of 1 (-0.0500) |  | 2 of 3 (+0.0067) |" in table
    assert rows(tmp_path)["240", "mlb-meta"]["better"] is None, "there it has nothing to be compared with"


def test_a_tie_is_no_win(tmp_path):
    summarise(tmp_path, [line("la00", "default", 0.9), line("la00", "uniform", 0.9)], "default")
    assert rows(tmp_path)["60", "uniform"]["better"] == 0


def test_methods_and_budgets_of_other_versions_are_readable(tmp_path):
    summarise(tmp_path, [line("la00", "gone", 0.9), line("la00", "default", 0.9, budget="75+20")])
    assert list(rows(tmp_path)) == [("60", "gone"), ("75+20", "default")]
    assert "75+20 steps" in (tmp_path / "table.md").read_text()


def test_points_are_means_over_the_volumes_that_have_all_budgets(lines):
    of_meta = [run for run in lines if run["method"] == "mlb-meta"]
    assert accuracy._points(of_meta) == [(58.0, 0.91), (239.0, 0.93)]
    assert accuracy._points([line("la00", "default", 0.9, budget="75+20")]) == []
    assert accuracy._points([line("la00", "default", 0.9), line("la01", "default", 0.9, budget="240")]) == []


def test_the_plot_has_a_curve_for_each_method_and_number_of_slices(lines, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    original = accuracy.plot_curves
    monkeypatch.setattr(
        accuracy, "plot_curves", lambda path, curves, **words: (drawn.extend(curves), original(path, curves, **words))
    )
    summarise(tmp_path, [*lines, line("la00", "mlb-meta", 0.95, slices=9)])
    assert [curve.label for curve in drawn] == [
        "interpolation, 5 slices",
        "mlb-uniform, 5 slices",
        "mlb-meta, 5 slices",
        "mlb-meta, 9 slices",
    ]
    assert drawn[0].x == (), "what is there at once is a level"
    assert list(drawn[2].x) == [58.0, 239.0]
    assert drawn[2].colour == drawn[3].colour
    assert drawn[2].style != drawn[3].style
    assert (tmp_path / "dice_over_seconds.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_plot_and_all_else(lines, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    summarise(tmp_path, lines)
    assert "install napari-mlbseg[bench]" in capsys.readouterr().out
    assert not (tmp_path / "dice_over_seconds.png").exists()
    assert (tmp_path / "table.md").exists()
