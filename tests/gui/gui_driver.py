"""A person at the window: everything is done with the mouse and the keys, at the places where things are drawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QLineEdit, QTreeWidget, QWidget
from skimage.measure import approximate_polygon, find_contours

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["Person", "outlines"]


class Person:
    """Looks at a viewer with the dock, clicks and types.

    Parameters
    ----------
    viewer : Viewer
    dock : MLBSegDock
    pictures : Path, optional
        Folder for what they see.
    """

    def __init__(self, viewer: Viewer, dock: MLBSegDock, pictures: Path | None = None) -> None:
        self.viewer, self.dock = viewer, dock
        self._pictures = pictures
        self._n_pictures = 0

    # -- waiting and looking ---------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        QTest.qWait(round(1000 * seconds))

    def wait_for(self, condition: Callable[[], bool], at_most: float = 60.0) -> None:
        end = time.monotonic() + at_most
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            QTest.qWait(20)

    def picture(self, name: str) -> None:
        """Keep what is seen, if anybody wants it."""
        self.wait(0.4)
        if self._pictures is not None:
            self._pictures.mkdir(parents=True, exist_ok=True)
            self._n_pictures += 1
            path = self._pictures / f"{name}.png"
            self.viewer.screenshot(str(path), canvas_only=False, flash=False)

    # -- mouse and keys --------------------------------------------------------------------------------------------

    def click(self, widget: QWidget) -> None:
        """Scroll to a widget of the dock and click into its middle."""
        if self.dock.isAncestorOf(widget):
            self.dock.scroll.ensureWidgetVisible(widget, 0, 60)
            QTest.qWait(60)
        assert widget.isVisible(), f"{widget} is not to be seen"
        assert widget.isEnabled(), f"{widget} is greyed out"
        QTest.mouseClick(widget, Qt.MouseButton.LeftButton)
        QTest.qWait(30)

    def click_row(self, table: QTreeWidget, row: int) -> None:
        """Click a row of a table."""
        self.dock.scroll.ensureWidgetVisible(table, 0, 60)
        place = table.visualItemRect(table.topLevelItem(row)).center()
        QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        QTest.qWait(30)

    def press(self, key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        """Press a key over the canvas."""
        QTest.keyClick(self._canvas, key, modifier)
        QTest.qWait(60)

    def type_number(self, editor: QWidget, number: float) -> None:
        """Replace what a spin box holds."""
        self.click(editor)
        QTest.keyClick(editor, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        QTest.keyClicks(editor, f"{number:g}")
        QTest.keyClick(editor, Qt.Key.Key_Return)
        QTest.qWait(30)

    def choose_in_dialog(self, path: Path) -> None:
        """Type a path into the file dialog that is open, and press Return."""
        self.wait_for(lambda: any(w.isVisible() for w in QApplication.topLevelWidgets() if isinstance(w, QFileDialog)))
        (dialog,) = (w for w in QApplication.topLevelWidgets() if isinstance(w, QFileDialog) and w.isVisible())
        line = dialog.findChild(QLineEdit)
        line.setCompleter(None)  # its suggestions come when the disk answers, and would take the Return
        dialog.activateWindow()
        QTest.mouseClick(line, Qt.MouseButton.LeftButton)
        self.wait_for(line.hasFocus, 10)  # Qt writes what it selects into a line that nobody is typing in
        line.selectAll()
        QTest.keyClicks(line, str(path))
        QTest.keyClick(line, Qt.Key.Key_Return)
        QTest.qWait(100)
        if _is_visible(dialog):  # the first Return went into the folder
            QTest.keyClick(line, Qt.Key.Key_Return)
        self.wait_for(lambda: not _is_visible(dialog), 10)

    def go_to(self, z: int) -> None:
        """Click the slice on the strip."""
        strip = self.dock.clean.strip
        self.dock.scroll.ensureWidgetVisible(strip, 0, 60)
        QTest.qWait(60)
        x = (z + 0.5) * strip.width() / self.dock.controller.workspace.n_slices
        QTest.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(int(x), strip.height() // 2))
        if self.dock.controller.workspace.current_slice != z:  # of cells thinner than a pixel, the neighbour was hit
            difference = z - self.dock.controller.workspace.current_slice
            for _ in range(abs(difference)):
                QTest.keyClick(strip, Qt.Key.Key_Right if difference > 0 else Qt.Key.Key_Left)
        QTest.qWait(120)
        assert self.dock.controller.workspace.current_slice == z

    def go_to_suggestion(self) -> None:
        """Click *Go there*, unless the suggested slice is in view."""
        self.wait(0.4)  # the panel tells news a moment later
        wanted = self.dock.controller.workspace.suggestion().slice
        if wanted != self.dock.controller.workspace.current_slice:
            self.click(self.dock.review.go)
        assert self.dock.controller.workspace.current_slice == wanted

    # -- painting --------------------------------------------------------------------------------------------------

    def outline(self, corners: Sequence[tuple[float, float]], label: int = 1) -> None:
        """Fill a polygon with a label: napari's polygon tool, a click a corner and a double click at the end."""
        layer = self.viewer.layers.selection.active
        self._select_label(layer, label)
        self.use("3", "polygon")
        points = [self._place(corner) for corner in corners]
        for point in points:
            QTest.mouseMove(self._canvas, point)
            QTest.mouseClick(self._canvas, Qt.MouseButton.LeftButton, pos=point)
            QTest.qWait(5)
        QTest.mouseDClick(self._canvas, Qt.MouseButton.LeftButton, pos=points[-1])
        QTest.qWait(80)
        self.use("2", "paint")

    def use(self, key: str, tool: str) -> None:
        """Press the key of one of napari's tools for labels."""
        layer = self.viewer.layers.selection.active
        self.press(key)
        self.wait_for(lambda: str(layer.mode) == tool, 5)

    def stroke(self, points: Sequence[tuple[float, float]]) -> None:
        """Drag the mouse over data positions (row, column)."""
        places = [self._place(point) for point in points]
        QTest.mouseMove(self._canvas, places[0])
        QTest.mousePress(self._canvas, Qt.MouseButton.LeftButton, pos=places[0])
        for place in places[1:]:
            QTest.mouseMove(self._canvas, place)
            QTest.qWait(20)
        QTest.mouseRelease(self._canvas, Qt.MouseButton.LeftButton, pos=places[-1])
        QTest.qWait(60)

    def _select_label(self, layer: Any, label: int) -> None:
        while layer.selected_label != label:
            self.press(Qt.Key.Key_Equal if layer.selected_label < label else Qt.Key.Key_Minus)

    @property
    def _canvas(self) -> QWidget:
        return self.viewer.window._qt_viewer.canvas.native

    def _place(self, data: tuple[float, float]) -> QPoint:
        """Where a data position (row, column) of the slice in view is drawn."""
        layer = self.viewer.layers.selection.active
        scale, translate = np.asarray(layer.scale)[-2:], np.asarray(layer.translate)[-2:]
        y, x = np.asarray(data) * scale + translate
        px, py = self.viewer.window._qt_viewer.canvas.view.scene.transform.map((x, y))[:2]
        return QPoint(round(px), round(py))


def outlines(mask: np.ndarray) -> list[list[tuple[float, float]]]:
    """Polygons around the parts of a mask, as a careful person would click them; without their holes."""
    polygons = []
    for contour in find_contours(np.pad(mask, 1).astype(float), 0.5):
        corners = approximate_polygon(contour - 1, 0.4)[:-1]
        if len(corners) >= 3 and _area(corners) > 6:
            polygons.append([(float(row), float(column)) for row, column in corners])
    return polygons


def _area(corners: np.ndarray) -> float:
    rows, columns = corners.T
    return abs(float(np.dot(rows, np.roll(columns, 1)) - np.dot(columns, np.roll(rows, 1)))) / 2


def _is_visible(dialog: QFileDialog) -> bool:
    try:
        return bool(dialog.isVisible())
    except RuntimeError:  # it is deleted already
        return False
