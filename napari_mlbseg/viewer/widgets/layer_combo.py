"""A combo box of napari layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["LayerCombo"]


class LayerCombo(QComboBox):
    """Lets a person choose one of the layers given to `set_choices`.

    Parameters
    ----------
    nothing : str
        Text that stands for no layer.
    """

    layer_chosen = Signal(object)  # Layer or None; only by a person

    def __init__(self, nothing: str) -> None:
        super().__init__()
        self._layers: list[Layer | None] = []
        self._nothing = nothing
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(5)
        self.activated.connect(self._on_activated)

    def set_choices(self, layers: Sequence[Layer], chosen: Layer | None) -> None:
        """Offer `layers`, with `chosen` shown. Emits nothing."""
        found = chosen is not None and any(layer == chosen for layer in layers)
        with QSignalBlocker(self):
            self.clear()
            self._layers = [*layers] if found else [None, *layers]
            self.addItems([self._nothing if layer is None else layer.name for layer in self._layers])
            self.setCurrentIndex(next((i for i, layer in enumerate(layers) if layer == chosen), 0) if found else 0)
            self.setToolTip(self.currentText())

    def value(self) -> Layer | None:
        """The layer shown."""
        return self._layers[self.currentIndex()] if 0 <= self.currentIndex() < len(self._layers) else None

    def _on_activated(self, index: int) -> None:
        self.layer_chosen.emit(self.value())
