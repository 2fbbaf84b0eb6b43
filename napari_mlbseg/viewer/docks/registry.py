"""Which dock *MLB-Seg* belongs to a viewer: commands and the docks beside it find it here."""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Protocol, cast

from psygnal import Signal

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QDockWidget, QWidget

    from napari_mlbseg.viewer.controllers.controller import DockController

__all__ = ["CURVES", "INSPECTOR", "MAIN", "Dock", "DockRegistry", "docks", "open_beside", "open_dock"]

#: Names of the docks beside the main one, as in the manifest.
CURVES, INSPECTOR = "Curves", "Weight inspector"

#: Name of the main one.
MAIN = "MLB-Seg"

_PLUGIN = "napari-mlbseg"


class Dock(Protocol):
    """A dock *MLB-Seg*."""

    controller: DockController

    @property
    def holder(self) -> QDockWidget | None:
        """What napari put it into."""
        ...


class DockRegistry:
    """The docks that are open, held weakly: being listed here keeps none alive."""

    changed = Signal()  # a dock came or ended

    def __init__(self) -> None:
        self._docks: list[weakref.ref[Dock]] = []

    def add(self, dock: Dock) -> None:
        """A dock was made."""
        self._docks.append(weakref.ref(dock))
        self.changed.emit()

    def discard(self, controller: DockController) -> None:
        """The dock of a controller ends. Safe to call more than once."""
        left = [ref for ref in self._docks if (dock := ref()) is not None and dock.controller is not controller]
        if len(left) != len(self._docks):
            self._docks = left
            self.changed.emit()

    def find(self, viewer: Viewer) -> Dock | None:
        """The newest dock of a viewer, or None."""
        for ref in reversed(self._docks):
            dock = ref()
            if dock is not None and _same(dock.controller.viewer, viewer):
                return dock
        return None


#: All docks of this process.
docks = DockRegistry()


def open_dock(viewer: Viewer) -> Dock:
    """The dock *MLB-Seg* of a viewer; it is opened where there is none."""
    found = docks.find(viewer)
    return found if found is not None else cast("Dock", viewer.window.add_plugin_dock_widget(_PLUGIN, MAIN)[1])


def open_beside(viewer: Viewer, name: str) -> QWidget:
    """Open the dock of that name, which finds its place beside the main one, or bring it to the front."""
    holder, dock = viewer.window.add_plugin_dock_widget(_PLUGIN, name)
    holder.show()
    holder.raise_()
    return dock


def _same(one: Viewer, other: Viewer) -> bool:
    """Whether both are one viewer: napari hands some callers a proxy of it."""
    return inspect.unwrap(one) is inspect.unwrap(other)
