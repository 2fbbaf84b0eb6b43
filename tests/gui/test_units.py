"""Layers whose units differ: the slice in view is the slice that is marked; a sample opens ready for work."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mlbseg.io import samples
from napari_mlbseg.viewer import commands
from napari_mlbseg.viewer.layers.binding import voxel_spacing

pytestmark = pytest.mark.gui


@pytest.mark.parametrize(("unit", "other", "times"), [("um", "nm", 1000), ("cm", "mm", 10), ("mm", "um", 1000)])
def test_the_slice_in_view_is_the_one_that_is_marked(open_dock, make_napari_viewer, unit, other, times):
    stack = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 20, 24)).copy()  # a slice holds its number
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    mine = viewer.add_image(stack, name="mine", scale=(2, 0.5, 0.5), units=(unit,) * 3)
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    annotation = viewer.layers.selection.active
    viewer.add_image(stack, name="other", scale=tuple(times * s for s in (2, 0.5, 0.5)), units=(other,) * 3)
    viewer.layers.selection.active = annotation
    viewer.dims.set_current_step(0, 5)
    assert dock.controller.workspace.current_slice == 5 == mine._slice.image.raw.flat[0]
    dock.controller.workspace.go_to(10)
    assert dock.controller.workspace.current_slice == 10 == mine._slice.image.raw.flat[0]
    annotation.data_setitem((np.array([10]), np.array([3]), np.array([3])), 1)
    dock.clean.mark.click()
    assert dock.controller.session.volume("mine").clean == {10}


def test_axes_in_different_units_have_comparable_spacing(make_napari_viewer):
    viewer = make_napari_viewer()
    layer = viewer.add_image(np.zeros((4, 5, 6)), scale=(2, 500, 500), units=("um", "nm", "nm"))
    assert voxel_spacing(layer) == pytest.approx((2000, 500, 500))


def test_a_sample_opens_ready_to_paint_on(open_dock, make_napari_viewer):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    for data, options, kind in samples.phantom():
        getattr(viewer, f"add_{kind}")(data, **options)
    _, dock = open_dock(viewer)
    controller = dock.controller
    assert controller.workspace.slice_axis == 0
    assert controller.workspace.current_slice is not None, "the view scrolls through the slices"
    row = dock.data.volume_rows[0]
    assert row.annotation.value() is None, "the truth is nobody's annotation"
    assert "phantom truth" not in [row.annotation.itemText(i) for i in range(row.annotation.count())]
    row.new.click()
    assert controller.workspace.current.annotation is viewer.layers["phantom annotation"]


def test_the_view_turns_to_the_slices_of_an_image_that_lie_along_another_axis(open_dock, make_napari_viewer):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(np.random.default_rng(0).random((20, 24, 6)), scale=(0.5, 0.5, 3), name="sagittal")
    _, dock = open_dock(viewer)
    assert dock.controller.workspace.slice_axis == 2
    assert dock.controller.workspace.current_slice is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("new_annotation", "no image to annotate"),
        ("mark_slice_clean", "no slice in view"),
        ("train", "no image"),
        ("stop", "No training is running"),
        ("next_clean_slice", "No slice is marked clean"),
        ("previous_clean_slice", "No slice is marked clean"),
        ("next_suggestion", "no slice to suggest"),
        ("accept", "no slice in view"),
        ("reject", "no slice in view"),
        ("draw_region", "no image yet"),
        ("export_session", "nothing to export"),
    ],
)
def test_every_command_says_why_it_cannot_be_done(open_dock, qtbot, name, words):
    viewer, dock = open_dock()
    said: list[str] = []
    dock.controller.complained.connect(said.append)
    getattr(commands, name)(viewer)
    qtbot.waitUntil(lambda: any(said))
    (sentence,) = filter(None, said)
    assert words in sentence
    assert ":" in sentence, "and what to do"
    assert dock.train.complaint.text() == sentence
