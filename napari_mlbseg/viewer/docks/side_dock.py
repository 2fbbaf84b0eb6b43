"""A dock beside *MLB-Seg*: it follows the session while it is seen, and costs nothing while it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QDockWidget, QMainWindow

from napari_mlbseg.viewer.connections import Connections
from napari_mlbseg.viewer.docks.dock_widget import WIDTH, DockWidget
from napari_mlbseg.viewer.docks.registry import docks, open_dock

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_mlbseg.viewer.controllers.controller import DockController

__all__ = ["SideDock"]

_HEIGHT = 600  # pixels
_LOW = 250  # pixels, below an image
_WIDE = 1500  # pixels of a window in which the image has room left beside two docks


class SideDock(DockWidget):
    """What the docks beside *MLB-Seg* have in common.

    While it is seen, `controller` is that of the viewer's dock *MLB-Seg*, or None where that was closed. A subclass
    connects with `listen` in `on_followed`, which comes with every new controller, and ends in `on_left` what else it
    began there. It puts its widgets into `column`.

    Parameters
    ----------
    title : str
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, title: str, napari_viewer: Viewer) -> None:
        super().__init__(title, margins=(8, 6), spacing=6)
        self.viewer = napari_viewer
        self.controller: DockController | None = None
        self._connections = Connections()
        self._looking = Connections()
        self._was_shown = False
        self._holder: QDockWidget | None = None
        self._is_placed = False
        connections = (self._connections, self._looking)
        # with the window, the dock is destroyed without being told; by then only these are still there
        self.destroyed.connect(lambda *_: _drop(connections))

    def sizeHint(self) -> QSize:
        return QSize(WIDTH, _HEIGHT)

    def on_followed(self) -> None:
        """Show what there is, and listen to what comes."""

    def on_left(self) -> None:
        """Stop what does not stop by itself."""

    def on_ended(self) -> None:
        """The dock was closed, not only hidden: let go of everything."""
        self._leave()

    def on_theme_changed(self) -> None:
        """Take on the colours of the viewer's theme; also called before the dock is first seen."""

    def listen(self, signal: Any, slot: Callable[..., None]) -> None:
        """Connect a signal for as long as the dock is seen and the controller stays the same."""
        self._connections.make(signal, slot)

    @property
    def is_following(self) -> bool:
        """Whether signals of a session reach this dock."""
        return len(self._connections) > 0

    # -- seen or not ---------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._watch_holder()
        self._appear()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._leave()

    def _watch_holder(self) -> None:
        """Listen to the QDockWidget around this: Qt does not hide one behind other tabs, it only says so."""
        holder = self.holder
        if holder is not None and holder is not self._holder:
            holder.visibilityChanged.connect(self._on_holder_seen)
            QTimer.singleShot(0, self._place_beside)
        self._holder = holder

    def _place_beside(self) -> None:
        """Not over the dock *MLB-Seg*, with which one works: beside it in a wide window, else below the image."""
        holder, main = self.holder, docks.find(self.viewer)
        window = holder.parentWidget() if holder is not None else None
        if holder is None or main is None or main.holder is None or not isinstance(window, QMainWindow):
            return
        docked = [other for other in window.findChildren(SideDock) if other is not self and other.holder is not None]
        others = [other.holder for other in docked if other._is_placed]  # one that was just added still lies anywhere
        self._is_placed = True
        if others:
            window.tabifyDockWidget(others[0], holder)
            holder.raise_()
            self._on_holder_seen(True)  # Qt said that it went behind, but not always that it came back
        elif window.width() >= _WIDE:
            window.splitDockWidget(main.holder, holder, Qt.Orientation.Horizontal)
        else:
            # below the image only, and not below the docks on either side
            window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
            window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
            window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, holder)
            window.resizeDocks([holder], [_LOW], Qt.Orientation.Vertical)

    def _on_holder_seen(self, is_seen: bool) -> None:
        if is_seen and self.isVisible():
            self._appear()
        elif not is_seen:
            self._leave()

    def _appear(self) -> None:
        """Follow the session, unless that is so already."""
        if not len(self._looking):
            self._looking.make(docks.changed, self._on_docks_changed)
            self._looking.make(self.viewer.events.theme, self._on_theme_changed)
            self.on_theme_changed()
            self._follow()
        if not self._was_shown:
            self._was_shown = True
            if self.controller is None:  # not at once: napari is in the middle of adding this one
                QTimer.singleShot(0, self._open_main)

    def _open_main(self) -> None:
        if len(self._looking) and docks.find(self.viewer) is None:
            open_dock(self.viewer)

    def _follow(self) -> None:
        found = docks.find(self.viewer)
        self.controller = found.controller if found is not None else None
        self.on_followed()

    def _leave(self) -> None:
        self._looking.drop()
        self._connections.drop()
        self.on_left()
        self.controller = None

    def _on_docks_changed(self) -> None:
        found = docks.find(self.viewer)
        if (found.controller if found is not None else None) is not self.controller:
            self._connections.drop()
            self.on_left()
            self._follow()

    def _on_theme_changed(self, event: Any = None) -> None:
        self.on_theme_changed()


def _drop(connections: tuple[Connections, ...]) -> None:
    for made in connections:
        made.drop()
