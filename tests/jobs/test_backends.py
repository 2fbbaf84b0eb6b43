"""What holds for a job wherever it runs: on this machine, and on a Dask cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Failed, Finished, Losses, Preview, Progress, Started, is_terminal
from napari_mlbseg.jobs import local
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.task import resolve_task

from .conftest import FINISH, OBEY, STUB, WAIT, make_volume

CLUSTER_MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals"),
]

#: Every result of a training, and the loss as it goes; what is zero has no file.
WRITE = """
from napari_mlbseg.jobs.folder import ZarrResults
task = folder.open_task(folder.read_request())
results = ZarrResults(folder, task)["heart"]
results["pseudo_labels"][2] = np.full((40, 48), 3, np.uint8)
results["probability"][1:5] = np.random.default_rng(1).random((4, 2, 40, 48))
names = ("pseudo_labels", "probability")
folder.append_event(Preview(volume="heart", slices=(1, 2, 3, 4), arrays=names, stage="predict"))
for step in range(50):
    folder.append_event(Losses(stage="train", step=step, values={"loss": step / 3}))
results["pseudo_labels"][2] = np.zeros((40, 48), np.uint8)
results["pseudo_labels"][5] = task.volumes[0].label_slice(1)
folder.append_event(Preview(volume="heart", slices=(2, 5), arrays=names[:1], stage="predict"))
folder.model_file.write_bytes(bytes(range(256)) * 999)
folder.model_info_file.write_text("{}")
"""
RUN_OUT_OF_MEMORY = """
from napari_mlbseg.jobs import worker
asked = []
def attempt(folder, request, task, start):
    asked.append(task.config.batch_size)
    if len(asked) == 1:
        raise MemoryError
    yield Finished(reason="steps", steps=task.config.batch_size, seconds=1)
