"""A training on its way: the click waits for nothing, and nothing is lost or left over, however it ends."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from napari_mlbseg.events import Cancelled
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.session import SegmentationSession, SessionError, SessionState
from napari_mlbseg.session.clean_slices import combined_digest, slice_digest
from napari_mlbseg.session.persistence.autosave import Autosave
from napari_mlbseg.session.persistence.folder import SliceArray
from napari_mlbseg.task import TaskError

from .conftest import FakeJob, make_volume, reopen, train

pytestmark = pytest.mark.usefixtures("fake_jobs")

AT_MOST = 20.0  # seconds


def slice_of(key):
    """The one number in an index."""
    return next(k for k in (key if isinstance(key, tuple) else (key,)) if not isinstance(k, slice))


class Gated:
    """A lazy array, each of whose slices is there when its gate is open; it notes who read which."""

    def __init__(self, array: np.ndarray, gate: threading.Event | None = None, behind: int = 0) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.gate = gate if gate is not None else threading.Event()
        self.behind = behind  # the first slice that the gate keeps
        self.waits = threading.Event()
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __getitem__(self, key):
        z = slice_of(key)
        self.threads.add(threading.current_thread().name)
        if z >= self.behind:
            self.waits.set()
            assert self.gate.wait(AT_MOST), "the gate was never opened"
        self.read.append(int(z))
        return self.array[key]


def until(condition, session=None):
    end = time.monotonic() + AT_MOST
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        if session is not None:
            session.poll()
        time.sleep(0.002)


def begun(session):
    """Wait until it is decided whether the job begins."""
    until(lambda: session.state not in (SessionState.PREPARING, SessionState.STOPPING), session)


def job_files(session):
    return list(session.folder.glob("rounds/*"))


def threads_of_jobs():
    return [thread for thread in threading.enumerate() if thread.name == "mlbseg-beginning"]


def opened(past):
    """A round's task, as its worker opens it."""
    folder = JobFolder(past.job.folder.path)
    return folder.open_task(folder.read_request()).volumes[0]


@pytest.fixture
def lazy(tmp_path):
    """A session whose image has to be computed, the third slice and those after it only when somebody lets it."""
    session = SegmentationSession(tmp_path / "lazy.mlbseg")
    volume = make_volume(clean={1})
    volume.image = Gated(volume.image, behind=2)
    session.set_volume(volume)
    yield session
    volume.image.gate.set()
    session.close()


def given(session, behind=2):
    """Initial labels that have to be computed: they are copied when the job is written."""
    volume = session.volume("heart")
    volume.initial_labels = Gated(np.zeros(volume.annotation.shape, np.uint8), behind=behind)
    session.config = session.config.updated(initial_labels="given")
    return volume.initial_labels


def test_the_click_waits_for_no_image_and_strokes_meanwhile_are_saved_but_not_learnt_from(lazy, settle):
    volume = lazy.volume("heart")
    at_the_click = volume.annotation.copy()
    lazy.begin()
    assert lazy.state is SessionState.PREPARING
    volume.annotation[1, 0, 0] = 2
    volume.annotation[3, 5:7, 5:7] = 2
    for z in (1, 3):
        lazy.mark_dirty("heart", z)
    until(volume.image.waits.is_set, lazy)
    settle(lazy)
    stored = SliceArray(lazy.folder / "annotations/heart.zarr", 0).open()[:]
    assert np.array_equal(stored, volume.annotation), "saved while the image is still being computed"
    assert lazy.rounds == []
    volume.image.gate.set()
    begun(lazy)
    assert lazy.state is SessionState.RUNNING
    labels = opened(lazy.rounds[0]).labels
    assert np.array_equal(labels[:], at_the_click)
    expected = combined_digest([slice_digest(plane) for plane in at_the_click])
    assert list(lazy.rounds[0].record.checksums.values()) == [expected]
    assert np.array_equal(lazy.rounds[0].task.volumes[0].labels[:], at_the_click), "not what the layer holds now"
    assert threading.main_thread().name not in volume.image.threads


def test_an_image_that_is_computed_is_read_and_stored_once(lazy):
    volume = lazy.volume("heart")
    volume.image.gate.set()
    train(lazy), train(lazy)
    inner = volume.image.array
    assert sorted(volume.image.read) == [0, 1, 1, 1, 2, 3, 4, 5], "once, and the clean slice for a look at each click"
    for past in lazy.rounds:
        assert np.array_equal(opened(past).image[:], inner)
        assert not list(past.job.folder.path.glob("inputs/0/image*"))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_the_copy_has_the_axes_of_a_task(tmp_path, slice_axis):
    session = SegmentationSession(tmp_path / "colour.mlbseg")
    volume = make_volume(slice_axis=slice_axis, clean={1}, channel_axis=3)
    colours = np.random.default_rng(0).integers(0, 255, (*volume.annotation.shape, 3)).astype(np.uint8)
    expected = replace(volume, image=colours).freeze().image
    volume.image = Gated(colours, behind=9)
    session.set_volume(volume)
    assert np.array_equal(np.asarray(opened(train(session)).image), expected)
    assert not list(session.rounds[0].job.folder.path.glob("inputs/0/image*"))
    session.close()


