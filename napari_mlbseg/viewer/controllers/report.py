"""A report of a mistake for the clipboard: the machine, what is installed, and the session."""

from __future__ import annotations

from typing import Any

from napari.qt.threading import create_worker
from psygnal import Signal
from qtpy.QtWidgets import QApplication

from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.environment import as_text, environment_facts, session_facts

__all__ = ["ReportCopier"]


class ReportCopier:
    """Copies the report of a session; the machine is asked in a thread, since torch takes seconds to answer.

    Parameters
    ----------
    session : SegmentationSession
    """

    copied = Signal()
    failed = Signal(str)

    def __init__(self, session: SegmentationSession) -> None:
        self._session = session

    def copy(self) -> None:
        """Begin; `copied` or `failed` tells the end."""
        create_worker(
            environment_facts, _start_thread=True, _connect={"returned": self._on_known, "errored": self._on_error}
        )

    def _on_known(self, facts: dict[str, Any]) -> None:
        text = as_text({**facts, "session": session_facts(self._session)})
        clipboard = QApplication.clipboard()
        assert clipboard is not None  # there is an application
        clipboard.setText(f"```\n{text}\n```\n")
        self.copied.emit()

    def _on_error(self, error: Exception) -> None:
        self.failed.emit(f"The report could not be made ({error}): run 'napari-mlbseg doctor' in a terminal.")
