"""Logging: nothing by itself, on stderr where it is asked for, and what a worker's log says of its job."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from napari_mlbseg._util.logs import LOG_VARIABLE, is_log_line
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Failed, Progress, Stage
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.jobs.worker_log import EventLog, describe_end
from napari_mlbseg.task import Volume, resolve_task


def said(level: str | None, named: str = "") -> str:
    """What a fresh interpreter says on stderr, configured for a level, where the environment names another."""
    code = (
        "import logging; from napari_mlbseg._util.logs import configure;"
        f"configure({level!r}); configure({level!r});"
        "log = logging.getLogger('napari_mlbseg.room'); log.info('a fact'); log.debug('a detail')"
    )
    environment = {**os.environ, LOG_VARIABLE: named}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not answer.stdout
    return answer.stderr


def test_nothing_is_said_unless_somebody_asks():
    assert said(None) == ""
    assert said("warning") == ""


def test_a_level_that_is_asked_for_is_said_once():
    (line,) = said("info").splitlines()
    assert line.endswith("INFO napari_mlbseg.room: a fact")
    assert is_log_line(line)
    assert not is_log_line("RuntimeError: something broke")


def test_whichever_tells_more_counts():
    assert len(said("warning", "debug").splitlines()) == 2
    assert len(said("info", "error").splitlines()) == 1
    assert said(None, "warning") == ""


def test_a_level_that_is_none_is_said_and_takes_nothing_away():
    *warnings, line = said("info", "nonsense").splitlines()
    assert all("NAPARI_MLBSEG_LOG is 'nonsense'" in warning for warning in warnings)
    assert warnings
    assert line.endswith("a fact")


@pytest.mark.slow
def test_a_workers_log_says_what_began_when_and_what_it_was_given(tmp_path):
    image = np.random.default_rng(0).random((6, 32, 32)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[:, 8:20, 8:20] = 3
    volume = Volume("heart", image, labels, np.arange(6) % 2 == 0, spacing=(2.0, 1.0, 1.0), unit="mm")
    config = TrainingConfig.from_preset("quick", steps=1, bootstrap_steps=1, patch_size=32, device="cpu")
    job = LocalJob.create(tmp_path / "job", resolve_task([volume], config))
    job.start()
    assert [event.type for event in job.events()][-1] == "finished"
    log = job.folder.log_file.read_text()
    assert "volume 'heart': 6 x 32 x 32 float32, spacing 2 x 1 x 1 mm, 3 clean slices: 0, 2, 4" in log
    assert "classes: 0, 3" in log
    assert "preset quick, changed: device cpu, steps 1" in log
    assert "device CPU, " in log
    begun, ended = re.findall(r"stage (.+) begins", log), re.findall(r"stage (.+) ended", log)
    assert {"bootstrap", "train", "predict"} <= set(begun)
    assert ended == begun
    assert "finished (steps): 2 steps" in log.splitlines()[-1]


def test_why_a_job_failed_is_the_last_line_of_its_log(tmp_path):
    folder = JobFolder(tmp_path / "job")
    folder.path.mkdir()
    folder.request_file.write_text("{}")
    command = [sys.executable, "-m", "napari_mlbseg.jobs.worker", str(folder.path)]
    said = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    (failed,) = folder.events()
    assert any(line.startswith("Traceback") for line in said)
    assert is_log_line(said[-1])
    assert said[-1].endswith(describe_end(failed))


def test_a_message_is_logged_when_it_comes_and_not_with_every_report(caplog):
    log = EventLog()
    with caplog.at_level("INFO", "napari_mlbseg"):
        for message in ("slow", "slow", "", "slow"):
            log.note(Progress(stage=Stage.TRAIN, fraction=0.5, message=message))
    assert [record.getMessage() for record in caplog.records] == ["stage train begins", "slow", "slow"]


def test_an_end_is_told_without_the_tail_of_the_log():
    assert (
        describe_end(Failed(message="It died.", advice="Try again.", log_tail="a\nb")) == "failed: It died. Try again."
    )
    assert describe_end(Cancelled(steps=3, seconds=1.25)) == "cancelled after 3 steps, 1.2 s"
