"""Panel *Results*: what of the results is shown."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QPushButton

from napari_mlbseg.viewer.controllers.controller import DockController
from napari_mlbseg.viewer.docks.registry import INSPECTOR, open_beside
from napari_mlbseg.viewer.layers.result_kinds import RESULT_KINDS
from napari_mlbseg.viewer.panels.panel import Panel, hint

__all__ = ["ResultsPanel"]


class ResultsPanel(Panel):
    """One checkbox for each kind of result, of all volumes together."""

    def __init__(self, controller: DockController) -> None:
        super().__init__("Results")
        self._controller = controller
        self._results = controller.results
        self.boxes: dict[str, QCheckBox] = {}
        self.empty = hint("They appear here, and as layers, soon after you press Train.")
        self.rows.addWidget(self.empty)
        for kind in RESULT_KINDS:
            box = QCheckBox(kind.words)
            box.setToolTip(f"<p>{kind.help}</p>")
            box.toggled.connect(self._on_toggled)
            self.boxes[kind.key] = box
            self.rows.addWidget(box)
        self.inspect = QPushButton("Inspect &weights")
        self.inspect.setToolTip("Read the weights pixel by pixel, as a histogram and along the slices; save the maps.")
        self.inspect.clicked.connect(self._on_inspect)
        self.rows.addWidget(self.inspect, alignment=Qt.AlignmentFlag.AlignRight)
        self.listen(self._results.changed, self._on_changed)
        self._on_changed()

    def _on_inspect(self) -> None:
        open_beside(self._controller.viewer, INSPECTOR)

    def _on_toggled(self, checked: bool) -> None:
        sender = self.sender()
        for key, box in self.boxes.items():
            if box is sender:
                self._results.set_visible(key, checked)

    def _on_changed(self) -> None:
        for key, box in self.boxes.items():
            with QSignalBlocker(box):
                box.setEnabled(self._results.is_available(key))
                box.setChecked(self._results.is_visible(key))
        self.empty.setVisible(not any(box.isEnabled() for box in self.boxes.values()))