def test_a_round_finds_the_copied_image_wherever_the_session_goes(sessions_home, tmp_path, settle):
    session = SegmentationSession()
    volume = make_volume(clean={1})
    volume.image = Gated(volume.image, behind=9)
    session.set_volume(volume)
    train(session)
    unsaved = session.folder
    session.save_as(tmp_path / "mine.mlbseg")
    assert not unsaved.exists()
    assert np.array_equal(session.rounds[0].task.volumes[0].image[:], volume.image.array)
    session.save_as(tmp_path / "copy.mlbseg")
    session.close()
    (tmp_path / "mine.mlbseg").rename(tmp_path / "elsewhere.mlbseg")
    (tmp_path / "elsewhere.mlbseg" / "images").rename(tmp_path / "taken away")
    again = reopen(tmp_path / "copy.mlbseg")
    assert np.array_equal(again.rounds[0].task.volumes[0].image[:], volume.image.array)
    assert np.array_equal(opened(train(again)).image, volume.image.array)
    again.close()


def test_another_image_gets_another_copy_and_earlier_rounds_keep_theirs(lazy):
    volume = lazy.volume("heart")
    volume.image.gate.set()
    first = train(lazy)
    other = Gated(volume.image.array + 1, behind=9)
    lazy.set_volumes([replace(volume, image=other)])
    second = train(lazy)
    assert np.array_equal(opened(second).image[:], other.array)
    assert np.array_equal(opened(first).image[:], volume.image.array)
    path = lazy.folder
    lazy.close()
    again = reopen(path)
    assert np.array_equal(again.volume("heart").image, other.array), "the session opens with the one of now"
    again.close()


def test_an_image_that_is_replaced_meanwhile_does_not_mix_in(lazy):
    volume = lazy.volume("heart")
    lazy.begin()
    until(volume.image.waits.is_set, lazy)
    lazy.set_volumes([replace(volume, image=Gated(volume.image.array + 1, behind=9))])
    volume.image.gate.set()
    begun(lazy)
    assert np.array_equal(opened(lazy.rounds[0]).image[:], volume.image.array), "as it was at the click"


def test_the_click_waits_for_no_disk(saved, settle, monkeypatch):
    real, gate, waits = SliceArray.write, threading.Event(), threading.Event()

    def slow(self, z, plane, **options):
        waits.set()
        assert gate.wait(AT_MOST)
        real(self, z, plane, **options)

    monkeypatch.setattr(SliceArray, "write", slow)
    volume = saved.volume("heart")
    before = volume.annotation.copy()
    saved.mark_dirty("heart")
    saved.begin()
    assert waits.wait(AT_MOST)
    assert saved.state is SessionState.PREPARING
    volume.annotation[1] = 0
    volume.annotation[5, 1, 1] = 2
    saved.mark_dirty("heart")
    for _ in range(20):
        saved.poll()
    assert job_files(saved) == [], "no job before what it learns from is saved"
    gate.set()
    begun(saved)
    assert np.array_equal(opened(saved.rounds[0]).labels[:], before)
    saved.stop()
    settle(saved)
    assert np.array_equal(SliceArray(saved.folder / "annotations/heart.zarr", 0).open()[:], volume.annotation)


def test_how_far_the_copying_is_is_told(lazy, monkeypatch):
    monkeypatch.setattr("napari_mlbseg.session.persistence.volume_store._BATCH_SECONDS", 0.0)
    told = []
    lazy.image_copied.connect(told.append)
    lazy.begin()
    until(lambda: told and told[-1].done == 2, lazy)
    assert (told[-1].volume, told[-1].part, told[-1].total) == ("heart", "image", 6)
    lazy.volume("heart").image.gate.set()
    begun(lazy)
    assert {copied.done for copied in told if copied.part == "image"} <= set(range(7))


def test_stopped_while_the_image_is_copied_nothing_begins(lazy):
    heard, why = [], []
    lazy.state_changed.connect(heard.append)
    lazy.not_begun.connect(why.append)
    volume = lazy.volume("heart")
    lazy.begin()
    until(volume.image.waits.is_set, lazy)
    lazy.stop()
    begun(lazy)
    assert heard == [SessionState.PREPARING, SessionState.STOPPING, SessionState.IDLE]
    assert why == [None]
    assert lazy.rounds == []
    assert job_files(lazy) == []
    volume.image.gate.set()
    assert train(lazy).number == 1


