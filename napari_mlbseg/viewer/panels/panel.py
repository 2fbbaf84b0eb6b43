"""What all panels of the dock are: a heading that folds them away, and connections that they let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QLabel, QLayout, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from napari_mlbseg.viewer.connections import Connections

__all__ = ["Panel", "WrappedLabel", "hint", "in_reading_order"]

_HEADING = """
QToolButton { border: none; border-top: 1px solid rgba(128, 128, 128, 80); border-radius: 0; font-weight: bold;
              text-align: left; padding: 5px 2px; }
QToolButton:focus { background: rgba(128, 128, 128, 60); }
"""


class Panel(QWidget):
    """A part of the dock with a heading; a click on the heading, or Space, folds it.

    superqt's QCollapsible fixes the height of its content, which cuts off wrapped text and lists that grow.

    Parameters
    ----------
    title : str
        Heading; an ampersand marks its mnemonic.
    folded : bool
        Whether only the heading shows at first.
    """

    def __init__(self, title: str, *, folded: bool = False) -> None:
        super().__init__()
        self._connections = Connections()
        self.heading = QToolButton(text=title, checkable=True, checked=not folded)
        self.heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.heading.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.heading.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.heading.setStyleSheet(_HEADING)
        self.body = QWidget()
        self.rows = QVBoxLayout(self.body)
        self.rows.setContentsMargins(10, 2, 2, 8)
        self.rows.setSpacing(6)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.heading)
        layout.addWidget(self.body)
        self.heading.toggled.connect(self._on_unfolded)
        self._on_unfolded(not folded)

    def listen(self, signal: Any, slot: Callable[..., None]) -> None:
        """Connect a psygnal signal for as long as the panel lives."""
        self._connections.make(signal, slot)

    def disconnect_all(self) -> None:
        """Disconnect what `listen` connected: a signal must not reach a widget that is being destroyed."""
        self._connections.drop()

    def _on_unfolded(self, unfolded: bool) -> None:
        self.heading.setArrowType(Qt.ArrowType.DownArrow if unfolded else Qt.ArrowType.RightArrow)
        self.body.setVisible(unfolded)


def in_reading_order(widget: QWidget) -> Iterator[QWidget]:
    """Widgets within `widget` that the Tab key can reach, as its layouts arrange them."""
    layout = widget.layout()
    if layout is None:
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            yield widget
        return
    yield from _in_layout(layout)


def _in_layout(layout: QLayout) -> Iterator[QWidget]:
    for index in range(layout.count()):
        item = layout.itemAt(index)
        if item.widget() is not None:
            yield from in_reading_order(item.widget())
        elif item.layout() is not None:
            yield from _in_layout(item.layout())


class WrappedLabel(QLabel):
    """Text on as many lines as it needs, and always exactly as tall.

    A wrapped QLabel has a height that depends on its width, which nested layouts in a scroll area take account of too
    late: what lies below is squeezed. This one fixes its height whenever its text or width changes.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setWordWrap(True)

    def hasHeightForWidth(self) -> bool:
        return False

    def setText(self, text: str) -> None:
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # QLabel never answers less than its own minimum
        self.setFixedHeight(max(0, self.heightForWidth(self.width())))  # -1 without text


def hint(text: str) -> WrappedLabel:
    """A line that explains, set off from the rest."""
    label = WrappedLabel(text)
    label.setStyleSheet("QLabel { font-style: italic; }")
    return label
