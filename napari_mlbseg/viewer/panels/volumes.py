"""Panel *Volumes*: all volumes of the session as a table, and the way from one to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtpy.QtCore import QModelIndex, Qt, QTimer
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHBoxLayout, QHeaderView, QMenu, QPushButton, QTableView, QToolButton

from napari_mlbseg.events import Event, Preview, is_terminal
from napari_mlbseg.session.overview import overview
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel
from napari_mlbseg.viewer.widgets.dialogs import ask_for_files, ask_for_folder
from napari_mlbseg.viewer.widgets.volume_table import COLUMNS, UID_ROLE, Column, VolumeModel, sorted_model

__all__ = ["VolumesPanel"]

_SHOWN_ROWS = 8
_NAME_WIDTH = 70  # pixels
_SETTLE_MILLISECONDS = 200  # while a training runs, news of many volumes come in heaps


class VolumesPanel(Panel):
    """Shows what has become of every volume; a click or Enter brings one into view."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Volumes", folded=True)
        self._controller = controller
        self._session = controller.session
        self._news: set[str] | None = set()  # names of volumes of which there is news; None: of all
        self.model = VolumeModel()
        self._sorted = sorted_model(self.model)
        self.table = _Table(self._sorted)
        self.total = WrappedLabel()
        self.add = QToolButton(text="&Add volumes…", popupMode=QToolButton.ToolButtonPopupMode.InstantPopup)
        self.add.setToolTip(
            "Images of the same kind, to train on and to segment along with this one: files, all those of a folder, or "
            "a CSV file with the columns image, labels and clean."
        )
        self.menu = QMenu(self)
        self.menu.addAction("&Files or a CSV file…", self._on_files)
        self.menu.addAction("A f&older…", self._on_folder)
        self.add.setMenu(self.menu)
        self.remove = QPushButton("Take o&ut")
        self.remove.setToolTip("Take the chosen volume out of the session. What you painted on it stays in its folder.")
        self.add.setSizePolicy(self.remove.sizePolicy())
        buttons = QHBoxLayout()
        buttons.addWidget(self.add, stretch=1)
        buttons.addWidget(self.remove, stretch=1)
        self.rows.addWidget(self.table)
        self.rows.addWidget(self.total)
        self.rows.addLayout(buttons)
        self._settle = QTimer(self, singleShot=True, interval=_SETTLE_MILLISECONDS)
        self._settle.timeout.connect(self._show_news)
        self._connect()
        self._on_volumes_changed()

    def _connect(self) -> None:
        controller, session = self._controller, self._session
        self.table.clicked.connect(self._on_chosen)
        self.table.activated.connect(self._on_chosen)
        self.table.selectionModel().selectionChanged.connect(lambda *_: self._show_buttons())
        self.remove.clicked.connect(self._on_remove)
        self.listen(session.volumes_changed, self._on_volumes_changed)
        for signal in (session.clean_changed, session.painted_changed):
            self.listen(signal, self._on_named)
        for signal in (session.rounds_changed, session.scores_changed, session.round_shown, session.state_changed):
            self.listen(signal, self._on_all)
        self.listen(session.event_received, self._on_event)
        self.listen(controller.workspace.slice_changed, self._show_current)
        self.listen(controller.workspace.layers_changed, self._show_current)
        self.listen(controller.open_volumes.busy_changed, self._on_busy)

    def disconnect_all(self) -> None:
        """Also forget what was to be shown soon."""
        super().disconnect_all()
        self._settle.stop()

    def chosen(self) -> str:
        """Uid of the chosen volume; empty without one."""
        rows = self.table.selectionModel().selectedRows()
        return str(rows[0].data(UID_ROLE)) if rows else ""

    # -- to the study --------------------------------------------------------------------------------------------

    def _on_chosen(self, index: QModelIndex) -> None:
        self._controller.open_volumes.show(str(index.data(UID_ROLE)))

    def _on_remove(self) -> None:
        if self.chosen():
            self._controller.open_volumes.take_out(self.chosen())

    def _on_files(self) -> None:
        from napari_mlbseg.io.files import SUFFIXES  # brings nibabel and tifffile, which the window need not wait for

        kind = f"Images and tables ({' '.join(f'*{suffix}' for suffix in (*SUFFIXES, '.csv'))})"
        ask_for_files(self, "Add volumes: image files, or a CSV file", kind, self._controller.open_volumes.add_from)

    def _on_folder(self) -> None:
        ask_for_folder(self, "Add all images of a folder", self._on_folder_chosen)

    def _on_folder_chosen(self, folder: Path) -> None:
        self._controller.open_volumes.add_from([folder])

    # -- from the session ----------------------------------------------------------------------------------------

    def _on_volumes_changed(self) -> None:
        n_before = self.model.rowCount()
        self.model.set_rows([overview(self._session, volume.name) for volume in self._session])
        n_volumes = self.model.rowCount()
        self.table.setVisible(n_volumes > 1)
        self.remove.setVisible(n_volumes > 1)
        if n_before < 2 <= n_volumes:
            self.heading.setChecked(True)
        if n_volumes != n_before:
            self.table.fit(min(n_volumes, _SHOWN_ROWS))
        self._show_total()
        self._show_current()

    def _on_named(self, name: str) -> None:
        if self._news is not None:
            self._news.add(name)
        self._settle.start()

    def _on_all(self, news: Any = None) -> None:
        self._news = None
        self._settle.start()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Preview):
            self._on_named(event.volume)
        elif is_terminal(event):
            self._on_all()

    def _show_news(self) -> None:
        if len(self._session) < 2:  # there is no table to be seen, and whatever brings one fills it
            self._news = set()
            return
        names = {volume.name for volume in self._session}
        for name in names if self._news is None else names & self._news:
            self.model.set_row(overview(self._session, name))
        self._news = set()
        self._show_total()

    def _show_total(self) -> None:
        rows = self.model.rows
        self.table.show_columns(lambda column: not column.may_be_empty or any(column.words(row) for row in rows))
        annotated = sum(bool(row.clean) for row in rows)
        self.total.setText(
            f"{len(rows)} volumes, {annotated} of them with clean slices. All are trained on and segmented."
            if len(rows) > 1
            else "To train on several images and segment them all, add them here."
        )

    def _show_current(self) -> None:
        binding = self._controller.workspace.current
        uid = binding.uid if binding is not None else ""
        is_news = self.model.set_current(uid)
        if uid and (is_news or not self.chosen()):
            self.table.choose(self._sorted.mapFromSource(self.model.place_of(uid)))
        self._show_buttons()

    def _show_buttons(self) -> None:
        self.remove.setEnabled(bool(self.chosen()))

    def _on_busy(self, words: str) -> None:
        self.add.setEnabled(not words)
        if words:
            self.total.setText(words)
        else:
            self._show_total()


