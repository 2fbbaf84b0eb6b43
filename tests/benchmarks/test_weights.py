"""The benchmark of the weight maps: its AUROC is right on maps of which it is known, and the command runs."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.errors import KINDS as PLANTED
from benchmarks.errors import auroc, in_halves, plant
from benchmarks.weights import DETECTORS, KINDS, main


def disc(radius: int = 9) -> np.ndarray:
    y, x = np.indices((40, 44))
    return ((y - 20) ** 2 + (x - 21) ** 2 <= radius**2).astype(np.uint8)


def test_a_perfect_map_scores_one_and_an_inverted_one_zero():
    wrong = disc().astype(bool)
    doubt = np.random.default_rng(0).random(wrong.shape) + 2 * wrong
    assert auroc(doubt, wrong) == 1
    assert auroc(-doubt, wrong) == 0


def test_a_random_map_scores_a_half():
    rng = np.random.default_rng(1)
    assert auroc(rng.random(20_000), rng.random(20_000) < 0.1) == pytest.approx(0.5, abs=0.02)


def test_ties_count_half():
    wrong = np.array([True, True, False, False])
    assert auroc(np.zeros(4), wrong) == 0.5
    assert auroc(np.array([1, 0, 0, 0]), wrong) == 0.75  # 1 of 2 wrong pixels is above both right ones, 1 is level


def test_it_counts_pairs():
    rng = np.random.default_rng(2)
    doubt, wrong = rng.integers(0, 5, 60), rng.random(60) < 0.3
    a, b = doubt[wrong][:, None], doubt[~wrong][None]
    assert auroc(doubt, wrong) == pytest.approx(((a > b) + 0.5 * (a == b)).mean())


def test_without_a_wrong_or_a_right_pixel_there_is_no_score():
    assert np.isnan(auroc(np.arange(4), np.zeros(4, bool)))
    assert np.isnan(auroc(np.arange(4), np.ones(4, bool)))


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_error_changes_some_of_the_slice_and_no_more_than_it_should(kind):
    labels = in_halves(disc()[None])[0] if kind == "swapped" else disc()
    before = labels.copy()
    wrong = plant(kind, labels, np.random.default_rng(0)) != before
    assert np.array_equal(labels, before)
    assert 0.05 * (before > 0).sum() < wrong.sum() < 1.1 * (before > 0).sum()


@pytest.mark.slow
def test_the_command_writes_tables_a_plot_and_what_it_can_resume_from(tmp_path: Path, capsys):
    pytest.importorskip("matplotlib")
    z, y, x = np.indices((17, 48, 44))
    ball = (2.2 * (z - 8)) ** 2 + (y - 23) ** 2 + (x - 21) ** 2 < 16**2
    image = 100 + 80 * ball + np.random.default_rng(0).normal(0, 12, ball.shape)
    for name, array in (("ball", image.astype(np.float32)), ("ball_label", ball.astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1, 1, 2, 1])), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    options = ["--volumes", str(tmp_path / "*.nii.gz"), "--out", str(out), "--steps", "3+4", "--points", "0.5,1"]
    options += ["--slices", "3", "--set", "features=8,16", "--set", "patch_size=48"]
    main(options)
    lines = (out / "runs.jsonl").read_text()
    runs = [json.loads(line) for line in lines.splitlines()]
    assert [run["kind"] for run in runs] == list(KINDS)
    for run in runs:
        assert set(run["end"]) == set(DETECTORS)
        assert list(run["points"]) == ["0.5", "1.0"]
        assert [len(point["single"]) for point in run["points"].values()] == [2, 2], "every step stands for itself"
        assert run["wrong"] > 0
        assert all(0 <= score <= 1 for scores in run["end"].values() for score in scores)
    assert "initial doubt" in (out / "table.md").read_text()
    assert json.loads((out / "summary.json").read_text())["runs"] == dict.fromkeys(KINDS, 1)
    assert (out / "auroc.png").stat().st_size > 10_000
    capsys.readouterr()
    main(options)
    assert (out / "runs.jsonl").read_text() == lines, "nothing is run twice"
