"""Panel *Rounds*: what every training was given, how good it was, and the way back to it."""

from __future__ import annotations

from statistics import median
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QMessageBox,
    QPushButton,
    QTreeWidget,
    QTreeWidgetItem,
)

from napari_mlbseg.session import Round, SessionState
from napari_mlbseg.session.scores import advice
from napari_mlbseg.task import FEWEST_TO_LEAVE_OUT
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.messages import clock, size, unit
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel

__all__ = ["RoundsPanel"]

_COLUMNS = ("#", "Clean", "Time", "Dice", "HD95", "Disk")
_HELP = (
    "Number of the round; ▶ is the one that is shown",
    "Clean slices that it learnt from",
    "How long it took",
    "Honest score: Dice of its predictions on slices that it had not seen, against what you made of them afterwards. "
    "* some of them were accepted as they were, which says little",
    "95 % Hausdorff distance on the same slices",
    "Room that its files take",
)
_SHOWN_ROWS = 5


class RoundsPanel(Panel):
    """A table of the rounds, and what can be done with them."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Rounds")
        self._controller = controller
        self._session = controller.session
        self.table = QTreeWidget()
        self.table.setAccessibleName("Rounds")
        self.table.setRootIsDecorated(False)
        self.table.setColumnCount(len(_COLUMNS))
        self.table.setHeaderLabels(_COLUMNS)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.header().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.table.header().setStretchLastSection(False)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.table.setIndentation(0)
        for column, words in enumerate(_HELP):
            self.table.headerItem().setToolTip(column, words)
        self.empty = WrappedLabel("Every training is a round: its model, results and score are kept here.")
        self.advice = WrappedLabel()
        self.restore = QPushButton("&Restore")
        self.restore.setToolTip(
            "<p>Show this round's results, take its parameters, and start the next training from its model. What you "
            "painted and marked stays.</p>"
        )
        self.compare = QPushButton("&Compare")
        self.compare.setToolTip(
            "<p>A layer that shows where two rounds differ: blue is gone, orange is new, white is another class. "
            "Choose two rounds, or one to compare it with the one before.</p>"
        )
        self.delete = QPushButton("&Delete…")
        self.delete.setToolTip("Delete the model and results of the chosen rounds. What you painted stays.")
        self.check = QPushButton("&Estimate accuracy…")
        self.check.setToolTip(
            "<p>Leave one clean slice out after the other, train briefly on the rest, and compare: an estimate for as "
            "long as no round was scored on a slice that you corrected. Takes about as long as a training.</p>"
        )
        self.estimate = WrappedLabel()
        buttons = QHBoxLayout()
        for button in (self.restore, self.compare, self.delete):
            buttons.addWidget(button)
        self.rows.addWidget(self.empty)
        self.rows.addWidget(self.table)
        self.rows.addLayout(buttons)
        for widget in (self.advice, self.estimate, self.check):
            self.rows.addWidget(widget)
        self._connect()
        self._show()

    def _connect(self) -> None:
        self.restore.clicked.connect(self._on_restore)
        self.compare.clicked.connect(self._on_compare)
        self.delete.clicked.connect(self._on_delete)
        self.check.clicked.connect(self._controller.start_check)
        self.table.itemSelectionChanged.connect(self._show_buttons)
        self.table.itemDoubleClicked.connect(self._on_restore)
        session = self._session
        for signal in (session.rounds_changed, session.scores_changed, session.round_shown, session.state_changed):
            self.listen(signal, self._show)
        self.listen(session.clean_changed, self._on_clean_changed)
        self.listen(self._controller.workspace.layers_changed, self._show_buttons)

    def chosen(self) -> list[Round]:
        """Rounds that are selected, oldest first."""
        numbers = [item.data(0, Qt.ItemDataRole.UserRole) for item in self.table.selectedItems()]
        return [past for past in self._session.rounds if past.number in numbers]

    def choose(self, *numbers: int) -> None:
        """Select rounds."""
        for row in range(self.table.topLevelItemCount()):
            item = self.table.topLevelItem(row)
            item.setSelected(item.data(0, Qt.ItemDataRole.UserRole) in numbers)

    # -- to the session ------------------------------------------------------------------------------------------

    def _on_restore(self, *_: Any) -> None:
        chosen = self.chosen()
        if len(chosen) == 1 and self.restore.isEnabled():
            self._session.restore(chosen[0].number)

    def _on_compare(self) -> None:
        pair, binding = self._pair(), self._controller.workspace.current
        if pair is None or binding is None:
            return
        try:
            self._controller.comparison.show(*pair, binding)
            self._controller.complained.emit("")
        except ValueError as error:
            self._controller.complained.emit(str(error))

    def _on_delete(self) -> None:
        chosen = self.chosen()
        numbers = ", ".join(str(past.number) for past in chosen)
        which = f"round {numbers}" if len(chosen) == 1 else f"rounds {numbers}"
        question = f"Delete {which}, with models and results? What you painted stays."
        box = QMessageBox(QMessageBox.Icon.Question, "Delete rounds", question, parent=self.window())
        box.setStandardButtons(QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.Cancel)
        box.setDefaultButton(QMessageBox.StandardButton.Cancel)
        box.accepted.connect(lambda: self._delete(chosen))
        box.open()  # not exec: the window lives on

    def _delete(self, chosen: list[Round]) -> None:
        for past in chosen:
            if self._session.state is SessionState.IDLE and past in self._session.rounds:
                self._session.delete_round(past.number)

    # -- from the session ----------------------------------------------------------------------------------------

    def _on_clean_changed(self, name: str) -> None:
        self._show_buttons()

    def _show(self, news: Any = None) -> None:
        chosen = [past.number for past in self.chosen()]
        shown = self._session.shown_round
        with QSignalBlocker(self.table):
            self.table.clear()
            for past in reversed(self._session.rounds):
                self.table.addTopLevelItem(_row(past, past is shown))
            self.choose(*chosen)
        rounds = len(self._session.rounds)
        self.table.setVisible(bool(rounds))
        self.empty.setVisible(not rounds)
        row = self.table.sizeHintForRow(0) if rounds else 0
        self.table.setFixedHeight(self.table.header().sizeHint().height() + row * min(rounds, _SHOWN_ROWS) + 6)
        words = advice([list(past.scores.values()) for past in self._session.rounds])
        self.advice.setText(words)
        self.advice.setVisible(bool(words))
        self._show_estimate()
        self._show_buttons()

    def _show_estimate(self) -> None:
        left_out = self._session.left_out
        dice = [score.dice for score in left_out]
        self.estimate.setVisible(bool(dice))
        if dice:
            # the median: the first and the last slice, beyond which nothing is known, are often missed altogether
            far = [score.hd95 for score in left_out if score.hd95 is not None]
            distance = f", HD95 {median(far):.1f} {unit(left_out[0].unit)}" if far else ""
            lowest = min(left_out, key=lambda score: score.dice)
            self.estimate.setText(
                f"Leaving one of {len(dice)} clean slices out, after short trainings: median Dice {median(dice):.3f}"
                f"{distance}; lowest {lowest.dice:.3f} on slice {lowest.slice}."
            )

    def _show_buttons(self) -> None:
        idle, chosen = self._session.state is SessionState.IDLE, self.chosen()
        self.restore.setEnabled(idle and len(chosen) == 1)
        self.compare.setEnabled(self._pair() is not None)
        self.delete.setEnabled(idle and bool(chosen) and not self._session.read_only)
        for button in (self.restore, self.compare, self.delete):
            button.setVisible(bool(self._session.rounds))
        self.check.setEnabled(idle and sum(len(volume.clean) for volume in self._session) >= FEWEST_TO_LEAVE_OUT)

    def _pair(self) -> tuple[Round, Round] | None:
        """Two rounds to compare: those chosen, or the chosen one and the one before it."""
        chosen = self.chosen()
        if len(chosen) == 2:
            return chosen[0], chosen[1]
        position = self._session.rounds.index(chosen[0]) if len(chosen) == 1 else 0
        return (self._session.rounds[position - 1], chosen[0]) if position > 0 else None


def _row(past: Round, is_shown: bool) -> QTreeWidgetItem:
    is_easy = any(score.unchanged for score in past.scores.values())
    dice, distance, seconds = past.held_out_dice, past.held_out_hd95, past.seconds
    ended = past.outcome.type if past.outcome is not None else "running"
    cells = (
        f"{'▶ ' if is_shown else ''}{past.number}",
        str(past.n_clean),
        clock(seconds) if seconds is not None else ended,
        "" if dice is None else f"{dice:.3f}{'*' if is_easy else ''}",
        "" if distance is None else f"{distance:.1f}",
        "" if past.bytes_used is None else size(past.bytes_used),
    )
    item = QTreeWidgetItem(list(cells))
    item.setData(0, Qt.ItemDataRole.UserRole, past.number)
    base = f"from the model of round {past.record.base}" if past.record.base is not None else "from scratch"
    lines = [f"Round {past.number}, {past.started:%d %B %H:%M}, {ended}, {base}"]
    for score in past.scores.values():
        far = "" if score.hd95 is None else f", HD95 {score.hd95:.1f} {unit(score.unit)}"
        note = " (accepted unchanged)" if score.unchanged else ""
        lines.append(f"slice {score.slice}: Dice {score.dice:.3f}{far}{note}")
    for column in range(len(cells)):
        item.setToolTip(column, "\n".join(lines))
        if column:
            item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item
