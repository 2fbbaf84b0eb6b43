"""The session without a window: its signals, its states, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest

from napari_mlbseg.events import Cancelled, Failed
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session import SegmentationSession, SessionState
from napari_mlbseg.task import TaskError

from .conftest import make_volume as volume


@pytest.fixture
def job(monkeypatch, tmp_path):
    """What every start of a session gives: a job that does nothing."""
    made = Mock(spec=LocalJob)
    made.folder = JobFolder(tmp_path / "job")
    made.poll.return_value = []
    made.events.return_value = iter(())

    def create(path, task, **options):
        made.folder.write_request(task)
        return made

    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob.create", create)
    return made


@pytest.fixture
def session(tmp_path):
    it = SegmentationSession(tmp_path / "session")
    it.set_volume(volume(clean={1}))
    yield it
    it.close()


def listen(signal):
    heard = []
    signal.connect(heard.append)
    return heard


def test_marking_tells_once_and_knows_its_stack(session):
    heard = listen(session.clean_changed)
    session.set_clean("heart", 4, True)
    session.set_clean("heart", 4, True)
    assert heard == ["heart"]
    assert session.volume("heart").clean == {1, 4}
    with pytest.raises(IndexError, match="slices 0 to 5"):
        session.set_clean("heart", 6, True)


def test_config_tells_only_when_it_changes(session):
    heard = listen(session.config_changed)
    session.config = session.config.updated(n_views=4)
    session.config = session.config.updated(n_views=4)
    assert [config.n_views for config in heard] == [4]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_axis_is_moved_first_without_a_copy(axis):
    annotated = volume(slice_axis=axis, clean={4}, spacing=(1.0, 2.0, 3.0))
    frozen = annotated.freeze()
    assert frozen.shape[0] == 6
    assert frozen.clean_slices == (4,)
    assert frozen.label_slice(4).any()
    assert not frozen.label_slice(0).any()
    assert np.shares_memory(frozen.labels, annotated.annotation)
    assert frozen.spacing[0] == (1.0, 2.0, 3.0)[axis]


def test_states_of_a_round(session, job):
    heard = listen(session.state_changed)
    started = session.start(focus=("heart", 3))
    assert session.state is SessionState.RUNNING
    assert started.task.volumes[0].focus == 3
    with pytest.raises(RuntimeError, match="stop it first"):
        session.start()
    session.look_at("heart", 2)
    job.look_at.assert_called_once_with("heart", 2)
    session.stop()
    job.cancel.assert_called_once_with()
    job.poll.return_value = [Cancelled()]
    session.poll()
    assert heard == [SessionState.PREPARING, SessionState.RUNNING, SessionState.STOPPING, SessionState.IDLE]
    assert isinstance(started.outcome, Cancelled)


def test_state_is_idle_when_the_last_event_is_heard(session, job):
    """A listener may start the next round at once."""
    states = []
    session.event_received.connect(lambda event: states.append(session.state))
    session.start()
    job.poll.return_value = [Failed(message="Died.")]
    session.poll()
    assert states == [SessionState.IDLE]
    assert session.start().number == 2


def test_a_task_that_cannot_be_trained_writes_nothing(tmp_path):
    session = SegmentationSession(tmp_path / "session")
    session.set_volume(volume())
    with pytest.raises(TaskError, match="No slice is marked clean"):
        session.start()
    assert not (tmp_path / "session").exists()
    assert session.state is SessionState.IDLE


def test_a_label_on_no_clean_slice_is_not_learnt_and_it_is_said_where_it_is(session):
    session.volume("heart").annotation[4, :2, :2] = 5
    assert session.resolve().note == "Label 5 (slice 4 of 'heart') occurs on no clean slice: it is not learnt."


def test_set_volumes_forgets_the_others(session):
    heard = []
    session.volumes_changed.connect(lambda: heard.append(len(session)))
    session.set_volumes([volume("a"), volume("b")])
    assert heard == [2]
    assert [v.name for v in session] == ["a", "b"]
    assert "heart" not in session


def test_closing_ends_the_worker(tmp_path, monkeypatch):
    """A real process, which would sleep for a minute."""
    monkeypatch.setattr("napari_mlbseg.jobs.local.sys.executable", _sleeper(tmp_path), raising=True)
    session = SegmentationSession(tmp_path / "session")
    session.set_volume(volume(clean={1}))
    started = session.start()
    process = started.job._popen
    assert process.poll() is None
    begin = time.monotonic()
    session.close()
    assert process.poll() is not None
    assert time.monotonic() - begin < 5


def _sleeper(tmp_path):
    """An executable that ignores its arguments and sleeps."""
    if sys.platform == "win32":
        pytest.skip("needs a shell script as interpreter")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    return str(script)


def test_importing_the_session_loads_neither_torch_nor_qt():
    script = "import sys, napari_mlbseg.session; print([m for m in ('torch', 'qtpy', 'napari') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
