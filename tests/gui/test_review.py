"""Reviewing in a real viewer: accept, undo, reject, regions, suggestions; rounds and sessions from their panels."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_mlbseg.events import Finished, FinishReason
from napari_mlbseg.session import Provenance, SessionState
from napari_mlbseg.session.persistence.session_paths import recent_sessions, unsaved_sessions
from napari_mlbseg.viewer.layers.binding import METADATA_KEY
from napari_mlbseg.viewer.layers.comparison import GONE, NEW, OTHER, difference
from tests.gui.gui_actions import press_train, until_begun

from ..session.conftest import FakeJob

pytestmark = pytest.mark.gui


@pytest.fixture(autouse=True)
def played(monkeypatch):
    """Jobs whose worker the test plays, in real job folders."""
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)
    monkeypatch.setattr("napari_mlbseg.session.rounds.LocalJob", FakeJob)


@pytest.fixture
def reviewed(open_dock, make_napari_viewer, image, wait_for):
    """A visible viewer after a round that predicted label 1 everywhere: (viewer, dock, annotation)."""
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    _, dock = open_dock(viewer)
    dock.data.volume_rows[0].new.click()
    annotation = viewer.layers["heart annotation"]
    annotation.data_setitem(tuple(np.argwhere(np.ones((1, 6, 6))).T + np.array([[3], [10], [10]])), 1)
    dock.controller.workspace.go_to(3)
    dock.clean.mark.click()
    predict(dock, wait_for, 1)
    return viewer, dock, annotation


def predict(dock, wait_for, label):
    session = dock.controller.session
    press_train(dock)
    assert dock.train.complaint.text() == ""
    session.current_round.job.predict(label, range(12))
    wait_for(lambda: session.state is SessionState.IDLE and dock.controller.reviewer.prediction() is not None)


def test_accepting_is_one_undo_and_spares_what_is_painted(qtbot, reviewed, wait_for):
    viewer, dock, annotation = reviewed
    dock.controller.workspace.go_to(5)
    annotation.paint((5, 4, 4), 2)
    before = annotation.data.copy()
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "G")
    assert dock.train.complaint.text() == ""
    assert (annotation.data[5][before[5] == 0] == 1).all()
    assert (annotation.data[5][before[5] == 2] == 2).all(), "what was painted stays"
    others = np.delete(np.arange(12), 5)
    assert np.array_equal(annotation.data[others], before[others])
    name = "heart"
    assert dock.controller.session.provenance(name, 5) is Provenance.ACCEPTED
    annotation.undo()
    assert np.array_equal(annotation.data, before), "one step"
    wait_for(lambda: dock.controller.session.provenance(name, 5) is Provenance.PAINTED)
    annotation.redo()
    assert dock.controller.session.provenance(name, 5) is Provenance.ACCEPTED
    assert dock.controller.session.volume(name).clean == {3}, "accepted is not clean"


def test_accepting_over_what_is_painted_only_when_asked(qtbot, reviewed):
    _, dock, annotation = reviewed
    dock.controller.workspace.go_to(5)
    annotation.paint((5, 4, 4), 2)
    dock.review.over.click()
    dock.review.accept.click()
    assert (annotation.data[5] == 1).all()
    dock.review.accept.click()
    assert "adds nothing" in dock.train.complaint.text()


def test_rejecting_takes_back_what_was_accepted_and_suggests_the_slice(qtbot, reviewed, wait_for):
    viewer, dock, annotation = reviewed
    dock.controller.workspace.go_to(8)
    dock.review.accept.click()
    assert annotation.data[8].all()
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "W")
    assert not annotation.data[8].any()
    assert dock.controller.workspace.suggestion().slice == 8
    wait_for(lambda: "rejected" in dock.review.status.text())
    annotation.paint((8, 4, 4), 2)
    dock.review.reject.click()
    assert (annotation.data[8] == 2).any(), "what was painted stays"
    dock.controller.workspace.go_to(2)
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "N")
    assert dock.controller.workspace.current_slice == 8
    dock.review.skip.click()
    assert dock.controller.workspace.suggestion().slice != 8


def test_only_a_region_is_accepted(reviewed):
    viewer, dock, annotation = reviewed
    dock.controller.workspace.go_to(5)
    dock.review.region.click()
    region = viewer.layers.selection.active
    assert region.mode == "add_polygon_lasso"
    assert METADATA_KEY in region.metadata, "never offered as an image or annotation"
    region.add_rectangles(np.array([[5, 10.5, 4.5], [5, 10.5, 12.5], [5, 20.5, 12.5], [5, 20.5, 4.5]]))
    region.add_ellipses(np.array([[6, 0, 0], [6, 0, 9], [6, 9, 9], [6, 9, 0]]))  # on another slice
    dock.review.accept.click()
    expected = np.zeros_like(annotation.data[5])
    expected[11:21, 5:13] = 1
    assert np.array_equal(annotation.data[5], expected)
    assert len(region.data) == 1, "the area was used up, that of the other slice was not"
    assert viewer.layers.selection.active == annotation
    annotation.undo()
    assert not annotation.data[5].any()


def test_only_a_region_is_rejected(reviewed):
    viewer, dock, annotation = reviewed
    dock.controller.workspace.go_to(5)
    annotation.paint((5, 15, 10), 2)
    painted = annotation.data[5].copy()
    dock.review.accept.click()
    corners = np.array([[5, 10.5, 4.5], [5, 10.5, 12.5], [5, 20.5, 12.5], [5, 20.5, 4.5]])
    expected = np.ones_like(painted)
    expected[painted != 0] = 2
    expected[11:21, 5:13] = painted[11:21, 5:13]
    for _ in range(2):
        dock.review.region.click()
        viewer.layers.selection.active.add_rectangles(corners)
        dock.review.reject.click()
        assert np.array_equal(annotation.data[5], expected), "inside the region only what was painted is left"
    assert "Nothing that you accepted lies in the region" in dock.train.complaint.text()
    assert len(viewer.layers.selection.active.data) == 1, "a region that was of no use is kept"
    annotation.undo()
    assert (annotation.data[5] != 0).all(), "one step"


@pytest.mark.parametrize("is_away", [False, True])
def test_what_was_painted_after_an_undo_is_not_taken_for_accepted(reviewed, is_away):
    _, dock, annotation = reviewed
    dock.controller.workspace.go_to(5)
    annotation.paint((5, 3, 3), 2)
    dock.review.accept.click()
    if is_away:
        dock.controller.workspace.go_to(8)
    annotation.undo()
    dock.controller.workspace.go_to(5)
    annotation.paint((5, 12, 12), 1)  # the label that was predicted there
    painted = annotation.data[5].copy()
    dock.review.reject.click()
    assert np.array_equal(annotation.data[5], painted)


def test_rejecting_gives_back_what_was_accepted_over(reviewed):
    _, dock, annotation = reviewed
    dock.controller.workspace.go_to(5)
    annotation.paint((5, 15, 10), 2)
    painted = annotation.data[5].copy()
    dock.review.over.click()
    dock.review.accept.click()
    assert (annotation.data[5] == 1).all()
    dock.review.reject.click()
    assert np.array_equal(annotation.data[5], painted)


def test_without_a_prediction_there_is_nothing_to_accept(qtbot, open_dock, make_napari_viewer, image):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    _, dock = open_dock(viewer)
    assert not dock.review.accept.isEnabled()
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "G")
    assert "has no annotation layer" in dock.train.complaint.text()
    dock.data.volume_rows[0].new.click()
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "G")
    assert "press Train first" in dock.train.complaint.text()


def test_accepts_undone_over_ten_rounds_leave_the_voxels_as_they_were(reviewed, wait_for):
    _, dock, annotation = reviewed
    before = annotation.data.copy()
    for number in range(10):
        predict(dock, wait_for, number % 2)
        for z in (1, 6, 9):
            dock.controller.workspace.go_to(z)
            dock.review.accept.click()
        while not np.array_equal(annotation.data, before):
            annotation.undo()
    checksums = {sum for past in dock.controller.session.rounds for sum in past.record.checksums.values()}
    assert len(checksums) == 1
    assert len(dock.controller.session.rounds) == 11
    layers = [layer for layer in dock.controller.viewer.layers if METADATA_KEY in layer.metadata]
    assert len(layers) == 1, "no pile of result layers"


def test_rounds_are_restored_compared_and_deleted(qtbot, reviewed, wait_for):
    viewer, dock, annotation = reviewed
    dock.controller.workspace.go_to(6)
    predict(dock, wait_for, 0)
    panel, session = dock.rounds, dock.controller.session
    assert [panel.table.topLevelItem(i).text(0) for i in range(2)] == ["▶ 2", "1"]
    pseudo = viewer.layers["heart pseudo-labels"]
    assert not np.asarray(pseudo.data[6]).any()
    panel.choose(1)
    qtbot.mouseClick(panel.restore, Qt.MouseButton.LeftButton)
    wait_for(lambda: np.asarray(pseudo.data[6]).all())
    assert pseudo in viewer.layers, "updated in place"
    assert panel.table.topLevelItem(1).text(0) == "▶ 1"
    panel.choose(1, 2)
    panel.compare.click()
    layer = viewer.layers["heart round 1 against 2"]
    assert (np.asarray(layer.data[6]) == GONE).all()
    assert METADATA_KEY in layer.metadata
    panel.compare.click()
    assert len([layer for layer in viewer.layers if "against" in layer.name]) == 1
    panel.choose(1)
    panel.delete.click()
    (box,) = panel.window().findChildren(QMessageBox)
    assert "What you painted stays" in box.text()
    qtbot.mouseClick(box.button(QMessageBox.StandardButton.Yes), Qt.MouseButton.LeftButton)
    wait_for(lambda: len(session.rounds) == 1)
    wait_for(lambda: not np.asarray(pseudo.data[6]).any())  # the other round is shown
    panel.choose(2)
    panel.delete.click()
    box = [b for b in panel.window().findChildren(QMessageBox) if b.isVisible()][-1]
    qtbot.mouseClick(box.button(QMessageBox.StandardButton.Yes), Qt.MouseButton.LeftButton)
    wait_for(lambda: not session.rounds)
    assert "heart pseudo-labels" not in viewer.layers
    assert annotation in viewer.layers


def test_a_difference_tells_what_is_gone_new_and_other():
    first, second = np.array([[[0, 1, 1, 2]]]), np.array([[[1, 0, 1, 1]]])
    assert difference(first, second)(slice(0, 1)).tolist() == [[[NEW, GONE, 0, OTHER]]]
    assert difference(first, second, instances=True)(slice(0, 1)).tolist() == [[[NEW, GONE, 0, 0]]]


def test_a_corrected_slice_scores_the_round_in_the_table(reviewed, wait_for):
    _, dock, annotation = reviewed
    dock.controller.workspace.go_to(7)
    dock.review.accept.click()
    annotation.data_setitem(tuple(np.argwhere(np.ones((1, 24, 40))).T + np.array([[7], [0], [0]])), 0)  # half of it
    dock.clean.mark.click()
    wait_for(lambda: dock.rounds.table.topLevelItem(0).text(3) == f"{2 / 3:.3f}")
    assert "slice 7: Dice 0.667" in dock.rounds.table.topLevelItem(0).toolTip(0)
    wait_for(lambda: "(corrected)" in [dock.clean.list.item(i).text() for i in range(2)][1])


def test_a_session_is_saved_and_opened_from_the_panel(qtbot, reviewed, wait_for, tmp_path, open_dock):
    _, dock, annotation = reviewed
    session = dock.controller.session
    assert "Not saved" in dock.session.status.text()
    dock.session.save.click()
    dialog = dock.session.findChild(QFileDialog)
    dialog.fileSelected.emit(str(tmp_path / "mine"))
    dialog.reject()
    assert session.folder == tmp_path / "mine.mlbseg"
    assert "mine" in dock.session.status.text()
    painted, clean = annotation.data.copy(), set(session.volume("heart").clean)
    dock.controller.close()
    assert recent_sessions() == [tmp_path / "mine.mlbseg"]
    assert unsaved_sessions() == []
    viewer, again = open_dock()  # another window: napari 0.9.2 crashes when painted layers are cleared in software GL
    again.session.menu.aboutToShow.emit()
    (action,) = (a for a in again.session.menu.actions() if a.text() == "mine")
    action.trigger()
    wait_for(lambda: "heart annotation" in viewer.layers and again.controller.reviewer.has_prediction(), 20)
    assert np.array_equal(viewer.layers["heart annotation"].data, painted)
    assert again.controller.session.volume("heart").clean == clean
    assert again.controller.workspace.clean_slices(again.controller.workspace.current) == clean
    viewer.layers["heart annotation"].paint((9, 5, 5), 1)
    wait_for(lambda: 9 in again.controller.session.painted_slices("heart"))
    predict(again, wait_for, 1)
    assert again.controller.session.current_round.number == 2


def test_a_session_dropped_on_the_window_opens_in_the_dock(reviewed, wait_for, tmp_path, open_dock):
    _, dock, _ = reviewed
    dock.controller.files.save_as(tmp_path / "mine.mlbseg")
    dock.controller.close()
    viewer, again = open_dock()  # another window: napari 0.9.2 crashes when painted layers are cleared in software GL
    viewer.open(str(tmp_path / "mine.mlbseg"), plugin="napari-mlbseg")
    wait_for(lambda: again.controller.session.folder == tmp_path / "mine.mlbseg", 20)
    assert "heart" in viewer.layers


def test_a_session_that_cannot_be_opened_is_a_sentence(open_dock, tmp_path, wait_for):
    _, dock = open_dock()
    dock.session.open_session(tmp_path / "nothing.mlbseg")
    assert "is no session" in dock.train.complaint.text()


def test_opening_waits_for_a_training(reviewed, tmp_path):
    _, dock, _ = reviewed
    press_train(dock)
    dock.session.open_session(tmp_path / "other.mlbseg")
    assert "stop it first" in dock.train.complaint.text()
    dock.controller.session.current_round.job.say(Finished(reason=FinishReason.STEPS, steps=1, seconds=1))


def test_a_full_disk_is_said_in_the_dock_and_painting_goes_on(reviewed, wait_for, monkeypatch):
    _, dock, annotation = reviewed

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_mlbseg.session.persistence.folder.SliceArray.write", refuse)
    annotation.paint((9, 5, 5), 1)
    wait_for(lambda: not dock.session.problem.isHidden() and "No space left" in dock.session.problem.text(), 10)
    annotation.paint((10, 5, 5), 1)
    monkeypatch.undo()
    wait_for(lambda: dock.session.problem.isHidden(), 15)
    assert annotation.data[10].any()


def test_the_dock_may_close_during_an_export(reviewed, wait_for, monkeypatch, tmp_path):
    from napari_mlbseg.session.exporting import export_session

    viewer, dock, _ = reviewed
    started, may_go_on = threading.Event(), threading.Event()

    def slow(*arguments):
        started.set()
        assert may_go_on.wait(20)
        return export_session(*arguments)

    monkeypatch.setattr("napari_mlbseg.session.exporting.export_session", slow)
    files = dock.controller.files
    files.export(tmp_path)
    assert started.wait(20)
    viewer.window.remove_dock_widget(dock)
    wait_for(lambda: dock.controller.is_closed)
    may_go_on.set()
    wait_for(lambda: not files.is_busy, 20)
    (out,) = tmp_path.iterdir()
    assert any("annotation" in path.name for path in out.iterdir())


def test_an_estimate_leaves_one_out(reviewed, wait_for):
    from napari_mlbseg.events import HeldOut

    _, dock, _ = reviewed
    assert not dock.rounds.check.isEnabled(), "three clean slices are needed"
    for z in (5, 7):
        dock.controller.workspace.go_to(z)
        dock.review.accept.click()
        dock.clean.mark.click()
    dock.rounds.check.click()
    until_begun(dock)
    job = dock.controller.session.run.job
    assert dock.train.button.text() == "S&top"
    job.say(HeldOut(volume="heart", slice=5, dice=0.8, hd95=3.0), HeldOut(volume="heart", slice=7, dice=0.9, hd95=None))
    job.say(Finished(reason=FinishReason.NOTHING_TO_TRAIN, steps=5, seconds=3))
    wait_for(lambda: "median Dice 0.850, HD95 3.0 px; lowest 0.800 on slice 5" in dock.rounds.estimate.text())
    assert len(dock.controller.session.rounds) == 1


def answer(dock, button):
    """Answer the question that is open, and return what it said."""
    (box,) = (box for box in dock.findChildren(QMessageBox) if box.isVisible())
    words = box.text()
    box.button(button).click()
    return words


def test_what_is_clean_is_not_rejected_before_a_question_is_answered(qtbot, reviewed, wait_for):
    viewer, dock, annotation = reviewed
    canvas, session = viewer.window._qt_viewer.canvas.native, dock.controller.session
    dock.controller.workspace.go_to(5)
    dock.review.accept.click()
    dock.clean.mark.click()
    painted = annotation.data.copy()
    qtbot.keyClick(canvas, "W")
    assert np.array_equal(annotation.data, painted), "not before the answer"
    assert "slice 5" in answer(dock, QMessageBox.StandardButton.No)
    assert np.array_equal(annotation.data, painted)
    assert session.volume("heart").clean == {3, 5}

    qtbot.keyClick(canvas, "W")
    answer(dock, QMessageBox.StandardButton.Yes)
    assert not annotation.data[5].any()
    assert session.volume("heart").clean == {3}, "an emptied slice is not trained on as background"
    annotation.undo()
    assert np.array_equal(annotation.data, painted), "one step"


def test_a_clean_slice_that_a_person_painted_has_nothing_to_reject(reviewed):
    _, dock, annotation = reviewed
    painted = annotation.data.copy()
    dock.controller.workspace.go_to(3)
    dock.review.reject.click()
    assert np.array_equal(annotation.data, painted)
    assert "clean" in dock.train.complaint.text()
    assert not [box for box in dock.findChildren(QMessageBox) if box.isVisible()]
    assert dock.controller.session.volume("heart").marks.rejected == set()


def test_accepting_adds_to_a_clean_slice_only_after_a_yes(reviewed, wait_for):
    _, dock, annotation = reviewed
    painted = annotation.data.copy()
    dock.controller.workspace.go_to(3)
    wait_for(lambda: "what you painted counts" in dock.review.status.text())
    dock.controller.accept()
    assert np.array_equal(annotation.data, painted)
    answer(dock, QMessageBox.StandardButton.No)
    assert np.array_equal(annotation.data, painted)
    dock.controller.accept()
    answer(dock, QMessageBox.StandardButton.Yes)
    assert annotation.data[3].all()


def test_slices_that_are_clean_along_another_axis_are_not_written_on(reviewed, wait_for):
    _, dock, annotation = reviewed
    dock.controller.workspace.set_slices(1, False)
    dock.controller.mark_clean(True, 12)
    press_train(dock)
    dock.controller.session.current_round.job.predict(1, range(48))
    dock.controller.workspace.go_to(20)
    wait_for(dock.controller.reviewer.has_prediction)
    painted = annotation.data[3].copy()
    dock.review.over.click()
    dock.review.accept.click()
    assert np.array_equal(annotation.data[3], painted), "slice 3 along the first axis is clean"
    assert np.delete(annotation.data[:, 20], 3, 0).all()


def test_an_empty_slice_between_painted_clean_ones_is_background_only_after_a_yes(qtbot, reviewed):
    viewer, dock, annotation = reviewed
    session, canvas = dock.controller.session, viewer.window._qt_viewer.canvas.native
    annotation.data_setitem((np.array([9]), np.array([20]), np.array([20])), 1)
    dock.controller.workspace.go_to(9)
    qtbot.keyClick(canvas, "K")
    dock.controller.workspace.go_to(6)
    qtbot.keyClick(canvas, "K")
    assert session.volume("heart").clean == {3, 9}
    words = answer(dock, QMessageBox.StandardButton.No)
    assert "slice 6 all background" in words
    assert "3 and 9" in words
    assert not dock.clean.mark.isChecked()
    dock.clean.mark.click()
    assert session.volume("heart").clean == {3, 9}
    answer(dock, QMessageBox.StandardButton.Yes)
    assert session.volume("heart").clean == {3, 6, 9}
    dock.controller.workspace.go_to(11)
    qtbot.keyClick(canvas, "K")
    assert session.volume("heart").clean == {3, 6, 9, 11}, "beyond them, nothing painted means background"
