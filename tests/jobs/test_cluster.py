"""What only jobs on a Dask cluster do: they wait for workers, and survive or explain the death of every part."""

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
from napari_mlbseg.events import (  # noqa: E402
    Cancelled,
    Event,
    Failed,
    Finished,
    Losses,
    Metrics,
    Preview,
    Progress,
    is_terminal,
)
from napari_mlbseg.jobs.dask import connection as cluster_connection  # noqa: E402
from napari_mlbseg.jobs.dask import mirrored_folder as worker_folder  # noqa: E402
from napari_mlbseg.jobs.dask import remote  # noqa: E402
from napari_mlbseg.jobs.dask import runner as cluster  # noqa: E402
from napari_mlbseg.jobs.folder import JobFolder  # noqa: E402
from napari_mlbseg.jobs.local import LocalJob  # noqa: E402
from napari_mlbseg.jobs.processes import PARENT  # noqa: E402
from napari_mlbseg.task import resolve_task  # noqa: E402

from .conftest import make_volume  # noqa: E402
from .dask_cluster import AT_MOST, Cluster, Tunnel, environment_of, until  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")]

#: Plays a training that waits in every phase, once it has said so, until there is a file of the phase's name.
PLAYED = """
import os, sys, time
from pathlib import Path
from napari_mlbseg.events import *
from napari_mlbseg.jobs.folder import JobFolder, ZarrResults
folder, gates = JobFolder(sys.argv[1]), Path(__file__).parent
request = folder.read_request()
task = folder.open_task(request)
results = ZarrResults(folder, task)["heart"]
def wait(phase):
    while not (gates / phase).exists() and not folder.cancel_file.exists():
        time.sleep(0.01)
folder.append_event(Started(device="CPU", seed=0, pid=os.getpid()))
wait("start")
for number, stage in enumerate(Stage, start=1):
    folder.append_event(Progress(stage=stage, fraction=number / 10))
    results["initial_labels"][:] = number
    arrays = ("initial_labels",)
    folder.append_event(Preview(volume="heart", slices=tuple(range(6)), arrays=arrays, stage=stage))
    folder.append_event(Losses(stage=stage, step=number, values={}))
    wait(stage.value)
folder.model_file.write_bytes(b"weights")
if request.previous:
    folder.model_file.write_bytes(b"weights after " + JobFolder(request.previous).model_file.read_bytes())
folder.append_event(Cancelled() if folder.cancel_file.exists() else Finished(reason="steps", steps=2, seconds=1))
"""
PHASES = ["start", "initial labels", "bootstrap", "train", "predict"]


@pytest.fixture
def make_cluster(tmp_path: Path, package_path: dict[str, str]) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of so many workers on which a training is played, and leaves no process behind."""
    made: list[Cluster] = []

    def make(n_workers: int = 1, **environment: str) -> Cluster:
        path = tmp_path / f"cluster{len(made)}"
        path.mkdir()
        made.append(Cluster(path, environment_of(package_path, **environment)))
        made[-1].script.write_text(PLAYED)
        for _ in range(n_workers):
            made[-1].add_worker()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def played(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, on which a training is played."""
    shared_cluster.script.write_text(PLAYED)
    yield shared_cluster
    shared_cluster.script.unlink()
    shared_cluster.end_jobs()
    close_gates(shared_cluster)


def open_gates(dask: Cluster, *phases: str) -> None:
    """Let the played training go on from these phases."""
    for phase in phases:
        (dask.script.parent / phase).touch()


def close_gates(dask: Cluster) -> None:
    for phase in [*PHASES, "prepare"]:
        (dask.script.parent / phase).unlink(missing_ok=True)


