"""Layers are given pixels of another shape after a round, by a crop, say: that is told, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mlbseg.events import Finished, FinishReason, Preview, Stage
from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.docks.curves import CurvesDock
from napari_mlbseg.viewer.docks.inspector import WeightInspectorDock
from tests.gui.gui_actions import make_ready, press_train

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]

SHAPES = [(8, 48, 40), (20, 48, 40), (12, 30, 40), (48, 40), (2, 12, 48, 40)]


@pytest.fixture
def reviewed(heart, wait_for):
    """A viewer with a finished round and its results, every kind of which is shown: (viewer, dock, annotation)."""
    viewer, dock, annotation = heart
    viewer.window.add_dock_widget(WeightInspectorDock(viewer), area="right")
    viewer.window.add_dock_widget(CurvesDock(viewer), area="right")
    job = make_ready(dock, annotation)
    arrays = {"pseudo_labels": 1, "probability": 0.5, "weight_initial": 0.5, "weight_pseudo": 0.5, "view_agreement": 1}
    job.write("heart", tuple(range(12)), **arrays)
    statistics = {"uncertainty": tuple(map(float, range(12))), "doubt": (0.5,) * 12}
    job.say(Preview(volume="heart", slices=tuple(range(12)), arrays=(), stage=Stage.TRAIN, statistics=statistics))
    job.say(Finished(reason=FinishReason.STEPS, steps=3, seconds=1))
    wait_for(lambda: dock.controller.session.state is SessionState.IDLE)
    for box in dock.results.boxes.values():
        if box.isEnabled() and not box.isChecked():
            box.click()
    wait_for(lambda: dock.controller.reviewer.has_prediction())
    dock.controller.workspace.go_to(10)
    return viewer, dock, annotation


def use_everything(viewer, dock) -> None:
    """Scroll, and press whatever can be pressed."""
    controller = dock.controller
    for z in range(viewer.dims.nsteps[0]):
        viewer.dims.set_current_step(0, z)
    buttons = (dock.review.accept, dock.review.reject, dock.review.go, dock.review.skip)
    for button in (*buttons, dock.clean.before, dock.clean.after, *dock.results.boxes.values(), dock.rounds.restore):
        button.click()
    controller.mark_clean(True)
    controller.next_suggestion()
    controller.workspace.turn_view()
    controller.session.save()
    for _ in range(3):
        controller._on_tick()


def test_an_image_of_another_shape_is_told_in_a_sentence(reviewed):
    viewer, dock, annotation = reviewed
    controller, image = dock.controller, viewer.layers["heart"]
    painted, before = annotation.data.copy(), image.data
    for shape in SHAPES:
        image.data = np.random.default_rng(0).random(shape).astype(np.float32)
        assert "choose an annotation of the image's shape" in dock.train.complaint.text()
        use_everything(viewer, dock)
        press_train(dock)
        assert "press New" in dock.train.complaint.text()
        assert np.array_equal(annotation.data, painted)
        image.data = before
        assert controller.workspace.current.annotation is annotation, "with the pixels of before, they are a pair again"
        assert 3 in controller.workspace.clean_slices(controller.workspace.current)
        assert np.array_equal(controller.session.volume("heart").annotation, painted)
    use_everything(viewer, dock)
    press_train(dock)
    assert controller.session.state is SessionState.RUNNING, dock.train.complaint.text()


def test_an_annotation_of_another_shape_is_told_in_a_sentence(reviewed, wait_for):
    viewer, dock, annotation = reviewed
    painted = annotation.data.copy()
    annotation.data = painted[:8]
    assert "12 x 48 x 40" in dock.train.complaint.text()
    use_everything(viewer, dock)
    press_train(dock)
    assert "press New" in dock.train.complaint.text()
    dock.data.volume_rows[0].restore.click()
    wait_for(lambda: dock.controller.workspace.current.annotation is not None)
    assert np.array_equal(dock.controller.workspace.current.annotation.data, painted)
    assert 3 in dock.controller.workspace.clean_slices(dock.controller.workspace.current)
