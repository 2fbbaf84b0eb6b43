"""Labels that can only be read, and copies of results: a person can paint on them, and no file of theirs changes."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import dask.array
import numpy as np
import pytest
import zarr
from napari._app_model import get_app_model
from qtpy.QtCore import Qt

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg.viewer.layers import editable
from napari_mlbseg.viewer.layers.arrays import SliceReader
from napari_mlbseg.viewer.layers.binding import is_result
from tests.gui.gui_actions import make_ready
from tests.gui.gui_driver import Person

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]


@pytest.fixture
def labels(image) -> np.ndarray:
    """What somebody else has labelled on the image."""
    return np.pad(np.ones((1, 10, 10), np.uint8), ((3, image.shape[0] - 4), (10, 28), (10, 20)))


@pytest.fixture
def opened(make_napari_viewer, open_dock, image):
    """Open a visible viewer with the image and labels, then the dock."""

    def open_it(add_labels):
        viewer = make_napari_viewer(show=True, strict_qt="raise")
        viewer.add_image(image, name="heart")
        layer = add_labels(viewer)
        _, dock = open_dock(viewer)
        return viewer, dock, layer

    return open_it


def read_only(labels, _folder):
    labels.flags.writeable = False
    return labels


def memory_map(labels, folder):
    np.save(folder / "labels.npy", labels)
    return np.load(folder / "labels.npy", mmap_mode="r")


def of_our_reader(labels, folder):
    return ArrayView(zarr.open_array(zarr.save_array(folder / "labels.zarr", labels) or folder / "labels.zarr"))


def of_dask(labels, folder):
    zarr.save_array(folder / "labels.zarr", labels)
    return dask.array.from_zarr(str(folder / "labels.zarr"))


def offered(combo):
    return [combo.itemText(i) for i in range(combo.count())]


def fingerprint(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stored", [read_only, memory_map, of_our_reader, of_dask])
def test_labels_that_can_only_be_read_are_painted_on_in_memory(opened, labels, tmp_path, wait_for, stored):
    pixels = stored(labels, tmp_path)
    before = fingerprint(tmp_path)
    viewer, dock, layer = opened(lambda viewer: viewer.add_labels(pixels, name="cells"))
    assert dock.data.volume_rows[0].annotation.value() == layer
    wait_for(lambda: editable.can_be_painted(layer))
    assert dock.data.problem.isHidden()
    assert layer.editable
    person = Person(viewer, dock)
    person.go_to(5)
    viewer.layers.selection.active = layer
    layer.brush_size = 6
    person.use("2", "paint")
    person.stroke([(20, 20), (24, 24)])
    assert layer.data[5].any()
    assert np.array_equal(layer.data[3], labels[3])
    session = dock.controller.session
    assert session.volume_of(dock.controller.workspace.bindings[0].uid).annotation is layer.data
    wait_for(lambda: 5 in session.painted_slices("heart"))
    person.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not layer.data[5].any()
    assert fingerprint(tmp_path) == before
    assert not np.asarray(pixels)[5].any()


def test_a_file_of_labels_is_painted_on_without_its_image(open_dock, make_napari_viewer, labels, tmp_path, wait_for):
    viewer = make_napari_viewer(strict_qt="raise")
    zarr.save_array(tmp_path / "cells_seg.zarr", labels)
    (layer,) = viewer.open(tmp_path / "cells_seg.zarr", plugin="napari-mlbseg")
    assert not editable.can_be_painted(layer)
    open_dock(viewer)
    wait_for(lambda: editable.can_be_painted(layer))
    layer.paint((5, 20, 20), 1)
    assert layer.data[5].any()


def test_what_does_not_fit_into_memory_is_locked_and_says_what_to_do(opened, labels, tmp_path, wait_for, monkeypatch):
    monkeypatch.setattr(editable.psutil, "virtual_memory", lambda: SimpleNamespace(available=labels.nbytes))
    viewer, dock, layer = opened(lambda viewer: viewer.add_labels(of_our_reader(labels, tmp_path), name="cells"))
    assert "'cells' can only be read" in dock.data.problem.text()
    assert "press New" in dock.data.problem.text()
    for n_displayed in (3, 2):  # napari unlocks layers on the way
        viewer.dims.ndisplay = n_displayed
    layer.mode = "paint"
    assert layer.mode == "pan_zoom"
    dock.controller.mark_clean(True, 3)  # what is there can be trained on
    dock.train.button.click()
    wait_for(lambda: dock.controller.session.current_round is not None)
    job = dock.controller.session.current_round.job
    job.write("heart", (5,), pseudo_labels=1)
    wait_for(lambda: any(is_result(other) for other in viewer.layers))
    dock.controller.workspace.go_to(5)
    dock.controller.accept()
    assert "'cells' can only be read" in dock.train.complaint.text()
    dock.data.volume_rows[0].new.click()
    assert dock.data.problem.isHidden()
    assert viewer.layers["heart annotation"].mode == "paint"


def test_labels_that_cannot_be_read_whole_say_so(opened, labels, wait_for):
    def read(slices):
        if slices.stop - slices.start > 1:
            raise OSError("a part of the file is missing")
        return labels[slices]

    parts = SliceReader(read, labels.shape, labels.dtype, 0)
    _viewer, dock, layer = opened(lambda viewer: viewer.add_labels(parts, name="cells"))
    wait_for(lambda: "a part of the file is missing" in dock.data.problem.text())
    dock.controller.workspace.sync()
    assert not layer.editable


def test_labels_of_several_resolutions_are_offered_as_a_copy(opened, labels, wait_for):
    viewer, dock, pyramid = opened(
        lambda viewer: viewer.add_labels([labels, labels[:, ::2, ::2]], multiscale=True, name="cells", scale=(2, 1, 1))
    )
    row = dock.data.volume_rows[0]
    assert row.annotation.value() is None
    assert "'cells'" in dock.data.problem.text()
    assert "cells" in offered(row.annotation)
    Person(viewer, dock).click(dock.data.copy)
    wait_for(lambda: row.annotation.value() is not None)
    copy = viewer.layers["cells copy"]
    assert row.annotation.value() == copy
    assert viewer.layers.selection.active == copy
    assert (dock.data.copy.isHidden(), dock.data.problem.isHidden()) == (True, True)
    assert not pyramid.visible
    assert np.array_equal(copy.data, labels)
    assert tuple(copy.scale) == (2, 1, 1)
    copy.paint((5, 20, 20), 1)
    assert copy.data[5].any()
    assert not labels[5].any()
    row.annotation.setCurrentText("cells")  # where there is an annotation, another copy can be asked for
    row.annotation.activated.emit(row.annotation.currentIndex())
    wait_for(lambda: row.annotation.currentText() == "cells copy [1]")


def test_labels_that_fit_no_image_are_named(opened, labels):
    _viewer, dock, _layer = opened(lambda viewer: viewer.add_labels(labels[:4], name="cells"))
    assert dock.data.volume_rows[0].annotation.value() is None
    assert dock.data.problem.text().startswith("'cells' (4 x 48 x 40) does not fit 'heart' (12 x 48 x 40)")
    dock.data.volume_rows[0].new.click()
    assert dock.data.problem.isHidden()


def duplicate(viewer, layer):
    viewer.layers.selection = {layer}
    get_app_model().commands.execute_command("napari.layer.duplicate")
    return viewer.layers[f"{layer.name} copy"]


@pytest.fixture
def predicted(heart, wait_for):
    """A round that has predicted slice 5: (viewer, dock, job, the layer of its labels)."""
    viewer, dock, annotation = heart
    job = make_ready(dock, annotation)
    job.write("heart", (5,), pseudo_labels=1, probability=0.5)
    wait_for(lambda: any(is_result(layer) for layer in viewer.layers))
    return viewer, dock, job, viewer.layers["heart pseudo-labels"]


def test_a_duplicated_prediction_is_corrected_with_the_brush(predicted, wait_for):
    viewer, dock, job, prediction = predicted
    copy = duplicate(viewer, prediction)
    wait_for(lambda: editable.can_be_painted(copy))
    assert not is_result(copy)
    assert "mlbseg" not in copy.metadata
    row = dock.data.volume_rows[0]
    assert offered(row.annotation) == ["heart pseudo-labels copy", "heart annotation"]
    assert "heart pseudo-labels copy" in offered(dock.train.given[0])
    assert row.annotation.currentText() == "heart annotation", "nobody chose the copy"
    person = Person(viewer, dock)
    person.go_to(6)
    viewer.layers.selection.active = copy
    copy.brush_size = 6
    person.use("2", "paint")
    person.stroke([(20, 20), (24, 24)])
    assert copy.data[6].any()
    assert copy.data[5].all()
    assert is_result(prediction)
    assert not np.asarray(prediction.data[6]).any()
    job.write("heart", (6,), pseudo_labels=0)
    job.write("heart", (5,), pseudo_labels=0)
    wait_for(lambda: not np.asarray(prediction.data[5]).any())
    assert copy.data[5].all(), "what is a person's does not change with the training"
    row.annotation.setCurrentText(copy.name)
    row.annotation.activated.emit(row.annotation.currentIndex())
    assert dock.controller.workspace.bindings[0].annotation == copy
    wait_for(lambda: {5, 6} <= dock.controller.session.painted_slices("heart"))


def test_a_duplicated_map_stays_as_it_was(predicted, wait_for):
    viewer, dock, job, _prediction = predicted
    dock.results.boxes["probability"].click()
    shown = next(layer for layer in viewer.layers if layer.metadata.get("mlbseg", {}).get("result") == "probability")
    copy = duplicate(viewer, shown)
    wait_for(lambda: isinstance(copy.data, np.ndarray))
    assert not is_result(copy)
    job.write("heart", (5,), probability=0.25)
    wait_for(lambda: np.asarray(shown.data[5]).max() == 0.25)
    assert copy.data[5].max() == 0.5


def test_results_stay_locked_whatever_napari_does(predicted):
    viewer, dock, _job, prediction = predicted
    assert not prediction.editable
    for n_displayed in (3, 2):
        viewer.dims.ndisplay = n_displayed
    dock.controller.close()  # its layers stay
    prediction.editable = True
    assert not prediction.editable
