"""Panel *Clean slices*: the slices that a person painted completely and vouches for."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QHBoxLayout, QLabel, QListWidget, QListWidgetItem, QPushButton

from napari_mlbseg.viewer.binding import VolumeBinding
from napari_mlbseg.viewer.controller import SHORTCUT, DockController
from napari_mlbseg.viewer.panel import Panel, WrappedLabel, hint
from napari_mlbseg.viewer.slice_strip import SliceStrip, StripLegend, StripState

__all__ = ["CleanPanel"]

_SETTLE_MILLISECONDS = 300  # painting must stay fluid: look at the pixels when the brush rests
_LIST_ROWS = 5


class CleanPanel(Panel):
    """Marks slices clean, and shows which ones are."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Clean slices")
        self._controller = controller
        self._watched: Labels | None = None
        self._painted: set[int] = set()
        self.strip = SliceStrip()
        self.legend = StripLegend()
        self.status = WrappedLabel()
        self.turn = QPushButton("&Turn the view to the slices")
        self.mark = QPushButton(f"&Mark this slice clean  ({SHORTCUT})", checkable=True)
        self.mark.setToolTip(f"Say that every pixel of the slice in view is labelled as it should be. Key: {SHORTCUT}.")
        self.list = _SliceList()
        self.list.setAccessibleName("Clean slices")
        self.list.setToolTip("Click a slice to go there; Delete takes its mark away.")
        self.remove = QPushButton("&Remove mark")
        self.remove.setToolTip("Take the mark from the slice chosen in the list. What you painted stays.")
        self.total = QLabel()
        below = QHBoxLayout()
        below.addWidget(self.total, stretch=1)
        below.addWidget(self.remove)
        for widget in (self.strip, self.legend, self.status, self.turn, self.mark, self.list):
            self.rows.addWidget(widget)
        self.rows.addLayout(below)
        self.rows.addWidget(
            hint(
                "Painted is not clean: mark a slice when it is complete. Clean with nothing painted means: I looked, "
                "it is all background."
            )
        )
        self._settle = QTimer(self, singleShot=True, interval=_SETTLE_MILLISECONDS)
        self.list.removal_wanted.connect(self._on_remove)
        self._settle.timeout.connect(self._on_settled)
        self.strip.slice_wanted.connect(controller.go_to)
        self.turn.clicked.connect(self._on_turn)
        self.mark.clicked.connect(self._on_mark)
        self.list.itemClicked.connect(self._on_item)
        self.list.itemActivated.connect(self._on_item)
        self.remove.clicked.connect(self._on_remove)
        self.listen(controller.layers_changed, self._on_layers_changed)
        self.listen(controller.slice_changed, self._on_slice_changed)
        self.listen(controller.session.clean_changed, self._on_clean_changed)
        self._on_layers_changed()

    def deafen(self) -> None:
        """Also stop watching the annotation."""
        super().deafen()
        self._settle.stop()
        self._watch(None)

    # -- to the controller ---------------------------------------------------------------------------------------

    def _on_mark(self, checked: bool) -> None:
        self._controller.mark_clean(checked)
        self._show_slice()  # a refusal leaves the button as it was

    def _on_turn(self) -> None:
        self._controller.turn_view()

    def _on_item(self, item: QListWidgetItem) -> None:
        self._controller.go_to(item.data(Qt.ItemDataRole.UserRole))

    def _on_remove(self) -> None:
        item = self.list.currentItem()
        if item is not None:
            self._controller.mark_clean(False, item.data(Qt.ItemDataRole.UserRole))

    # -- from the controller -------------------------------------------------------------------------------------

    def _on_layers_changed(self) -> None:
        binding = self._controller.current
        self._watch(binding.annotation if binding is not None else None)
        self._on_settled()

    def _on_slice_changed(self) -> None:
        binding = self._controller.current
        if (binding.annotation if binding is not None else None) != self._watched:
            self._on_layers_changed()
        else:
            self._show_slice()

    def _on_clean_changed(self, name: str) -> None:
        self._show_list()
        self._show_slice()

    # -- from the painted layer ----------------------------------------------------------------------------------

    def _watch(self, annotation: Labels | None) -> None:
        if self._watched is not None:
            for emitter in _pixel_emitters(self._watched):
                emitter.disconnect(self._on_painted)
        self._watched = annotation
        if annotation is not None:
            for emitter in _pixel_emitters(annotation):
                emitter.connect(self._on_painted)

    def _on_painted(self, event: Any = None) -> None:
        self._settle.start()

    def _on_settled(self) -> None:
        self._painted = _painted_slices(self._controller.current, self._controller.slice_axis)
        self._show_list()
        self._show_slice()

    # -- display -------------------------------------------------------------------------------------------------

    def _show_list(self) -> None:
        binding = self._controller.current
        clean = sorted(self._controller.clean_slices(binding)) if binding is not None else []
        chosen = self.list.currentItem().data(Qt.ItemDataRole.UserRole) if self.list.currentItem() else None
        with QSignalBlocker(self.list):
            self.list.clear()
            for z in clean:
                item = QListWidgetItem(f"Slice {z}" + ("" if z in self._painted else "  (all background)"))
                item.setData(Qt.ItemDataRole.UserRole, z)
                self.list.addItem(item)
                if z == chosen:
                    self.list.setCurrentItem(item)
        height = self.list.sizeHintForRow(0) if clean else 0
        self.list.setFixedHeight(height * min(_LIST_ROWS, len(clean)) + 8)
        self.list.setVisible(bool(clean))
        self.remove.setVisible(bool(clean))
        self.total.setVisible(bool(clean))
        self.total.setText("1 clean slice" if len(clean) == 1 else f"{len(clean)} clean slices")

    def _show_slice(self) -> None:
        binding, z = self._controller.current, self._controller.current_slice
        clean = self._controller.clean_slices(binding) if binding is not None else set()
        n_slices = self._controller.n_slices
        state = StripState(n_slices=n_slices, clean=clean, painted=self._painted, current=z)
        self.strip.set_value(state)
        self.legend.set_value(state)
        self.turn.setVisible(binding is not None and z is None and n_slices > 1)
        self.mark.setEnabled(z is not None)
        with QSignalBlocker(self.mark):
            self.mark.setChecked(z in clean)
        self.mark.setText(
            f"This slice is &clean  ({SHORTCUT})" if z in clean else f"&Mark this slice clean  ({SHORTCUT})"
        )
        self.status.setToolTip(f"Of the image '{binding.image.name}'" if binding is not None else "")
        self.status.setText(_status(binding, z, n_slices, clean, self._painted))


