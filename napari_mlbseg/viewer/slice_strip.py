"""A strip as long as the stack, one cell a slice: what is clean, what is painted, where the user is."""

from __future__ import annotations

from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

__all__ = ["CLEAN_COLOUR", "PAINTED_COLOUR", "SliceStrip"]

CLEAN_COLOUR = QColor(46, 160, 103)
PAINTED_COLOUR = QColor(214, 158, 46)
_PLAIN_COLOUR = QColor(128, 128, 128, 90)


class SliceStrip(QWidget):
    """Shows a stack; a click or an arrow key asks for a slice."""

    slice_wanted = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._n_slices = 0
        self._clean: frozenset[int] = frozenset()
        self._painted: frozenset[int] = frozenset()
        self._current: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setAccessibleName("Slices of the stack")

    def sizeHint(self) -> QSize:
        return QSize(200, 26)

    def set_value(self, n_slices: int, clean: set[int], painted: set[int], current: int | None) -> None:
        """Show a stack of `n_slices`."""
        self._n_slices, self._current = n_slices, current
        self._clean, self._painted = frozenset(clean), frozenset(painted)
        self.update()

    def slice_at(self, x: float) -> int | None:
        """Slice under a horizontal position."""
        if self._n_slices == 0:
            return None
        return min(self._n_slices - 1, max(0, int(x / self.width() * self._n_slices)))

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.fillRect(QRectF(0, 6, self.width(), self.height() - 12), _PLAIN_COLOUR)
        for z in sorted(self._painted - self._clean):
            painter.fillRect(self._cell(z), PAINTED_COLOUR)
        for z in sorted(self._clean):
            painter.fillRect(self._cell(z), CLEAN_COLOUR)
        if self._current is not None:
            painter.setPen(QPen(self.palette().windowText().color(), 2))
            middle = self._cell(self._current).center().x()
            painter.drawLine(int(middle), 1, int(middle), self.height() - 1)
        if self.hasFocus():
            painter.setPen(QPen(self.palette().highlight().color(), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def _cell(self, z: int) -> QRectF:
        """Where slice `z` is drawn: at least three pixels wide, so that one of hundreds can be seen."""
        width = self.width() / max(1, self._n_slices)
        shown = max(3.0, width - 1)
        return QRectF(z * width + (width - shown) / 2, 6, shown, self.height() - 12)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._ask_for(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        z = self.slice_at(event.position().x())
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._ask_for(event)
        elif z is not None:
            state = (
                "clean" if z in self._clean else "painted, not yet clean" if z in self._painted else "nothing painted"
            )
            QToolTip.showText(event.globalPosition().toPoint(), f"Slice {z}: {state}", self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Right: 1}.get(event.key())
        if step is None or self._current is None:
            super().keyPressEvent(event)
        elif 0 <= self._current + step < self._n_slices:
            self.slice_wanted.emit(self._current + step)

    def _ask_for(self, event: QMouseEvent) -> None:
        z = self.slice_at(event.position().x())
        if z is not None and z != self._current:
            self.slice_wanted.emit(z)
