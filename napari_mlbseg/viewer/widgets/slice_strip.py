"""A strip as long as the stack, one cell a slice: what each slice is, how sure the model is, where to look next."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_mlbseg.viewer.widgets.legend import Draw, Legend
from napari_mlbseg.viewer.widgets.strip_state import WORDS, StripState

__all__ = ["SliceStrip", "StripLegend", "StripState"]


class _Look(NamedTuple):
    """How a kind of slice is drawn: a colour, and which parts of the cell's height, from 0 at the top to 1."""

    colour: QColor
    parts: tuple[tuple[float, float], ...]


# Colours that differ for every kind of colour vision (Okabe and Ito), and marks that differ without any colour: what is
# marked clean fills the cell, what is not its lower half; what came from a prediction is split in two.
_LOOKS = {
    "predicted": _Look(QColor(140, 148, 160), ((0.80, 1.0),)),
    "rejected": _Look(QColor(213, 94, 0), ((0.38, 0.62),)),
    "painted": _Look(QColor(240, 185, 40), ((0.5, 1.0),)),
    "taken over": _Look(QColor(86, 180, 233), ((0.5, 0.67), (0.83, 1.0))),
    "accepted": _Look(QColor(86, 180, 233), ((0.0, 0.4), (0.6, 1.0))),
    "clean": _Look(QColor(0, 158, 115), ((0.0, 1.0),)),
}
_KINDS = tuple(WORDS)  # number 1 is the first: 0 is a slice of which there is nothing to say
_TRACK = QColor(128, 128, 128, 80)
_DOUBT = QColor(204, 121, 167)
_FAINTEST = 40  # opacity, of 255, of no doubt: what is not known is not drawn at all
_DOUBT_LEVELS = 24  # more could not be told apart, and neighbours of one level are drawn at once

_MARKERS, _CELLS, _BETWEEN, _BAND, _BELOW = 9, 16, 3, 5, 1  # heights in pixels, top to bottom
_THINNEST = 3.0  # pixels of a cell that must be seen among thousands
_WITH_GAPS = 4.0  # cells from this width on are set apart by a pixel
_REACH = 6.0  # pixels from a marker within which it is meant