def test_stopped_while_the_job_is_written_its_half_folder_goes(saved):
    labels = given(saved)
    saved.begin()
    until(labels.waits.is_set, saved)
    assert [path.name for path in job_files(saved)] == ["001"]
    saved.stop()
    saved.poll()
    assert saved.state is SessionState.STOPPING, "until the slice is there that it waits for"
    labels.gate.set()
    begun(saved)
    assert labels.read == [0, 1, 2], "no further slice is read"
    assert job_files(saved) == []
    assert saved.run is None
    assert train(saved).number == 1


@pytest.mark.parametrize("what", ["image", "given"])
def test_closing_meanwhile_leaves_no_worker_and_no_half_folder(lazy, what, monkeypatch):
    started = []
    monkeypatch.setattr(FakeJob, "start", lambda job: started.append(job))
    real = Autosave.close
    monkeypatch.setattr(Autosave, "close", lambda saver: real(saver, seconds=0.3))  # the image is not there in 5 either
    volume = lazy.volume("heart")
    gated = volume.image
    if what == "given":
        volume.image.gate.set()
        gated = given(lazy)
    volume.annotation[3, 3, 3] = 2
    lazy.begin()
    until(gated.waits.is_set, lazy)
    path = lazy.folder
    lazy.close()
    assert lazy.state is SessionState.IDLE
    gated.gate.set()
    until(lambda: not threads_of_jobs())
    assert started == []
    assert not list(path.glob("rounds/*"))
    stored = SliceArray(path / "annotations/heart.zarr", 0).open()[:]
    assert np.array_equal(stored, volume.annotation)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_worker_that_was_started_a_moment_ago_is_ended(saved, how):
    saved.begin()
    until(lambda: saved._starter._is_launched, saved)
    until(lambda: saved._starter._background.is_idle)
    assert saved.state is SessionState.PREPARING, "nobody has told yet"
    if how == "close":
        path = saved.folder
        saved.close()
        again = reopen(path)
        assert [past.number for past in again.rounds] == [1], "it is known, and ended"
        assert again.rounds[0].outcome is not None
        again.close()
        return
    saved.stop()
    assert saved.state is SessionState.STOPPING
    assert saved.rounds[0].job.folder.cancel_file.exists()
    saved.rounds[0].job.say(Cancelled())
    begun(saved)
    assert saved.rounds[0].outcome.type == "cancelled"


def test_what_cannot_be_saved_is_not_trained_on(saved, settle, monkeypatch):
    why = []
    saved.not_begun.connect(why.append)

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SliceArray, "write", refuse)
    saved.mark_dirty("heart")
    saved.begin()
    begun(saved)
    assert [error.strerror for error in why] == ["No space left on device"]
    assert job_files(saved) == []
    with pytest.raises(OSError, match="No space left"):
        saved.start()
    monkeypatch.undo()
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)
    assert saved.start().number == 1


def test_a_job_that_cannot_be_written_leaves_nothing(saved, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("napari_mlbseg.jobs.folder.write_atomically", refuse)
    with pytest.raises(PermissionError):
        saved.start()
    assert saved.state is SessionState.IDLE
    assert job_files(saved) == []
    monkeypatch.undo()
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)
    assert saved.start().number == 1


def test_one_at_a_time(lazy, tmp_path):
    lazy.volume("heart").image.gate.set()
    train(lazy)
    lazy.volume("heart").image.gate.clear()
    given(lazy, behind=0)
    lazy.begin()
    for act in (lazy.begin, lazy.begin_check, lazy.start, lambda: lazy.restore(1), lambda: lazy.delete_round(1)):
        with pytest.raises(RuntimeError, match="stop it first"):
            act()
    with pytest.raises(SessionError, match="stop it or wait"):
        lazy.save_as(tmp_path / "elsewhere")
    assert not lazy.runs_elsewhere
    lazy.volume("heart").initial_labels.gate.set()


def test_where_somebody_looked_meanwhile_is_told_to_the_worker(saved):
    labels = given(saved)
    saved.begin(focus=("heart", 1))
    until(labels.waits.is_set, saved)
    saved.look_at("heart", 4)
    labels.gate.set()
    begun(saved)
    assert saved.rounds[0].task.volumes[0].focus == 1
    assert saved.rounds[0].job.folder.focus() == ("heart", 4)


def nan_everywhere(image):
    image[:] = np.nan


