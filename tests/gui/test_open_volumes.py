"""Many volumes in one dock: added, shown one at a time, painted on and trained on; nothing painted is lost."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt

from napari_mlbseg.events import Failed, Finished, FinishReason
from napari_mlbseg.io.file_array import FileArray
from napari_mlbseg.session import SessionState
from napari_mlbseg.session.persistence.loader import AT_ONCE, load_session
from tests.gui.gui_actions import press_train

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]

NAMES = ["a", "b", "c", "d", "e"]
SHAPE = (6, 32, 40)


def write_stack(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 999, SHAPE).astype(np.uint16)
    tifffile.imwrite(path, pixels, imagej=True, resolution=(0.5, 0.5), metadata={"spacing": 3.0, "unit": "mm"})
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Five stacks; the first has labels, of which a table says that slice 2 is clean."""
    images = {name: write_stack(tmp_path / f"{name}.tif", seed) for seed, name in enumerate(NAMES)}
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 8:20, 8:20] = 3
    tifffile.imwrite(tmp_path / "a_label.tif", labels, imagej=True)
    rows = ["image,labels,clean", "a.tif,a_label.tif,2", *(f"{name}.tif,," for name in NAMES[1:])]
    (tmp_path / "study.csv").write_text("\n".join(rows))
    return tmp_path, images, labels


@pytest.fixture
def study(open_dock, make_napari_viewer, folder, wait_for):
    """A visible viewer with the dock, to which the table was added: (viewer, dock)."""
    path, _, _ = folder
    viewer, dock = open_dock(make_napari_viewer(show=True, strict_qt="raise"))
    dock.controller.open_volumes.add_from([path / "study.csv"])
    wait_for(lambda: len(viewer.layers) == 2)
    return viewer, dock


def show(dock, name, wait_for):
    """Choose a row of the table with Enter, and wait for the volume."""
    table = dock.volumes.table
    row = next(row for row in range(len(NAMES)) if table.model().index(row, 0).data() == name)
    table.selectRow(row)
    table.activated.emit(table.model().index(row, 0))
    wait_for(
        lambda: dock.controller.workspace.current is not None and dock.controller.workspace.current.image.name == name
    )


def table_of(dock):
    model = dock.volumes.table.model()
    return [[model.index(r, c).data() for c in range(4)] for r in range(model.rowCount())]


def test_a_table_is_added_and_the_first_comes_into_view(study, folder, wait_for):
    viewer, dock = study
    _, images, labels = folder
    assert [layer.name for layer in viewer.layers] == ["a", "a annotation"]
    assert np.array_equal(viewer.layers["a"].data, images["a"])
    assert np.array_equal(viewer.layers["a annotation"].data, labels)
    assert tuple(viewer.layers["a annotation"].scale) == (3.0, 2.0, 2.0)
    assert dock.volumes.heading.isChecked()
    wanted = [["a", "1", "2", "annotated"], *([name, "", "", "-"] for name in NAMES[1:])]
    wait_for(lambda: table_of(dock) == wanted)
    assert isinstance(dock.controller.session.volume("b").image, FileArray), "it is not in memory"
    table = dock.volumes.table
    assert [n for n in range(6) if table.isColumnHidden(n)] == [4, 5], "doubt and Dice: nothing is known yet"
    assert table.columnViewportPosition(3) + table.columnWidth(3) <= table.viewport().width(), "all others are in sight"
    assert len(dock.data.volume_rows) == 1, "the others are in the table"
    table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert table_of(dock)[-1][0] == "a"
    table.sortByColumn(0, Qt.SortOrder.DescendingOrder)
    assert [row[0] for row in table_of(dock)] == NAMES[::-1]


