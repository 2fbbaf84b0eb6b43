"""Layers that can only be read get pixels of their own in memory, so that a person can paint on them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from napari.utils.notifications import show_info
from psygnal import Signal

from napari_mlbseg.viewer import messages
from napari_mlbseg.viewer.layers.arrays import SliceReader
from napari_mlbseg.viewer.layers.binding import METADATA_KEY, is_result, pixels_of, transform_of
from napari_mlbseg.viewer.layers.paint_listener import lock, paint_on, unlock

__all__ = ["EditableCopies", "can_be_painted"]

_SHARE_OF_MEMORY = 0.5  # of what is free, that one copy may take


def can_be_painted(layer: Labels) -> bool:
    """Whether napari can write to the pixels of a layer. Others index in another way, or cannot be written to."""
    pixels = layer.data
    if isinstance(pixels, np.ndarray):
        return bool(pixels.flags.writeable)
    kind = getattr(sys.modules.get("zarr"), "Array", None)
    return kind is not None and isinstance(pixels, kind) and not pixels.read_only  # opened to be written to


class EditableCopies:
    """Copies of what can only be read: a file that is read piece by piece, another library's array, a result of ours.

    The file is never written to. What is read from a disk is read in a thread; the layer is locked meanwhile.
    """

    changed = Signal()  # a layer can be painted on now, or something is to be said of one

    def __init__(self) -> None:
        self._reasons: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._read: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # pixels that were tried to be read
        self._workers: list[Any] = []
        self._ended = False

    def reason(self, layer: Labels | None) -> str:
        """Why a layer cannot be painted on, or not yet; empty if nothing is to be said."""
        return self._reasons.get(layer, "") if layer is not None else ""

    def ensure(self, layer: Labels) -> None:
        """Have an annotation that can only be read be painted on."""
        if not layer.multiscale and not can_be_painted(layer):
            is_file = not isinstance(layer.data, SliceReader) and not _is_in_memory(layer.data)
            self._replace(layer, "Its file stays as it is." if is_file else "")
        elif not layer.multiscale:
            self._reasons.pop(layer, None)

    def release(self, layer: Any) -> None:
        """Give a person what they made of one of our results, such as a duplicate: it is a result no more."""
        if isinstance(layer, Image | Labels) and not is_result(layer):
            is_copy = layer.metadata.pop(METADATA_KEY, None) is not None
            if is_copy and isinstance(layer.data, SliceReader):
                self._replace(layer)

    def copy_of(self, labels: Labels, use: Callable[[Labels], None]) -> None:
        """Make a layer to paint on of labels of several resolutions, which napari can only show."""

        def make(pixels: np.ndarray) -> None:
            use(
                Labels(
                    pixels,
                    name=f"{labels.name} copy",
                    colormap=labels.colormap,
                    opacity=labels.opacity,
                    metadata=dict(labels.metadata),
                    **transform_of(labels),
                )
            )

        self._copy(labels, make)

    def end(self) -> None:
        """What is still being read is not used any more."""
        self._ended = True
        self._workers.clear()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _replace(self, layer: Image | Labels, note: str = "") -> None:
        pixels, mode = layer.data, str(layer.mode)

        def use(copy: np.ndarray) -> None:
            if layer.data is not pixels:
                return  # it was given others meanwhile
            if isinstance(layer, Labels):
                unlock(layer)
                paint_on(layer, copy)
                layer.mode = mode
            else:
                layer.data = copy
            if note:
                show_info(f"MLB-Seg: '{layer.name}' was copied into memory, so that you can paint on it. {note}")

        self._copy(layer, use)
        if layer.data is pixels and isinstance(layer, Labels):
            lock(layer)  # a stroke would be an error

    def _copy(self, layer: Image | Labels, use: Callable[[np.ndarray], None]) -> None:
        """Read the pixels of a layer into memory, in a thread where that may take long; raises nothing."""
        pixels = pixels_of(layer)
        n_bytes = math.prod(map(int, pixels.shape)) * np.dtype(layer.dtype).itemsize
        if n_bytes > _SHARE_OF_MEMORY * psutil.virtual_memory().available:
            self._say(
                layer,
                f"'{layer.name}' can only be read, and a copy to paint on ({messages.size(n_bytes)}) does not fit into "
                "memory: make memory free, use a smaller part of the image, or press New and paint on an empty layer.",
            )
            return
        if self._read.get(layer) is pixels:
            return  # it is being read, or cannot be
        if _is_in_memory(pixels):
            use(_in_memory(pixels))
            return
        self._read[layer] = pixels
        self._say(layer, f"'{layer.name}' is being copied into memory, so that you can paint on it…")

        def read() -> np.ndarray | str:
            try:
                return _in_memory(pixels)
            except Exception as error:  # the thread must end well, whatever a file holds
                return str(error) or type(error).__name__

        def finish(copy: np.ndarray | str) -> None:
            if self._ended:
                return
            if isinstance(copy, str):
                self._say(layer, f"'{layer.name}' cannot be read ({copy}): choose another layer, or press New.")
            else:
                self._read.pop(layer, None)
                self._say(layer, "")
                use(copy)

        worker = create_worker(read, _start_thread=False)
        worker.returned.connect(finish)
        worker.finished.connect(lambda: self._workers.remove(worker) if worker in self._workers else None)
        self._workers.append(worker)
        worker.start()

    def _say(self, layer: Image | Labels, reason: str) -> None:
        if self._reasons.get(layer, "") != reason:
            self._reasons[layer] = reason
            self.changed.emit()


def _is_in_memory(pixels: Any) -> bool:
    return isinstance(pixels, np.ndarray) and not isinstance(pixels, np.memmap)


def _in_memory(pixels: Any) -> np.ndarray:
    """A copy that can be written to, in this machine's byte order."""
    array = np.asarray(pixels)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
