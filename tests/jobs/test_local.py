"""Jobs on this machine: whatever a worker does, its job ends with exactly one terminal event."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Failed, Losses, Preview, Progress, Started
from napari_mlbseg.jobs import local
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.task import resolve_task

from .conftest import FINISH, OBEY, WAIT, make_volume

STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + WAIT

no_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def terminal(job: LocalJob) -> list:
    """Last words in the folder, as anybody reads them."""
    text = job.folder.events_file.read_text()
    return [line for line in text.splitlines() if '"type":"fin' in line or '"type":"canc' in line or '"failed"' in line]


def started(job: LocalJob) -> LocalJob:
    """Start a job and wait for the worker's first word."""
    job.start()
    until(job.folder.events_file.exists)
    return job


def test_a_job_starts_once(stub_worker, new_job):
    stub_worker(FINISH)
    job = new_job()
    job.start()
    with pytest.raises(RuntimeError, match="make a new one"):
        job.start()


def test_a_cancel_of_an_earlier_run_does_not_stop_this_one(stub_worker, new_job):
    stub_worker(FINISH)
    job = new_job()
    job.folder.cancel_file.touch()
    job.start()
    assert not job.folder.cancel_file.exists()


@no_windows
def test_a_worker_that_ignores_that_too_is_killed(stub_worker, new_job, monkeypatch):
    monkeypatch.setattr(local, "_GRACE_SECONDS", 0.2)
    stub_worker(STUBBORN)
    job = started(new_job())
    until(lambda: "deaf" in job.folder.log_tail())
    began = time.monotonic()
    job.cancel()
    assert isinstance(list(job.events(0.02))[-1], Cancelled)
    assert time.monotonic() - began >= 0.4, "not before it was asked twice"


@no_windows
def test_the_workers_own_children_are_ended_with_it(stub_worker, new_job):
    stub_worker("import subprocess\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\n" + WAIT)
    job = started(new_job())
    until(lambda: job.folder.log_tail().strip().isdigit())
    child = psutil.Process(int(job.folder.log_tail()))
    job.kill()
    list(job.events(0.02))
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@no_windows
def test_who_attaches_to_a_dead_worker_says_so(stub_worker, new_job):
    stub_worker(WAIT)
    job = started(new_job())
    until(job.folder.heartbeat_file.exists)
    job.kill()
    job._popen.wait()
    other = LocalJob.attach(job.folder.path)
    *_, death = other.poll()
    assert isinstance(death, Failed)
    assert "did not say why" in death.message
    assert len(terminal(other)) == 1


def test_a_number_that_went_to_another_process_is_not_the_worker(folder):
    folder.heartbeat_file.write_text(f'{{"pid": {os.getpid()}, "created": 1.0}}')
    assert LocalJob.attach(folder.path).pid is None


PARENT = """
import sys
from napari_mlbseg.jobs import local
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
start = local.subprocess.Popen
local.subprocess.Popen = lambda command, **options: start([sys.executable, sys.argv[2], *command[3:]], **options)
job = LocalJob(JobFolder(sys.argv[1]))
job.start()
print(job.pid)
"""


def test_a_job_outlives_the_process_that_started_it(stub_worker, folder, tmp_path, package_path):
    stub_worker(OBEY)
    command = [sys.executable, "-c", PARENT, str(folder.path), str(tmp_path / "stub_worker.py")]
    parent = subprocess.run(command, capture_output=True, text=True, check=True, env=package_path)
    until(folder.heartbeat_file.exists)
    until(folder.events_file.exists)
    job = LocalJob.attach(folder.path)
    assert job.pid == int(parent.stdout)
    assert isinstance(job.poll()[0], Started)
    job.cancel()
    assert list(job.events(0.02))[-1] == Cancelled(steps=2)


def test_the_slice_in_view_reaches_the_worker(new_job):
    job = new_job()
    job.look_at("heart", 4)
    assert job.folder.focus() == ("heart", 4)


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_starts(task, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        LocalJob.create(tmp_path / "file" / "job", task)


@pytest.mark.slow
def test_the_real_worker_leaves_slices_out_and_stops_when_asked(task, tmp_path):
    volume = make_volume(clean=np.isin(np.arange(6), (0, 1, 3, 4)))
    config = task.config.updated(device="cpu", time_budget=None, steps=300, bootstrap_steps=1, features=(8, 16))
    job = LocalJob.create(tmp_path / "job", resolve_task([volume], config), kind="leave_one_out", threads=1)
    job.start()
    events = []
    for event in job.events(0.05):
        events.append(event)
        if isinstance(event, Progress) and event.step > 2:
            job.cancel()
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Cancelled), events[-1]
    assert "left out" in next(event.message for event in events if isinstance(event, Progress))
    assert job.folder.heartbeat_file.exists()
    assert not job.folder.results_path.exists()


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_on_a_full_disk_a_death_is_still_explained(stub_worker, new_job, monkeypatch):
    stub_worker("os._exit(3)")
    job = new_job()
    job.start()
    monkeypatch.setattr(job.folder, "append_event", no_space)
    assert isinstance(list(job.events(0.02))[-1], Failed)


@no_windows
def test_on_a_full_disk_a_cancel_ends_the_worker(stub_worker, new_job, monkeypatch):
    stub_worker(WAIT)
    job = started(new_job())
    monkeypatch.setattr(type(job.folder.cancel_file), "touch", no_space)
    began = time.monotonic()
    job.cancel()
    assert isinstance(list(job.events(0.02))[-1], Cancelled)
    assert time.monotonic() - began < local._GRACE_SECONDS


def test_on_a_full_disk_looking_elsewhere_does_no_harm(stub_worker, new_job, monkeypatch):
    stub_worker(WAIT)
    job = started(new_job())
    monkeypatch.setattr(local, "write_atomically", no_space)
    job.look_at("heart", 3)
    assert not job.folder.focus_file.exists()
    job.kill()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["initial labels", "train"])
def test_a_cancel_is_answered_within_two_seconds_and_keeps_the_results(when, task, tmp_path):
    """Early, while torch is being imported and no step can answer, and between the steps of a training."""
    config = TrainingConfig.from_preset("quick", time_budget=120, bootstrap_steps=1, features=(8, 16))
    job = LocalJob.create(tmp_path / "job", resolve_task(list(task.volumes), config), threads=1)
    job.start()
    for event in job.events(0.02):
        if isinstance(event, Preview if when == "initial labels" else Losses) and event.stage == when:
            break
    asked = time.monotonic()
    job.cancel()
    last = list(job.events(0.02))[-1]
    assert isinstance(last, Cancelled)
    assert time.monotonic() - asked < 2.5  # two seconds, and a busy machine's hesitation
    assert np.asarray(job.folder.results("heart")["pseudo_labels"][1]).any()
