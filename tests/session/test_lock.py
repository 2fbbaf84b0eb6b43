"""Of all that want a session, one gets it; the others look at it, and are told who has it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from napari_mlbseg.cli.main import main
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.persistence.loader import load_session
from napari_mlbseg.session.persistence.lock import SessionBusyError, SessionLock
from napari_mlbseg.session.persistence.schema import SessionError
from napari_mlbseg.session.persistence.session_paths import unsaved_sessions

from .conftest import make_volume, reopen, train

RACER = """
import sys
from pathlib import Path
from napari_mlbseg.session.persistence.lock import SessionBusyError, SessionLock
print("ready", flush=True)
held = []
for line in sys.stdin:
    lock = SessionLock(Path(line.strip()))
    try:
        lock.acquire()
        held.append(lock)
        print("mine", flush=True)
    except SessionBusyError as error:
        print(error, flush=True)
"""


def test_of_two_programs_one_gets_the_session_and_a_dead_one_keeps_none(tmp_path):
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for number in range(20):
            for racer in racers:
                print(tmp_path / f"{number}.mlbseg", file=racer.stdin, flush=True)
            answers = [racer.stdout.readline().strip() for racer in racers]
            assert answers.count("mine") == 1, answers
            assert any("is open in another window" in answer for answer in answers), answers
    finally:
        for racer in racers:
            racer.kill()  # without letting go
            racer.communicate()
    for number in range(20):
        lock = SessionLock(tmp_path / f"{number}.mlbseg")
        lock.acquire()
        lock.release()


@pytest.mark.parametrize("has_system_locks", [True, False])
def test_another_computer_has_the_session_until_it_is_not_heard_of_any_more(tmp_path, monkeypatch, has_system_locks):
    if not has_system_locks:
        monkeypatch.setattr(SessionLock, "_system_lock", lambda self: None)
    path = tmp_path / "heart.mlbseg"
    path.mkdir()
    owner = {"host": "node7", "pid": 12, "since": "2026-01-02 10:30", "token": "x"}
    (path / "lock").write_text(json.dumps(owner))
    lock = SessionLock(path)
    with pytest.raises(SessionBusyError, match="open on the computer node7 since 2026-01-02 10:30"):
        lock.acquire()
    long_ago = time.time() - 600
    os.utime(path / "lock", (long_ago, long_ago))
    lock.acquire()
    assert lock.is_held
    assert json.loads((path / "lock").read_text())["host"] == socket.gethostname()
    with pytest.raises(SessionBusyError, match="in this program already"):
        SessionLock(path).acquire()
    (path / "lock").write_text(json.dumps(owner))  # this computer slept, and the other one took it over
    assert not lock.is_held
    lock.release()
    assert json.loads((path / "lock").read_text()) == owner, "which is none of ours"


def test_an_owner_is_heard_of_for_as_long_as_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_mlbseg.session.persistence.lock._BEAT_SECONDS", 0.01)
    lock = SessionLock(tmp_path / "heart.mlbseg")
    lock.acquire()
    file = tmp_path / "heart.mlbseg" / "lock"
    os.utime(file, (1, 1))
    end = time.monotonic() + 20
    while file.stat().st_mtime == 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    lock.release()
    assert not file.exists()


def test_a_session_that_is_open_elsewhere_can_be_looked_at(saved, settle, fake_jobs, tmp_path):
    train(saved)
    saved.mark_dirty("heart")
    settle(saved)
    before = {path: path.read_bytes() for path in saved.folder.rglob("*") if path.is_file()}
    said = []
    other = SegmentationSession()
    other.saving_changed.connect(said.append)
    other.load(load_session(saved.folder))
    with closing(other):
        assert "in this program already" in other.read_only
        assert "nothing is saved" in other.read_only
        assert said == [other.read_only]
        volume = other.volume("heart")
        assert np.array_equal(volume.annotation, saved.volume("heart").annotation)
        assert other.shown_round.number == 1
        volume.annotation[0, 0] = 3
        other.mark_dirty("heart")
        other.set_clean("heart", 0, True)
        for _ in range(5):
            other.poll()
        for forbidden in (other.save, other.begin, lambda: other.delete_round(1)):
            with pytest.raises(SessionError, match="nothing is saved"):
                forbidden()
        assert {path: path.read_bytes() for path in saved.folder.rglob("*") if path.is_file()} == before
        other.save_as(tmp_path / "mine")
        assert not other.read_only
        assert said[-1] == ""
        other.save()
    assert {path: path.read_bytes() for path in saved.folder.rglob("*") if path.is_file()} == before
    with closing(reopen(tmp_path / "mine.mlbseg")) as again:
        assert np.array_equal(again.volume("heart").annotation, volume.annotation)
        assert 0 in again.volume("heart").clean
        assert [past.number for past in again.rounds] == [1]


def test_what_is_painted_on_a_session_that_is_open_elsewhere_is_kept_in_a_copy(saved, settle, fake_jobs):
    train(saved)
    saved.mark_dirty("heart")
    settle(saved)
    saved._autosave.flush(images=True)
    with closing(reopen(saved.folder)):
        pass
    assert unsaved_sessions() == [], "who only looked leaves nothing"
    other = reopen(saved.folder)
    painted, image = other.volume("heart").annotation, other.volume("heart").image
    painted[0, 0] = 3
    other.mark_dirty("heart")
    other.set_clean("heart", 0, True)
    other.close()
    (copy,) = unsaved_sessions()
    with closing(reopen(copy)) as again:
        assert np.array_equal(again.volume("heart").annotation, painted)
        assert np.array_equal(again.volume("heart").image, image)
        assert 0 in again.volume("heart").clean
    saved.save()
    assert not np.array_equal(load_session(saved.folder).volumes[0].volume.annotation, painted)


def test_a_round_that_another_program_trains_is_left_alone(saved, settle, fake_jobs, monkeypatch):
    started = saved.start()
    settle(saved)
    monkeypatch.undo()  # the other program sees a folder whose worker it does not know
    os.utime(started.job.folder.request_file, (1, 1))
    with closing(reopen(saved.folder)) as other:
        assert other.rounds[0].outcome is None
        other.stop()
    assert not started.job.folder.cancel_file.exists()
    assert started.job.folder.events() == []


def test_a_session_whose_lock_was_taken_over_is_written_no_more(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    (saved.folder / "lock").write_text(json.dumps({"host": "node7", "pid": 12}))
    saved.volume("heart").annotation[0, 0] = 3
    saved.mark_dirty("heart")
    end = time.monotonic() + 20
    while not saved.read_only:
        assert time.monotonic() < end
        saved.poll()
        time.sleep(0.01)
    assert "node7" in saved.read_only
    assert not np.array_equal(load_session(saved.folder).volumes[0].volume.annotation[0, 0], np.full(20, 3))


def test_the_command_line_refuses_to_train_what_is_open_elsewhere_and_shows_it(saved, settle, capsys):
    saved.mark_dirty("heart")
    settle(saved)
    assert main(["session", str(saved.folder)]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["session", str(saved.folder), "--train"]) == 2
    assert re.search("is open .*: close it there, then", capsys.readouterr().err)


def test_a_session_moves_with_its_lock(tmp_path, sessions_home, settle):
    with closing(SegmentationSession()) as session:
        session.set_volume(make_volume())
        session.mark_dirty("heart")
        settle(session)
        session.save_as(tmp_path / "heart")
        with pytest.raises(SessionBusyError):
            SessionLock(tmp_path / "heart.mlbseg").acquire()
    SessionLock(tmp_path / "heart.mlbseg").acquire()
