"""The dock's actions as commands, for napari's command palette and menus; each opens the dock where it is not open."""

from __future__ import annotations

import napari.viewer

from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["mark_slice_clean", "new_annotation", "stop", "train"]


def new_annotation(viewer: napari.viewer.Viewer) -> None:
    """Make an empty annotation of the first image."""
    _dock(viewer).data.volume_rows[0].new.click()


def mark_slice_clean(viewer: napari.viewer.Viewer) -> None:
    """Mark the slice in view clean, or take the mark away."""
    _dock(viewer).controller.toggle_clean()


def train(viewer: napari.viewer.Viewer) -> None:
    """Train on the clean slices, unless a training runs."""
    controller = _dock(viewer).controller
    if controller.session.state is SessionState.IDLE:
        controller.start()


def stop(viewer: napari.viewer.Viewer) -> None:
    """Stop a training and keep what it has."""
    _dock(viewer).controller.stop()


def _dock(viewer: napari.viewer.Viewer) -> MLBSegDock:
    """The dock of this viewer."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-mlbseg", "MLB-Seg")
    return dock
