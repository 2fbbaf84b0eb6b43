"""Panel *Clean slices*: the slices that a person painted completely and vouches for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QHBoxLayout, QListWidget, QListWidgetItem, QPushButton

from napari_mlbseg.session import Provenance
from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.keys import with_key
from napari_mlbseg.viewer.layers.binding import VolumeBinding
from napari_mlbseg.viewer.panels.panel import Panel, WrappedLabel, hint
from napari_mlbseg.viewer.widgets.slice_strip import SliceStrip, StripLegend, StripState

__all__ = ["CleanPanel"]

_SETTLE_MILLISECONDS = 120  # while a training runs, news come in heaps
_LIST_ROWS = 5
_N_SUGGESTED = 3
_FULL_DOUBT = 0.5  # expected error that fills the strip's band


class CleanPanel(Panel):
    """Marks slices clean, and shows what is known of all slices."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Clean slices")
        self._controller = controller
        self.strip = SliceStrip()
        self.legend = StripLegend()
        self.status = WrappedLabel()
        self.turn = QPushButton("&Turn the view to the slices")
        self.mark = QPushButton(with_key("&Mark this slice clean", "mark_slice_clean"), checkable=True)
        self.mark.setToolTip("Say that every pixel of the slice in view is labelled as it should be.")
        self.before = QPushButton("◀ clean")
        self.before.setToolTip(with_key("Go to the previous clean slice", "previous_clean_slice"))
        self.after = QPushButton("clean ▶")
        self.after.setToolTip(with_key("Go to the next clean slice", "next_clean_slice"))
        self.list = _SliceList()
        self.list.setAccessibleName("Clean slices")
        self.list.setToolTip("Click a slice to go there; Delete takes its mark away.")
        self.remove = QPushButton("&Remove mark")
        self.remove.setToolTip("Take the mark from the slice chosen in the list. What you painted stays.")
        self.total = WrappedLabel()
        self._lay_out()
        self._settle = QTimer(self, singleShot=True, interval=_SETTLE_MILLISECONDS)
        self._settle.timeout.connect(self._show_all)
        self._connect()
        self._show_all()

    def _lay_out(self) -> None:
        marking = QHBoxLayout()
        marking.addWidget(self.mark, stretch=1)
        marking.addWidget(self.before)
        marking.addWidget(self.after)
        below = QHBoxLayout()
        below.addWidget(self.total, stretch=1)
        below.addWidget(self.remove)
        for widget in (self.strip, self.legend, self.status, self.turn):
            self.rows.addWidget(widget)
        self.rows.addLayout(marking)
        self.rows.addWidget(self.list)
        self.rows.addLayout(below)
        self.rows.addWidget(
            hint(
                "Painted is not clean: mark a slice when it is complete. Clean with nothing painted means: I looked, "
                "it is all background."
            )
        )

    def _connect(self) -> None:
        controller, session = self._controller, self._controller.session
        self.list.removal_wanted.connect(self._on_remove)
        self.strip.slice_wanted.connect(controller.workspace.go_to)
        self.turn.clicked.connect(self._on_turn)
        self.mark.clicked.connect(self._on_mark)
        self.before.clicked.connect(controller.previous_clean_slice)
        self.after.clicked.connect(controller.next_clean_slice)
        self.list.itemClicked.connect(self._on_item)
        self.list.itemActivated.connect(self._on_item)
        self.remove.clicked.connect(self._on_remove)
        self.listen(controller.workspace.layers_changed, self._show_all)
        self.listen(controller.workspace.slice_changed, self._on_slice_changed)
        self.listen(session.clean_changed, self._on_clean_changed)
        self.listen(session.painted_changed, self._on_news)  # of many slices at once, one after the other
        self.listen(session.round_shown, self._on_news)
        self.listen(session.event_received, self._on_news)

    def disconnect_all(self) -> None:
        """Also forget what was to be shown soon."""
        super().disconnect_all()
        self._settle.stop()

    # -- to the controller ---------------------------------------------------------------------------------------

    def _on_mark(self, checked: bool) -> None:
        self._controller.mark_clean(checked)
        self._show_slice()  # a refusal leaves the button as it was

    def _on_turn(self) -> None:
        self._controller.workspace.turn_view()

    def _on_item(self, item: QListWidgetItem) -> None:
        self._controller.workspace.go_to(item.data(Qt.ItemDataRole.UserRole))

    def _on_remove(self) -> None:
        item = self.list.currentItem()
        if item is not None:
            self._controller.mark_clean(False, item.data(Qt.ItemDataRole.UserRole))

    # -- from the controller and the session ---------------------------------------------------------------------

    def _on_slice_changed(self) -> None:
        if self._binding_shown is not self._controller.workspace.current:
            self._show_all()
        else:
            self._show_slice()

    def _on_clean_changed(self, name: str) -> None:
        self._show_all()

    def _on_news(self, news: Any = None) -> None:
        if not self._settle.isActive():  # not put off again by each: they come all the time
            self._settle.start()

    # -- display -------------------------------------------------------------------------------------------------

    _binding_shown: VolumeBinding | None = None

    def _show_all(self) -> None:
        self._binding_shown = self._controller.workspace.current
        self.strip.set_value(self._state())
        self.legend.set_value(self.strip.value())
        self._show_list()
        self._show_slice()

    def _state(self) -> StripState:
        """All that is known of the slices of the current volume."""
        controller, session = self._controller, self._controller.session
        binding, n_slices = controller.workspace.current, controller.workspace.n_slices
        if binding is None or n_slices == 0 or binding.image.name not in session:
            return StripState(n_slices=n_slices)
        name, marks, shown = binding.image.name, controller.workspace.marks(binding), session.shown_round
        in_round = shown.name_of(binding.uid) if shown is not None else None
        doubt = shown.doubt(in_round) if shown is not None and in_round is not None else None
        predicted = shown.predicted.get(in_round, set()) if shown is not None and in_round is not None else set()
        if shown is not None and shown.record.slice_axes.get(binding.uid) != controller.workspace.slice_axis:
            doubt, predicted = None, set()
        return StripState(
            n_slices=n_slices,
            clean=marks.clean,
            accepted=session.accepted_slices(name),
            painted=session.painted_slices(name),
            rejected=marks.rejected,
            predicted=predicted,
            suggested={s.slice: _continued(s.reason) for s in session.suggestions(name)[:_N_SUGGESTED]},
            doubt=None if doubt is None else doubt / _FULL_DOUBT,
        )

    def _show_list(self) -> None:
        state = self.strip.value()
        clean = sorted(state.clean)
        chosen = self.list.currentItem().data(Qt.ItemDataRole.UserRole) if self.list.currentItem() else None
        with QSignalBlocker(self.list):
            self.list.clear()
            for z in clean:
                item = QListWidgetItem(f"Slice {z}" + self._origin(z))
                item.setData(Qt.ItemDataRole.UserRole, z)
                self.list.addItem(item)
                if z == chosen:
                    self.list.setCurrentItem(item)
        height = self.list.sizeHintForRow(0) if clean else 0
        self.list.setFixedHeight(height * min(_LIST_ROWS, len(clean)) + 8)
        for widget in (self.list, self.remove, self.before, self.after):
            widget.setVisible(bool(clean))
        elsewhere = "" if clean else self._kept_elsewhere()
        self.total.setText(elsewhere or ("1 clean slice" if len(clean) == 1 else f"{len(clean)} clean slices"))
        self.total.setVisible(bool(clean or elsewhere))

    def _kept_elsewhere(self) -> str:
        """What there is to say of clean slices along another axis; empty if there are none."""
        binding = self._binding_shown
        if binding is None:
            return ""
        others = {
            axis: marks.clean for axis, marks in binding.marks.items() if axis != self._controller.workspace.slice_axis
        }
        kept = [f"{len(clean)} along axis {axis}" for axis, clean in sorted(others.items()) if clean]
        return f"None along this axis yet; kept: {', '.join(kept)}." if kept else ""

    def _origin(self, z: int) -> str:
        """What there is to say of where a clean slice came from; nothing of one that was just painted."""
        assert self._binding_shown is not None  # it has slices
        state = self.strip.value()
        if z not in state.painted:
            return "  (all background)"
        if z in state.accepted:
            return "  (as predicted)"
        marks = self._controller.workspace.marks(self._binding_shown)
        return f"  ({Provenance.CORRECTED})" if marks.accepted.get(z) else ""

    def _show_slice(self) -> None:
        binding, z = self._controller.workspace.current, self._controller.workspace.current_slice
        n_slices = self._controller.workspace.n_slices
        state = replace(self.strip.value(), current=z)
        self.strip.set_value(state)
        self.turn.setVisible(binding is not None and z is None and n_slices > 1)
        self.mark.setEnabled(z is not None)
        with QSignalBlocker(self.mark):
            self.mark.setChecked(z in state.clean)
        words = "This slice is &clean" if z in state.clean else "&Mark this slice clean"
        self.mark.setText(with_key(words, "mark_slice_clean"))
        self.status.setToolTip(f"Of the image '{binding.image.name}'" if binding is not None else "")
        self.status.setText(_status(binding, z, n_slices, state))


class _SliceList(QListWidget):
    """A list whose Delete key asks for removal."""

    removal_wanted = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.removal_wanted.emit()
        else:
            super().keyPressEvent(event)


def _status(binding: VolumeBinding | None, z: int | None, n_slices: int, state: StripState) -> str:
    """Where the user is and what that slice is, in words."""
    if binding is None:
        return "No image yet."
    if n_slices == 0:
        return "This image has no slices."
    if z is None:
        return "The slices lie along another axis than the view."
    words = state.sentence(z).partition("\n")[0].partition(": ")[2]
    return f"Slice {z} of 0 to {n_slices - 1}: {words}"


def _continued(sentence: str) -> str:
    """A sentence as the second half of another."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")
