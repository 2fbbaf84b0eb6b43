"""The click on Train with an image that takes long to compute: the window goes on, and says how far it is."""

from __future__ import annotations

import threading

import dask.array
import numpy as np
import pytest

from napari_mlbseg.session import SessionState
from tests.gui.gui_actions import until_begun

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]

AT_MOST = 20.0  # seconds


class Filtered:
    """The result of a filter, as a dask array; while the gate is closed, slices from the third on are not there."""

    def __init__(self, image: np.ndarray) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waits = threading.Event()

        def compute(block: np.ndarray, block_info=None) -> np.ndarray:
            if block_info and block_info[0]["array-location"][0][0] >= 2 and not self.gate.is_set():
                self.waits.set()
                assert self.gate.wait(AT_MOST), "the gate was never opened"
            return block

        stack = dask.array.from_array(image, chunks=(1, *image.shape[1:]))
        self.array = stack.map_blocks(compute, dtype=image.dtype, meta=np.empty((0, 0, 0), image.dtype))


@pytest.fixture
def filtered(open_dock, make_napari_viewer, image):
    """A window on such an image, a slice painted and marked clean: (viewer, dock, annotation, what was computed)."""
    made = Filtered(image)
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(made.array, name="heart", contrast_limits=(0, 200))
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    annotation = viewer.layers["heart annotation"]
    annotation.data[1, 10:20, 10:20] = 1
    dock.controller.workspace.go_to(1)
    dock.controller.mark_clean(True, 1)
    made.gate.clear()
    yield viewer, dock, annotation, made
    made.gate.set()


def test_the_window_goes_on_and_says_how_far_the_copying_is(filtered, wait_for, monkeypatch):
    monkeypatch.setattr("napari_mlbseg.session.persistence.volume_store._BATCH_SECONDS", 0.0)
    viewer, dock, annotation, made = filtered
    session = dock.controller.session
    dock.train.button.click()
    assert session.state is SessionState.PREPARING
    assert dock.train.button.text() == "S&top"
    assert dock.train.bar.isVisible()
    assert not dock.rounds.check.isEnabled()
    wait_for(lambda: dock.train.stage.text() == "Copying the image: slice 3 of 12", AT_MOST)
    assert (dock.train.bar.value(), dock.train.bar.maximum()) == (2, 12)
    annotation.paint((1, 40, 30), 1)
    viewer.layers["heart"].name = "filtered heart"  # a person goes on working
    painted = annotation.data.copy()
    wait_for(lambda: session._autosave.is_saved, AT_MOST)
    made.gate.set()
    until_begun(dock)
    assert session.state is SessionState.RUNNING
    assert dock.train.complaint.text() == ""
    job = session.current_round.job
    assert job.folder.open_task(job.folder.read_request()).volumes[0].labels[1][40, 30] == 0
    assert painted[1, 40, 30] == 1
    assert np.array_equal(annotation.data, painted)
    job.write("heart", (4,), pseudo_labels=1)
    wait_for(lambda: "filtered heart pseudo-labels" in viewer.layers, AT_MOST)


def test_stop_before_it_begins(filtered, wait_for):
    _, dock, _, made = filtered
    session = dock.controller.session
    dock.train.button.click()
    wait_for(made.waits.is_set, AT_MOST)
    dock.controller.files.open(session.folder.with_name("other.mlbseg"))
    assert "stop it first" in dock.train.complaint.text()
    dock.train.button.click()
    wait_for(lambda: session.state is SessionState.IDLE, AT_MOST)
    assert dock.train.button.text() == "&Train"
    assert dock.train.stage.text() == "Stopped before it began."
    assert not dock.train.bar.isVisible()
    assert session.rounds == []
    made.gate.set()
    dock.train.button.click()
    until_begun(dock)
    assert session.current_round.number == 1


def test_an_image_that_turns_out_to_hold_no_number_is_a_sentence(open_dock, wait_for):
    viewer, dock = open_dock()
    nothing = dask.array.full((5, 32, 32), np.nan, dtype=np.float32, chunks=(1, 32, 32))
    viewer.add_image(nothing, name="heart", contrast_limits=(0, 1))
    dock.data.volume_rows[0].new.click()
    viewer.layers["heart annotation"].data[2, 4:9, 4:9] = 1
    dock.controller.mark_clean(True, 2)
    dock.train.button.click()
    assert dock.train.complaint.text() == "", "nobody has looked yet"
    until_begun(dock)
    assert dock.train.complaint.text() == "The image 'heart' holds no number, only NaN: choose another image."
    assert dock.train.button.text() == "&Train"
    assert not dock.train.bar.isVisible()


def test_the_window_can_be_closed_meanwhile(filtered, wait_for, monkeypatch):
    viewer, dock, _, made = filtered
    controller = dock.controller
    controller.workspace.set_initial_labels(
        controller.workspace.bindings[0], viewer.add_labels(made.array.astype(np.uint8), name="given")
    )
    controller.session.config = controller.session.config.updated(initial_labels="given")
    dock.train.button.click()
    assert controller.session.state is SessionState.PREPARING
    folder = controller.session.folder
    viewer.window.remove_dock_widget(dock)
    wait_for(lambda: controller.is_closed, AT_MOST)
    made.gate.set()
    assert controller.session.state is SessionState.IDLE
    wait_for(lambda: not any(thread.name == "mlbseg-beginning" for thread in threading.enumerate()), AT_MOST)
    assert not list(folder.glob("rounds/*"))
