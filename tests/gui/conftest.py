"""A display for the tests of the window, and a job whose worker is the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from napari_mlbseg.events import Event, Preview, Stage, is_terminal
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import JobFolder, ZarrResults
from napari_mlbseg.task import SegmentationTask

N_SLICES, HEIGHT, WIDTH = 12, 48, 40


@pytest.fixture(scope="session", autouse=True)
def display() -> Iterator[None]:
    """A virtual X server where there is no screen; where there can be none, the tests are skipped and say why."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        yield
        return
    if shutil.which("Xvfb") is None:
        pytest.skip("There is no display, and Xvfb is not installed: install it (package xvfb) to test the window.")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1600x1000x24"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as numbers:
        os.environ["DISPLAY"] = f":{numbers.readline().strip()}"
    yield
    server.terminate()
    server.wait()


class FakeJob:
    """A job without a process: the test writes its events and arrays into a real job folder."""

    def __init__(self, path: os.PathLike[str], task: SegmentationTask, **options: object) -> None:
        self.folder = JobFolder(path)
        self.folder.write_request(task, **options)
        self.task = task
        self.results = ZarrResults(self.folder, task)
        self.state = JobState.CREATED
        self.looked_at: list[tuple[str, int]] = []
        self.cancelled = False
        self._unread: list[Event] = []

    @classmethod
    def create(cls, path: os.PathLike[str], task: SegmentationTask, **options: object) -> FakeJob:
        return cls(path, task, **options)

    def start(self) -> None:
        self.state = JobState.RUNNING

    def poll(self) -> list[Event]:
        events, self._unread = self._unread, []
        if events and is_terminal(events[-1]):
            self.state = JobState.FINISHED
        return events

    def cancel(self) -> None:
        self.cancelled = True

    def kill(self) -> None:
        self.state = JobState.CANCELLED

    def events(self, interval: float = 0.1) -> Iterator[Event]:
        yield from self.poll()

    def look_at(self, volume: str, z: int) -> None:
        self.looked_at.append((volume, z))

    def say(self, *events: Event) -> None:
        self._unread.extend(events)

    def write(self, volume: str, slices: tuple[int, ...], **arrays: float) -> None:
        """Fill slices of result arrays with a number and say so."""
        for name, value in arrays.items():
            target = self.results[volume][name]
            for z in slices:
                target[z] = np.full(target.shape[1:], value, dtype=target.dtype)
        self.say(Preview(volume=volume, slices=slices, arrays=tuple(arrays), stage=Stage.TRAIN))


@pytest.fixture
def fake_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions start jobs that the test plays."""
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)


@pytest.fixture
def image() -> np.ndarray:
    """A bright block in noise, (Z, Y, X)."""
    pixels = np.random.default_rng(0).normal(100, 5, (N_SLICES, HEIGHT, WIDTH)).astype(np.float32)
    pixels[2:10, 12:36, 10:30] += 60
    return pixels


@pytest.fixture
def open_dock(qtbot, make_napari_viewer) -> Callable:
    """Open a viewer with the dock; further docks get further viewers."""
    from napari_mlbseg.viewer.dock import MLBSegDock

    def open_it(viewer=None, **options):
        viewer = make_napari_viewer(strict_qt="raise", **options) if viewer is None else viewer
        dock = MLBSegDock(viewer)
        viewer.window.add_dock_widget(dock, name="MLB-Seg", area="right")
        return viewer, dock

    return open_it


@pytest.fixture
def heart(open_dock, make_napari_viewer, image):
    """A visible viewer with an image, a new annotation and the dock: (viewer, dock, annotation)."""
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    return viewer, dock, viewer.layers["heart annotation"]


@pytest.fixture
def wait_for(qtbot) -> Callable:
    """Run the event loop until something is true."""

    def wait(condition: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            qtbot.wait(20)

    return wait
