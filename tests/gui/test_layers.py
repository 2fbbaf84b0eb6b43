"""Results become layers: where they lie, what they show, and that nothing else is touched."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from napari_mlbseg.events import Finished, FinishReason
from napari_mlbseg.viewer.layers.binding import METADATA_KEY
from tests.gui.gui_actions import press_train

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]

ALL = {"pseudo_labels": 1, "initial_labels": 1, "probability": 0.5, "weight_initial": 0.5, "weight_pseudo": 1.5}
DONE = Finished(reason=FinishReason.TIME, steps=1, seconds=1)


@pytest.fixture
def trained(open_dock, make_napari_viewer, image, wait_for):
    """Start a round on an image; gives (viewer, dock, job)."""

    def begin(pixels=image, clean=(3, 8), slice_axis=0, **options):
        viewer = make_napari_viewer(strict_qt="raise")
        viewer.add_image(pixels, name="heart", **options)
        _, dock = open_dock(viewer)
        dock.data.slice_axis.setCurrentIndex(slice_axis)
        dock.data.slice_axis.activated.emit(slice_axis)
        dock.data.volume_rows[0].new.click()
        annotation = viewer.layers["heart annotation"]
        for z in clean:
            annotation.data[tuple(z if axis == slice_axis else slice(8, 16) for axis in range(3))] = 3
            dock.controller.workspace.go_to(z)
            dock.clean.mark.click()
        press_train(dock)
        assert dock.train.complaint.text() == ""
        return viewer, dock, dock.controller.session.current_round.job

    return begin


def result(viewer, key):
    return next(layer for layer in viewer.layers if layer.metadata.get(METADATA_KEY, {}).get("result") == key)


def n_results(viewer):
    return sum(METADATA_KEY in layer.metadata for layer in viewer.layers)


def tick_all(dock):
    for box in dock.results.boxes.values():
        if box.isEnabled() and not box.isChecked():
            box.click()


def test_layers_come_with_the_first_preview_beneath_the_annotation(trained, wait_for):
    viewer, dock, job = trained()
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1, 1)
    names = [layer.name for layer in viewer.layers]
    assert names == ["heart", "heart pseudo-labels", "heart annotation"]
    assert viewer.layers.selection.active.name == "heart annotation"
    assert viewer.layers.selection.active.mode == "paint"  # a stroke can go on
    shown = result(viewer, "pseudo_labels")
    assert shown.visible
    assert shown.data[8].min() == 3
    assert shown.data[7].max() == 0
    assert dock.results.boxes["pseudo_labels"].isChecked()


def test_results_carry_the_transform_the_units_and_the_axis_labels(trained, wait_for):
    transform = {
        "scale": (2.5, 0.6, 0.7),
        "translate": (10, -20, 30),
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
        "affine": np.array([[1, 0, 0, 4], [0, 0, 1, 5], [0, -1, 0, 6], [0, 0, 0, 1]], dtype=float),
    }
    viewer, dock, job = trained(**transform)
    job.write("heart", (3,), **ALL)
    wait_for(lambda: n_results(viewer) == 3)
    tick_all(dock)
    assert n_results(viewer) == 6
    source = viewer.layers["heart"]
    for layer in viewer.layers:
        assert np.array_equal(layer.data_to_world((1, 2, 3)), source.data_to_world((1, 2, 3)))
        assert layer.units == source.units
        assert layer.axis_labels == source.axis_labels
    assert viewer.layers["heart annotation"].data.shape == source.data.shape
    assert job.task.volumes[0].spacing == pytest.approx((2.5, 0.6, 0.7))
    assert job.task.volumes[0].unit == "millimeter"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_slice_axis(trained, wait_for, axis):
    viewer, _dock, job = trained(slice_axis=axis)
    assert job.task.volumes[0].clean_slices == (3, 8)
    job.results["heart"]["pseudo_labels"][5, 1, 2] = 3
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    shown = np.asarray(result(viewer, "pseudo_labels").data)
    assert shown.shape == viewer.layers["heart"].data.shape
    assert set(np.unique(np.take(shown, 8, axis))) == {3}
    place = np.argwhere(np.moveaxis(shown, axis, 0) == 3)
    assert [5, 1, 2] in place.tolist()


def test_updated_in_place_round_after_round(trained, wait_for):
    viewer, dock, job = trained()
    job.write("heart", (3, 8), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    first = result(viewer, "pseudo_labels")
    job.write("heart", (8,), pseudo_labels=0)
    wait_for(lambda: first.data[8].max() == 0)
    job.say(DONE)
    wait_for(lambda: dock.train.button.text() == "&Train")
    press_train(dock)
    second_job = dock.controller.session.current_round.job
    second_job.write("heart", (5,), pseudo_labels=3)
    wait_for(lambda: first.data[5].max() == 3)
    assert result(viewer, "pseudo_labels") is first
    assert n_results(viewer) == 1
    assert first.data[3].min() == 3, "a slice that the new round has not reached shows the round before"
    assert first.metadata[METADATA_KEY]["round"] == 2


def test_the_view_is_redrawn(trained, wait_for):
    viewer, dock, job = trained()
    dock.controller.workspace.go_to(8)
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    layer = result(viewer, "pseudo_labels")
    assert np.asarray(layer._slice.image.raw).min() == 3
    job.write("heart", (8,), pseudo_labels=0)
    wait_for(lambda: np.asarray(layer._slice.image.raw).max() == 0)


def test_weights_share_their_limits_and_preference_is_signed(trained, wait_for):
    viewer, dock, job = trained()
    job.write("heart", (8,), **ALL)
    wait_for(lambda: n_results(viewer) == 3)
    dock.results.boxes["preference"].click()
    initial, pseudo = result(viewer, "weight_initial"), result(viewer, "weight_pseudo")
    assert initial.contrast_limits == pseudo.contrast_limits
    assert initial.blending == pseudo.blending == "additive"
    preference = result(viewer, "preference")
    assert preference.data[8] == pytest.approx(0.5)  # (1.5 - 0.5) / (1.5 + 0.5)
    assert preference.data[0] == pytest.approx(0)  # no weight at all: neither
    shown = {layer.name for layer in viewer.layers if layer.visible and METADATA_KEY in layer.metadata}
    assert shown == {"heart pseudo-labels", "heart preference"}


def test_label_numbers_and_colours_are_the_users(trained, wait_for):
    viewer, _dock, job = trained()
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    assert np.array_equal(result(viewer, "pseudo_labels").get_color(3), viewer.layers["heart annotation"].get_color(3))
    assert job.task.class_values == (0, 3)


def test_results_cannot_be_painted_and_the_annotation_stays_byte_identical(trained, wait_for):
    viewer, dock, job = trained()
    annotation = viewer.layers["heart annotation"]
    before = hashlib.sha256(annotation.data.tobytes()).hexdigest()
    array = annotation.data
    job.write("heart", (3, 8), **ALL)
    wait_for(lambda: n_results(viewer) == 3)
    shown = result(viewer, "pseudo_labels")
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    assert not shown.editable
    shown.undo()
    with pytest.raises(TypeError):
        shown.data[8, 0, 0] = 1
    job.say(DONE)
    wait_for(lambda: dock.train.button.text() == "&Train")
    assert annotation.data is array
    assert hashlib.sha256(annotation.data.tobytes()).hexdigest() == before


def test_a_deleted_result_comes_back_when_ticked(trained, wait_for):
    viewer, dock, job = trained()
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    viewer.layers.remove(result(viewer, "pseudo_labels"))
    job.write("heart", (9,), pseudo_labels=3)
    job.say(DONE)
    wait_for(lambda: dock.train.button.text() == "&Train")
    assert n_results(viewer) == 0, "deleted by the user: stays away"
    assert not dock.results.boxes["pseudo_labels"].isChecked()
    dock.results.boxes["pseudo_labels"].click()
    assert result(viewer, "pseudo_labels").data[9].min() == 3


def test_checkboxes_follow_the_eye_of_the_layer_list(trained, wait_for):
    viewer, dock, job = trained()
    job.write("heart", (8,), **ALL)
    wait_for(lambda: n_results(viewer) == 3)
    dock.results.boxes["weight_pseudo"].click()
    assert result(viewer, "weight_pseudo").visible
    result(viewer, "weight_pseudo").visible = False
    assert not dock.results.boxes["weight_pseudo"].isChecked()


def test_the_slice_in_view_is_named_to_the_worker(trained, wait_for):
    viewer, _dock, job = trained()
    viewer.dims.set_point(0, 6)
    wait_for(lambda: job.looked_at and job.looked_at[-1] == ("heart", 6))


def test_two_images_are_one_task_with_layers_each(open_dock, make_napari_viewer, image, wait_for):
    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(image, name="first")
    viewer.add_image(image[:7] + 1, name="second")
    viewer.layers.selection.active = viewer.layers["first"]
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    dock.data.add.click()
    assert [row.image.value().name for row in dock.data.volume_rows] == ["first", "second"]
    viewer.layers["first annotation"].data[3, 4:9, 4:9] = 1
    viewer.layers.selection.active = viewer.layers["first annotation"]
    dock.controller.workspace.go_to(3)
    dock.clean.mark.click()
    press_train(dock)
    assert dock.train.complaint.text() == ""
    job = dock.controller.session.current_round.job
    assert [volume.name for volume in job.task.volumes] == ["first", "second"]
    job.write("second", (2,), pseudo_labels=1)
    job.write("first", (3,), pseudo_labels=1)
    wait_for(lambda: n_results(viewer) == 2)
    assert viewer.layers["second pseudo-labels"].data.shape == (7, *image.shape[1:])
    assert viewer.layers["second pseudo-labels"].data[2].min() == 1
    assert viewer.layers["first pseudo-labels"].data[2].max() == 0
    assert [layer.name for layer in viewer.layers][-1] == "first annotation", "what is painted on stays on top"


def test_rgb_images_give_three_channels(trained, wait_for):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 48, 40, 3), dtype=np.uint8)
    viewer, _dock, job = trained(pixels=pixels, rgb=True)
    assert job.task.n_channels == 3
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    assert result(viewer, "pseudo_labels").data.shape == (12, 48, 40)


def test_renamed_and_deleted_layers_while_it_runs(trained, wait_for):
    viewer, dock, job = trained()
    viewer.layers["heart"].name = "atrium"
    assert [volume.name for volume in dock.controller.session] == ["atrium"]
    job.write("heart", (8,), pseudo_labels=3)
    wait_for(lambda: n_results(viewer) == 1)
    viewer.layers.remove("atrium")
    wait_for(lambda: dock.data.volume_rows[0].image.value() is None)
    job.write("heart", (9,), pseudo_labels=3)
    job.say(DONE)
    wait_for(lambda: dock.train.button.text() == "&Train")
    press_train(dock)
    assert "image" in dock.train.complaint.text()


def test_several_new_layers_are_made_one_at_a_tick_so_that_the_window_stays_alive(trained):
    viewer, dock, job = trained()
    job.write("heart", (8,), **ALL)
    seen = []
    for _ in range(8):
        dock.controller._on_tick()
        seen.append(n_results(viewer))
    assert seen == [1, 2, 3, 3, 3, 3, 3, 3]


def test_other_results_become_layers_once_they_are_ticked(trained, wait_for):
    viewer, dock, job = trained()
    job.write("heart", (8,), **ALL)
    wait_for(lambda: n_results(viewer) == 3)
    names = [layer.name for layer in viewer.layers]
    assert names == ["heart", "heart pseudo-labels", "heart weights wⁿ", "heart weights wᵖ", "heart annotation"]
    boxes = dock.results.boxes
    assert boxes["probability"].isEnabled(), "there is something to show"
    assert not boxes["probability"].isChecked()
    assert not boxes["label_doubt"].isEnabled()
    boxes["probability"].click()
    shown = result(viewer, "probability")
    assert shown.visible
    assert shown.data[8].max() == pytest.approx(0.5)
    assert viewer.layers.selection.active.name == "heart annotation"
    boxes["probability"].click()
    assert not shown.visible
    job.say(DONE)
    wait_for(lambda: dock.train.button.text() == "&Train")
    press_train(dock)
    dock.controller.session.current_round.job.write("heart", (8,), **{**ALL, "probability": 0.75})
    wait_for(lambda: shown.data[8].max() == 0.75)
    assert n_results(viewer) == 4, "those that were made are updated, no other is"