def test_switching_by_mouse_and_by_key_loses_nothing(study, qtbot, wait_for):
    viewer, dock = study
    controller = dock.controller
    controller.workspace.go_to(4)
    viewer.layers["a annotation"].paint((4, 5, 5), 2)
    controller.reviewer.draw_region()
    table = dock.volumes.table
    place = table.visualRect(table.model().index(1, 0)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    wait_for(lambda: "b annotation" in viewer.layers)
    assert not viewer.layers["a"].visible
    assert not viewer.layers["a annotation"].visible
    assert "region to review" not in viewer.layers, "it lies on the other volume"
    assert viewer.layers.selection.active == viewer.layers["b annotation"]
    viewer.layers["b annotation"].data[1, 3:9, 3:9] = 1
    viewer.layers["b annotation"].paint((2, 5, 5), 1)
    controller.mark_clean(True, 1)
    table.setFocus()
    qtbot.keyClick(table, Qt.Key.Key_Up)
    qtbot.keyClick(table, Qt.Key.Key_Return)
    wait_for(lambda: controller.workspace.current.image.name == "a")
    assert controller.workspace.current_slice == 4, "where it was left"
    assert viewer.layers["a annotation"].visible
    assert not viewer.layers["b annotation"].visible
    for name in ("c", "d", "e"):
        show(dock, name, wait_for)
    assert len(controller.workspace.bindings) == AT_ONCE
    assert "b annotation" not in viewer.layers, "it was not looked at for longest"
    for name in ("c", "d", "e"):
        assert not viewer.layers[f"{name} annotation"].data.any()
        viewer.layers[f"{name} annotation"].undo()
        assert not viewer.layers[f"{name} annotation"].data.any(), "what was painted on another is not undone here"
    session = controller.session
    wait_for(lambda: {row[0]: row[1:3] for row in table_of(dock)}["a"] == ["1", "3"])
    show(dock, "b", wait_for)
    assert viewer.layers["b annotation"].data[1, 3:9, 3:9].all()
    show(dock, "a", wait_for)
    assert viewer.layers["a annotation"].data[4, 5, 5] == 2
    session.save()
    saved = {each.volume.name: each.volume for each in load_session(session.folder).volumes}
    assert list(saved) == NAMES
    assert saved["a"].annotation[4, 5, 5] == 2
    assert saved["b"].annotation[1, 3:9, 3:9].all()
    assert saved["b"].clean == {1}
    assert not saved["c"].annotation.any()


def test_training_takes_all_and_results_come_with_the_volume(study, wait_for):
    viewer, dock = study
    press_train(dock)
    job = dock.controller.session.current_round.job
    assert [volume.name for volume in job.task.volumes] == NAMES
    assert [volume.clean_slices for volume in job.task.volumes] == [(2,), (), (), (), ()]
    wait_for(lambda: {row[3] for row in table_of(dock)} == {"training"})
    for name in NAMES[:3]:
        job.write(name, (0, 1, 2), pseudo_labels=3)
    wait_for(lambda: "a pseudo-labels" in viewer.layers)
    assert "b pseudo-labels" not in viewer.layers
    show(dock, "b", wait_for)
    wait_for(lambda: "b pseudo-labels" in viewer.layers)
    assert viewer.layers["b pseudo-labels"].data[1].min() == 3
    assert not viewer.layers["a pseudo-labels"].visible
    for name in ("c", "d", "e"):
        show(dock, name, wait_for)
    wait_for(lambda: "c pseudo-labels" in viewer.layers)
    assert viewer.layers["c pseudo-labels"].data[2].min() == 3
    show(dock, "b", wait_for)
    wait_for(lambda: "b pseudo-labels" in viewer.layers)
    viewer.layers["b pseudo-labels"].visible = False
    job.write("a", (5,), pseudo_labels=3)
    job.say(Finished(reason=FinishReason.TIME, steps=1, seconds=1))
    wait_for(lambda: dock.controller.session.state is SessionState.IDLE)
    show(dock, "a", wait_for)
    wait_for(lambda: "a pseudo-labels" in viewer.layers)
    assert viewer.layers["a pseudo-labels"].data[5].min() == 3
    assert not viewer.layers["a pseudo-labels"].visible, "who hides the prediction of one wants to see none"
    wait_for(lambda: [row[3] for row in table_of(dock)] == ["predicted"] * 3 + ["-"] * 2)
    press_train(dock)
    dock.controller.session.current_round.job.say(Failed(message="The worker was killed.", advice="Train again."))
    wait_for(lambda: {row[3] for row in table_of(dock)} == {"failed"})


def test_a_deleted_layer_takes_nothing_out_and_the_button_does(study, wait_for):
    viewer, dock = study
    viewer.layers["a annotation"].data[5, 2:4, 2:4] = 3
    viewer.layers.remove(viewer.layers["a annotation"])
    assert [volume.name for volume in dock.controller.session] == NAMES
    wait_for(lambda: not viewer.layers)
    show(dock, "a", wait_for)
    assert viewer.layers["a annotation"].data[5, 2:4, 2:4].all()
    dock.volumes.table.selectRow(0)
    dock.volumes.remove.click()
    assert [volume.name for volume in dock.controller.session] == NAMES[1:]
    wait_for(lambda: [layer.name for layer in viewer.layers] == ["b", "b annotation"])


def test_a_window_that_closes_leaves_the_study_whole_and_another_opens_it(study, open_dock, wait_for):
    viewer, dock = study
    session = dock.controller.session
    viewer.layers["a annotation"].data[5, 2:4, 2:4] = 3
    session.mark_dirty("a", 5)
    folder = session.folder
    viewer.layers.clear()
    dock.controller.close()
    loaded = load_session(folder)
    assert [each.volume.name for each in loaded.volumes] == NAMES
    assert loaded.volumes[0].volume.annotation[5, 2:4, 2:4].all()
    viewer, other = open_dock()
    other.controller.files.open(folder)
    wait_for(lambda: len(other.controller.session) == len(NAMES))
    assert [layer.name for layer in viewer.layers] == ["a", "a annotation"]
    assert isinstance(other.controller.session.volume("e").image, FileArray)
    show(other, "e", wait_for)
    assert "e annotation" in viewer.layers


def test_what_cannot_be_read_stops_nothing_and_is_said(open_dock, folder, wait_for):
    path, _, _ = folder
    (path / "b.tif").write_text("no image")
    viewer, dock = open_dock()
    dock.controller.open_volumes.add_from([path])
    wait_for(lambda: len(viewer.layers) == 2)
    assert [volume.name for volume in dock.controller.session] == ["a", "c", "d", "e"]
    assert "b.tif cannot be read" in dock.train.complaint.text()
