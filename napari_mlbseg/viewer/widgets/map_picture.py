"""A weight map as a picture, with a colour bar whose scale is the same for every slice, round and volume."""

from __future__ import annotations

import numpy as np
from napari.utils.colormaps import ensure_colormap
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QImage, QMouseEvent, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_mlbseg.viewer.layers.result_kinds import ResultKind

__all__ = ["MapView", "picture", "to_image"]

_BAR = 14  # width of the colour bar in pixels
_TICK = 4
_MARGIN = 12
_LABELS = 46  # width of the numbers beside the bar, at the window's font
_VIEW_HEIGHT = 210
_PICTURE_SIDE = 768  # pixels of the longer side of an exported map, at least


def to_image(values: np.ndarray, kind: ResultKind) -> QImage:
    """The map (Y, X) in the colours of its kind, one pixel a pixel."""
    low, high = kind.options["contrast_limits"]
    shades = np.clip((np.asarray(values, dtype=np.float32) - low) / (high - low), 0, 1)
    return _rgb_image(_table(kind)[np.round(shades * 255).astype(np.uint8)])


def picture(values: np.ndarray, kind: ResultKind, aspect: float, caption: str) -> QImage:
    """The map with its colour bar and a caption, black on white, for a report or a paper.

    Parameters
    ----------
    values : ndarray, (Y, X)
    kind : ResultKind
    aspect : float
        Height of a pixel divided by its width.
    caption : str
    """
    rows, columns = values.shape
    tall, wide = rows * aspect, float(columns)
    scale = _PICTURE_SIDE / max(tall, wide)
    font = QFont()
    font.setPixelSize(_PICTURE_SIDE // 40)
    metrics = QFontMetricsF(font)
    lines = metrics.lineSpacing()
    labels = max(metrics.horizontalAdvance(text) for _, text in _ticks(kind)) + 2 * _TICK
    width = max(wide * scale + 3 * _MARGIN + 2 * _BAR + labels, metrics.horizontalAdvance(caption) + 2 * _MARGIN)
    image = QImage(round(width), round(tall * scale + lines + 3 * _MARGIN), QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    painter.setFont(font)
    painter.setPen(QColor("black"))
    painter.drawText(QPointF(_MARGIN, _MARGIN + metrics.ascent()), caption)
    place = QRectF(_MARGIN, lines + 2 * _MARGIN, wide * scale, tall * scale)
    painter.drawImage(place, to_image(values, kind))
    bar = QRectF(place.right() + _MARGIN, place.top(), 2 * _BAR, place.height())
    _draw_bar(painter, bar, kind, QColor("black"))
    painter.end()
    return image


class MapView(QWidget):
    """Shows a map and its colour bar; tells which pixel the mouse is over."""

    hovered = Signal(int, int)  # row, column

    def __init__(self) -> None:
        super().__init__()
        self._image: QImage | None = None
        self._kind: ResultKind | None = None
        self._aspect = 1.0
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(_VIEW_HEIGHT)

    def sizeHint(self) -> QSize:
        return QSize(300, _VIEW_HEIGHT)

    def set_value(self, values: np.ndarray | None, kind: ResultKind, aspect: float) -> None:
        """Show a map (Y, X) whose pixels are `aspect` times as high as wide; without one only the colour bar."""
        self._image = None if values is None else to_image(values, kind)
        self._kind, self._aspect = kind, aspect
        self.setAccessibleName(f"Map of the slice in view: {kind.words}")
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._kind is None:
            return
        painter = QPainter(self)
        text = self.palette().windowText().color()
        half_line = self.fontMetrics().height() / 2
        place = self._place()
        if self._image is not None:
            painter.drawImage(place, self._image)
        bar = QRectF(place.right() + 8, half_line, _BAR, self.height() - 2 * half_line)
        _draw_bar(painter, bar, self._kind, text)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        place, at = self._place(), event.position()
        if self._image is not None and place.contains(at):
            row = int((at.y() - place.top()) / place.height() * self._image.height())
            column = int((at.x() - place.left()) / place.width() * self._image.width())
            self.hovered.emit(min(row, self._image.height() - 1), min(column, self._image.width() - 1))

    def _place(self) -> QRectF:
        """Where the map lies: as large as fits beside the bar, and not stretched."""
        free = QRectF(0, 0, max(1, self.width() - _BAR - _LABELS - 8), self.height())
        if self._image is None:
            return free
        wide, tall = self._image.width(), self._image.height() * self._aspect
        scale = min(free.width() / wide, free.height() / tall)
        width, height = wide * scale, tall * scale
        return QRectF((free.width() - width) / 2, (free.height() - height) / 2, width, height)


def _draw_bar(painter: QPainter, bar: QRectF, kind: ResultKind, text: QColor) -> None:
    """Draw the colours from the lowest at the bottom to the highest, with their values."""
    painter.drawImage(bar, _rgb_image(_table(kind)[::-1, None]))
    painter.setPen(QPen(text, 1))
    painter.drawRect(bar)
    low, high = kind.options["contrast_limits"]
    metrics = QFontMetricsF(painter.font())
    for value, words in _ticks(kind):
        y = bar.bottom() - (value - low) / (high - low) * bar.height()
        painter.drawLine(QPointF(bar.right(), y), QPointF(bar.right() + _TICK, y))
        middle = y + (metrics.ascent() - metrics.descent()) / 2
        painter.drawText(QPointF(bar.right() + 2 * _TICK, middle), words)


def _ticks(kind: ResultKind) -> list[tuple[float, str]]:
    """Values beside the colour bar; what lies beyond has the colour of the end."""
    low, high = kind.options["contrast_limits"]
    if low < 0:
        return [(low, f"{low:+g} wⁿ"), (0.0, "0"), (high, f"{high:+g} wᵖ")]
    middle = np.linspace(low, high, 4)[1:-1]
    return [(low, f"{low:g}"), *((float(value), f"{value:g}") for value in middle), (high, f"≥ {high:g}")]


def _table(kind: ResultKind) -> np.ndarray:
    """The colours of a kind, (256, 3) uint8."""
    colours = ensure_colormap(kind.options["colormap"]).map(np.linspace(0, 1, 256))
    return np.round(colours[:, :3] * 255).astype(np.uint8)


def _rgb_image(pixels: np.ndarray) -> QImage:
    """(Y, X, 3) uint8 as an image that owns its pixels."""
    rows, columns, _ = pixels.shape
    data = np.ascontiguousarray(pixels).tobytes()
    return QImage(data, columns, rows, 3 * columns, QImage.Format.Format_RGB888).copy()
