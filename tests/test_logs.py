"""Logging: nothing by itself, on stderr where it is asked for, and what a worker's log says of its job."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from napari_mlbseg._util.logs import LOG_VARIABLE, is_log_line
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.jobs.local import LocalJob
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


def test_the_environment_decides_before_the_program():
    assert len(said("warning", "debug").splitlines()) == 2
    assert said("info", "error") == ""
    assert len(said("info", "nonsense").splitlines()) == 1 or said("info", "nonsense") == ""


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
    assert "volume 'heart': clean slices 0, 2, 4, spacing 2 x 1 x 1 mm" in log
    assert "classes 0, 3" in log
    assert "preset quick, changed: {'device': 'cpu', 'steps': 1" in log
    stages = [line.split("stage ")[1].split(":")[0] for line in log.splitlines() if "stage " in line]
    assert stages == list(dict.fromkeys(stages))
    assert {"bootstrap", "train", "predict"} <= set(stages)
    assert "finished" in log.splitlines()[-1].lower()