worker._attempt = attempt
worker.main([sys.argv[1]])
"""

no_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@dataclass
class Backend:
    """Where jobs run."""

    play: Callable[[str], None]  # code that is the training's process from now on
    make: Callable[..., LocalJob]  # a job of this config
    is_cluster: bool


@pytest.fixture(params=["local", pytest.param("cluster", marks=CLUSTER_MARKS)])
def backend(request, tmp_path, monkeypatch, package_path) -> Iterator[Backend]:
    """A backend; leaves no process behind."""
    monkeypatch.setenv("PYTHONPATH", package_path["PYTHONPATH"])
    is_cluster = request.param == "cluster"
    address = ""
    if is_cluster:
        shared = request.getfixturevalue("shared_cluster")
        address = shared.address

        def play(code: str) -> None:
            shared.script.write_text(STUB + code)
    else:
        play = request.getfixturevalue("stub_worker")
    jobs: list[LocalJob] = []

    def make(kind: str = "train", **config: object) -> LocalJob:
        task = resolve_task([make_volume()], TrainingConfig.from_preset("quick", seed=5, cluster=address, **config))
        jobs.append(LocalJob.create(tmp_path / f"job{len(jobs)}", task, kind=kind, threads=1))
        return jobs[-1]

    yield Backend(play, make, is_cluster)
    for job in jobs:
        job.kill()
    if is_cluster:
        shared.script.unlink(missing_ok=True)
        shared.end_jobs()


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def ended(job: LocalJob) -> list:
    """All events; the last is the only terminal one, and who comes later reads the same."""
    events = list(job.events(0.02))
    assert [event for event in events if is_terminal(event)] == [events[-1]]
    assert job.folder.events() == events
    assert job.state.is_final
    assert job.poll() == []
    return events


def heard(job: LocalJob, kind: type) -> object:
    """The first event of a kind."""
    found: list = []

    def looked() -> bool:
        found.extend(event for event in job.folder.events() if isinstance(event, kind))
        return bool(found)

    until(looked)
    return found[0]


def test_a_job_that_finishes(backend):
    backend.play("import numpy as np\n" + WRITE + FINISH)
    job = backend.make()
    assert job.state is JobState.CREATED
    assert job.poll() == []
    job.start()
    assert job.state is JobState.RUNNING
    events = ended(job)
    assert events[-1] == Finished(reason="steps", steps=3, seconds=1)
    assert job.state is JobState.FINISHED
    assert sum(isinstance(event, Started) for event in events) == 1
    losses = [event.values["loss"] for event in events if isinstance(event, Losses)]
    assert losses == [step / 3 for step in range(50)], "each once, in order, to the last bit"
    results = job.folder.results("heart")
    labels = np.asarray(results["pseudo_labels"][:])
    assert [z for z in range(6) if labels[z].any()] == [5]
    assert np.array_equal(labels[5], make_volume().labels[1])
    chances = np.random.default_rng(1).random((4, 2, 40, 48)).astype(np.float16)
    assert np.array_equal(np.asarray(results["probability"][1:5]), chances)
    assert job.folder.model_file.read_bytes() == bytes(range(256)) * 999
    assert not job.folder.cluster_file.exists(), "nothing of it is left to be asked for"


def test_a_worker_that_died_in_the_middle_of_a_word_is_explained_all_the_same(backend):
    backend.play("folder.events_file.open('ab', buffering=0).write(b'{\"type\": \"prog')\nos._exit(3)")
    job = backend.make()
    job.start()
    assert "exit code 3" in ended(job)[-1].message


def test_a_worker_that_ends_without_a_terminal_event_is_explained(backend):
    backend.play("raise SystemExit('no such thing')")
    job = backend.make()
    job.start()
    death = ended(job)[-1]
    assert "exit code 1" in death.message
    assert "no such thing" in death.message


@no_windows
def test_a_killed_worker_is_explained_exactly_once(backend):
    backend.play("print('so far so good', flush=True)\n" + WAIT)
    job = backend.make()
    job.start()
    os.kill(heard(job, Started).pid, signal.SIGKILL)
    death = ended(job)[-1]
    assert isinstance(death, Failed)
    assert "signal 9" in death.message
    assert "Train to try again" in death.advice
    assert death.returncode == -9
    assert "so far so good" in death.log_tail
    assert job.state is JobState.FAILED


def test_a_worker_is_asked_to_stop_and_keeps_what_it_has(backend):
    backend.play("import numpy as np\n" + WRITE + OBEY)
    job = backend.make()
    job.start()
    heard(job, Preview)
    asked = time.monotonic()
    job.cancel()
    assert job.state is JobState.CANCELLING
    assert ended(job)[-1] == Cancelled(steps=2)
    assert time.monotonic() - asked < 2.5
    assert job.state is JobState.CANCELLED
    assert np.asarray(job.folder.results("heart")["probability"][1]).any()


def test_a_worker_that_does_not_answer_is_not_waited_for(backend, monkeypatch):
    monkeypatch.setattr(local, "_GRACE_SECONDS", 6.0 if backend.is_cluster else 0.2)
    backend.play(WAIT)
    job = backend.make()
    job.start()
    worker = psutil.Process(heard(job, Started).pid)
    job.cancel()
    asked = time.monotonic()
    assert isinstance(ended(job)[-1], Cancelled)
    assert time.monotonic() - asked < 5
    assert backend.is_cluster or not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_what_was_finished_before_the_cancel_is_finished(backend):
    backend.play(FINISH)
    job = backend.make()
    job.start()
    heard(job, Finished)
    job.cancel()
    assert isinstance(ended(job)[-1], Finished)
    assert job.state is JobState.FINISHED


def test_who_attaches_reads_from_the_start_and_knows_the_worker(backend):
    backend.play(OBEY)
    job = backend.make()
    job.start()
    heard(job, Started)
    until(job.folder.heartbeat_file.exists)
    other = LocalJob.attach(job.folder.path)
    assert other.state is JobState.RUNNING
    assert other.pid == job.pid
    assert any(isinstance(event, Started) for event in other.poll())
    other.cancel()
    assert isinstance(list(other.events(0.02))[-1], Cancelled)
    events = ended(job)
    assert isinstance(events[-1], Cancelled)
    late = LocalJob.attach(job.folder.path)
    assert late.poll() == events
    assert late.state is JobState.CANCELLED


def test_out_of_memory_is_tried_again_with_less_and_says_so(backend):
    backend.play(RUN_OUT_OF_MEMORY)
    job = backend.make()
    job.start()
    events = ended(job)
    (said,) = (e.message for e in events if isinstance(e, Progress) and "memory" in e.message)
    assert "Out of memory: trying again with batch_size" in said
    assert events[-1].steps == job.folder.read_request().config.batch_size // 2


def test_bad_input_is_one_sentence(backend):
    backend.play("from napari_mlbseg.jobs import worker\nworker.main([sys.argv[1]])\n")
    job = backend.make(kind="predict")
    job.start()
    failed = ended(job)[-1]
    assert isinstance(failed, Failed)
    assert failed.message == "A prediction needs the folder of a finished training."


@pytest.mark.slow
@no_windows
def test_both_come_to_the_same(tmp_path, shared_cluster, monkeypatch, package_path):
    """The real worker: what it trains here is what it trains there, to the last bit."""
    monkeypatch.setenv("PYTHONPATH", package_path["PYTHONPATH"])
    options = {"device": "cpu", "time_budget": None, "steps": 2, "bootstrap_steps": 2, "n_views_predict": 2}
    ours, theirs = [
        LocalJob.create(
            tmp_path / name,
            resolve_task([make_volume()], TrainingConfig.from_preset("quick", seed=5, cluster=address, **options)),
            threads=1,
        )
        for name, address in (("here", ""), ("there", shared_cluster.address))
    ]
    for job in (ours, theirs):
        job.start()
        events = ended(job)
        assert isinstance(events[-1], Finished), events[-1]
        assert any(isinstance(event, Preview) for event in events)
    here, there = ours.folder.results("heart"), theirs.folder.results("heart")
    assert set(there) == set(here)
    for name, array in here.items():
        assert np.array_equal(np.asarray(array[:]), np.asarray(there[name][:])), name
    assert theirs.folder.model_file.read_bytes() == ours.folder.model_file.read_bytes()
    assert set(here["pseudo_labels"][:].flat) <= {0, 3}
    assert abs(here["probability"][:].sum(1) - 1).max() < 0.01
    assert here["weight_initial"][:].max() > 0
