"""Jobs of several processes: whichever dies of whatever, the job ends with one last word that names it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import psutil
import pytest

from napari_mlbseg.engine.place import Place
from napari_mlbseg.events import Failed, Finished, Losses, Metrics, Progress, Started, is_terminal
from napari_mlbseg.jobs import follower, ranks, worker
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.ranks import Followers
from napari_mlbseg.task import SegmentationTask

SLEEP = "import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def as_a_test(monkeypatch):
    """The worker runs in this process, and must leave it as it is."""
    monkeypatch.setattr(worker, "be_modest", lambda threads: None)
    monkeypatch.setattr(worker, "_beat", lambda *_: None)
    monkeypatch.setattr(worker, "_LOSS_SECONDS", 60)  # `_watch` would end this process
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.fixture
def of_two(task, tmp_path) -> JobFolder:
    """A training on two processes that never ends."""
    endless = {"steps": 10**6, "bootstrap_steps": 10**6, "time_budget": None}
    config = task.config.updated(nproc=2, device="cpu", features=(8, 16), patch_size=32, **endless)
    folder = JobFolder(tmp_path / "job")
    folder.write_request(SegmentationTask(task.volumes, task.class_values, config), threads=2)
    return folder


@pytest.fixture
def played(monkeypatch):
    """Call it with the code that a follower runs; gives the processes that were started."""
    popen, started = ranks.subprocess.Popen, []

    def install(code: str) -> list:
        def start(command: list[str], **options):
            assert command[1:3] == ["-m", "napari_mlbseg.jobs.follower"]
            started.append(popen([sys.executable, "-c", code, *command[3:]], **options))
            return started[-1]

        monkeypatch.setattr(ranks.subprocess, "Popen", start)
        return started

    return install


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_process_that_is_killed_ends_the_training_with_one_word_that_names_it(of_two):
    death = []

    def kill_once_it_learns() -> None:
        while not any(isinstance(event, Losses) for event in of_two.events()):
            time.sleep(0.05)
        (other,) = (child for child in psutil.Process().children() if "follower" in " ".join(child.cmdline()))
        death.append(time.monotonic())
        os.kill(other.pid, signal.SIGKILL)

    threading.Thread(target=kill_once_it_learns, daemon=True).start()
    assert worker.main([str(of_two.path)]) == 1
    assert time.monotonic() - death[0] < 5
    events = of_two.events()
    assert any(isinstance(event, Metrics) and event.values.get("processes") == 2 for event in events)
    assert [event for event in events if is_terminal(event)] == events[-1:]
    assert isinstance(events[-1], Failed)
    assert events[-1].message.startswith("The worker was killed (signal 9")
    assert events[-1].message.endswith("(Process 2 of 2.)")


def test_threads_are_divided_and_every_process_knows_its_place(of_two, played, monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        "import json, os, sys; open(os.path.join(sys.argv[1], os.environ['RANK'] + '.json'), 'w')"
        ".write(json.dumps(dict(os.environ)))"
    )
    processes = played(code)
    followers = Followers(of_two, 3, threads=7)
    followers.start()
    assert [process.wait() for process in processes] == [0, 0]
    for rank in (1, 2):
        environment = json.loads((of_two.path / f"{rank}.json").read_text())
        assert environment["OMP_NUM_THREADS"] == "2" == str(followers.threads)
        place = Place.of_this_process(environment)
        assert place == Place(rank, 3, rank, 3, followers.place.meeting)
    assert followers.place.rank == 0
    followers.end()
    assert not followers.place.meeting.parent.exists()


def test_who_failed_first_is_named_and_not_who_then_missed_it(of_two, played):
    played(f"import sys, os; os.environ['RANK'] == '1' and sys.exit({follower.LOST}); os.kill(os.getpid(), 9)")
    followers = Followers(of_two, 3, threads=None)
    followers.start()
    failed, is_out_of_memory = followers.failure(20)
    followers.end()
    assert failed.message.endswith("(Process 3 of 3.)")
    assert not is_out_of_memory


def test_a_follower_leaves_word_of_what_it_met(of_two, monkeypatch, capsys):
    errors: list[Exception] = [MemoryError()]

    def fail(folder, place):
        raise errors[0]

    monkeypatch.setattr(follower, "_follow", fail)
    monkeypatch.setattr(follower, "be_modest", lambda threads: None)
    monkeypatch.setattr(os, "environ", dict(os.environ) | Place(1, 2, 1, 2).environment())
    assert follower.main([str(of_two.path)]) == 1
    failed, is_out_of_memory = follower.read_note(of_two.note_of_rank(1))
    assert is_out_of_memory
    assert "not enough memory" in failed.message
    assert "MemoryError" in capsys.readouterr().err
    of_two.note_of_rank(1).unlink()
    errors[:] = [RuntimeError("Connection closed by peer")]
    assert follower.main([str(of_two.path)]) == follower.LOST
    assert follower.read_note(of_two.note_of_rank(1)) is None


def test_where_another_process_lacked_memory_all_are_started_again_with_less(of_two, played, monkeypatch):
    processes, configs = played(SLEEP), []
    note = {"failed": Failed(message="Too large.").model_dump(mode="json"), "out_of_memory": True}

    def attempt(folder, request, task, start, followers):
        configs.append(task.config)
        yield Started(device="CPU", seed=0)
        if len(configs) == 1:
            of_two.note_of_rank(1).write_text(json.dumps(note))
            raise RuntimeError("Connection closed by peer")
        yield Finished(reason="steps", steps=1, seconds=1)

    monkeypatch.setattr(worker, "_attempt", attempt)
    assert worker.main([str(of_two.path)]) == 0
    assert [config.batch_size for config in configs] == [4, 2]
    assert any(isinstance(event, Progress) and "Out of memory" in event.message for event in of_two.events())
    assert len(processes) == 2
    assert all(process.returncode is not None for process in processes)


def test_a_training_of_another_number_than_torchrun_started_is_refused(of_two, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ) | Place(0, 4, 0, 4).environment())
    with pytest.raises(ValueError, match="asks for 2 processes but the environment names RANK 0 of WORLD_SIZE 4"):
        Followers(of_two, 2, None)
