"""The dock as a person uses it: real mouse and key events, sentences for every mistake, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.viewer.keys import SHORTCUTS
from napari_mlbseg.viewer.layers.result_kinds import RESULT_KINDS

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]


def paint_with_the_mouse(qtbot, viewer, points):
    """Press, drag and release in the canvas at data positions (y, x) of the slice in view."""
    canvas = viewer.window._qt_viewer.canvas
    native = canvas.native
    transform = canvas.view.scene.transform

    def place(y, x):
        px, py = transform.map((x, y))[:2]
        return QPoint(round(px), round(py))

    qtbot.mouseMove(native, place(*points[0]))
    qtbot.mousePress(native, Qt.MouseButton.LeftButton, pos=place(*points[0]))
    for point in points[1:]:
        qtbot.mouseMove(native, place(*point))
        qtbot.wait(30)
    qtbot.mouseRelease(native, Qt.MouseButton.LeftButton, pos=place(*points[-1]))


def test_painting_with_the_mouse_and_marking_by_button_and_by_key(qtbot, heart, wait_for):
    viewer, dock, annotation = heart
    dock.controller.workspace.go_to(4)
    qtbot.wait(100)
    paint_with_the_mouse(qtbot, viewer, [(20, 15), (22, 20), (24, 25)])
    assert annotation.data[4].any()
    assert not np.delete(annotation.data, 4, axis=0).any()
    wait_for(lambda: "painted, not yet clean" in dock.clean.status.text())
    assert dock.clean.list.count() == 0, "painted is not clean"
    qtbot.mouseClick(dock.clean.mark, Qt.MouseButton.LeftButton)
    assert dock.clean.list.item(0).text() == "Slice 4"
    assert dock.clean.mark.isChecked()
    dock.controller.workspace.go_to(7)
    assert not dock.clean.mark.isChecked()
    for layer_is_painted in (True, False):  # the key must work whichever layer is selected
        viewer.layers.selection.active = annotation if layer_is_painted else viewer.layers["heart"]
        qtbot.keyClick(viewer.window._qt_viewer.canvas.native, SHORTCUTS["mark_slice_clean"].key)
        assert (dock.clean.list.count() == 2) == layer_is_painted
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, SHORTCUTS["mark_slice_clean"].key)
    assert dock.clean.list.item(1).text() == "Slice 7  (all background)"


def test_the_shortcuts_are_free_in_napari():
    from napari.utils.shortcuts import default_shortcuts

    taken = {str(binding) for bindings in default_shortcuts.values() for binding in bindings}
    assert "V" in taken
    assert not {shortcut.key.replace("-", "+") for shortcut in SHORTCUTS.values()} & taken


def test_the_list_jumps_and_removes(qtbot, heart):
    _viewer, dock, _annotation = heart
    for z in (2, 9):
        dock.controller.mark_clean(True, z)
    first = dock.clean.list.visualItemRect(dock.clean.list.item(0)).center()
    qtbot.mouseClick(dock.clean.list.viewport(), Qt.MouseButton.LeftButton, pos=first)
    assert dock.controller.workspace.current_slice == 2
    qtbot.keyClick(dock.clean.list, Qt.Key.Key_Delete)
    assert [dock.clean.list.item(i).text() for i in range(dock.clean.list.count())] == ["Slice 9  (all background)"]
    assert not dock.clean.mark.isChecked()


def test_the_strip_jumps(qtbot, heart):
    _viewer, dock, _annotation = heart
    strip = dock.clean.strip
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(int(strip.width() * 10.5 / 12), 10))
    assert dock.controller.workspace.current_slice == 10
    qtbot.keyClick(strip, Qt.Key.Key_Left)
    assert dock.controller.workspace.current_slice == 9


def test_undo_is_seen(qtbot, heart, wait_for):
    _viewer, dock, annotation = heart
    dock.controller.workspace.go_to(4)
    annotation.paint((4, 20, 20), 1)
    wait_for(lambda: "painted" in dock.clean.status.text() and "nothing" not in dock.clean.status.text())
    annotation.undo()
    wait_for(lambda: "nothing painted" in dock.clean.status.text())


def test_new_annotation_lies_on_the_image_and_is_ready_to_paint(heart):
    viewer, dock, annotation = heart
    assert annotation.data.shape == viewer.layers["heart"].data.shape
    assert viewer.layers.selection.active == annotation
    assert annotation.mode == "paint"
    assert dock.data.volume_rows[0].annotation.value() == annotation


def test_the_first_labels_of_a_new_annotation_are_bright(heart):
    _viewer, _dock, annotation = heart
    for label in (1, 2, 3, 4):
        assert annotation.get_color(label)[:3].max() > 0.6, "on a dark grey image"


def test_a_view_along_another_axis_can_be_turned(heart):
    viewer, dock, _annotation = heart
    viewer.dims.order = (2, 0, 1)
    assert not dock.clean.mark.isEnabled()
    assert dock.clean.turn.isVisible()
    dock.clean.turn.click()
    assert dock.clean.mark.isEnabled()
    assert not dock.clean.turn.isVisible()
    viewer.dims.ndisplay = 3
    assert not dock.clean.mark.isEnabled()
    dock.controller.workspace.go_to(3)
    assert viewer.dims.ndisplay == 2
    assert dock.controller.workspace.current_slice == 3


def test_an_image_that_is_no_stack_has_no_slices_to_turn_to(open_dock, make_napari_viewer, image, wait_for):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    _, dock = open_dock(viewer)
    viewer.add_image(image[0], name="flat")
    viewer.layers.remove("heart")
    wait_for(lambda: dock.data.problem.text() == "Choose an image.")
    dock.controller.workspace.set_layers([(viewer.layers["flat"], None)])
    assert "not a stack" in dock.data.problem.text()
    assert dock.clean.status.text() == "This image has no slices."
    assert not dock.clean.turn.isVisible()


def test_the_current_slice_follows_transforms(open_dock, make_napari_viewer, image):
    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(image, name="heart", scale=(2.5, 1, 1), translate=(-7, 0, 0))
    _, dock = open_dock(viewer)
    assert dock.controller.workspace.slice_axis == 0
    for z in (0, 5, 11):
        dock.controller.workspace.go_to(z)
        assert dock.controller.workspace.current_slice == z
    viewer.dims.set_point(0, -7 + 2.5 * 4)
    assert dock.controller.workspace.current_slice == 4


def test_coarsest_axis_is_the_slice_axis(open_dock, make_napari_viewer, image):
    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(image, scale=(1, 1, 3))
    _, dock = open_dock(viewer)
    assert dock.controller.workspace.slice_axis == 2


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_a_label_shrinks_again(qtbot):
    from napari_mlbseg.viewer.panels.panel import WrappedLabel

    label = WrappedLabel()
    qtbot.addWidget(label)
    label.setFixedWidth(120)
    label.setText("short")
    one_line = label.height()
    label.setText("so long that it needs several lines of this label")
    assert label.height() > one_line
    label.setText("short")
    assert label.height() == one_line


def test_on_a_low_screen_a_start_and_a_complaint_are_scrolled_to(heart, wait_for):
    _viewer, dock, annotation = heart
    dock.setMaximumHeight(300)

    def is_seen(widget):
        return widget.isVisible() and not widget.visibleRegion().isEmpty()

    wait_for(lambda: not is_seen(dock.train.button))
    dock.controller.start()  # as the command does; no slice is clean
    wait_for(lambda: is_seen(dock.train.complaint))
    annotation.data[3, 10:20, 10:20] = 1
    dock.controller.mark_clean(True, 3)
    dock.scroll.verticalScrollBar().setValue(0)
    dock.train.heading.setChecked(False)
    dock.controller.start()
    wait_for(lambda: is_seen(dock.train.bar) and is_seen(dock.train.stage))


def test_the_colours_of_a_result_have_a_name_that_does_not_widen_the_layer_controls():
    maps = [kind.options["colormap"] for kind in RESULT_KINDS if "colormap" in kind.options]
    names = [name if isinstance(name, str) else name._display_name for name in maps]  # napari has no public name for it
    assert any(names)
    assert max(map(len, names)) <= 12  # letters for which napari's controls are wide enough as they are


# -- the form --------------------------------------------------------------------------------------------------------


def test_every_parameter_can_be_edited_and_takes_its_bounds_and_help_from_the_config(open_dock):
    _viewer, dock = open_dock()
    editors = {**dock.train.editors, **dock.train.form.editors}
    assert set(editors) == set(TrainingConfig.model_fields)
    for name, editor in editors.items():
        assert TrainingConfig.model_fields[name].description in editor.editor.toolTip()
    for preset in ("paper", "standard", "quick"):
        dock.train.editors["preset"].changed.emit("preset", preset)
        config = dock.controller.session.config
        assert config == TrainingConfig.from_preset(preset)
        shown = config.updated(**{name: editor.value() for name, editor in editors.items()})
        assert shown == config, "the form shows the config"


def test_an_edit_reaches_the_session_and_a_wrong_one_is_refused(qtbot, open_dock):
    _viewer, dock = open_dock()
    views = dock.train.form.editors["n_views"].editor
    views.setValue(7)
    assert dock.controller.session.config.n_views == 7
    assert (views.minimum(), views.maximum()) == (1, 16)
    line = dock.train.form.editors["zoom_in"].editor
    line.setText("1.5, 1.1")
    line.editingFinished.emit()
    assert "zoom_in" in dock.train.complaint.text()
    assert line.text() == "1.1, 1.4", "the refused text is taken back"


@pytest.mark.parametrize("answer", ["Yes", "No"])
def test_an_address_that_sends_images_unencrypted_is_asked_about(open_dock, answer):
    _viewer, dock = open_dock()
    session, line = dock.controller.session, dock.train.form.editors["cluster"].editor
    line.setText("tcp://server:8786")
    line.editingFinished.emit()
    assert session.config.cluster == line.text() == "", "not before there is an answer"
    question = dock.train.question
    assert "can be read on the way" in question.text()
    assert question.defaultButton().text().replace("&", "") == "No"
    question.button(getattr(question.StandardButton, answer)).click()
    assert session.config.cluster == line.text() == ("tcp://server:8786" if answer == "Yes" else "")


def test_an_address_of_a_cluster(open_dock):
    _viewer, dock = open_dock()
    session, line = dock.controller.session, dock.train.form.editors["cluster"].editor
    line.setText("127.0.0.1:8786")
    line.editingFinished.emit()
    assert session.config.cluster == line.text() == "tcp://127.0.0.1:8786", "nobody is asked: it stays on this machine"
    dock.train.editors["preset"].changed.emit("preset", "standard")
    assert session.config.cluster == "tcp://127.0.0.1:8786", "a preset says how to train, not where"
    line.setText("server")
    line.editingFinished.emit()
    assert "write it as the scheduler does" in dock.train.complaint.text()
    assert line.text() == "tcp://127.0.0.1:8786"
    line.setText("")
    line.editingFinished.emit()
    assert session.config.cluster == ""


def test_no_limit_is_none(open_dock):
    _viewer, dock = open_dock()
    budget = dock.train.editors["time_budget"].editor
    budget.setValue(budget.minimum())
    assert budget.text() == "no limit"
    assert dock.controller.session.config.time_budget is None


def test_tab_goes_through_the_panels_from_top_to_bottom(heart):
    _, dock, _ = heart
    in_order = [
        dock.data.heading,
        dock.data.volume_rows[0].image,
        dock.data.volume_rows[0].annotation,
        dock.data.slice_axis,
        dock.clean.heading,
        dock.clean.strip,
        dock.clean.mark,
        dock.train.heading,
        dock.train.editors["preset"].editor,
        dock.train.button,
        dock.train.advanced.heading,
        dock.results.heading,
    ]
    chain, widget = [], dock.data.heading
    for _ in range(300):
        if widget in in_order:
            chain.append(widget)
        widget = widget.nextInFocusChain()
        if widget is dock.data.heading:
            break
    assert chain == in_order
    assert all(widget.focusPolicy() & Qt.FocusPolicy.TabFocus for widget in in_order)
