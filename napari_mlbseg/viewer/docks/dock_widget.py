"""What all docks of this plugin are: a column that scrolls, and an end when napari takes them out of its window."""

from __future__ import annotations

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget

__all__ = ["WIDTH", "DockWidget"]

WIDTH = 330  # pixels; of all docks, so that the image keeps its place when another comes to the front


class DockWidget(QWidget):
    """A dock whose content scrolls up and down.

    Parameters
    ----------
    title : str
        What it is called on its bar and its tab, however it was opened.

    Attributes
    ----------
    column : QVBoxLayout
        For the content.
    scroll : QScrollArea
        Around it.
    """

    def __init__(self, title: str, *, margins: tuple[int, int], spacing: int) -> None:
        super().__init__()
        self._title = title
        self._named: QDockWidget | None = None
        across, along = margins
        content = QWidget()
        self.column = QVBoxLayout(content)
        self.column.setContentsMargins(across, along, across, along)
        self.column.setSpacing(spacing)
        self.scroll = QScrollArea(widgetResizable=True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll.setWidget(content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.scroll)
        self.setMinimumWidth(WIDTH)

    def on_ended(self) -> None:
        """The dock was closed, not only hidden: let go of everything."""

    def changeEvent(self, event: QEvent) -> None:
        """Notice that napari took the dock out of its window (its x was clicked): it does not delete it."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange:
            QTimer.singleShot(0, self._on_taken_out if self.parent() is None else self._name_holder)

    @property
    def holder(self) -> QDockWidget | None:
        """Napari's dock around this; None before it is added to a window."""
        around = self.parentWidget()
        while around is not None and not isinstance(around, QDockWidget):
            around = around.parentWidget()
        return around

    def _name_holder(self) -> None:
        """Napari adds the plugin's name where its menu opens a dock: three tabs have no room for that."""
        holder = self.holder
        if holder is None:
            return
        if holder is not self._named:  # it makes its title bar anew where it is moved to another side
            holder.dockLocationChanged.connect(self._show_title)
            holder.topLevelChanged.connect(self._show_title)
            self._named = holder
        self._show_title()

    def _show_title(self, *moved: object) -> None:
        holder = self.holder
        if holder is None:
            return
        holder.setWindowTitle(self._title)
        label = getattr(holder.titleBarWidget(), "title", None)
        if isinstance(label, QLabel):
            label.setText(self._title)

    def _on_taken_out(self) -> None:
        if self.parent() is None:  # and not just moved elsewhere
            self.on_ended()
            self.deleteLater()