class _SliceList(QListWidget):
    """A list whose Delete key asks for removal."""

    removal_wanted = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.removal_wanted.emit()
        else:
            super().keyPressEvent(event)


def _status(binding: VolumeBinding | None, z: int | None, n_slices: int, clean: set[int], painted: set[int]) -> str:
    """Where the user is and what that slice is, in words."""
    if binding is None:
        return "No image yet."
    if n_slices == 0:
        return "This image has no slices."
    if z is None:
        return "The slices lie along another axis than the view."
    state = "clean" if z in clean else "painted, not yet clean" if z in painted else "nothing painted"
    return f"Slice {z} of 0 to {n_slices - 1}: {state}"


def _painted_slices(binding: VolumeBinding | None, slice_axis: int) -> set[int]:
    """Slices on which anything is painted."""
    if binding is None or binding.annotation is None or slice_axis >= binding.annotation.ndim:
        return set()
    pixels = np.asarray(binding.annotation.data)
    others = tuple(axis for axis in range(pixels.ndim) if axis != slice_axis)
    return {int(z) for z in np.flatnonzero(pixels.any(axis=others))}


def _pixel_emitters(annotation: Labels) -> tuple[Any, ...]:
    """What tells that pixels changed; undo and redo emit `set_data`, not `paint`."""
    return annotation.events.paint, annotation.events.set_data, annotation.events.data
