"""``--nproc`` and torchrun: several processes, one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_mlbseg import cli
from napari_mlbseg.engine.place import Place
from napari_mlbseg.events import Finished, FinishReason, is_terminal
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.job import JobState
from napari_mlbseg.jobs.local import LocalJob


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trains a small phantom."""
    made = make_phantom((16, 40, 48))
    tifffile.imwrite(tmp_path / "scan.tif", made.image, imagej=True)
    tifffile.imwrite(tmp_path / "labels.tif", made.labels, imagej=True)
    monkeypatch.chdir(tmp_path)
    fields = ("bootstrap_steps=2", "patch_size=64", "features=8,16")
    options = ["--steps", "2", "--time-budget", "none", "--device", "cpu", *(f"--set={field}" for field in fields)]
    return ["train", "scan.tif", "--labels", "labels.tif", "--clean", "5,8,11", "--out", "out", *options]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LocalJob, bool]]:
    """Jobs that were started, and whether they end with this process; their worker is played."""
    jobs: list[tuple[LocalJob, bool]] = []

    def start(job: LocalJob, *, bound: bool = False) -> None:
        job.folder.append_event(Finished(reason=FinishReason.STEPS, steps=1, seconds=1))
        job._state = JobState.RUNNING
        jobs.append((job, bound))

    monkeypatch.setattr(LocalJob, "start", start)
    return jobs


def by_torchrun(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in Place(rank, 2, rank, 2).environment().items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_two_processes_train_and_write_what_one_does(words, capfd):
    assert cli.main([*words, "--nproc", "2"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["config"]["nproc"] == report["metrics"]["processes"] == 2
    assert [is_terminal(event) for event in JobFolder("out").events()].count(True) == 1
    for name in ("pseudo_labels", "probability", "weight_initial", "weight_pseudo", "view_agreement"):
        assert tifffile.imread(f"out/{name}.tif").any(), name
    weights = tifffile.imread("out/weight_initial.tif") + tifffile.imread("out/weight_pseudo.tif")
    assert np.isfinite(weights).all()
    assert not list(Path("out").glob("rank-*"))


def test_the_first_process_of_torchrun_runs_the_job(words, started, monkeypatch):
    by_torchrun(0, monkeypatch)
    cli.main(words)
    ((job, bound),) = started
    assert job.folder.read_request().config.nproc == 2
    assert bound


def test_the_other_processes_of_torchrun_follow(words, started, monkeypatch):
    by_torchrun(1, monkeypatch)
    followed = []
    monkeypatch.setattr(cli, "follow", lambda arguments: followed.append(arguments) or 0)
    assert cli.main(words) == 0
    assert followed == [["out"]]
    assert not started
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--nproc", "3", "torchrun has started 2 processes: leave out --nproc 3"),
        ("--cluster", "tcp://127.0.0.1:8786", "use one of them"),
    ],
)
def test_what_contradicts_torchrun_is_refused(words, started, monkeypatch, capsys, option, value, said):
    by_torchrun(0, monkeypatch)
    assert cli.main([*words, option, value]) == 2
    assert said in capsys.readouterr().err
    assert not started