@pytest.fixture
def make_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package_path: dict[str, str]) -> Iterator[Callable]:
    """Makes jobs, and leaves no process behind."""
    monkeypatch.setenv("PYTHONPATH", package_path["PYTHONPATH"])
    jobs: list[LocalJob] = []

    def make(address: str, **options: object) -> LocalJob:
        task = resolve_task([make_volume()], TrainingConfig.from_preset("quick", seed=5, cluster=address))
        jobs.append(LocalJob.create(tmp_path / f"job{len(jobs)}", task, threads=1, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in the field, a test waits for a moment."""
    monkeypatch.setattr(cluster, "_LOST_SECONDS", 1.0)
    monkeypatch.setattr(cluster, "_RETRY_SECONDS", 1.0)
    monkeypatch.setattr(cluster, "_QUIET_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "_SILENT_SECONDS", 1.0)
    monkeypatch.setattr(cluster_connection, "_CALL_SECONDS", 1.0)
    monkeypatch.setattr(cluster_connection, "_CONNECT_SECONDS", 1.0)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine and the workers share no disk: everything goes through Dask."""
    monkeypatch.setattr(cluster.remote, "digest_of", lambda path: "another")


class Follower:
    """Relays a job in this process and keeps what it says, as the job's folder does."""

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self.seen: list[Event] = []
        self._events = cluster.run_on_cluster(folder, folder.read_request())

    def until(self, condition: Callable[[Event], bool]) -> Event:
        """Go on to the first event that fulfils a condition."""
        for event in self._events:
            self.seen.append(event)
            self.folder.append_event(event)
            if condition(event):
                return event
        raise AssertionError(f"it ended: {self.seen[-3:]}")

    def until_in(self, phase: str) -> None:
        """Go on until the training waits in a phase, and all that it said was heard."""
        if phase == "start":
            self.until(lambda event: event.type == "started")
        else:
            self.until(lambda event: isinstance(event, Losses) and event.stage == phase)

    def to_the_end(self) -> Event:
        """The terminal event."""
        last = self.until(is_terminal)
        self._events.close()
        return last

    @property
    def said(self) -> list[str]:
        return [event.message for event in self.seen if isinstance(event, Progress) and event.message]

    @property
    def n_attempts(self) -> int:
        return sum(isinstance(event, Metrics) and "cluster_worker" in event.values for event in self.seen)


def outcome(job: LocalJob) -> Event:
    """The terminal event, which is the only terminal one."""
    events = list(job.events(0.05))
    assert [event for event in events if is_terminal(event)] == [events[-1]]
    return events[-1]


def hear(job: LocalJob, condition: Callable[[Event], bool]) -> None:
    """Wait for an event."""
    until(lambda: any(condition(event) for event in job.poll()))


# -- beginning -------------------------------------------------------------------------------------------------------


def test_inputs_and_model_are_sent_where_they_cannot_be_read(played, make_job, elsewhere):
    open_gates(played, *PHASES, "prepare")
    before = set(played.script.parent.glob("worker0/*/*/mlbseg-*"))  # of jobs that were killed
    previous = make_job("").folder
    previous.model_file.write_bytes(b"earlier weights")
    previous.model_info_file.write_text("{}")
    job = make_job(played.address, previous=previous.path)
    follower = Follower(job.folder)
    follower.until_in("train")
    assert set(played.script.parent.glob("worker0/*/*/mlbseg-*")) - before, "its folder over there"
    assert isinstance(follower.to_the_end(), Finished)
    assert job.folder.model_file.read_bytes() == b"weights after earlier weights"
    assert (np.asarray(job.folder.results("heart")["initial_labels"][:]) == 5).all()
    until(lambda: set(played.script.parent.glob("worker0/*/*/mlbseg-*")) <= before, 10)  # nothing is left over there


def test_a_job_waits_for_a_worker_and_one_with_a_gpu_gets_it(make_cluster, make_job):
    dask = make_cluster(0)
    open_gates(dask, *PHASES, "prepare")
    given_up, job = make_job(dask.address), make_job(dask.address)
    for each in (given_up, job):
        each.start()
        hear(each, lambda event: "no worker yet" in getattr(event, "message", ""))
    given_up.cancel()
    assert isinstance(outcome(given_up), Cancelled)
    dask.add_worker("--resources", "GPU=1")
    assert isinstance(outcome(job), Finished)
    assert dask.addresses == [
        event.values["cluster_worker"]
        for event in job.folder.events()
        if isinstance(event, Metrics) and "cluster_worker" in event.values
    ]
    (facts,) = dask.client.scheduler_info(n_workers=-1)["workers"].values()
    assert facts["resources"] == {"GPU": 1}
    assert cluster_connection.look_at(dask.address) == (1, True)


def test_who_has_to_wait_for_another_job_is_told_so_and_can_be_cancelled(played, make_job, impatient):
    first = Follower(make_job(played.address).folder)
    first.until_in("start")
    second = Follower(make_job(played.address).folder)
    second.until(lambda event: "workers are busy" in getattr(event, "message", ""))
    second.folder.cancel_file.touch()
    assert isinstance(second.to_the_end(), Cancelled)
    first.folder.cancel_file.touch()
    assert isinstance(first.to_the_end(), Cancelled)
    until(lambda: played.is_idle, 10)


def test_a_job_that_dask_cancels_ends_over_there(played, make_job, impatient, monkeypatch):
    """Also where the word to stop cannot be written into its folder."""
    monkeypatch.setattr(worker_folder.WorkerFolder, "write", lambda *_: None)
    monkeypatch.setattr(cluster, "_ANSWER_SECONDS", 0.2)
    follower = Follower(make_job(played.address).folder)
    follower.until_in("start")
    follower.folder.cancel_file.touch()
    assert isinstance(follower.to_the_end(), Cancelled)
    until(lambda: played.is_idle, 10)


def test_without_a_scheduler_it_says_what_to_do(make_job, impatient):
    job = make_job("tcp://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9 .* see that it runs"):
        Follower(job.folder).to_the_end()


def test_versions_must_be_the_same(played, make_job, monkeypatch):
    job = make_job(played.address)
    monkeypatch.setattr(cluster_connection, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"have napari-mlbseg .* this machine has 99.0: install the same"):
        Follower(job.folder).to_the_end()


def test_another_folder_of_that_name_is_not_the_same(make_job, tmp_path):
    job = make_job("tcp://127.0.0.1:9")
    digest = remote.digest_of(job.folder.path)
    assert remote.can_access(str(job.folder.path), digest)
    assert not remote.can_access(str(tmp_path), digest)
    job.folder.request_file.write_text("{}")
    assert not remote.can_access(str(job.folder.path), digest)


# -- the death of a worker -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phases", [PHASES[:3], PHASES[3:]], ids=["inputs by path", "inputs scattered"])
def test_a_worker_killed_in_any_phase_is_replaced(make_cluster, make_job, impatient, monkeypatch, request, phases):
    """By Dask itself where it can be, else by the relay."""
    if phases == PHASES[3:]:
        request.getfixturevalue("elsewhere")
        monkeypatch.setattr(cluster, "_ATTEMPTS", 4)  # three deaths are the end otherwise
    dask = make_cluster(2)
    job = make_job(dask.address)
    follower = Follower(job.folder)
    open_gates(dask, *PHASES[: PHASES.index(phases[0])], "prepare")
    for phase in phases:
        follower.until_in(phase)
        kill(dask)
        lost = follower.until(lambda event: isinstance(event, Progress) and "worker was lost" in event.message)
        assert "another one" in lost.message
        assert phase == "start" or np.asarray(job.folder.results("heart")["initial_labels"][:]).any(), "kept"
        open_gates(dask, phase)
        dask.add_worker()
    open_gates(dask, *PHASES)
    if phases == PHASES[3:]:  # and once more, with its terminal events said and the model not yet fetched
        fetch = worker_folder.WorkerFolder.fetch_files

        def kill_and_fetch(self, folder, names):
            monkeypatch.setattr(worker_folder.WorkerFolder, "fetch_files", fetch)
            for worker in dask.workers:
                worker.kill()
                worker.wait()
            dask.add_worker()
            fetch(self, folder, names)

        monkeypatch.setattr(worker_folder.WorkerFolder, "fetch_files", kill_and_fetch)
    assert isinstance(follower.to_the_end(), Finished)
    assert job.folder.model_file.read_bytes() == b"weights"
    assert (np.asarray(job.folder.results("heart")["initial_labels"][:]) == 5).all()


def test_a_worker_that_is_ended_ends_its_job_which_waits_for_another(make_cluster, make_job, impatient):
    dask = make_cluster(1)
    follower = Follower(make_job(dask.address).folder)
    follower.until_in("start")
    (process,) = psutil.Process(dask.workers[0].pid).children()
    dask.workers[0].send_signal(signal.SIGINT)
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 10)
    assert dask.workers[0].wait(10) is not None
    follower.until(lambda event: "another one, once there is one" in getattr(event, "message", ""))
    open_gates(dask, *PHASES, "prepare")
    dask.add_worker()
    assert isinstance(follower.to_the_end(), Finished)


def kill(dask: Cluster) -> None:
    """Kill the worker that has the job, and what it started: the real thing ends by itself, see below."""
    victim = dask.busy()
    orphans = psutil.Process(victim.pid).children(recursive=True)
    for process in (victim, *orphans):
        process.kill()
    victim.wait()


def test_a_process_whose_dask_worker_died_ends(make_job, package_path):
    job = make_job("")
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


def test_a_job_that_kills_its_workers_is_given_up(make_cluster, make_job, impatient):
    dask = make_cluster(1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    dask.script.write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n")
    last = Follower(make_job(dask.address).folder).to_the_end()
    assert isinstance(last, Failed)
    assert "died with this job" in last.message
    assert "smaller batch_size" in last.advice


# -- the death of the scheduler, and of the connection ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "how"),
    [
        ("waiting", signal.SIGKILL),
        ("train", signal.SIGKILL),
        ("train", signal.SIGSTOP),
        ("fetching", signal.SIGKILL),
    ],
)
def test_a_lost_scheduler_is_said(make_cluster, make_job, impatient, elsewhere, monkeypatch, phase, how):
    dask = make_cluster(0 if phase == "waiting" else 1)
    job = make_job(dask.address)
    follower = Follower(job.folder)
    if phase == "waiting":
        follower.until(lambda event: "no worker yet" in getattr(event, "message", ""))
    elif phase == "fetching":
        open_gates(dask, *PHASES, "prepare")
        fetch = worker_folder.WorkerFolder.fetch_slices

        def lose_and_fetch(self, *arguments):
            dask.scheduler.send_signal(how)
            fetch(self, *arguments)

        monkeypatch.setattr(worker_folder.WorkerFolder, "fetch_slices", lose_and_fetch)
    else:
        open_gates(dask, *PHASES[: PHASES.index(phase)], "prepare")
        follower.until_in(phase)
    if phase != "fetching":
        dask.scheduler.send_signal(how)
    began = time.monotonic()
    last = follower.to_the_end()
    assert time.monotonic() - began < 20
    assert isinstance(last, Failed)
    assert f"connection to the cluster at {dask.address} was lost" in last.message
    assert "Train again" in last.advice
    assert any("trying to reach it again" in message for message in follower.said)
    if phase == "train":
        assert (np.asarray(job.folder.results("heart")["initial_labels"][:]) == 4).all(), "what came is kept"


def test_a_connection_cut_in_every_phase_is_mended_and_nothing_is_lost(played, make_job, impatient, elsewhere):
    tunnel = Tunnel(played.address)
    open_gates(played, "prepare")
    job = make_job(tunnel.address)
    follower = Follower(job.folder)
    for phase in PHASES:
        follower.until_in(phase)
        tunnel.cut()
        open_gates(played, phase)  # it goes on over there, to the next phase, and nobody hears of it
        follower.until(lambda event: "trying to reach it again" in getattr(event, "message", ""))
        tunnel.mend()
    assert isinstance(follower.to_the_end(), Finished)
    tunnel.cut()
    assert follower.n_attempts == 1, "it was never begun again"
    assert [event.step for event in follower.seen if isinstance(event, Losses)] == [1, 2, 3, 4, 5]
    assert [event.stage for event in follower.seen if isinstance(event, Preview)] == list(
        dict.fromkeys(event.stage for event in follower.seen if isinstance(event, Losses))
    )
    assert (np.asarray(job.folder.results("heart")["initial_labels"][:]) == 5).all()
    assert job.folder.model_file.read_bytes() == b"weights"


def test_a_scheduler_that_was_started_anew_gets_the_job_again(make_cluster, make_job, impatient):
    before, after = make_cluster(1), make_cluster(1)
    tunnel = Tunnel(before.address)
    follower = Follower(make_job(tunnel.address).folder)
    follower.until_in("start")
    tunnel.cut()
    before.close()
    tunnel.lead_to(after.address)
    open_gates(after, *PHASES, "prepare")
    assert isinstance(follower.to_the_end(), Finished)
    assert follower.n_attempts == 2
    tunnel.cut()


# -- the death of the relay ------------------------------------------------------------------------------------------


def test_a_job_goes_on_without_its_relay_and_is_found_again(played, make_job):
    """As after a restart of this machine: whoever attaches starts another relay, and nothing is told twice."""
    open_gates(played, "start", "prepare", "initial labels")
    job = make_job(played.address)
    job.start()
    hear(job, lambda event: isinstance(event, Losses) and event.stage == "bootstrap")
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(job.pid))
    open_gates(played, *PHASES)
    again = LocalJob.attach(job.folder.path)
    assert isinstance(outcome(again), Finished)
    assert [event.step for event in again.folder.events() if isinstance(event, Losses)] == [1, 2, 3, 4, 5]
    assert (np.asarray(again.folder.results("heart")["initial_labels"][:]) == 5).all()
    assert again.folder.model_file.read_bytes() == b"weights"


def test_a_job_that_was_given_up_is_asked_for_again_by_the_workers_command(played, make_job):
    open_gates(played, "start", "prepare")
    job = make_job(played.address)
    job.start()
    hear(job, lambda event: isinstance(event, Losses))
    os.kill(job.pid, signal.SIGKILL)
    assert isinstance(outcome(job), Failed)
    open_gates(played, *PHASES)
    command = [sys.executable, "-m", "napari_mlbseg.jobs.worker", str(job.folder.path)]
    assert subprocess.run(command, timeout=AT_MOST).returncode == 0
    events = job.folder.events()
    assert [event for event in events if is_terminal(event)] == [events[-1]]
    assert isinstance(events[-1], Finished)
