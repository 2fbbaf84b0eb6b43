"""The weight inspector: the same numbers as in the files of the job, whatever the axes, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import nibabel
import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QImage, QMouseEvent
from qtpy.QtWidgets import QApplication

from napari_mlbseg.events import Finished, FinishReason
from napari_mlbseg.viewer.docks.inspector import WeightInspectorDock
from napari_mlbseg.viewer.docks.registry import docks
from napari_mlbseg.viewer.layers.binding import METADATA_KEY, is_result
from napari_mlbseg.viewer.layers.map_values import SliceMeans, VolumeMaps, histogram
from napari_mlbseg.viewer.widgets.map_export import with_suffix
from tests.gui.gui_actions import press_train

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]

DONE = Finished(reason=FinishReason.TIME, steps=1, seconds=1)


@pytest.fixture
def wait_for(wait_for):
    """With patience: three layers a volume have to come first, on a machine that does other things too."""
    return partial(wait_for, seconds=20.0)


@pytest.fixture
def inspected(open_dock, make_napari_viewer, image):
    """Start a round beside an inspector; gives (viewer, dock, inspector, job)."""

    def begin(pixels=image, slice_axis=0, clean=3, **options):
        viewer = make_napari_viewer(show=True, strict_qt="raise")
        viewer.add_image(pixels, name="heart", **options)
        _, dock = open_dock(viewer)
        dock.data.slice_axis.setCurrentIndex(slice_axis)
        dock.data.slice_axis.activated.emit(slice_axis)
        dock.data.volume_rows[0].new.click()
        viewer.layers["heart annotation"].data[
            tuple(clean if axis == slice_axis else slice(8, 16) for axis in range(3))
        ] = 1
        dock.controller.mark_clean(True, clean)
        dock.controller.workspace.go_to(clean)
        inspector = WeightInspectorDock(viewer)
        viewer.window.add_dock_widget(inspector, name="Weight inspector", area="right")
        press_train(dock)
        assert dock.train.complaint.text() == ""
        return viewer, dock, inspector, dock.controller.session.current_round.job

    return begin


def write_random(job, slices, seed=0):
    """Random weights in some slices; gives them as (w^n, w^p), each (Z, Y, X)."""
    arrays = job.results["heart"]
    shape = arrays["weight_initial"].shape
    both = np.random.default_rng(seed).gamma(1, 1, (2, *shape)).astype(np.float32)
    job.write("heart", tuple(slices), weight_initial=0, weight_pseudo=0)
    for z in slices:
        arrays["weight_initial"][z], arrays["weight_pseudo"][z] = both[:, z]
    return both


def choose(inspector, key):
    inspector.kinds.setCurrentIndex(inspector.kinds.findData(key))
    inspector.kinds.activated.emit(inspector.kinds.currentIndex())


def marks(viewer):
    return [layer for layer in viewer.layers if layer.metadata.get(METADATA_KEY, {}).get("result") == "untrusted"]


def test_before_there_is_anything_it_says_when_it_will_come(inspected, wait_for):
    _, _, inspector, job = inspected()
    assert inspector.empty.isVisible()
    assert "while a training runs" in inspector.empty.text()
    assert not inspector.body.isVisible()
    job.write("heart", (3,), pseudo_labels=1)  # predictions come before weights
    job.write("heart", (3,), weight_initial=1, weight_pseudo=2)
    wait_for(lambda: inspector.body.isVisible())
    assert not inspector.empty.isVisible()
    assert inspector.headline.text() == "heart, round 1, slice 3"


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_numbers_of_the_slice_in_view_are_those_of_the_job(inspected, wait_for, qtbot, slice_axis):
    _viewer, dock, inspector, job = inspected(slice_axis=slice_axis)
    both = write_random(job, range(12))
    wait_for(lambda: inspector._means is not None and inspector._means.is_complete)
    for z in (3, 7):
        dock.controller.workspace.go_to(z)
        wait_for(lambda z=z: inspector.profile.mark.value() == z)
        initial, pseudo = both[:, z]
        for key, values in (
            ("weight_initial", initial),
            ("weight_pseudo", pseudo),
            ("preference", (pseudo - initial) / (pseudo + initial)),
        ):
            choose(inspector, key)
            low, high = inspector.kind.options["contrast_limits"]
            counts, _ = histogram(values, (low, high))
            edges, shown = inspector.counts.values("counts")
            assert (edges[0], edges[-1]) == (low, high), "the same scale whatever the slice"
            assert 10**shown == pytest.approx(np.maximum(counts, 0.5))
            numbers, means = inspector.profile.values("mean")
            assert means[numbers == z] == pytest.approx(values.mean(), abs=1e-5)


def test_scrolling_reads_the_slices_that_stay_in_view_and_does_not_draw_the_marks_again(
    inspected, wait_for, monkeypatch
):
    _, dock, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    inspector.mark.click()
    wait_for(lambda: len(list(dock.controller.results)) == 2 and not inspector._news.isActive())  # all is said
    read, redrawn = [], []
    maps_of = VolumeMaps.slice
    monkeypatch.setattr(VolumeMaps, "slice", lambda maps, z: read.append(z) or maps_of(maps, z))
    monkeypatch.setattr(inspector.untrusted, "show", lambda *arguments: redrawn.append(arguments))
    for z in range(12):
        dock.controller.workspace.go_to(z)
    wait_for(lambda: inspector.headline.text() == "heart, round 1, slice 11")
    assert read == [11]
    assert not redrawn


def test_the_pixel_under_the_cursor(inspected, wait_for):
    viewer, _dock, inspector, job = inspected(slice_axis=2, scale=(0.5, 2.0, 3.0), translate=(5, -4, 7))
    both = write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    assert inspector.pixel.text().startswith("Move the mouse"), "not the pixel that the cursor never was at"
    viewer.cursor.position = viewer.layers["heart"].data_to_world((6, 21, 3))
    initial, pseudo = both[:, 3, 6, 21]
    expected = f"Row 6, column 21:  wⁿ {initial:.2f},  wᵖ {pseudo:.2f}"
    wait_for(lambda: inspector.pixel.text().startswith(expected))
    viewer.cursor.position = (1000, 1000, 1000)
    wait_for(lambda: inspector.pixel.text().startswith("Move the mouse"))


def test_the_mouse_over_the_map_of_the_dock(inspected, wait_for, qtbot):
    _, _, inspector, job = inspected(scale=(3, 1, 1))
    both = write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    qtbot.wait(100)  # until the layouts have settled
    place = inspector.map._place()
    assert place.height() / place.width() == pytest.approx(48 / 40)
    spot = QPointF(place.left() + place.width() * 10.5 / 40, place.top() + place.height() * 20.5 / 48)
    on_screen = QPointF(inspector.map.mapToGlobal(spot.toPoint()))
    button, keys = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    event = QMouseEvent(QEvent.Type.MouseMove, spot, on_screen, button, button, keys)
    QApplication.sendEvent(inspector.map, event)  # a move of the mouse itself may end in a window on top
    wait_for(lambda: f"Row 20, column 10:  wⁿ {both[0, 3, 20, 10]:.2f}" in inspector.pixel.text())


def test_previews_are_followed_a_few_times_a_second_and_only_what_changed_is_read_again(inspected, wait_for):
    _, _dock, inspector, job = inspected()
    write_random(job, (3, 4))
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    assert inspector.profile.values("mean")[0].tolist() == [3, 4], "slices that were not weighed yet are left out"
    read = []
    reader = inspector._means._read
    inspector._means._read = lambda z: read.append(z) or reader(z)
    for value in range(20):
        job.write("heart", (4, 9), weight_initial=value, weight_pseudo=1)
    wait_for(lambda: inspector.profile.values("mean")[0].tolist() == [3, 4, 9])
    wait_for(lambda: inspector.profile.values("mean")[1][1] == 19)
    assert set(read) == {4, 9}
    assert len(read) <= 6, "not once for each of the twenty previews"


def test_another_round_shows_its_own_weights_and_those_of_the_round_before_elsewhere(inspected, wait_for):
    _, dock, inspector, job = inspected()
    job.write("heart", (3, 4), weight_initial=1, weight_pseudo=1)
    job.say(DONE)
    wait_for(lambda: inspector.profile.values("mean")[1].tolist() == [1, 1])
    wait_for(lambda: dock.train.button.text() == "&Train")
    press_train(dock)
    dock.controller.session.current_round.job.write("heart", (4,), weight_initial=2, weight_pseudo=1)
    wait_for(lambda: inspector.profile.values("mean")[1].tolist() == [1, 2])
    assert inspector.headline.text() == "heart, round 2, slice 3"


def test_a_click_on_the_profile_goes_to_the_slice(inspected, wait_for, qtbot):
    _, dock, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    plot = inspector.profile
    scene = plot.item.vb.mapViewToScene(plot.item.vb.viewRect().center())
    view = plot.view.mapFromScene(scene)
    qtbot.mouseClick(plot, Qt.MouseButton.LeftButton, pos=plot.view.mapTo(plot, view))
    assert dock.controller.workspace.current_slice in (5, 6)


def test_thousands_of_slices_are_read_in_bites_the_whole_stack_first():
    read = []

    def maps(z):
        read.append(z)
        return None if z % 2 else dict.fromkeys(("weight_initial", "weight_pseudo", "preference"), np.full((2, 2), z))

    means = SliceMeans(5000, maps)
    means.advance(0)
    assert read == [0], "at least one, however short the time"
    while len(read) < 79:
        means.advance(0)
    assert read[-1] > 4900, "a sketch of the whole comes first"
    means.advance(60)
    assert means.is_complete
    assert sorted(read) == list(range(5000))
    assert means.means["preference"][4000] == 4000
    assert np.isnan(means.means["preference"][1])
    means.forget([8])
    means.advance(60)
    assert read[5000:] == [8]


def test_untrusted_pixels_are_a_result_layer_that_is_updated_in_place(inspected, wait_for):
    viewer, dock, inspector, job = inspected(slice_axis=1, scale=(1, 2, 3), units=("mm",) * 3)
    both = write_random(job, range(10))  # slices 10 and 11 were not weighed
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    active = viewer.layers.selection.active
    inspector.threshold.setValue(0.8)
    assert not marks(viewer), "only when it is wanted"
    inspector.mark.click()
    (layer,) = marks(viewer)
    expected = np.moveaxis(both.sum(0) < 0.8, 0, 1)
    expected[:, 10:] = False
    assert np.array_equal(np.asarray(layer.data) == 1, expected)
    assert layer.scale.tolist() == [1, 2, 3]
    assert viewer.layers.selection.active is active
    assert viewer.layers.index(layer) < viewer.layers.index("heart annotation")
    share = (both[:, 3].sum(0) < 0.8).mean()
    assert f"{share:.1%}" in inspector.share.text()
    inspector.threshold.setValue(2.0)
    assert marks(viewer) == [layer]
    assert np.array_equal(np.asarray(layer.data)[:, 3] == 1, both[:, 3].sum(0) < 2.0)
    job.write("heart", (3,), weight_initial=9, weight_pseudo=9)
    wait_for(lambda: np.asarray(layer._slice.image.raw).max() == 0)  # it is redrawn, too
    assert is_result(layer)
    dock.data.volume_rows[0].annotation.set_choices([], None)
    dock.controller.workspace.layers_changed.emit()
    offered = dock.data.volume_rows[0].annotation
    assert layer.name not in [offered.itemText(i) for i in range(offered.count())]
    assert not layer.editable
    viewer.layers.remove(layer)
    assert not inspector.mark.isChecked(), "the tick says what there is"
    inspector.mark.click()
    assert len(marks(viewer)) == 1
    inspector.mark.click()
    assert not marks(viewer)


def test_over_the_image_shows_one_map_at_a_time(inspected, wait_for):
    _, dock, inspector, job = inspected()
    write_random(job, range(12))
    results = dock.controller.results
    wait_for(lambda: inspector.body.isVisible())
    inspector.over_image.click()
    assert results.is_visible("weight_initial")
    choose(inspector, "preference")
    assert [results.is_visible(key) for key in ("weight_initial", "preference")] == [False, True]
    dock.results.boxes["preference"].click()  # in the other dock
    wait_for(lambda: not inspector.over_image.isChecked())


def test_of_several_volumes_the_current_one(open_dock, make_napari_viewer, image, wait_for):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="first")
    viewer.add_image(image[:7], name="second")
    viewer.layers.selection.active = viewer.layers["first"]
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    dock.data.add.click()
    viewer.layers["first annotation"].data[3, 4:9, 4:9] = 1
    dock.controller.mark_clean(True, 3)
    inspector = WeightInspectorDock(viewer)
    viewer.window.add_dock_widget(inspector)
    press_train(dock)
    job = dock.controller.session.current_round.job
    job.write("first", (3, 4), weight_initial=1, weight_pseudo=1)
    job.write("second", (3, 5, 6), weight_initial=2, weight_pseudo=1)
    wait_for(lambda: inspector.profile.values("mean")[1].tolist() == [1, 1])
    inspector.mark.click()
    assert len(marks(viewer)) == 1
    viewer.layers.selection.active = viewer.layers["second"]
    wait_for(lambda: inspector.profile.values("mean")[1].tolist() == [2, 2, 2])
    assert inspector.headline.text().startswith("second")
    (layer,) = marks(viewer)
    assert layer.data.shape == (7, *image.shape[1:])


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["weight_initial", "weight_pseudo", "preference"])
def test_the_whole_map_as_nifti_lies_on_the_image(inspected, wait_for, tmp_path, key):
    _, _, inspector, job = inspected(slice_axis=0, scale=(2.5, 0.6, 0.7), translate=(10, -20, 30), units=("mm",) * 3)
    initial, pseudo = write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible())
    choose(inspector, key)
    path = tmp_path / "map.nii.gz"
    inspector.files.save_map_to(str(path))
    assert not inspector.files.save_map.isEnabled(), "one at a time"
    wait_for(lambda: inspector.files.said.text() == "Saved map.nii.gz.")
    assert inspector.files.save_map.isEnabled()
    expected = {
        "weight_initial": initial,
        "weight_pseudo": pseudo,
        "preference": (pseudo - initial) / (pseudo + initial),
    }[key]
    written = nibabel.load(path)
    assert np.asarray(written.dataobj) == pytest.approx(expected.T, abs=1e-6)
    assert written.header.get_zooms() == pytest.approx((0.7, 0.6, 2.5))
    assert np.abs(written.affine[:3, 3]) == pytest.approx([30, 20, 10])


def test_the_whole_map_as_tiff_of_an_image_in_colour(inspected, wait_for, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 48, 40, 3), dtype=np.uint8)
    _, _, inspector, job = inspected(pixels=pixels, rgb=True)
    initial, _ = write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible())
    path = tmp_path / "map.tif"
    inspector.files.save_map_to(str(path))
    wait_for(lambda: inspector.files.said.text() == "Saved map.tif.")
    assert np.array_equal(tifffile.imread(path), initial)


def test_a_file_that_cannot_be_written_is_a_sentence(inspected, wait_for, tmp_path):
    _, _, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible())
    inspector.files.save_map_to(str(tmp_path / "nowhere" / "map.nii.gz"))
    wait_for(lambda: "was not saved" in inspector.files.said.text())
    assert inspector.files.save_map.isEnabled()
    inspector.files.save_slice_to(str(tmp_path / "nowhere" / "map.png"))
    assert "cannot be written" in inspector.files.said.text()


def test_the_picture_shows_the_map_and_its_colour_bar(inspected, wait_for, tmp_path):
    _, _dock, inspector, job = inspected(scale=(3, 2, 1))  # a pixel is twice as high as wide
    write_random(job, range(12))
    arrays = job.results["heart"]
    arrays["weight_initial"][3] = np.where(np.arange(40) < 20, np.zeros((48, 40)), 6.0)
    wait_for(lambda: inspector.body.isVisible())
    inspector._refresh()
    path = tmp_path / "map"
    inspector.files.save_slice_to(str(path))
    picture = QImage(str(path) + ".png")
    tall = 768
    wide = round(tall * 40 / (48 * 2))
    assert picture.width() > wide
    assert picture.height() > tall
    y = picture.height() - 100
    dark, bright = picture.pixelColor(40, y), picture.pixelColor(wide - 20, y)
    assert dark.lightness() < 10, "inferno begins black"
    assert bright.lightness() > 150, "and ends bright yellow"
    bar = [picture.pixelColor(12 + wide + 12 + 10, y) for y in (picture.height() - 20, picture.height() - tall + 10)]
    assert [colour.lightness() > 100 for colour in bar] == [False, True]
    assert picture.pixelColor(2, 2).name() == "#ffffff"


def test_a_suffix_is_added_where_there_is_none():
    assert with_suffix("map", ".nii.gz") == "map.nii.gz"
    assert with_suffix("map.v2", ".tif") == "map.v2.tif"
    assert with_suffix("map.NII", ".tif") == "map.NII"


# -- life and death --------------------------------------------------------------------------------------------------


def test_hidden_it_costs_nothing_and_keeps_no_file(inspected, wait_for):
    viewer, dock, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible() and inspector._means.is_complete)
    session, controller = dock.controller.session, dock.controller
    signals = (
        session.event_received,
        controller.workspace.slice_changed,
        controller.workspace.layers_changed,
        controller.results.changed,
    )
    listening = [len(signal) for signal in signals]
    cursor = len(viewer.cursor.events.position.callbacks)
    inspector.hide()
    assert [len(signal) for signal in signals] == [n - 1 for n in listening]
    assert len(viewer.cursor.events.position.callbacks) == cursor - 1
    assert inspector._maps is None
    assert not inspector._reading.isActive()
    job.write("heart", (3,), weight_initial=5, weight_pseudo=1)
    job.say(DONE)
    wait_for(lambda: session.current_round.outcome is not None)
    inspector.show()
    wait_for(lambda: 5 in inspector.profile.values("mean")[1])  # what came meanwhile is there
    assert [len(signal) for signal in signals] == listening


def test_closing_lets_go_takes_the_marks_away_and_leaks_no_widget(inspected, wait_for):
    viewer, _dock, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible())
    inspector.mark.click()
    before = {w for w in QApplication.topLevelWidgets() if w.isVisible()}
    destroyed = []
    inspector.destroyed.connect(lambda *_: destroyed.append(True))
    seen, following = weakref.ref(inspector._maps), len(docks.changed)
    viewer.window.remove_dock_widget(inspector)
    wait_for(lambda: bool(destroyed))
    assert not marks(viewer)
    assert len(docks.changed) == following - 1
    assert not {w for w in QApplication.topLevelWidgets() if w.isVisible()} - before
    gc.collect()
    assert seen() is None, "nothing reads the round's files any more"


def test_when_the_main_dock_ends_there_is_nothing_to_inspect(inspected, wait_for):
    viewer, dock, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible())
    inspector.mark.click()
    viewer.window.remove_dock_widget(dock)
    wait_for(lambda: inspector.controller is None)
    assert inspector.empty.isVisible()
    assert "Open the dock MLB-Seg" in inspector.empty.text()
    assert not marks(viewer)
    assert not inspector.is_following


def test_no_text_is_cut_off_at_the_narrowest(inspected, wait_for):
    _, _, inspector, job = inspected()
    write_random(job, range(12))
    wait_for(lambda: inspector.body.isVisible())
    content = inspector.column.parentWidget()
    assert content.minimumSizeHint().width() <= 330 - 14, "beside a scroll bar"
