"""Panel *Review*: take predictions over or refuse them, and see where to go next."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QFrame, QHBoxLayout, QPushButton, QVBoxLayout

from napari_mlbseg.session.suggestions import Suggestion
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.keys import with_key
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel

__all__ = ["ReviewPanel"]

_SETTLE_MILLISECONDS = 120


class ReviewPanel(Panel):
    """Buttons for the prediction of the slice in view, and the suggestion of the next one."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Review")
        self._controller = controller
        self._reviewer = controller.reviewer
        self.status = WrappedLabel()
        self.accept = QPushButton(with_key("&Accept", "accept"))
        self.accept.setToolTip(
            "<p>Take the prediction of this slice over into your annotation, where you have painted nothing. One undo "
            "(Ctrl+Z) takes it back.</p>"
        )
        self.reject = QPushButton(with_key("Re&ject", "reject"))
        self.reject.setToolTip(
            "<p>This prediction is wrong: the slice is suggested first. What you accepted of it and did not change is "
            "taken back; what you painted stays. With a region drawn, only what you accepted inside it is taken "
            "back.</p>"
        )
        self.over = QCheckBox("Accept also &over what is painted")
        self.over.setToolTip("<p>Off: what you painted stays as it is. On: the prediction replaces it.</p>")
        self.region = QPushButton("Only a re&gion…")
        self.region.setToolTip(
            "<p>Draw around a part of this slice: only that is taken by the next Accept, or taken back by the next "
            "Reject.</p>"
        )
        self.suggested = WrappedLabel()
        self.go = QPushButton(with_key("Go there", "next_suggestion"))
        self.skip = QPushButton("S&kip")
        self.skip.setToolTip("Suggest another slice instead.")
        self.again = QPushButton()
        self.again.setToolTip(
            "<p>Places where your other clean slices contradict what you painted on a clean slice, the worst first. "
            "It also errs: look, then decide.</p>"
        )
        self._lay_out()
        self._settle = QTimer(self, singleShot=True, interval=_SETTLE_MILLISECONDS)
        self._settle.timeout.connect(self._show)
        self._connect()
        self._show()

    def _lay_out(self) -> None:
        buttons = QHBoxLayout()
        buttons.addWidget(self.accept, stretch=1)
        buttons.addWidget(self.reject, stretch=1)
        self.rows.addWidget(self.status)
        self.rows.addLayout(buttons)
        self.rows.addWidget(self.region)
        self.rows.addWidget(self.over)
        self.box = QFrame()
        self.box.setObjectName("suggestion")
        self.box.setStyleSheet("#suggestion { border-left: 4px solid rgb(230, 159, 0); }")
        inner = QVBoxLayout(self.box)
        inner.setContentsMargins(8, 2, 0, 2)
        inner.addWidget(self.suggested)
        row = QHBoxLayout()
        row.addWidget(self.go, stretch=1)
        row.addWidget(self.skip)
        inner.addLayout(row)
        self.rows.addWidget(self.box)
        self.rows.addWidget(self.again)

    def _connect(self) -> None:
        session = self._controller.session
        self.accept.clicked.connect(self._reviewer.accept)
        self.reject.clicked.connect(self._reviewer.reject)
        self.region.clicked.connect(self._reviewer.draw_region)
        self.over.toggled.connect(self._on_over)
        self.go.clicked.connect(self._reviewer.go_to_suggestion)
        self.skip.clicked.connect(self._reviewer.skip_suggestion)
        self.again.clicked.connect(self._reviewer.look_again)
        self.listen(session.error_regions_changed, self._on_news)
        self.listen(self._reviewer.region_changed, self._on_news)
        self.listen(self._controller.workspace.slice_changed, self._show)
        self.listen(self._controller.workspace.layers_changed, self._show)
        for signal in (session.clean_changed, session.painted_changed, session.event_received, session.round_shown):
            self.listen(signal, self._on_news)
        self.listen(self._controller.results.changed, self._on_news)

    def disconnect_all(self) -> None:
        """Also forget what was to be shown soon."""
        super().disconnect_all()
        self._settle.stop()

    def _on_over(self, checked: bool) -> None:
        self._reviewer.over_painted = checked

    def _on_news(self, news: Any = None) -> None:
        if not self._settle.isActive():
            self._settle.start()

    def _show(self) -> None:
        binding, z = self._controller.workspace.current, self._controller.workspace.current_slice
        is_there = binding is not None and z is not None and self._reviewer.has_prediction()
        self.accept.setEnabled(is_there)
        self.reject.setEnabled(is_there)
        self.region.setEnabled(is_there)
        self.status.setText(self._words(z, is_there))
        places = self._reviewer.places()
        self.again.setVisible(bool(places))
        self.again.setText(f"&Look again at {len(places)} place{'s' if len(places) > 1 else ''} you painted")
        suggestion = self._controller.workspace.suggestion()
        self.box.setVisible(suggestion is not None)
        if suggestion is not None:
            self.suggested.setText(_words_of(suggestion, z))
            self.go.setEnabled(suggestion.slice != z)

    def _words(self, z: int | None, is_there: bool) -> str:
        binding = self._controller.workspace.current
        if binding is None or z is None:
            return "Scroll to a slice to review its prediction."
        if not is_there:
            return f"Slice {z} has no prediction yet: press Train."
        if z in self._controller.workspace.clean_slices(binding):
            return f"Slice {z} is clean: what you painted counts, not the prediction."
        if z in self._controller.workspace.marks(binding).rejected:
            return f"You rejected the prediction of slice {z}: paint it as it should be, and mark it clean."
        if self._reviewer.is_drawing() and not self._reviewer.has_region():
            return f"Draw around a part of slice {z}, then accept it, or reject what you accepted there."
        where = "the region that you drew on " if self._reviewer.has_region() else ""
        return f"The prediction of {where}slice {z}:"


def _words_of(suggestion: Suggestion, z: int | None) -> str:
    """What to do next, and why."""
    reason = suggestion.reason.rstrip(".")
    if suggestion.slice == z:
        return f"<b>This slice is worth annotating.</b> {reason}."
    return f"<b>Next: slice {suggestion.slice}.</b> {reason}."