class SliceStrip(QWidget):
    """Shows a stack and asks for slices.

    A click or drag asks for the slice there, Left and Right for the neighbours, Page Up and Page Down for the clean
    slices before and after, Home and End for the ends, S for the next suggestion.
    """

    slice_wanted = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._state = StripState()
        self._drawn: QPixmap | None = None  # all but the slice in view, which moves more often than the rest changes
        self._rare: list[int] = []  # slices that are more than predicted, in order
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setAccessibleName("Slices of the stack")

    def sizeHint(self) -> QSize:
        return QSize(200, _MARKERS + _CELLS + _BETWEEN + _BAND + _BELOW)

    def set_value(self, state: StripState) -> None:
        """Show a stack."""
        if not state.looks_like(self._state):
            self._drawn = None
            rare = state.kinds() > 1
            rare[[z for z in state.suggested if 0 <= z < state.n_slices]] = True
            self._rare = np.flatnonzero(rare).tolist()
        self._state = state
        z = state.current
        self.setAccessibleDescription("" if z is None or not 0 <= z < state.n_slices else state.sentence(z))
        self.update()

    def value(self) -> StripState:
        """What is shown."""
        return self._state

    def slice_at(self, x: float) -> int | None:
        """Slice under a horizontal position."""
        n = self._state.n_slices
        return min(n - 1, max(0, int(x / max(1, self.width()) * n))) if n else None

    # -- drawing -------------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        ratio = self.devicePixelRatioF()
        if self._drawn is None or self._drawn.size() != self.size() * ratio:
            self._drawn = self._draw(self.size() * ratio, ratio)
        painter = QPainter(self)
        painter.drawPixmap(0, 0, self._drawn)
        if self._state.current is not None and self._state.n_slices:
            x = round(self._middle(self._state.current))
            top, height = _MARKERS - 2, self.height() - _MARKERS + 2
            painter.fillRect(QRect(x - 2, top, 4, height), self.palette().window().color())
            painter.fillRect(QRect(x - 1, top, 2, height), self.palette().windowText().color())
        if self.hasFocus():
            painter.setPen(QPen(self.palette().highlight().color(), 1))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange):
            self._drawn = None

    def _draw(self, size: QSize, ratio: float) -> QPixmap:
        """Everything but the slice in view, in pixels of the screen."""
        pixmap = QPixmap(size)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        cells = QRect(0, round(_MARKERS * ratio), size.width(), round(_CELLS * ratio))
        band = QRect(0, round((_MARKERS + _CELLS + _BETWEEN) * ratio), size.width(), round(_BAND * ratio))
        painter.fillRect(cells, _TRACK)
        for start, stop, number in _runs(self._columns(size.width(), ratio)):
            if number:
                draw_cell(painter, QRectF(start, cells.top(), stop - start, cells.height()), _KINDS[number - 1])
        for start, stop, level in _runs(self._doubt_levels(size.width())):
            if level:
                painter.fillRect(QRect(start, band.top(), stop - start, band.height()), _doubt_colour(level))
        painter.scale(ratio, ratio)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for rank, z in reversed(list(enumerate(self._state.suggested))):  # the best lies on top
            draw_marker(painter, self._middle(z), self.palette().windowText().color(), best=rank == 0)
        painter.end()
        pixmap.setDevicePixelRatio(ratio)
        return pixmap

    def _columns(self, width: int, ratio: float) -> np.ndarray:
        """Kind of slice in every column of pixels; of several slices in one column the later kind wins."""
        kinds, columns = self._state.kinds(), np.zeros(width, dtype=np.uint8)
        cell = width / max(1, self._state.n_slices)
        for number, name in enumerate(_KINDS, start=1):
            slices = np.flatnonzero(kinds == number)
            shown = cell - ratio if cell >= _WITH_GAPS * ratio else cell
            if name != "predicted":  # of which there are mostly many
                shown = max(shown, _THINNEST * ratio)
            left = (slices + 0.5) * cell - shown / 2
            starts = np.clip(np.round(left), 0, width - 1).astype(int)
            stops = np.clip(np.maximum(np.round(left + shown), starts + 1), 0, width).astype(int)
            steps = np.bincount(starts, minlength=width + 1) - np.bincount(stops, minlength=width + 1)
            columns[np.cumsum(steps)[:width] > 0] = number
        return columns

    def _doubt_levels(self, width: int) -> np.ndarray:
        """Level of doubt in every column of pixels, from 1; 0 where it is not known. Of several slices, the highest."""
        if self._state.doubt is None or not self._state.n_slices:
            return np.zeros(width, dtype=int)
        first = np.arange(width) * self._state.n_slices // width
        highest = np.fmax.reduceat(self._state.doubt, first)
        return np.where(np.isnan(highest), 0, 1 + np.round(np.clip(highest, 0, 1) * _DOUBT_LEVELS)).astype(int)

    def _middle(self, z: int) -> float:
        return (z + 0.5) * self.width() / max(1, self._state.n_slices)

    # -- mouse and keys ------------------------------------------------------------------------------------------

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._ask_for(self._pointed_at(event.position()))

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._ask_for(self.slice_at(event.position().x()))
            return
        z = self._pointed_at(event.position())
        if z is not None:
            QToolTip.showText(event.globalPosition().toPoint(), self._state.sentence(z), self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        z = None if event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier else self._wanted_by(event.key())
        if z is None:
            super().keyPressEvent(event)
        else:
            self._ask_for(z)

    def _pointed_at(self, place: QPointF) -> int | None:
        """Slice that is meant by a place: of thousands, one that has something to say and is drawn there."""
        state, z = self._state, self.slice_at(place.x())
        if z is None:
            return None
        if place.y() < _MARKERS and state.suggested:
            nearest = min(state.suggested, key=lambda s: abs(self._middle(s) - place.x()))
            return nearest if abs(self._middle(nearest) - place.x()) <= _REACH else z
        if self.width() / state.n_slices >= _THINNEST:
            return z
        position = bisect_left(self._rare, z)
        near = self._rare[max(0, position - 1) : position + 1]
        near = [s for s in near if abs(self._middle(s) - place.x()) <= _THINNEST]
        return min(near, key=lambda s: abs(self._middle(s) - place.x()), default=z)

    def _wanted_by(self, key: int) -> int | None:
        """Slice that a key asks for, or None where it asks for none."""
        state, current = self._state, self._state.current
        if not state.n_slices:
            return None
        if key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            return 0 if key == Qt.Key.Key_Home else state.n_slices - 1
        if key == Qt.Key.Key_S:
            order = list(state.suggested)
            after = order.index(current) + 1 if current is not None and current in order else 0
            return order[after % len(order)] if order else None
        if current is None:
            return None
        if key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            return min(state.n_slices - 1, max(0, current + (-1 if key == Qt.Key.Key_Left else 1)))
        if key == Qt.Key.Key_PageUp:
            return max((z for z in state.clean if z < current), default=current)
        if key == Qt.Key.Key_PageDown:
            return min((z for z in state.clean if z > current), default=current)
        return None

    def _ask_for(self, z: int | None) -> None:
        if z is not None and z != self._state.current:
            self.slice_wanted.emit(z)


class StripLegend(Legend):
    """Explains the colours and marks of a strip, only those that it shows."""

    def set_value(self, state: StripState) -> None:
        """Explain what is drawn of `state`."""
        shown = [_KINDS[number - 1] for number in np.unique(state.kinds()) if number]
        samples: dict[str, Draw] = {}
        for kind in reversed(shown):  # the most telling first
            samples.setdefault("accepted" if kind == "taken over" else kind, _cell_sample(kind))
        entries = list(samples.items())
        if state.suggested:
            entries.append(("suggested", _marker_sample))
        if state.doubt is not None and not np.isnan(state.doubt).all():
            entries.append(("doubt", _doubt_sample))
        if [words for words, _ in entries] != self.words():
            self.set_entries(entries)


def draw_cell(painter: QPainter, cell: QRectF, kind: str) -> None:
    """Draw a slice, or several in a row, of one kind."""
    look = _LOOKS[kind]
    for top, bottom in look.parts:
        height = max(1, round((bottom - top) * cell.height()))
        y = round(cell.top() + top * cell.height())
        painter.fillRect(QRectF(cell.left(), y, cell.width(), height), look.colour)


def draw_marker(painter: QPainter, x: float, colour: QColor, best: bool) -> None:
    """Draw the triangle of a suggestion; the best one is larger, the others are hollow."""
    half, height = (4.5, _MARKERS - 2.0) if best else (3.5, _MARKERS - 3.0)
    bottom = _MARKERS - 1.0
    corners = [QPointF(x - half, bottom - height), QPointF(x + half, bottom - height), QPointF(x, bottom)]
    painter.setPen(QPen(colour, 1))
    painter.setBrush(colour if best else Qt.BrushStyle.NoBrush)
    painter.drawPolygon(QPolygonF(corners))


def _doubt_colour(level: int) -> QColor:
    colour = QColor(_DOUBT)
    colour.setAlpha(_FAINTEST + (255 - _FAINTEST) * (level - 1) // _DOUBT_LEVELS)
    return colour


def _cell_sample(kind: str) -> Draw:
    def draw(painter: QPainter, place: QRectF, text: QColor) -> None:
        painter.fillRect(place, _TRACK)
        draw_cell(painter, place, kind)

    return draw


def _marker_sample(painter: QPainter, place: QRectF, text: QColor) -> None:
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.translate(0, place.center().y() - _MARKERS / 2)
    draw_marker(painter, place.center().x(), text, best=True)


def _doubt_sample(painter: QPainter, place: QRectF, text: QColor) -> None:
    """From no doubt to the highest."""
    for i in range(4):
        part = QRectF(place.left() + i * place.width() / 4, place.center().y() - _BAND / 2, place.width() / 4, _BAND)
        painter.fillRect(part, _doubt_colour(1 + i * _DOUBT_LEVELS // 3))


def _runs(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Start, stop and value of stretches of the same value."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(start, stop, int(values[start])) for start, stop in pairwise(edges) if stop > start]
