"""Plots that follow napari's theme. The only module that loads pyqtgraph, and loaded only when a plot is wanted."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from napari.utils.theme import get_theme
from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_mlbseg.viewer.widgets.legend import Draw, Legend

# pyqtgraph puts itself in the place of napari's handling of errors, and at exit takes objects apart that are not its
_hooks = sys.excepthook, threading.excepthook
import pyqtgraph as pg  # noqa: E402

sys.excepthook, threading.excepthook = _hooks
pg.setConfigOptions(exitCleanup=False)

__all__ = ["Curve", "Plot", "ThemeColours", "theme_colours"]


class ThemeColours(NamedTuple):
    """Colours of a napari theme."""

    background: QColor
    text: QColor
    faint: QColor  # of lines that only help the eye
    is_dark: bool


def theme_colours(name: str) -> ThemeColours:
    """Colours of the napari theme of that name."""
    theme = get_theme(name)
    background, text, faint = (QColor(getattr(theme, part).as_hex()) for part in ("background", "text", "secondary"))
    return ThemeColours(background, text, faint, background.lightness() < 128)


class _Style(NamedTuple):
    """How a curve is drawn, on dark and on light."""

    dark: str
    light: str
    line: Qt.PenStyle


# after Okabe and Ito; the lines differ too, for those who cannot tell colours apart
_STYLES = (
    _Style("#56b4e9", "#0072b2", Qt.PenStyle.SolidLine),
    _Style("#e69f00", "#a65300", Qt.PenStyle.DashLine),
    _Style("#35c9a0", "#00705a", Qt.PenStyle.DotLine),
    _Style("#e79fc8", "#9c3f7b", Qt.PenStyle.DashDotLine),
)
_PLOT_HEIGHT = 140
_SAMPLE = (26, 12)  # pixels of a line in the legend


class Curve(NamedTuple):
    """A curve of a plot: its name in code, and what it shows in words."""

    key: str
    words: str


class _LogAxis(pg.AxisItem):
    """An axis of powers of ten: between them 2 and 5 are marked, where there is room; pyqtgraph marks 1 to 9."""

    def logTickValues(
        self, minVal: float, maxVal: float, size: float, stdTicks: list[tuple[float, list[float]]]
    ) -> list[tuple[float | None, list[float]]]:
        powers = np.arange(np.floor(minVal), np.ceil(maxVal) + 1)
        coarse = [(spacing, values) for spacing, values in stdTicks if spacing > 1][:1]  # of very many powers
        fine = np.setdiff1d(powers, [value for _, values in coarse for value in values])
        between = np.add.outer(powers, np.log10([2, 5])).ravel()
        levels: list[tuple[float | None, Iterable[float]]] = [*coarse, (1.0, fine), (None, between)]
        return [(spacing, [v for v in values if minVal <= v <= maxVal]) for spacing, values in levels]


class Plot(QWidget):
    """A heading, a legend in words, and curves.

    Parameters
    ----------
    title : str
    curves : sequence of Curve
        At most four; a single one needs no legend.
    x_label, y_label : str
        With the unit.
    y_ticks : dict of float to str, optional
        Values marked on the y axis, which goes from the first to the last. By default as the curves need it, from 0.
    log : bool
        Powers of ten on the y axis; what is not positive is left out.
    points : bool
        Mark every value.
    steps : bool
        Draw values as bars between edges, as a histogram: x is one longer than y.
    """

    clicked = Signal(float)  # x

    def __init__(
        self,
        title: str,
        curves: Sequence[Curve],
        x_label: str,
        y_label: str,
        *,
        y_ticks: dict[float, str] | None = None,
        log: bool = False,
        points: bool = False,
        steps: bool = False,
    ) -> None:
        super().__init__()
        self._curves, self._log, self._points, self._steps = tuple(curves), log, points, steps
        self._labels = {"bottom": x_label, "left": y_label}
        self._colours = theme_colours("dark")
        self.heading = QLabel(title)
        self.heading.setStyleSheet("QLabel { font-weight: bold; }")
        self.legend = Legend(sample=_SAMPLE)
        self.view = pg.PlotWidget(enableMenu=False, axisItems={"left": _LogAxis("left")} if log else {})
        self.view.setFixedHeight(_PLOT_HEIGHT)
        self.view.setAccessibleName(title)
        self.item = self.view.getPlotItem()
        menu = self.item.ctrlMenu  # made all the same; without a parent it would outlive the plot
        menu.setParent(self.view, menu.windowFlags())
        self.item.hideButtons()
        self.item.setMouseEnabled(False, False)
        self.item.layout.setContentsMargins(4, 8, 10, 8)  # else the axes' labels are cut off
        for name in ("bottom", "left"):
            self.item.getAxis(name).enableAutoSIPrefix(False)  # nobody reads "(x 0.001)"
        if not steps:  # pyqtgraph cannot do either with edges
            self.item.setClipToView(True)
            self.item.setDownsampling(auto=True, mode="peak")
        if y_ticks is not None:
            self.set_y_ticks(y_ticks)
        elif log:
            self.item.setLogMode(y=True)
            self.item.setLimits(minYRange=1)  # a decade: else it may hold no mark
        else:
            self.set_lowest(0)
        self._floor = -1.0  # below what a histogram shows, also where it is logarithmic
        self.lines = {curve.key: self.item.plot(stepMode="center" if steps else None) for curve in self._curves}
        self.mark = pg.InfiniteLine(movable=False)
        self.mark.hide()
        self.item.addItem(self.mark, ignoreBounds=True)
        # a wheel over a plot scrolls the dock, and a drag does nothing
        self.view.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.heading)
        layout.addWidget(self.legend)
        self.legend.setVisible(len(self._curves) > 1)
        layout.addWidget(self.view)

    def set_values(self, key: str, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> None:
        """Show a curve; NaN leaves a gap."""
        shown = np.asarray(y, dtype=float)
        if self._log:
            shown = np.where(shown > 0, shown, np.nan)
        self.lines[key].setData(np.asarray(x, dtype=float), shown, connect="all" if self._steps else "finite")

    def set_lowest(self, y: float) -> None:
        """The y axis does not go below `y`."""
        self.item.setLimits(yMin=y)

    def set_y_ticks(self, ticks: dict[float, str]) -> None:
        """Mark these values, and go from the first to the last."""
        axis = self.item.getAxis("left")
        axis.setTicks([list(ticks.items())])
        axis.setStyle(hideOverlappingLabels=False)  # else the first and the last are left out
        self.item.setYRange(min(ticks), max(ticks), padding=0.04)

    def values(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """What a curve shows: x and y."""
        x, y = self.lines[key].getOriginalDataset()
        return (np.empty(0), np.empty(0)) if x is None else (x, y)

    def set_mark(self, x: float | None) -> None:
        """Show a vertical line, or none."""
        self.mark.setVisible(x is not None)
        if x is not None:
            self.mark.setValue(x)

    def set_colours(self, colours: ThemeColours) -> None:
        """Take on the colours of a theme."""
        self._colours = colours
        self.view.setBackground(colours.background)
        for name in ("bottom", "left"):
            axis = self.item.getAxis(name)
            axis.setPen(colours.faint)
            axis.setTextPen(colours.text)
            self.item.setLabel(name, self._labels[name], color=colours.text.name())
        self.mark.setPen(pg.mkPen(colours.text, width=1))
        entries: list[tuple[str, Draw]] = []
        for curve, style in zip(self._curves, _STYLES, strict=False):
            pen = _pen(style, colours)
            self.lines[curve.key].setPen(pen)
            if self._points:
                self.lines[curve.key].setSymbol("o")
                self.lines[curve.key].setSymbolSize(8)
                self.lines[curve.key].setSymbolPen(None)
                self.lines[curve.key].setSymbolBrush(pen.color())
            if self._steps:
                fill = pen.color()
                fill.setAlpha(110)
                self.lines[curve.key].setFillLevel(self._floor)
                self.lines[curve.key].setBrush(fill)
            entries.append((curve.words, _line_sample(pen)))
        self.legend.set_entries(entries)

    def mousePressEvent(self, event: Any) -> None:
        """Tell where the plot was clicked."""
        if event.button() == Qt.MouseButton.LeftButton:
            place = self.view.mapFrom(self, event.position().toPoint())
            scene = self.view.mapToScene(place)
            if self.item.vb.sceneBoundingRect().contains(scene):
                self.clicked.emit(float(self.item.vb.mapSceneToView(scene).x()))


def _pen(style: _Style, colours: ThemeColours) -> QPen:
    return pg.mkPen(QColor(style.dark if colours.is_dark else style.light), width=2, style=style.line)


def _line_sample(pen: QPen) -> Draw:
    def draw(painter: QPainter, place: QRectF, text: QColor) -> None:
        painter.setPen(pen)
        y = place.center().y()
        painter.drawLine(QPointF(place.left(), y), QPointF(place.right(), y))

    return draw
