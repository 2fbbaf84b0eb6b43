"""Dock *Curves*: how a training goes, step by step, and how good every round's prediction was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import napari.viewer
from qtpy.QtCore import QTimer

from napari_mlbseg.events import Event, Losses, Stage, is_terminal
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.viewer.docks.registry import CURVES
from napari_mlbseg.viewer.docks.side_dock import SideDock
from napari_mlbseg.viewer.panels.panel import WrappedLabel, hint
from napari_mlbseg.viewer.widgets.plots import Curve, Plot, theme_colours

if TYPE_CHECKING:
    from napari_mlbseg.session import Round

__all__ = ["CurvesDock"]

_REFRESH_MILLISECONDS = 300

_WHAT = (
    "Here you will see, step by step, how well the model fits your clean slices and which labels of the other slices "
    "it is told to trust."
)
_NO_SCORES = (
    "The held-out Dice comes after the second round: how well a round had segmented the slices that you corrected and "
    "marked clean afterwards. It had not learnt from them, so this is an honest score."
)


class CurvesDock(SideDock):
    """Curves of the current round, and the held-out Dice of every round.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(CURVES, napari_viewer)
        self.headline = WrappedLabel()
        self.empty = hint(_WHAT)
        self.losses = Plot(
            "Losses: lower is better",
            [
                Curve("clean", "clean slices"),
                Curve("weighted", "other slices, weighted"),
                Curve("consistency", "disagreement of views"),
            ],
            "Training step",
            "Loss (log scale)",
            log=True,  # that of the views is a hundredth of the others
        )
        self.shares = Plot(
            "What is trusted",
            [
                Curve("share_positive", "pixels with a weight"),
                Curve("share_initial", "wⁿ: initial labels"),
                Curve("share_pseudo", "wᵖ: pseudo-labels"),
            ],
            "Training step",
            "Share (%)",
            y_ticks={0: "0", 50: "50", 100: "100"},
        )
        self.scores = Plot(
            "Held-out Dice: higher is better",
            [Curve("dice", "Dice")],
            "Round",
            "Dice (0 to 1)",
            y_ticks={0: "0", 0.5: "0.5", 1: "1"},
            points=True,
        )
        self.no_scores = hint(_NO_SCORES)
        self.plots = (self.losses, self.shares, self.scores)
        for widget in (self.headline, self.empty, *self.plots, self.no_scores):
            self.column.addWidget(widget)
        self.column.addStretch(1)
        self._forget()
        self._timer = QTimer(self, singleShot=True, interval=_REFRESH_MILLISECONDS)
        self._timer.timeout.connect(self._refresh)

    def on_followed(self) -> None:
        if self.controller is not None:
            session = self.controller.session
            self.listen(session.round_started, self._on_news)
            self.listen(session.event_received, self._on_event)
            self.listen(session.scores_changed, self._on_news)
            self.listen(session.rounds_changed, self._on_news)
        self._refresh()

    def on_left(self) -> None:
        self._timer.stop()
        self._forget()  # whoever keeps a round keeps its files

    def on_theme_changed(self) -> None:
        colours = theme_colours(self.viewer.theme)
        for plot in self.plots:
            plot.set_colours(colours)

    def _forget(self) -> None:
        self._shown: Round | None = None
        self._n_read = 0  # events of that round that are in the rows
        self._rows = _Rows()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Losses) or is_terminal(event):
            self._on_news()

    def _on_news(self, *news: object) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _refresh(self) -> None:
        session = self.controller.session if self.controller is not None else None
        current = session.current_round if session is not None else None
        if current is not self._shown:
            self._forget()
            self._shown = current
        if current is not None:
            self._rows.take(current.events[self._n_read :])
            self._n_read = len(current.events)
        self._show_steps(current)
        self._show_scores(session)

    def _show_steps(self, current: Round | None) -> None:
        rows = self._rows
        self.headline.setText(_headline(current, rows))
        self.headline.setVisible(current is not None)
        self.empty.setText(_WHAT if current is not None else f"Press Train in the dock MLB-Seg. {_WHAT}")
        self.empty.setVisible(not rows.steps)
        for plot in (self.losses, self.shares):
            plot.setVisible(bool(rows.steps))
            for key in plot.lines:
                plot.set_values(key, rows.steps, rows.values[key])
            plot.set_mark(rows.weighted_from)

    def _show_scores(self, session: SegmentationSession | None) -> None:
        rounds = session.rounds if session is not None else []
        dice = {r.number: r.held_out_dice for r in rounds}
        known = {number: value for number, value in dice.items() if value is not None}
        self.scores.set_values("dice", list(known), list(known.values()))
        self.scores.setVisible(bool(known))
        self.no_scores.setVisible(not known and bool(rounds))
        if known:
            self.scores.item.getAxis("bottom").setTicks([[(number, str(number)) for number in _few(sorted(dice))]])
            self.scores.item.setXRange(min(dice) - 0.5, max(dice) + 0.5, padding=0)


class _Rows:
    """Losses of a round, as lists for the plots."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: dict[str, list[float]] = {
            key: [] for key in ("clean", "weighted", "consistency", "share_positive", "share_initial", "share_pseudo")
        }
        self.weighted_from: int | None = None  # step at which learning from the other slices began

    def take(self, events: list[Event]) -> None:
        """Go on with these events."""
        for event in events:
            if not isinstance(event, Losses):
                continue
            if event.stage is Stage.TRAIN and self.weighted_from is None and self.steps:
                self.weighted_from = self.steps[-1]
            self.steps.append(event.step)
            for key, value in _row(event).items():
                self.values[key].append(value)


def _row(event: Losses) -> dict[str, float]:
    """Values of one event by curve, NaN where there is none; shares in percent."""
    told = {name: math.nan if value is None else value for name, value in event.values.items()}
    positive, pseudo = told.get("share_positive", math.nan), told.get("share_pseudo", math.nan)
    initial = 1 - pseudo if positive > 0 else math.nan  # both maps together are 1, unless no pixel has a weight
    return {
        **{name: told.get(name, math.nan) for name in ("clean", "weighted", "consistency")},
        "share_positive": 100 * positive,
        "share_initial": 100 * initial,
        "share_pseudo": 100 * (pseudo if positive > 0 else math.nan),
    }


def _headline(current: Round | None, rows: _Rows) -> str:
    """Which training is shown, and how far it has come."""
    if current is None:
        return ""
    if not rows.steps:
        how = "has not begun to learn yet" if current.outcome is None else "ended without a training step"
        return f"Round {current.number} {how}."
    sentence = f"Round {current.number}, step {rows.steps[-1]}."
    if rows.weighted_from is None:
        return sentence
    return f"{sentence} The upright line is step {rows.weighted_from}: from there on it learns from all slices."


def _few(numbers: list[int]) -> list[int]:
    """At most ten of the numbers, evenly spaced."""
    return numbers[:: max(1, math.ceil(len(numbers) / 10))]
