"""What a report of a mistake needs to say of sessions, without pixels, names of images and full paths."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mlbseg._util.environment import as_text, machine_facts, shortened, told, without_names, without_paths
from napari_mlbseg.events import TerminalEvent
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.worker_log import describe_end
from napari_mlbseg.session.persistence.session_paths import sessions_home, unsaved_sessions

if TYPE_CHECKING:
    from napari_mlbseg.session.rounds import Round
    from napari_mlbseg.session.session import SegmentationSession

__all__ = ["report", "session_facts", "sessions_facts"]

_LOG_LINES = 30


def sessions_facts() -> dict[str, Any]:
    """Where sessions lie that nobody saved, how many, and how much room there is."""
    home = sessions_home()
    existing = next(path for path in (home, *home.parents) if path.exists())
    return {
        "folder": shortened(home),
        "not saved": len(unsaved_sessions()),
        "disk": f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free",
    }


def session_facts(session: SegmentationSession) -> dict[str, Any]:
    """What there is to say of a session: shapes and counts. Nothing is read from the disk."""
    config = session.config.model_dump(mode="json", exclude_defaults=True)
    if "cluster" in config:
        config["cluster"] = "one is named"
    return {
        "folder": shortened(session.folder),
        "read only": "yes" if session.read_only else "no",
        "classes": session.known_classes(),
        "volumes": {
            f"volume {number}": {
                "shape": list(volume.annotation.shape),
                "types": f"{volume.image.dtype} image, {volume.annotation.dtype} annotation",
                "slice axis": volume.slice_axis,
                "clean": len(volume.clean),
                "painted": len(session.painted_slices(volume.name)),
            }
            for number, volume in enumerate(session, 1)
        },
        "rounds": [f"{past.number}: {_ending(past)}" for past in session.rounds],
        "config": config,
    }


def _ending(past: Round) -> str:
    return describe_end(past.outcome) if isinstance(past.outcome, TerminalEvent) else "running"


def report(facts: Mapping[str, Any], names: Sequence[str], folder: Path, last: JobFolder | None) -> str:
    """The whole report as text; takes seconds, and needs nothing of a session that changes meanwhile.

    Parameters
    ----------
    facts : mapping
        As `session_facts` gives them.
    names : sequence of str
        Of the images, in the session's order: they are left out wherever they stand.
    folder : Path
        Of the session.
    last : JobFolder, optional
        Whose worker's log is told the end of.
    """
    parts = {**machine_facts(), "sessions": told(sessions_facts), "session": facts}
    if last is not None:
        parts["last log"] = told(lambda: last.log_tail(_LOG_LINES).splitlines()) or "empty"
    return without_names(without_paths(as_text(parts), folder), names)
