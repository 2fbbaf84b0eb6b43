"""The whole way with the real worker: paint, mark, train, look, die, train again."""

from __future__ import annotations

import hashlib
import os
import signal
import sys

import numpy as np
import psutil
import pytest

from napari_mlbseg.events import Failed, Preview, Stage
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.demo import clean_slices
from napari_mlbseg.viewer.layers.binding import METADATA_KEY
from tests.gui.gui_actions import press_train

pytestmark = [pytest.mark.gui, pytest.mark.slow]

SECONDS = 15
AT_MOST = 240  # seconds, on a machine that does other things too
#: A training whose length and result do not depend on how busy the machine is. What is seen first are interpolated
#: labels, then those propagated along the image, then what the network makes of them.
BY_STEPS = {
    "time_budget": None,
    "bootstrap_steps": 60,
    "steps": 4,
    "n_views": 2,
    "n_views_predict": 2,
    "preview_interval": 0.2,
}


@pytest.fixture
def atrium(open_dock, make_napari_viewer):
    """A dock on a small phantom, five slices painted and marked clean: (viewer, dock, phantom, clean)."""
    phantom = make_phantom((16, 48, 56), seed=1)
    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(phantom.image, name="atrium", scale=phantom.spacing, units=("mm",) * 3)
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    clean = clean_slices(phantom.labels)
    annotation = viewer.layers["atrium annotation"]
    annotation.data[list(clean)] = 4 * phantom.labels[list(clean)]
    for z in clean:
        dock.controller.workspace.go_to(z)
        dock.clean.mark.click()
    session = dock.controller.session
    session.config = session.config.updated(time_budget=SECONDS, preview_interval=0.5, device="cpu")
    return viewer, dock, phantom, clean


def shown_results(viewer):
    return {layer.metadata[METADATA_KEY]["result"]: layer for layer in viewer.layers if METADATA_KEY in layer.metadata}


def dice(found, truth):
    return 2 * (found & truth).sum() / max(1, found.sum() + truth.sum())


def test_layers_come_improve_and_leave_the_painted_voxels_alone(atrium, wait_for):
    viewer, dock, phantom, clean = atrium
    annotation = viewer.layers["atrium annotation"]
    before = hashlib.sha256(annotation.data.tobytes()).hexdigest()
    session = dock.controller.session
    session.config = session.config.updated(**BY_STEPS)
    others = np.setdiff1d(np.arange(len(phantom.labels)), clean)
    truth = phantom.labels > 0
    first_looks = []  # Dice of what the layer showed first

    def look(event):
        if isinstance(event, Preview) and not first_looks:
            assert event.stage is Stage.INITIAL_LABELS
            dock.controller.results.flush()
            found = np.asarray(viewer.layers["atrium pseudo-labels"].data)[others] > 0
            first_looks.append(dice(found, truth[others]))

    session.event_received.connect(look)
    dock.controller.workspace.go_to(int(others[len(others) // 2]))  # the slice in view comes first
    press_train(dock)
    assert dock.train.complaint.text() == ""
    wait_for(lambda: "atrium pseudo-labels" in viewer.layers, AT_MOST)
    wait_for(lambda: session.state is SessionState.IDLE, AT_MOST)
    wait_for(lambda: dock.results.boxes["label_doubt"].isEnabled(), 20)
    assert dock.train.complaint.text() == ""

    assert set(shown_results(viewer)) == {"pseudo_labels", "weight_initial", "weight_pseudo"}
    for key in ("initial_labels", "probability", "preference", "initial_doubt", "label_doubt"):
        dock.results.boxes[key].click()
    shown = shown_results(viewer)
    assert set(shown) == {
        "pseudo_labels", "initial_labels", "probability", "weight_initial", "weight_pseudo", "preference",
        "initial_doubt", "label_doubt",
    }  # fmt: skip
    final = np.asarray(shown["pseudo_labels"].data)
    assert set(np.unique(final)) <= {0, 4}, "the user's label numbers"
    assert dice(final[others] > 0, truth[others]) > first_looks[0] + 0.02, "better than the interpolation seen first"
    assert np.asarray(shown["weight_initial"].data).max() > 0
    assert np.abs(np.asarray(shown["preference"].data)).max() <= 1
    assert hashlib.sha256(annotation.data.tobytes()).hexdigest() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_is_explained_and_the_next_training_works(atrium, wait_for):
    viewer, dock, _, _ = atrium
    session = dock.controller.session
    press_train(dock)
    wait_for(lambda: len(session.current_round.events) > 0, AT_MOST)
    os.kill(session.current_round.job.pid, signal.SIGKILL)
    wait_for(lambda: session.state is SessionState.IDLE, 10)
    assert isinstance(session.current_round.outcome, Failed)
    assert "killed" in dock.train.complaint.text()
    assert "Traceback" not in dock.train.complaint.text()
    viewer.layers["atrium annotation"].paint((3, 5, 5), 4)  # the window is usable
    press_train(dock)
    wait_for(lambda: "atrium pseudo-labels" in viewer.layers, AT_MOST)
    dock.train.button.click()
    wait_for(lambda: session.state is SessionState.IDLE, 30)
    assert session.current_round.number == 2
    assert "kept" in dock.train.stage.text()


def test_a_device_that_is_not_there_is_a_sentence(atrium, wait_for):
    _, dock, _, _ = atrium
    session = dock.controller.session
    missing = "mps" if sys.platform != "darwin" else "cuda"
    session.config = session.config.updated(device=missing)
    press_train(dock)
    wait_for(lambda: session.state is SessionState.IDLE, AT_MOST)
    sentence = dock.train.complaint.text()
    assert missing in sentence
    assert "choose" in sentence
    assert "Traceback" not in sentence


def test_closing_the_window_ends_the_worker(atrium, wait_for):
    viewer, dock, _, _ = atrium
    press_train(dock)
    worker = psutil.Process(dock.controller.session.current_round.job.pid)
    assert worker.is_running()
    viewer.window.remove_dock_widget(dock)
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 10)
