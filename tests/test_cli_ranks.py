"""``--nproc`` and torchrun: several processes, one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from napari_mlbseg import cli
from napari_mlbseg.engine.place import Place
from napari_mlbseg.events import Failed, Finished, FinishReason, Losses, Preview, Started, is_terminal
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
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # this package, whichever is installed
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


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]


@contextmanager
def by_real_torchrun(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Two processes that torchrun starts; none of them outlives the test."""
    command = [sys.executable, *TORCHRUN, "-m", "napari_mlbseg", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as torchrun:
        try:
            yield torchrun
        finally:
            with suppress(psutil.NoSuchProcess):  # it has ended, and all with it
                for process in (*psutil.Process(torchrun.pid).children(recursive=True), torchrun):
                    process.kill()


def losses_of(folder: str) -> dict[str, float]:
    """Sum over all steps of every loss: an event holds the means since the last one, which come by the clock."""
    sums: dict[str, float] = {}
    before = 0
    for event in JobFolder(folder).events():
        if isinstance(event, Losses):
            for name, value in event.values.items():
                key = f"{event.stage} {name}"
                sums[key] = sums.get(key, 0.0) + float(value or 0) * (event.step - before)
            before = event.step
    assert before == 4
    return sums


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun is not used on Windows")
def test_torchrun_trains_and_writes_once_what_one_process_does(words):
    """The same in single precision: sums over the batch are added up in another order, in parts by rank.

    That changes them by a few units of the last place, 6e-8; a loss or a weight is some sums of sums behind another,
    and the next step begins where it led: 1e-5 of the largest is 170 such units. SGD, because AdamW makes whole steps
    of gradients that are only rounding. A leaky rectifier whose input is 0 to rounding may take its other branch, and
    with it changes the derivative of the pixels around: of a million inputs one has less than 1e-6, so that a
    thousandth of the pixels may be farther off. What is written as float16 has steps of 1/2048 below 1; labels may
    differ only where that could turn the choice.
    """
    words = [*words, "--set=tangent=exact", "--set=optimiser=sgd", "--set=mixed_precision=false"]
    with by_real_torchrun(words) as torchrun:
        said, complaints = torchrun.communicate(timeout=100)
    assert torchrun.returncode == 0, complaints
    assert cli.main([*words, "--out", "alone"]) == 0

    names = ("pseudo_labels", "probability", "weight_initial", "weight_pseudo", "view_agreement")
    paths = [Path("out", f"{name}.tif").resolve() for name in names] + [Path("out/report.json").resolve()]
    assert [Path(line).resolve() for line in said.splitlines()] == paths  # each was written, and said, by one rank
    events = JobFolder("out").events()
    assert [is_terminal(event) for event in events].count(True) == 1
    assert [isinstance(event, Started) for event in events].count(True) == 1
    shown = [z for e in events if isinstance(e, Preview) and "probability" in e.arrays for z in e.slices]
    assert sorted(shown) == list(range(16))  # no rank showed what another did
    report = json.loads(paths[-1].read_text())
    assert report["config"]["nproc"] == report["metrics"]["processes"] == 2
    assert report["metrics"]["steps"] == 2
    assert not list(Path("out").glob("rank-*"))

    together, alone = losses_of("out"), losses_of("alone")
    assert together == pytest.approx(alone, rel=1e-5)
    of_two, of_one = ({name: tifffile.imread(f"{at}/{name}.tif") for name in names} for at in ("out", "alone"))
    for name in ("weight_initial", "weight_pseudo", "view_agreement"):
        assert of_one[name].max() > 0
        is_near = np.abs(of_two[name] - of_one[name]) <= 1e-5 * of_one[name].max()
        assert is_near.mean() >= 0.999, name
    probability = of_one["probability"].astype(float)
    np.testing.assert_allclose(of_two["probability"].astype(float), probability, rtol=0, atol=1 / 2048)
    is_clear = np.abs(probability - 0.5).min(axis=1) > 1 / 1024
    assert is_clear.mean() > 0.99
    assert (of_two["pseudo_labels"] == of_one["pseudo_labels"])[is_clear].all()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_process_of_torchrun_that_is_killed_ends_all_with_a_sentence(words):
    folder = JobFolder("out")
    with by_real_torchrun([*words, "--steps", "1000000"]) as torchrun:
        end = time.monotonic() + 60
        while not (folder.events_file.exists() and any(isinstance(e, Losses) and e.step > 2 for e in folder.events())):
            assert time.monotonic() < end
            assert torchrun.poll() is None
            time.sleep(0.1)
        (other,) = (p for p in psutil.Process(torchrun.pid).children() if p.environ().get("RANK") == "1")
        began = time.monotonic()
        other.kill()
        _, complaints = torchrun.communicate(timeout=40)
        assert time.monotonic() - began < 15  # torchrun itself takes some of them
    assert torchrun.returncode != 0
    assert "napari-mlbseg: Another process of the training was lost." in complaints
    events = folder.events()
    assert isinstance(events[-1], Failed)
    assert [is_terminal(event) for event in events].count(True) == 1
