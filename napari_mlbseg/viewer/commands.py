"""The dock's actions as commands, for napari's command palette and menus; each opens the dock where it is not open."""

from __future__ import annotations

import napari.viewer

from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.dock import MLBSegDock
from napari_mlbseg.viewer.dock_registry import open_dock

__all__ = [
    "accept",
    "draw_region",
    "export_session",
    "mark_slice_clean",
    "new_annotation",
    "next_clean_slice",
    "next_suggestion",
    "open_session",
    "previous_clean_slice",
    "reject",
    "save_session",
    "stop",
    "train",
]


def new_annotation(viewer: napari.viewer.Viewer) -> None:
    """Make an empty annotation of the first image."""
    find_dock(viewer).data.volume_rows[0].new.click()


def mark_slice_clean(viewer: napari.viewer.Viewer) -> None:
    """Mark the slice in view clean, or take the mark away."""
    find_dock(viewer).controller.toggle_clean()


def train(viewer: napari.viewer.Viewer) -> None:
    """Train on the clean slices, unless a training runs."""
    controller = find_dock(viewer).controller
    if controller.session.state is SessionState.IDLE:
        controller.start()


def stop(viewer: napari.viewer.Viewer) -> None:
    """Stop a training and keep what it has."""
    find_dock(viewer).controller.stop()


def next_clean_slice(viewer: napari.viewer.Viewer) -> None:
    """Go to the next clean slice."""
    find_dock(viewer).controller.next_clean_slice()


def previous_clean_slice(viewer: napari.viewer.Viewer) -> None:
    """Go to the previous clean slice."""
    find_dock(viewer).controller.previous_clean_slice()


def next_suggestion(viewer: napari.viewer.Viewer) -> None:
    """Go to the slice that is suggested next."""
    find_dock(viewer).controller.next_suggestion()


def accept(viewer: napari.viewer.Viewer) -> None:
    """Accept the prediction of the slice in view into the annotation."""
    find_dock(viewer).controller.accept()


def reject(viewer: napari.viewer.Viewer) -> None:
    """Reject the prediction of the slice in view."""
    find_dock(viewer).controller.reject()


def draw_region(viewer: napari.viewer.Viewer) -> None:
    """Draw the area that the next accept is confined to."""
    find_dock(viewer).controller.reviewer.draw_region()


def save_session(viewer: napari.viewer.Viewer) -> None:
    """Choose where the session is kept from now on."""
    find_dock(viewer).session.save.click()


def open_session(viewer: napari.viewer.Viewer) -> None:
    """Choose a session to open."""
    find_dock(viewer).session.open.click()


def export_session(viewer: napari.viewer.Viewer) -> None:
    """Choose a folder for annotation and results as image files."""
    find_dock(viewer).session.export.click()


def find_dock(viewer: napari.viewer.Viewer) -> MLBSegDock:
    """The dock of this viewer, opened if there is none."""
    return open_dock(viewer)
