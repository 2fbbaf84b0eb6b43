"""A report of a mistake for the clipboard: the machine, what is installed, and the session."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QApplication

from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.environment import report, session_facts

__all__ = ["ReportCopier"]


class ReportCopier(QObject):
    """Copies the report of a session; the machine is asked in a thread, since torch takes seconds to answer.

    The thread is none of napari's, which waits for its own when it quits.

    Parameters
    ----------
    session : SegmentationSession
    parent : QObject
    """

    copied = Signal()
    failed = Signal(str)
    _told = Signal(str)

    def __init__(self, session: SegmentationSession, parent: QObject) -> None:
        super().__init__(parent)
        self._session = session
        self._told.connect(self._on_told)

    def copy(self) -> None:
        """Begin; `copied` or `failed` tells the end."""
        session = self._session
        last = None if session.current_round is None else session.current_round.job.folder
        known = session_facts(session), [volume.name for volume in session], session.folder, last
        threading.Thread(target=self._ask, args=known, name="mlbseg-report", daemon=True).start()

    def _ask(self, *known: Any) -> None:
        """In the thread: ask, and hand what came of it to the window."""
        with suppress(RuntimeError):  # the window was closed meanwhile
            try:
                text = report(*known)
            except Exception as error:  # said where the button is
                self.failed.emit(f"The report could not be made ({error}): run 'napari-mlbseg doctor' in a terminal.")
            else:
                self._told.emit(text)

    def _on_told(self, text: str) -> None:
        clipboard = QApplication.clipboard()
        assert clipboard is not None  # there is an application
        clipboard.setText(f"```\n{text}\n```\n")
        self.copied.emit()
