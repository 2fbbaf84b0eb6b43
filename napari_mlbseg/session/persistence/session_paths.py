"""Where sessions lie that nobody has saved yet, and which were open lately."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import platformdirs

from napari_mlbseg._util.files import safe_name, write_atomically
from napari_mlbseg.session.persistence.folder import SUFFIX, is_session

__all__ = ["choose", "is_unsaved", "recent_sessions", "remember", "sessions_home", "unsaved_path", "unsaved_sessions"]

#: Names another folder for sessions that nobody has saved yet.
HOME_VARIABLE = "NAPARI_MLBSEG_HOME"

_N_RECENT = 10


_chosen: Path | None = None


def choose(folder: Path | None) -> None:
    """Keep sessions that nobody has saved yet in `folder`; None: where the system keeps data of applications."""
    global _chosen
    _chosen = folder


def sessions_home() -> Path:
    """Folder of sessions that nobody has saved yet: as the environment variable says, as was chosen, or the default."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named)
    return _chosen or Path(platformdirs.user_data_dir("napari-mlbseg", appauthor=False)) / "sessions"


def unsaved_path(name: str) -> Path:
    """A folder for a new session, called after the time and what is segmented; it is not made."""
    # two windows may begin in the same minute, on the same image
    return sessions_home() / f"{datetime.now():%Y-%m-%d %H.%M} {safe_name(name)[:40]} {uuid.uuid4().hex[:4]}{SUFFIX}"


def is_unsaved(path: Path) -> bool:
    """Whether a session lies where nobody chose to save it."""
    return path.parent.absolute() == sessions_home().absolute()


def unsaved_sessions() -> list[Path]:
    """Sessions that nobody saved, the latest first."""
    found = [path for path in sessions_home().glob(f"*{SUFFIX}") if is_session(path)]
    return sorted(found, key=_changed, reverse=True)


def recent_sessions() -> list[Path]:
    """Saved sessions that were open lately and are still there, the latest first."""
    try:
        listed = json.loads(_recent_file().read_text(encoding="utf-8"))
        return [Path(path) for path in listed if isinstance(path, str) and is_session(path)]
    except (OSError, ValueError, TypeError):
        return []


def remember(path: Path) -> None:
    """A session was opened or saved; does nothing where the list cannot be written."""
    if is_unsaved(path):
        return
    listed = [path.absolute(), *(other for other in recent_sessions() if other != path.absolute())]
    with suppress(OSError):
        _recent_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_recent_file(), json.dumps([str(other) for other in listed[:_N_RECENT]], indent=1))


def _recent_file() -> Path:
    return sessions_home() / "recent.json"


def _changed(path: Path) -> float:
    try:
        return (path / "session.json").stat().st_mtime
    except OSError:
        return 0.0
