"""Panel *Session*: where what is painted is kept, and the way to other sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QMenu, QPushButton, QToolButton

from napari_mlbseg.session.persistence.folder import SUFFIX
from napari_mlbseg.session.persistence.session_paths import recent_sessions, unsaved_sessions
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.controllers.report import ReportCopier
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel
from napari_mlbseg.viewer.widgets.dialogs import ask_for_file, ask_for_folder, ask_where_to_save

__all__ = ["SessionPanel"]

_N_UNSAVED = 8


class SessionPanel(Panel):
    """Saves, opens and exports the session."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Session")
        self._controller = controller
        self._files = controller.files
        self._copier = ReportCopier(controller.session, self)
        self.status = WrappedLabel()
        self.problem = WrappedLabel()
        self.problem.setStyleSheet("QLabel { border-left: 4px solid rgb(229, 72, 77); padding-left: 6px; }")
        self.save = QPushButton("&Save as…")
        self.save.setToolTip("Give the session a name and a place. What you paint is saved there from then on.")
        self.open = QPushButton("&Open…")
        self.open.setToolTip(f"Open a session (a folder NAME{SUFFIX}). It can also be dropped on the window.")
        self.recent = QToolButton(text="R&ecent", popupMode=QToolButton.ToolButtonPopupMode.InstantPopup)
        self.recent.setToolTip("Sessions that were open lately, and those that nobody saved yet.")
        self.recent.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
        self.menu = QMenu(self)
        self.recent.setMenu(self.menu)
        self.export = QPushButton("E&xport…")
        self.export.setToolTip(
            "Write annotation, pseudo-labels, probability and weight maps as NIfTI or TIFF, with the image's geometry."
        )
        self.report = QPushButton("Copy repo&rt")
        self.report.setToolTip(
            "For a report of a mistake: versions, device, memory and what the session holds go to the clipboard, "
            "without pixels, names of images and your name in paths. Paste it into your message."
        )
        first, second = QHBoxLayout(), QHBoxLayout()
        first.addWidget(self.save, stretch=1)
        first.addWidget(self.open, stretch=1)
        second.addWidget(self.recent, stretch=1)
        second.addWidget(self.export, stretch=1)
        self.recent.setSizePolicy(self.export.sizePolicy())
        self.rows.addWidget(self.status)
        self.rows.addWidget(self.problem)
        self.rows.addLayout(first)
        self.rows.addLayout(second)
        self.rows.addWidget(self.report)
        self._connect()
        self._show()
        self._on_problem("")

    def _connect(self) -> None:
        session = self._controller.session
        self.save.clicked.connect(self._on_save)
        self.open.clicked.connect(self._on_open)
        self.export.clicked.connect(self._on_export)
        self.report.clicked.connect(self._on_report)
        self.menu.aboutToShow.connect(self._fill_menu)
        self.listen(session.folder_changed, self._show)
        self.listen(session.volumes_changed, self._show)
        self.listen(session.round_started, self._show)
        self.listen(session.saving_changed, self._on_problem)
        self.listen(self._files.busy_changed, self._on_busy)
        self.listen(self._files.image_missing, self._on_image_missing)
        self._copier.copied.connect(self._on_report_copied)
        self._copier.failed.connect(self._on_report_failed)

    # -- to the files --------------------------------------------------------------------------------------------

    def _on_save(self) -> None:
        session = self._controller.session
        name = session.folder.name if session.is_unsaved else session.folder.stem + " copy" + SUFFIX
        start = (Path.home() if session.is_unsaved else session.folder.parent) / name
        ask_where_to_save(self, "Save the session as", start, f"MLB-Seg session (*{SUFFIX})", self._files.save_as)

    def _on_open(self) -> None:
        ask_for_folder(self, f"Open a session: a folder that ends in {SUFFIX}", self.open_session)

    def open_session(self, path: Path) -> None:
        """Open a session; where an image is missing, ask for it once."""
        self._files.open(path)

    def _on_image_missing(self, path: Path, lost: str, moved: dict[str, Path]) -> None:
        ask_for_file(
            self,
            f"Where is {Path(lost).name} now? It was {lost}",
            lambda found: self._files.open(path, {**moved, lost: found}),
        )

    def _on_export(self) -> None:
        ask_for_folder(self, "Export to a folder", self._files.export)

    def _on_report(self) -> None:
        self.report.setEnabled(False)
        self.report.setText("Asking the machine…")
        self._copier.copy()

    def _on_report_copied(self) -> None:
        self._report_is_done()
        show_info("MLB-Seg: The report is copied.")

    def _on_report_failed(self, sentence: str) -> None:
        self._report_is_done()
        self._controller.complained.emit(sentence)

    def _report_is_done(self) -> None:
        self.report.setText("Copy repo&rt")
        self.report.setEnabled(True)

    def _fill_menu(self) -> None:
        """Sessions to choose from, read when they are asked for."""
        self.menu.clear()
        here = None if self._controller.session.read_only else self._controller.session.folder
        saved, unsaved = recent_sessions(), unsaved_sessions()[:_N_UNSAVED]
        for path in saved:
            self._add_to_menu(path, path.stem, path != here)
        if unsaved:
            self.menu.addSection("Never saved")
        for path in unsaved:
            self._add_to_menu(path, path.stem, path != here)
        if not (saved or unsaved):
            self.menu.addAction("None yet").setEnabled(False)

    def _add_to_menu(self, path: Path, words: str, is_other: bool) -> None:
        action = self.menu.addAction(words, lambda: self.open_session(path))
        action.setToolTip(str(path))
        action.setEnabled(is_other)

    # -- from the session ----------------------------------------------------------------------------------------

    def _show(self, news: Any = None) -> None:
        session = self._controller.session
        if session.read_only:
            words = f"<b>{session.folder.stem}</b>: only to look at. <b>Save as</b> makes a copy to go on with."
        elif session.is_unsaved:
            words = "Not saved under a name yet. What you paint is kept all the same: see Recent."
        else:
            words = f"<b>{session.folder.stem}</b>: saved seconds after every stroke."
            self.status.setToolTip(str(session.folder))
        self.status.setText(words)
        self.export.setEnabled(len(session) > 0)

    def _on_problem(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
        self._show()
        if sentence:
            self.heading.setChecked(True)

    def _on_busy(self, words: str) -> None:
        for button in (self.save, self.open, self.recent, self.export):
            button.setEnabled(not words)
        if words:
            self.status.setText(words)
        else:
            self._show()
