"""The dock's actions as commands, for napari's command palette and menus; each opens the dock where it is not open."""

from __future__ import annotations

from typing import cast

import napari.viewer
from qtpy.QtWidgets import QPushButton

from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.dock import MLBSegDock
from napari_mlbseg.viewer.docks.registry import open_dock

__all__ = [
    "accept",
    "copy_report",
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
    dock = find_dock(viewer)
    _press(dock, dock.data.volume_rows[0].new, "There is no image to annotate: open one, or try File > Open Sample.")


def mark_slice_clean(viewer: napari.viewer.Viewer) -> None:
    """Mark the slice in view clean, or take the mark away."""
    find_dock(viewer).controller.toggle_clean()


def train(viewer: napari.viewer.Viewer) -> None:
    """Train on the clean slices, unless a training runs."""
    controller = find_dock(viewer).controller
    if controller.session.state is SessionState.IDLE:
        controller.start()
    else:
        controller.complained.emit("A training is running already: stop it or wait, then train again.")


def stop(viewer: napari.viewer.Viewer) -> None:
    """Stop a training and keep what it has."""
    controller = find_dock(viewer).controller
    if controller.session.state is SessionState.IDLE:
        controller.complained.emit("No training is running: press Train to begin one.")
    controller.stop()


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
    dock = find_dock(viewer)
    _press(dock, dock.session.save, "The session cannot be saved now: stop the training or wait.")


def open_session(viewer: napari.viewer.Viewer) -> None:
    """Choose a session to open."""
    dock = find_dock(viewer)
    _press(dock, dock.session.open, "No session can be opened now: stop the training or wait.")


def export_session(viewer: napari.viewer.Viewer) -> None:
    """Choose a folder for annotation and results as image files."""
    dock = find_dock(viewer)
    _press(
        dock,
        dock.session.export,
        "There is nothing to export: open an image and paint, or wait for the end.",
    )


def copy_report(viewer: napari.viewer.Viewer) -> None:
    """Copy what a report of a mistake needs to say."""
    dock = find_dock(viewer)
    _press(dock, dock.session.report, "The report is being made: it will be on the clipboard in a moment.")


def _press(dock: MLBSegDock, button: QPushButton, why_not: str) -> None:
    """Press a button of the dock, or say why it cannot be pressed."""
    if button.isEnabled():
        button.click()
    else:
        dock.controller.complained.emit(why_not)


def find_dock(viewer: napari.viewer.Viewer) -> MLBSegDock:
    """The dock of this viewer, opened if there is none."""
    return cast("MLBSegDock", open_dock(viewer))
