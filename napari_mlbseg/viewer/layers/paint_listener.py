"""Tells when something may have been painted on a layer. What exactly, the session finds out by comparing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from napari.layers import Labels, Layer

__all__ = ["PaintListener", "can_be_used_again", "lock", "paint_on", "unlock"]


class PaintListener:
    """Calls back when the pixels of any watched layer may have changed.

    Parameters
    ----------
    painted : callable
        Takes the layer.
    """

    def __init__(self, painted: Callable[[Labels], None]) -> None:
        self._painted = painted
        self._watched: list[tuple[Labels, Callable[..., None]]] = []

    def watch(self, layers: Iterable[Labels]) -> None:
        """Watch exactly these layers."""
        wanted = list(layers)
        for layer, slot in [pair for pair in self._watched if not any(pair[0] == layer for layer in wanted)]:
            self._watched.remove((layer, slot))
            for emitter in _pixel_emitters(layer):
                emitter.disconnect(slot)
        for layer in wanted:
            if any(layer == watched for watched, _ in self._watched):
                continue

            def slot(event: Any = None, layer: Labels = layer) -> None:
                self._painted(layer)

            self._watched.append((layer, slot))
            for emitter in _pixel_emitters(layer):
                emitter.connect(slot)


def can_be_used_again(layer: Labels | None) -> bool:
    """Whether a layer can be given other pixels to paint on: only if what it would undo can be forgotten."""
    return layer is not None and not layer.multiscale and hasattr(layer, "_reset_history")


def paint_on(layer: Labels, pixels: np.ndarray) -> None:
    """Have a person paint on other pixels. Nothing of before can be undone any more: it would be written into these."""
    layer.data = pixels
    layer._reset_history()


def lock(layer: Layer) -> None:
    """Have napari paint nothing on a layer: its pixels can only be read."""
    layer.editable = False
    layer.events.editable.connect(_lock_again)


def unlock(layer: Layer) -> None:
    """Undo `lock`; nothing happens where the layer is not locked."""
    layer.events.editable.disconnect(_lock_again)
    layer.editable = True


def _lock_again(event: Any) -> None:
    """Napari unlocks layers now and then: new data, 3D and back."""
    if event.source.editable:
        event.source.editable = False


def _pixel_emitters(layer: Labels) -> tuple[Any, ...]:
    """What tells that pixels changed; undo and redo emit `set_data`, not `paint`."""
    return layer.events.paint, layer.events.set_data, layer.events.data
