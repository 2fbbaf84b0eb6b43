"""The volumes of a session as a table: a Qt model of their overviews, drawn only as far as it is in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt
from qtpy.QtGui import QFont

from napari_mlbseg.session.overview import STATUSES, VolumeOverview

__all__ = ["COLUMNS", "SORT_ROLE", "UID_ROLE", "Column", "VolumeModel", "sorted_model"]

UID_ROLE = Qt.ItemDataRole.UserRole
SORT_ROLE = Qt.ItemDataRole.UserRole + 1


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it means, what it says and is sorted by, whether it can have nothing to say, and what
    takes much room.
    """

    heading: str
    help: str
    words: Callable[[VolumeOverview], str]
    key: Callable[[VolumeOverview], str | float]
    may_be_empty: bool = False
    examples: tuple[str, ...] = ()


COLUMNS = (
    Column("Volume", "Name of the image; the one in view is bold", lambda v: v.name, lambda v: v.name.casefold()),
    Column("Clean", "Slices that are marked clean", lambda v: str(v.clean or ""), lambda v: v.clean),
    Column("Painted", "Slices on which something is painted", lambda v: str(v.painted or ""), lambda v: v.painted),
    Column(
        "Status",
        "What has become of it: - not annotated, annotated, training, predicted, failed",
        lambda v: "-" if v.status == STATUSES[0] else v.status,
        lambda v: STATUSES.index(v.status),
        examples=STATUSES[1:],
    ),
    Column(
        "Doubt",
        "How wrong the model expects to be, 0 to 1, mean over the slices: where it is high, annotate next",
        lambda v: "" if v.doubt is None else f"{v.doubt:.2f}",
        lambda v: -1.0 if v.doubt is None else v.doubt,
        may_be_empty=True,
        examples=("0.00",),
    ),
    Column(
        "Dice",
        "Honest score: Dice of predictions on slices that the training had not seen, against what you made of them",
        lambda v: "" if v.dice is None else f"{v.dice:.3f}",
        lambda v: -1.0 if v.dice is None else v.dice,
        may_be_empty=True,
        examples=("0.000",),
    ),
)


class VolumeModel(QAbstractTableModel):
    """Rows are volumes in the session's order, columns `COLUMNS`; `set_rows` and `set_row` tell it what they say."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[VolumeOverview] = []
        self._current = ""

    @property
    def rows(self) -> list[VolumeOverview]:
        """What it shows."""
        return list(self._rows)

    def set_rows(self, rows: list[VolumeOverview]) -> None:
        """Show these volumes; where they are those of before, only what changed is drawn again."""
        if [row.uid for row in rows] != [row.uid for row in self._rows]:
            self.beginResetModel()
            self._rows = list(rows)
            self.endResetModel()
            return
        for number, row in enumerate(rows):
            self._set(number, row)

    def set_row(self, row: VolumeOverview) -> None:
        """Show what has become of a volume."""
        for number, known in enumerate(self._rows):
            if known.uid == row.uid:
                self._set(number, row)

    def set_current(self, uid: str) -> bool:
        """The volume in view, or an empty text for none; whether it was another."""
        if uid == self._current:
            return False
        self._current = uid
        if self._rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._rows) - 1, 0))
        return True

    def place_of(self, uid: str) -> QModelIndex:
        """Where a volume is; an invalid index where it is not."""
        row = next((number for number, known in enumerate(self._rows) if known.uid == uid), None)
        return QModelIndex() if row is None else self.index(row, 0)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation is not Qt.Orientation.Horizontal:
            return None
        column = COLUMNS[section]
        return {Qt.ItemDataRole.DisplayRole: column.heading, Qt.ItemDataRole.ToolTipRole: column.help}.get(role)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        row, column = self._rows[index.row()], COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.words(row)
        if role == SORT_ROLE:
            return column.key(row)
        if role == UID_ROLE:
            return row.uid
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{row.name}: {row.n_slices} slices, {row.clean} clean, {row.painted} painted, {row.status}"
        if role == Qt.ItemDataRole.FontRole and row.uid == self._current and index.column() == 0:
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.TextAlignmentRole and column.heading not in ("Volume", "Status"):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def _set(self, number: int, row: VolumeOverview) -> None:
        if row != self._rows[number]:
            self._rows[number] = row
            self.dataChanged.emit(self.index(number, 0), self.index(number, len(COLUMNS) - 1))


def sorted_model(model: VolumeModel) -> QSortFilterProxyModel:
    """The model in the order that a person asks for by clicking a heading."""
    proxy = QSortFilterProxyModel()
    proxy.setSourceModel(model)
    proxy.setSortRole(SORT_ROLE)
    return proxy
