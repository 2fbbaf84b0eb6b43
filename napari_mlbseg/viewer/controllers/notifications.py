"""What napari itself tells of a job: its progress among the activities, and one notification at the end."""

from __future__ import annotations

from typing import Any

from napari.utils import progress
from napari.utils.notifications import show_error, show_info

from napari_mlbseg.events import Event, Failed, Progress, is_terminal
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.rounds import Round
from napari_mlbseg.viewer.connections import Connections
from napari_mlbseg.viewer.messages import ending

__all__ = ["JobNotifications"]


class JobNotifications:
    """Shows the progress and the end of a session's jobs.

    Parameters
    ----------
    session : SegmentationSession
    """

    def __init__(self, session: SegmentationSession) -> None:
        self._session = session
        self._progress: progress | None = None
        self._connections = Connections()
        self._connections.make(session.round_started, self._begin)
        self._connections.make(session.check_started, self._begin)
        self._connections.make(session.event_received, self._on_event)

    def close(self) -> None:
        """Show nothing more."""
        self._connections.drop()
        self._end()

    def _begin(self, started: Any = None) -> None:
        self._end()
        self._progress = progress(total=100, desc="MLB-Seg")
        if isinstance(started, Round) and started.events:
            where = started.task.config.cluster
            place = f" on the cluster at {where}" if where else ""
            show_info(f"MLB-Seg: round {started.number} was found running{place}, and is followed again.")

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Progress) and self._progress is not None:
            self._progress.n = round(100 * event.fraction)
            self._progress.refresh()
        elif isinstance(event, Failed):
            self._end()
            show_error(f"MLB-Seg: {event.message}")
        elif is_terminal(event):
            self._end()
            show_info(f"MLB-Seg: {ending(event, self._session.run)}")
