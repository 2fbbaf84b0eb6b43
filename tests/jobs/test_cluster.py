"""Jobs on a Dask cluster: a scheduler and workers as processes of their own, and what happens when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")

from napari_mlbseg.config import TrainingConfig  # noqa: E402
from napari_mlbseg.events import Cancelled, Failed, Finished, Losses, Preview, Progress, is_terminal  # noqa: E402
from napari_mlbseg.jobs import cluster, cluster_connection, remote  # noqa: E402
from napari_mlbseg.jobs.local import LocalJob  # noqa: E402
from napari_mlbseg.jobs.processes import PARENT  # noqa: E402
from napari_mlbseg.task import resolve_task  # noqa: E402

from .conftest import make_volume  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")]

#: Plays the process that trains on a Dask worker: what a test wants to see of it, in no time.
PLAYED = """
import sys, time
from napari_mlbseg.events import *
from napari_mlbseg.jobs.folder import JobFolder, ZarrResults
folder = JobFolder(sys.argv[1])
task = folder.open_task(folder.read_request())
folder.append_event(Started(device="CPU", seed=0))
ZarrResults(folder, task)["heart"]["initial_labels"][:] = task.volumes[0].label_slice(1).max()
folder.append_event(Preview(volume="heart", slices=tuple(range(6)), arrays=("initial_labels",), stage="initial labels"))
while not folder.cancel_file.exists() and task.config.bootstrap_steps > 3:
    folder.append_event(Losses(stage="train", step=1, values={}))
    time.sleep(0.1)
request = folder.read_request()
earlier = b" after " + JobFolder(request.previous).model_file.read_bytes() if request.previous else b""
folder.model_file.write_bytes(b"weights" + earlier)
folder.append_event(Cancelled() if folder.cancel_file.exists() else Finished(reason="steps", steps=2, seconds=1))
"""
PRELOAD = """
import subprocess, sys, types
from napari_mlbseg.jobs import local
def start(command, **options):
    return subprocess.Popen([sys.executable, {script!r}, *command[3:]], **options)
local.subprocess = types.SimpleNamespace(**{{**vars(subprocess), "Popen": start}})
"""
SHORT = {"time_budget": None, "bootstrap_steps": 3, "steps": 2, "n_views": 1, "n_views_predict": 1, "device": "cpu"}
LONG = {**SHORT, "bootstrap_steps": 100000}
AT_MOST = 120.0


class Cluster:
    """A scheduler and workers on loopback."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self._path, self._environment = path, environment
        self._file = path / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard")
        self.workers: list[subprocess.Popen[bytes]] = []
        until(self._file.exists)
        self.client = distributed.Client(scheduler_file=str(self._file), set_as_default=False)
        self.address = self.client.scheduler.address

    def add_worker(self, *options: str, played: bool = True) -> None:
        """Start a worker with one thread, and wait for it; its jobs are played unless the real thing is wanted."""
        there = len(self.addresses)
        options = ("--local-directory", str(self._path / f"worker{len(self.workers)}"), *options)
        if played:
            script, preload = self._path / "played.py", self._path / "preload.py"
            script.write_text(PLAYED)
            preload.write_text(PRELOAD.format(script=str(script)))
            options = ("--preload", str(preload), *options)
        self.workers.append(self._start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", *options))
        until(lambda: len(self.addresses) == there + 1)

    @property
    def addresses(self) -> list[str]:
        return list(self.client.scheduler_info(n_workers=-1)["workers"])

    def busy(self) -> subprocess.Popen[bytes]:
        """The worker that has the job."""
        return next(w for w in self.workers if w.poll() is None and psutil.Process(w.pid).children(recursive=True))

    def close(self) -> None:
        self.client.close(timeout=2)
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self._file), *options]
        with (self._path / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)


