"""Weight maps to files: a picture of one slice, or the whole map with the geometry of its image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.qt.threading import create_worker
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_mlbseg.io.writers import write_layer
from napari_mlbseg.viewer.layers.map_values import VolumeMaps
from napari_mlbseg.viewer.layers.result_kinds import ResultKind
from napari_mlbseg.viewer.panels.panel import WrappedLabel
from napari_mlbseg.viewer.widgets.map_picture import picture

__all__ = ["MAP_FILTERS", "MapSaver", "with_suffix"]

#: Filters of the file dialog, and the suffix that each stands for.
MAP_FILTERS = {"NIfTI (*.nii.gz *.nii)": ".nii.gz", "TIFF (*.tif *.tiff)": ".tif"}
_SUFFIXES = (".nii", ".nii.gz", ".tif", ".tiff")


class MapSaver(QWidget):
    """Two buttons and what came of them. Whole maps are written in a thread: reading thousands of slices takes a while.

    Signals tell when something was saved, or the reason why not in one sentence.
    """

    saved = Signal(str)  # path
    failed = Signal(str)  # one sentence

    def __init__(self) -> None:
        super().__init__()
        self._maps: VolumeMaps | None = None
        self._kind: ResultKind | None = None
        self._slice: np.ndarray | None = None
        self._aspect = 1.0
        self._caption = ""
        self._is_saving = False
        self.save_slice = QPushButton("Save this &slice…")
        self.save_slice.setToolTip("The map of the slice in view with its colour bar, as a PNG picture.")
        self.save_map = QPushButton("Save the whole ma&p…")
        self.save_map.setToolTip("The map of every slice as NIfTI or TIFF, lying exactly on the image.")
        self.said = WrappedLabel()
        buttons = QHBoxLayout()
        buttons.addWidget(self.save_slice)
        buttons.addWidget(self.save_map)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.said)
        self.save_slice.clicked.connect(self._on_save_slice)
        self.save_map.clicked.connect(self._on_save_map)
        self.saved.connect(self._on_saved)
        self.failed.connect(self.said.setText)

    def set_value(
        self, maps: VolumeMaps | None, kind: ResultKind, shown: np.ndarray | None, aspect: float, caption: str
    ) -> None:
        """Offer a map.

        Parameters
        ----------
        maps : VolumeMaps, optional
        kind : ResultKind
            Which of them.
        shown : ndarray, (Y, X), optional
            That of the slice in view.
        aspect : float
            Height of its pixels divided by their width.
        caption : str
            Where it is from, for the picture.
        """
        self._maps, self._kind, self._slice = maps, kind, shown
        self._aspect, self._caption = aspect, caption
        self.save_slice.setEnabled(shown is not None)
        self.save_map.setEnabled(maps is not None and not self._is_saving)

    def save_slice_to(self, path: str) -> None:
        """Write the map of the slice in view with its colour bar as a PNG."""
        if self._slice is None or self._kind is None:
            return
        target = path if path.lower().endswith(".png") else path + ".png"
        drawn = picture(self._slice, self._kind, self._aspect, f"{self._caption}: {self._kind.words}")
        if drawn.save(target, "PNG"):
            self.saved.emit(target)
        else:
            self.failed.emit(f"The picture cannot be written to {target}: choose a folder where you may write.")

    def save_map_to(self, path: str) -> None:
        """Begin to write the map of all slices; `saved` or `failed` tells the end."""
        if self._maps is None or self._kind is None or self._is_saving:
            return
        image, kind = self._maps.image, self._kind
        _, attributes, _ = image.as_layer_data_tuple()
        # the map has no colour axis and no smaller copies, whatever its image has
        described = {**attributes, "name": f"{image.name} {kind.layer_name}", "rgb": False, "multiscale": False}
        self._is_saving = True
        self.save_map.setEnabled(False)
        self.said.setText(f"Saving {Path(path).name}…")
        worker = create_worker(_write, path, self._maps.readers[kind.key], described, _start_thread=False)
        worker.returned.connect(self._on_written)
        worker.start()

    def _on_save_slice(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save this slice", self._name() + ".png", "Picture (*.png)")
        if path:
            self.save_slice_to(path)

    def _on_save_map(self) -> None:
        filters = ";;".join(MAP_FILTERS)
        path, chosen = QFileDialog.getSaveFileName(self, "Save the whole map", self._name() + ".nii.gz", filters)
        if path:
            self.save_map_to(with_suffix(path, MAP_FILTERS.get(chosen, ".nii.gz")))

    def _on_written(self, answer: tuple[str, str]) -> None:
        path, problem = answer
        self._is_saving = False
        self.save_map.setEnabled(self._maps is not None)
        if problem:
            self.failed.emit(f"The map was not saved: {problem}")
        else:
            self.saved.emit(path)

    def _on_saved(self, path: str) -> None:
        self.said.setText(f"Saved {Path(path).name}.")

    def _name(self) -> str:
        """What a file may be called."""
        if self._maps is None or self._kind is None:
            return "map"
        return f"{self._maps.image.name} {self._kind.key.replace('_', ' ')}".replace(" ", "-")


def with_suffix(path: str, suffix: str) -> str:
    """`path`, with a suffix where it has none of those that can be written."""
    return path if path.lower().endswith(_SUFFIXES) else path + suffix


def _write(path: str, data: Any, attributes: dict[str, Any]) -> tuple[str, str]:
    """Write a layer; gives the path, and a reason where that could not be done: a thread's errors are hard to catch."""
    try:
        write_layer(path, data, attributes)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        return path, str(error) or type(error).__name__
    return path, ""
