"""What the colours and marks of a picture mean: small samples with words, on as many lines as the width needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QResizeEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["Draw", "Legend"]

#: Draws a sample into a rectangle, in the colour of the text where it has none of its own.
Draw = Callable[[QPainter, QRectF, QColor], None]

_GAP = 5  # pixels between a sample and its words
_BETWEEN = 12  # pixels between entries


class Legend(QWidget):
    """Samples with words, one after the other.

    Parameters
    ----------
    entries : sequence of (str, callable)
        Words, and what draws the sample before them.
    sample : tuple of int
        Width and height of a sample in pixels.
    """

    def __init__(self, entries: Sequence[tuple[str, Draw]] = (), sample: tuple[int, int] = (12, 12)) -> None:
        super().__init__()
        self._entries: list[tuple[str, Draw]] = []
        self._sample = sample
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.set_entries(entries)

    def sizeHint(self) -> QSize:
        return QSize(200, self.height())

    def set_entries(self, entries: Sequence[tuple[str, Draw]]) -> None:
        """Show these samples and words."""
        self._entries = list(entries)
        self.setAccessibleName("Legend: " + ", ".join(self.words()))
        self._fit()
        self.update()

    def words(self) -> list[str]:
        """What is explained."""
        return [words for words, _ in self._entries]

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        colour = self.palette().windowText().color()
        width, height = self._sample
        line = self._line_height()
        baseline = (line + self.fontMetrics().ascent() - self.fontMetrics().descent()) / 2
        for (words, draw), place in zip(self._entries, self._places(), strict=True):
            painter.save()
            draw(painter, QRectF(place.x(), place.y() + (line - height) / 2, width, height), colour)
            painter.restore()
            painter.setPen(colour)
            painter.drawText(QPointF(place.x() + width + _GAP, place.y() + baseline), words)

    def _places(self) -> list[QPointF]:
        """Upper left corner of every entry."""
        x = y = 0.0
        places = []
        for words, _ in self._entries:
            width = self._sample[0] + _GAP + self.fontMetrics().horizontalAdvance(words)
            if x and x + width > self.width():
                x, y = 0.0, y + self._line_height()
            places.append(QPointF(x, y))
            x += width + _BETWEEN
        return places

    def _line_height(self) -> int:
        return max(self._sample[1], self.fontMetrics().height()) + 2

    def _fit(self) -> None:
        """Be exactly as tall as the lines need: nested layouts take account of a height that depends on the width too
        late.
        """
        places = self._places()
        self.setFixedHeight(int(places[-1].y()) + self._line_height() if places else 0)