def until(condition: Callable[[], object], seconds: float = AT_MOST) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def make_cluster(tmp_path: Path, package_path: dict[str, str]) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of so many workers, and leaves no process behind."""
    made: list[Cluster] = []

    def make(n_workers: int = 1, **options: bool) -> Cluster:
        path = tmp_path / f"cluster{len(made)}"
        path.mkdir()
        made.append(Cluster(path, package_path))
        for _ in range(n_workers):
            made[-1].add_worker(**options)
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def make_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_path: dict[str, str]) -> Iterator[Callable]:
    """Makes jobs, and leaves no process behind."""
    monkeypatch.setenv("PYTHONPATH", package_path["PYTHONPATH"])
    jobs: list[LocalJob] = []

    def make(address: str, config: dict[str, object], **options: object) -> LocalJob:
        config = {"seed": 5, "cluster": address, **config}
        task = resolve_task([make_volume()], TrainingConfig.from_preset("quick", **config))
        jobs.append(LocalJob.create(tmp_path / f"job{len(jobs)}", task, threads=1, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.kill()


def watch(job: LocalJob, condition: Callable[[list], bool]) -> list:
    """Events of a job until they fulfil a condition."""
    seen: list = []

    def looked() -> bool:
        seen.extend(job.poll())
        assert not (seen and isinstance(seen[-1], Failed)), seen[-1]
        return condition(seen)

    until(looked)
    return seen


def has(kind: type) -> Callable[[list], bool]:
    return lambda events: any(isinstance(event, kind) for event in events)


def outcome(job: LocalJob) -> tuple[list, object]:
    """All events, and the last one, which is the only terminal one."""
    events = list(job.events(0.05))
    assert [event for event in events if is_terminal(event)] == [events[-1]]
    assert job.folder.events()[-1] == events[-1]
    return events, events[-1]


def same_results(ours: LocalJob, theirs: LocalJob) -> None:
    """Both jobs came to the same, to the last bit."""
    here, there = ours.folder.results("heart"), theirs.folder.results("heart")
    assert set(there) == set(here)
    for name, array in here.items():
        assert np.array_equal(np.asarray(array[:]), np.asarray(there[name][:])), name
    assert theirs.folder.model_file.read_bytes() == ours.folder.model_file.read_bytes()
    assert not (theirs.folder.path / "cluster.json").exists(), "nothing of it is left to be asked for"


def test_a_job_on_a_cluster_comes_to_what_it_comes_to_here(make_cluster, make_job, monkeypatch):
    dask = make_cluster(1, played=False)
    here, there = make_job("", SHORT), make_job(dask.address, SHORT)
    for job in (here, there):
        job.start()
        events, last = outcome(job)
        assert isinstance(last, Finished), last
    assert has(Preview)(events)
    same_results(here, there)

    # again, with inputs that the worker is told it cannot open
    sent = make_job(dask.address, SHORT)
    monkeypatch.setattr(cluster.remote, "digest_of", lambda path: "another")
    for event in cluster.relay(sent.folder, sent.folder.read_request()):
        sent.folder.append_event(event)
    assert isinstance(event, Finished), event
    same_results(here, sent)


def test_the_model_that_a_job_starts_from_is_sent_along(make_cluster, make_job, tmp_path):
    previous = make_job("", SHORT).folder
    previous.model_file.write_bytes(b"earlier weights")
    previous.model_info_file.write_text("{}")
    job = make_job(make_cluster(1).address, SHORT, previous=previous.path)
    job.start()
    assert isinstance(outcome(job)[1], Finished)
    assert job.folder.model_file.read_bytes() == b"weights after earlier weights"


def test_a_cancelled_job_keeps_what_it_had(make_cluster, make_job):
    dask = make_cluster(1)
    job = make_job(dask.address, LONG)
    job.start()
    watch(job, lambda events: has(Losses)(events) and has(Preview)(events))
    job.cancel()
    assert isinstance(outcome(job)[1], Cancelled)
    assert np.asarray(job.folder.results("heart")["initial_labels"][:]).max() == 3
    until(lambda: not psutil.Process(dask.workers[0].pid).children(recursive=True), 20)


def test_a_cancel_while_there_is_no_worker(make_cluster, make_job):
    job = make_job(make_cluster(0).address, SHORT)
    job.start()
    waiting = watch(job, lambda events: any("no worker yet" in getattr(event, "message", "") for event in events))
    assert not has(Preview)(waiting)
    job.cancel()
    assert isinstance(outcome(job)[1], Cancelled)


def test_a_job_waits_for_a_worker(make_cluster, make_job):
    dask = make_cluster(0)
    job = make_job(dask.address, SHORT)
    job.start()
    watch(job, lambda events: any("no worker yet" in getattr(event, "message", "") for event in events))
    dask.add_worker()
    assert isinstance(outcome(job)[1], Finished)


def test_a_worker_with_a_gpu_gets_it(make_cluster, make_job):
    dask = make_cluster(1)
    dask.add_worker("--resources", "GPU=1")
    job = make_job(dask.address, SHORT)
    job.start()
    assert isinstance(outcome(job)[1], Finished)
    there = [event.values["cluster_worker"] for event in job.folder.events() if event.type == "metrics"
             and "cluster_worker" in event.values]  # fmt: skip
    workers = dask.client.scheduler_info(n_workers=-1)["workers"]
    assert [workers[address]["resources"] for address in there] == [{"GPU": 1}]


@pytest.mark.parametrize("shared", [True, False], ids=["inputs by path", "inputs scattered"])
def test_a_killed_worker_is_replaced(make_cluster, make_job, shared, monkeypatch):
    dask = make_cluster(2)
    job = make_job(dask.address, LONG)
    if not shared:
        monkeypatch.setattr(cluster.remote, "digest_of", lambda path: "another")
    events = cluster.relay(job.folder, job.folder.read_request())
    for event in events:
        if isinstance(event, Losses):
            break
    victim = dask.busy()
    orphan = psutil.Process(victim.pid).children(recursive=True)[0]
    victim.kill()
    orphan.kill()  # this one is played; the real one ends by itself, see below
    lost = next(event for event in events if isinstance(event, Progress) and "lost" in event.message)
    assert "another one" in lost.message
    assert any(isinstance(event, Losses) for event in events), "it trains again"
    job.folder.cancel_file.touch()
    last = list(events)[-1]
    assert isinstance(last, Cancelled)


def test_a_process_whose_dask_worker_died_ends(make_job, package_path):
    job = make_job("", LONG)
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    environment = {**package_path, PARENT: str(parent.pid)}
    command = [sys.executable, "-m", "napari_mlbseg.jobs.worker", str(job.folder.path)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        until(job.folder.heartbeat_file.exists)
        assert process.poll() is None
        parent.kill()
        assert process.wait(20) == 1
    finally:
        process.kill()
        parent.wait()


def test_a_lost_scheduler_is_said(make_cluster, make_job, monkeypatch):
    monkeypatch.setattr(cluster, "_LOST_SECONDS", 2.0)
    dask = make_cluster(1)
    job = make_job(dask.address, LONG)
    events = cluster.relay(job.folder, job.folder.read_request())
    next(event for event in events if isinstance(event, Losses))
    dask.scheduler.kill()
    last = list(events)[-1]
    assert isinstance(last, Failed)
    assert "connection to the cluster" in last.message
    assert "Train again" in last.advice


def test_a_job_is_found_again_after_its_relay_died(make_cluster, make_job):
    dask = make_cluster(1)
    job = make_job(dask.address, LONG)
    job.start()
    watch(job, has(Losses))
    os.kill(job.pid, signal.SIGKILL)
    assert isinstance(outcome(job)[1], Failed)
    again = LocalJob(job.folder)
    again.start()
    watch(again, has(Losses))
    again.cancel()
    assert isinstance(outcome(again)[1], Cancelled)
    assert np.asarray(again.folder.results("heart")["initial_labels"][:]).max() == 3


def test_without_a_scheduler_it_says_what_to_do(make_job, monkeypatch):
    monkeypatch.setattr(cluster_connection, "_CONNECT_SECONDS", 1.0)
    job = make_job("tcp://127.0.0.1:9", SHORT)
    with pytest.raises(ValueError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9 .* see that it runs"):
        list(cluster.relay(job.folder, job.folder.read_request()))


def test_versions_must_be_the_same(make_cluster, make_job, monkeypatch):
    job = make_job(make_cluster(1).address, SHORT)
    monkeypatch.setattr(cluster_connection, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"have napari-mlbseg .* this machine has 99.0: install the same"):
        list(cluster.relay(job.folder, job.folder.read_request()))


def test_another_folder_of_that_name_is_not_the_same(make_job, tmp_path):
    job = make_job("tcp://127.0.0.1:9", SHORT)
    digest = remote.digest_of(job.folder.path)
    assert remote.sees(str(job.folder.path), digest)
    assert not remote.sees(str(tmp_path), digest)
    job.folder.request_file.write_text("{}")
    assert not remote.sees(str(job.folder.path), digest)
