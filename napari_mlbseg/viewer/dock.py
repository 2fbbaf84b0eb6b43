"""The dock *MLB-Seg*: the panels, top to bottom in the order of work."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import napari.viewer
from qtpy.QtCore import QTimer

from napari_mlbseg._util.logs import configure
from napari_mlbseg.session import Round, SegmentationSession, SessionState
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.docks.dock_widget import DockWidget
from napari_mlbseg.viewer.docks.registry import MAIN, docks
from napari_mlbseg.viewer.panels.clean_slices import CleanPanel
from napari_mlbseg.viewer.panels.data import DataPanel
from napari_mlbseg.viewer.panels.panel import in_reading_order
from napari_mlbseg.viewer.panels.results import ResultsPanel
from napari_mlbseg.viewer.panels.review import ReviewPanel
from napari_mlbseg.viewer.panels.rounds import RoundsPanel
from napari_mlbseg.viewer.panels.session import SessionPanel
from napari_mlbseg.viewer.panels.train import TrainPanel
from napari_mlbseg.viewer.panels.volumes import VolumesPanel
from napari_mlbseg.viewer.widgets.dialogs import Question, ask

if TYPE_CHECKING:
    from napari_mlbseg.viewer.panels.panel import Panel

__all__ = ["MLBSegDock"]

_SETTLE_MILLISECONDS = 50  # until the layouts have made room for what was just shown
_BELOW = 24  # pixels kept free below what is scrolled to: a line more, as the stage changes


class MLBSegDock(DockWidget):
    """Segment a stack from a few clean slices.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    session : SegmentationSession, optional
        By default a new one, kept in the home of sessions that nobody saved.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer, session: SegmentationSession | None = None) -> None:
        super().__init__(MAIN, margins=(4, 4), spacing=4)
        configure(None)
        self.controller = DockController(napari_viewer, session)
        self._adopt_what_is_open()
        self.data = DataPanel(self.controller)
        self.volumes = VolumesPanel(self.controller)
        self.clean = CleanPanel(self.controller)
        self.train = TrainPanel(self.controller)
        self.review = ReviewPanel(self.controller)
        self.results = ResultsPanel(self.controller)
        self.rounds = RoundsPanel(self.controller)
        self.session = SessionPanel(self.controller)
        for panel in self.panels:
            self.column.addWidget(panel)
        self.column.addStretch(1)
        self._settle = QTimer(self, singleShot=True, interval=_SETTLE_MILLISECONDS)
        self._settle.timeout.connect(self._on_settled)
        self._order_tabs()
        self.data.listen(self.controller.workspace.layers_changed, self._order_tabs)  # which may have brought rows
        self.train.listen(self.controller.complained, self._on_complained)
        self.train.listen(self.controller.asked, self._on_asked)
        self.train.listen(self.controller.session.state_changed, self._on_state_changed)
        self.train.listen(self.controller.session.round_started, self._on_round_started)
        self.train.listen(self.controller.session.check_started, self._show_training)
        controller, panels = self.controller, self.panels
        # with the window, the dock is destroyed without being told; by then only these are still there
        self.destroyed.connect(lambda *_: _end(controller, panels))
        docks.add(self)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """Top to bottom."""
        panels = (self.data, self.volumes, self.clean, self.train, self.review, self.results, self.rounds)
        return *panels, self.session

    def _order_tabs(self) -> None:
        """Let Tab go down the panels, also through what was made later."""
        widgets = [widget for panel in self.panels for widget in in_reading_order(panel)]
        for before, after in pairwise(widgets):
            self.setTabOrder(before, after)

    def _on_complained(self, sentence: str) -> None:
        if sentence:
            self._show_training()

    def _on_asked(self, question: Question) -> None:
        ask(self, question)

    def _on_state_changed(self, state: SessionState) -> None:
        if state is SessionState.PREPARING:
            self._show_training()

    def _on_round_started(self, started: Round) -> None:
        self._show_training()

    def _show_training(self) -> None:
        """Unfold and scroll to what says how far a training is or what is wrong: a low screen may hide that."""
        self.train.heading.setChecked(True)
        self._settle.start()

    def _on_settled(self) -> None:
        self.scroll.ensureWidgetVisible(self.train.advanced.heading, 0, _BELOW)
        # upwards too, from a panel below: the message is more important than what follows it
        top = self.train.button if self.train.complaint.isHidden() else self.train.complaint
        self.scroll.ensureWidgetVisible(top, 0, _BELOW)

    def on_ended(self) -> None:
        """Close the session."""
        _end(self.controller, self.panels)

    def _adopt_what_is_open(self) -> None:
        """Begin with the selected image, or the first."""
        viewer = self.controller.viewer
        layers = list(viewer.layers)
        selected = [layer for layer in layers if layer in viewer.layers.selection]
        for layer in (*selected, *layers):
            self.controller.workspace.adopt(layer)


def _end(controller: DockController, panels: tuple[Panel, ...]) -> None:
    for panel in panels:
        panel.disconnect_all()
    controller.close()
    docks.discard(controller)
