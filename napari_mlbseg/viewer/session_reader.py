"""The manifest's reader of sessions: a folder that is dropped on the window opens in the dock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import QTimer

from napari_mlbseg.session.persistence.folder import is_session

__all__ = ["get_reader"]


def get_reader(path: str | list[str]) -> Callable[[str], list[tuple[Any, ...]]] | None:
    """The reader for `path`, or None if it is no session."""
    return _open_in_dock if isinstance(path, str) and is_session(path) else None


def _open_in_dock(path: str) -> list[tuple[Any, ...]]:
    """Open a session in the dock of the current viewer; the layers come from there, so this gives none.

    Raises
    ------
    ValueError
        If there is no window.
    """
    viewer = napari.current_viewer()
    if viewer is None:
        raise ValueError(f"{path} is a session: open it in napari's window, or with 'napari-mlbseg session'.")
    from napari_mlbseg.viewer.commands import find_dock

    dock = find_dock(viewer)
    QTimer.singleShot(0, lambda: dock.session.open_session(Path(path)))  # when napari is done with reading
    return [(None,)]
