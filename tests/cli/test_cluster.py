"""``--cluster``: what is asked before anything leaves this machine, and what a job on a cluster is told."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("distributed", reason="needs the extra 'cluster'")

from napari_mlbseg.cli import main as cli
from napari_mlbseg.events import Finished, FinishReason
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.dask.connection import ClusterFacts
from napari_mlbseg.jobs.local import LocalJob

FAR, NEAR = "tcp://server:8786", "tcp://127.0.0.1:8786"


class Terminal(io.StringIO):
    """Somebody to ask."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains a tiny stack with some more options; gives the exit code and the config that the job got."""
    image = np.random.default_rng(0).integers(0, 255, (6, 40, 48), dtype=np.uint8)
    labels = np.zeros_like(image)
    labels[:, 10:20, 10:20] = 1
    tifffile.imwrite(tmp_path / "scan.tif", image, imagej=True)
    tifffile.imwrite(tmp_path / "labels.tif", labels, imagej=True)
    jobs: list[LocalJob] = []

    def start(job: LocalJob, *, bound: bool = False) -> None:
        job.folder.append_event(Finished(reason=FinishReason.STEPS, steps=1, seconds=1))
        job._state = JobState.RUNNING
        jobs.append(job)

    monkeypatch.setattr(LocalJob, "start", start)
    monkeypatch.setattr("napari_mlbseg.cli.train.cluster_facts", lambda address: ClusterFacts(1, "gpu" in address))
    monkeypatch.chdir(tmp_path)

    def run(*options: str):
        words = ["scan.tif", "--labels", "labels.tif", "--clean", "1,4", "--out", "out", *options]
        code = cli.main(["train", *words])
        return code, jobs[-1].folder.read_request().config if jobs else None

    return run


def test_nothing_leaves_this_machine_unencrypted_where_nobody_can_be_asked(train, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert train("--cluster", FAR) == (2, None)
    complaint = capsys.readouterr().err
    assert "is not encrypted" in complaint
    assert "tls:// address or an SSH tunnel" in complaint
    assert complaint.count("\n") == 1
    assert not Path("out").exists()


def test_it_is_asked_once_and_said_why(train, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    code, config = train("--cluster", FAR)
    assert (code, config.cluster) == (0, FAR)
    assert "can be read on the way" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_anything_but_yes_is_no(train, monkeypatch, answer):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert train("--cluster", FAR) == (2, None)


@pytest.mark.parametrize(
    "options", [("--cluster", NEAR), ("--cluster", "tls://server:8786"), ("--cluster", FAR, "--unencrypted")]
)
def test_what_is_safe_or_wanted_is_not_asked(train, monkeypatch, options):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, config = train(*options)
    assert (code, config.cluster) == (0, options[1])


def test_the_preset_is_that_of_the_machine_that_computes(train):
    assert train("--cluster", "localhost:8786")[1].preset == "quick"
    code, config = train("--cluster", "tls://gpu:8786")
    assert (code, config.preset, config.device) == (0, "standard", "auto"), "it finds its GPU itself"
    assert train("--cluster", "tls://gpu:8786", "--device", "cpu")[1].preset == "quick"
    assert train()[1].cluster == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--cluster", "server"), "'server' is no address of a Dask scheduler: write it as"),
        (("--set", f"cluster={NEAR}"), "choose it with --cluster"),
        (("--cluster", NEAR, "--device", "tpu"), "no device 'tpu'"),
    ],
)
def test_what_does_not_fit_is_refused(train, capsys, options, complaint):
    assert train(*options) == (2, None)
    assert complaint in capsys.readouterr().err
    assert not Path("out").exists()