class _Table(QTableView):
    """A table of which one row can be chosen; the arrow keys move within it, and Tab leaves it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.setAccessibleName("Volumes")
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setStyleSheet("QHeaderView::section { padding: 2px 4px; }")
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)  # rows are not measured one by one
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 6)
        header = self.horizontalHeader()
        header.setMinimumSectionSize(20)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)  # what every row says is not measured
        for number, column in enumerate(COLUMNS[1:], start=1):
            widest = max((column.heading, *column.examples), key=self.fontMetrics().horizontalAdvance)
            self.setColumnWidth(number, self.fontMetrics().horizontalAdvance(widest) + 12)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)  # the session's order, until somebody asks for another
        self.setSortingEnabled(True)

    def show_columns(self, wanted: Callable[[Column], bool]) -> None:
        """Leave out columns that have nothing to say yet: the dock is narrow."""
        for number, column in enumerate(COLUMNS):
            self.setColumnHidden(number, not wanted(column))
        self._fit_name()

    def fit(self, rows: int) -> None:
        """Be as high as so many rows."""
        height = self.horizontalHeader().sizeHint().height() + rows * self.verticalHeader().defaultSectionSize()
        self.setFixedHeight(height + 2 * self.frameWidth())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit_name()

    def _fit_name(self) -> None:
        """Give the names what the other columns leave, but enough to tell them apart: then the table scrolls."""
        others = sum(self.columnWidth(number) for number in range(1, len(COLUMNS)))  # 0 where it is hidden
        self.setColumnWidth(0, max(_NAME_WIDTH, self.viewport().width() - others))

    def choose(self, index: QModelIndex) -> None:
        """Select a row without a person having clicked it."""
        self.selectRow(index.row())
