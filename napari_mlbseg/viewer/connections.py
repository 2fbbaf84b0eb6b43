"""Connected signals that are let go of together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Connections"]


class Connections:
    """Connections to signals of psygnal, napari or Qt."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Callable[..., Any]]] = []

    def make(self, signal: Any, slot: Callable[..., Any]) -> None:
        """Connect a signal."""
        signal.connect(slot)
        self._made.append((signal, slot))

    def drop(self) -> None:
        """Disconnect all of them. Safe to call more than once."""
        while self._made:
            signal, slot = self._made.pop()
            with suppress(RuntimeError):  # Qt deletes what it signals for first when the program ends
                signal.disconnect(slot)

    def __len__(self) -> int:
        return len(self._made)
