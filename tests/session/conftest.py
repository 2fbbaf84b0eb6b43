"""Volumes and sessions for tests without a window, and a worker that the test plays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_mlbseg.events import Event, Finished, FinishReason, Preview, Stage
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import ZarrResults
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session import AnnotatedVolume, Round, SegmentationSession, SliceMarks
from napari_mlbseg.session.persistence.loader import load_session


def make_volume(name="heart", slice_axis=0, clean=(), **options) -> AnnotatedVolume:
    """A stack of six slices along `slice_axis`, one structure on slices 1 and 4."""
    shape = [16, 20]
    shape.insert(slice_axis, 6)
    annotation = np.zeros(shape, dtype=np.uint8)
    for z in (1, 4):
        annotation[tuple(z if axis == slice_axis else slice(3, 9) for axis in range(3))] = 2
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    marks = SliceMarks(clean=set(clean))
    return AnnotatedVolume(name=name, image=image, annotation=annotation, slice_axis=slice_axis, marks=marks, **options)


class FakeJob(LocalJob):
    """A job without a process: the test says what its worker says, in the real job folder."""

    def start(self) -> None:
        self._state = JobState.RUNNING

    def _is_alive(self) -> bool:
        return True

    def kill(self) -> None:
        self.say(Finished(reason=FinishReason.STEPS, steps=0, seconds=0))

    def say(self, *events: Event) -> None:
        for event in events:
            self.folder.append_event(event)

    def predict(self, value: int, slices=range(6)) -> None:
        """Fill the pseudo-labels of every volume with a label, as a finished training does."""
        task = self.folder.open_task(self.folder.read_request())
        results = ZarrResults(self.folder, task)
        for volume in task.volumes:
            for z in slices:
                results[volume.name]["pseudo_labels"][z] = value
            arrays, numbers = ("pseudo_labels",), tuple(slices)
            self.say(Preview(volume=volume.name, slices=numbers, arrays=arrays, stage=Stage.PREDICT))
        self.say(Finished(reason=FinishReason.STEPS, steps=3, seconds=2.5))


@pytest.fixture
def fake_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions start jobs whose worker the test plays; what was started before is attached to as it is."""
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)


@pytest.fixture
def settle() -> Callable[[SegmentationSession], None]:
    """Poll until everything is compared, saved and told."""

    def wait(session: SegmentationSession, seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while True:
            session.poll()
            saver = session._autosave
            if saver is None or (saver.is_saved and saver.background.is_idle):
                session.poll()
                return
            assert time.monotonic() < end, "it was not saved in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[SegmentationSession]:
    """A session with one volume, in ``heart.mlbseg``."""
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    session.set_volume(make_volume(clean={1}))
    yield session
    session.close()


def reopen(path: Path) -> SegmentationSession:
    """The session in a folder, as another process finds it."""
    session = SegmentationSession()
    session.load(load_session(path))
    return session


def train(session: SegmentationSession, value: int = 2) -> Round:
    """A round whose prediction is one label everywhere."""
    started = session.start()
    started.job.predict(value)
    session.poll()
    return started
