"""The left-atrium protocol: what is learnt from, how long, and that nothing is done twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import paper
from benchmarks.cases import find_split
from benchmarks.paper import epoch_steps, largest_component, training_task
from benchmarks.paper_tables import PUBLISHED, summarise
from benchmarks.runs import read_runs
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.training.schedule import Schedule

TINY = ["--preset", "quick", "--set", "features=8,16,16", "--set", "patch_size=48", "--device", "cpu"]


def options(folder: Path, *more: str):
    return paper._parser().parse_args(["--data", str(folder), *TINY, *more])


def test_labelled_volumes_are_clean_throughout_and_the_truth_of_the_others_is_not_there(make_cases):
    split = find_split(make_cases(["a", "b", "c", "d"]), (1, 2, 1))
    task = training_task(split, options(split.labelled[0].path.parent, "--budget", "2+1"))
    assert [volume.name for volume in task.volumes] == ["a", "b", "c"]
    assert [volume.clean.sum() for volume in task.volumes] == [10, 0, 0]
    assert [bool(np.any(volume.labels)) for volume in task.volumes] == [True, False, False]
    assert task.class_values == (0, 1)
    assert not task.config.find_label_errors


def test_epochs_are_passes_over_the_slices(make_cases):
    split = find_split(make_cases(["a", "b", "c", "d"]), (1, 2, 1))
    folder = split.labelled[0].path.parent
    config = training_task(split, options(folder, "--epochs", "3")).config
    assert (config.bootstrap_steps, config.steps) == (8, 15), "10 clean and 20 unlabelled slices, four in a step"
    config = training_task(split, options(folder, "--epochs", "3", "--set", "batch_size=1")).config
    assert (config.bootstrap_steps, config.steps, config.time_budget) == (8, 60, None)


def test_without_unlabelled_volumes_all_time_is_for_the_labelled_ones(make_cases):
    split = find_split(make_cases(["a", "b"]), (1, 0, 1))
    folder = split.labelled[0].path.parent
    assert training_task(split, options(folder, "--budget", "60")).config.bootstrap_share == 1
    config = training_task(split, options(folder, "--epochs", "4")).config
    assert (config.bootstrap_steps, config.steps) == (10, 0)


def test_the_papers_120_epochs_with_8_and_72_volumes():
    config = TrainingConfig.from_preset("paper")
    n_clean, n_unlabelled = 8 * 88, 72 * 88
    assert epoch_steps(config, n_clean, n_unlabelled, 120) == (42240, 760320)
    schedule = Schedule(config, n_unlabelled // config.batch_size, 0.0)
    assert schedule.steps == 760320, "the schedule's own 120 epochs are the same passes"
    for epoch in (0, 1, 119):
        rate = schedule.learning_rate(42240, epoch * n_unlabelled)
        assert rate == pytest.approx(0.005 * 20 / (epoch + 20)), "the bootstrap does not count as epochs"


def test_another_training_has_another_name_and_another_test_has_not(make_cases):
    folder = make_cases(["a", "b", "c", "d", "e"])
    names = Counter()
    for subset, more in (
        ((1, 2, 1), []),
        ((1, 2, 2), []),
        ((2, 1, 1), []),
        ((1, 2, 1), ["--seed", "1"]),
        ((1, 2, 1), ["--budget", "60"]),
        ((1, 2, 1), ["--set", "n_views=1"]),
    ):
        names[paper._run_name(options(folder, *more), find_split(folder, subset))] += 1
    assert sorted(names.values()) == [1, 1, 1, 1, 2]


def test_the_largest_component():
    mask = np.zeros((4, 8, 8), bool)
    mask[0, :2, :2] = mask[1:3, 3:6, 3:6] = True
    mask[3, 6, 6] = True  # touches by a corner
    largest = largest_component(mask)
    assert largest.sum() == 19
    assert not largest[0].any()
    assert not largest_component(np.zeros_like(mask)).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nifti", "h5"])
def test_from_files_to_tables_and_nothing_twice(make_cases, tmp_path, monkeypatch, capsys, kind):
    names = ["a", "b", "c", "d", "e"]
    folder = make_cases(names, kind=kind, lists=(names[:3], names[3:]))
    out = tmp_path / "out"
    arguments = ["--data", str(folder), *TINY, "--budget", "40+4", "--out", str(out)]
    paper.main([*arguments, "--subset", "1,2,1"])
    runs = read_runs(out / "runs.jsonl")
    assert Counter(run["part"] for run in runs) == {"training": 1, "initial": 2, "test": 1}
    assert len({run["run"] for run in runs}) == 1
    (test,) = (run for run in runs if run["part"] == "test")
    assert test["volume"] == "d"
    assert test["dice"] > 0.7
    assert (test.get("hd95_mm") is not None) == (kind == "nifti")
    assert len(list(out.glob("*.safetensors"))) == 1

    monkeypatch.setattr(paper, "train", pytest.fail)
    paper.main([*arguments, "--subset", "1,2,2", "--largest", "--unlabelled"])
    again = read_runs(out / "runs.jsonl")
    assert again[: len(runs)] == runs
    added = [(run["part"], run["volume"], run["largest"]) for run in again[len(runs) :]]
    assert added == [
        ("test", "d", True),
        ("test", "e", False),
        ("test", "e", True),
        *(("unlabelled", name, largest) for name in ("b", "c") for largest in (False, True)),
    ]
    monkeypatch.setattr(paper, "predict_volume", pytest.fail)
    paper.main([*arguments, "--subset", "1,2,2", "--largest", "--unlabelled"])
    assert read_runs(out / "runs.jsonl") == again
    table = (out / "table.md").read_text()
    assert all(row[0] in table for row in PUBLISHED)
    assert "A part of the protocol" in table
    assert "40 bootstrap and 4 weighted steps" in table
    summary = json.loads((out / "summary.json").read_text())
    assert [(row["part"], row["largest"], row["volumes"]) for row in summary["rows"]] == [
        ("test", False, 2),
        ("test", True, 2),
        ("unlabelled", False, 2),
        ("unlabelled", True, 2),
        ("initial", False, 2),
    ]


def test_a_volume_without_a_prediction_counts_for_dice_and_has_no_distance(tmp_path, capsys):
    line = {"run": "r", "part": "test", "largest": False}
    runs = [
        {**line, "key": "1", "dice": 0.9, "jaccard": 0.8, "hd95_voxels": 4.0, "asd_voxels": 1.0},
        {**line, "key": "2", "dice": 0.0, "jaccard": 0.0, "hd95_voxels": None, "asd_voxels": None},
    ]
    summarise(tmp_path, runs)
    (row,) = (row for row in (tmp_path / "table.md").read_text().splitlines() if row.startswith("| r |"))
    assert "45.00 ± 63.64" in row
    assert "4.00 (of 1)" in row
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert summary["hd95_voxels"] == {"mean": 4.0, "std": None, "n": 1}
    assert "hd95_mm" not in summary