def nan_on_the_clean_slice(image):
    image[1] = np.nan


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nan_everywhere, "The image 'heart' holds no number, only NaN: choose another image."),
        (nan_on_the_clean_slice, "Slice 1 of 'heart' is marked clean but its image holds only NaN: unmark it."),
    ],
)
def test_an_image_without_numbers_is_refused_in_the_same_words(tmp_path, spoil, words, is_lazy):
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    volume = make_volume(clean={1, 4})
    spoil(volume.image)
    volume.image = Gated(volume.image, behind=9) if is_lazy else volume.image
    session.set_volume(volume)
    why = []
    session.not_begun.connect(why.append)
    if is_lazy:
        session.begin()
        begun(session)
        assert [str(error) for error in why] == [words]
        assert isinstance(why[0], TaskError)
        assert threading.main_thread().name not in volume.image.threads
    else:
        with pytest.raises(TaskError) as caught:
            session.begin()
        assert str(caught.value) == words
    assert session.state is SessionState.IDLE
    assert job_files(session) == []
    session.close()


def test_an_image_that_cannot_be_computed_is_a_sentence(saved):
    class Broken(Gated):
        def __getitem__(self, key):
            if slice_of(key) == 3:
                raise KeyError("a layer of somebody's library")
            return self.array[key]

    volume = saved.volume("heart")
    saved.set_volumes([replace(volume, image=Broken(volume.image))])
    with pytest.raises(SessionError, match=r"Slice 3 of the image 'heart' cannot be read .* mend the image"):
        saved.start()
    assert saved.state is SessionState.IDLE
    assert job_files(saved) == []


def test_of_a_huge_annotation_the_clean_slices_are_compared_at_the_click(saved, settle, monkeypatch):
    monkeypatch.setattr("napari_mlbseg.session.persistence.autosave._SWEPT_BYTES", 0)
    volume = saved.volume("heart")
    saved.mark_dirty("heart")
    settle(saved)
    volume.annotation[1, 0, 0] = 7  # by a script that tells nobody
    started = saved.start()
    assert started.task.class_values == (0, 2, 7)
    assert opened(started).labels[1][0, 0] == 7
    expected = combined_digest([slice_digest(plane) for plane in volume.annotation])
    assert list(started.record.checksums.values()) == [expected]


def test_marks_made_meanwhile_are_not_the_rounds(saved):
    labels = given(saved)
    saved.begin()
    until(labels.waits.is_set, saved)
    saved.set_clean("heart", 4, True)
    saved.config = saved.config.updated(seed=99)
    labels.gate.set()
    begun(saved)
    assert saved.rounds[0].n_clean == 1
    assert opened(saved.rounds[0]).clean.tolist() == [z == 1 for z in range(6)]
    assert saved.rounds[0].task.config.seed != 99
    assert saved.volume("heart").clean == {1, 4}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_while_it_is_prepared_nothing_is_lost_and_no_round_is_there(tmp_path):
    path = tmp_path / "heart.mlbseg"
    script = f"""
        import os, signal, sys, threading, time
        sys.path.insert(0, {str(tmp_path)!r})
        from volumes import AT_MOST, Gated, make_volume
        from napari_mlbseg.session import SegmentationSession
        session = SegmentationSession({str(path)!r})
        session.config = session.config.updated(initial_labels="given")
        volume = make_volume(clean=(1, 4))
        volume.initial_labels = Gated(volume.annotation.copy(), behind=2)
        session.set_volume(volume)
        session.begin()
        while not volume.initial_labels.waits.is_set():
            session.poll()
        volume.annotation[5, 2, 2] = 2
        session.mark_dirty("heart", 5)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            session.poll()
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    sources = "\n".join(textwrap.dedent(inspect.getsource(each)) for each in (make_volume, slice_of, Gated))
    (tmp_path / "volumes.py").write_text(
        "from __future__ import annotations\nimport threading\nimport numpy as np\n"
        f"from napari_mlbseg.session import AnnotatedVolume, SliceMarks\nAT_MOST = 20.0\n{sources}"
    )
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert answer.returncode == -9, answer.stderr
    half = path / "rounds" / "001"
    assert (half / "inputs").exists()
    assert not (half / "request.json").exists()
    session = reopen(path)
    assert session.state is SessionState.IDLE
    assert session.rounds == session.lost_rounds == []
    expected = make_volume().annotation
    expected[5, 2, 2] = 2
    assert np.array_equal(session.volume("heart").annotation, expected)
    assert session.volume("heart").clean == {1, 4}
    (half / "left over").touch()
    session.config = session.config.updated(initial_labels="interpolation")
    assert train(session).number == 1
    assert not (half / "left over").exists()
    session.close()
