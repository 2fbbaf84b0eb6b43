"""The dock's keys in a viewer that several docks may share: the newest has them, and gives them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from napari_mlbseg.viewer.keys import SHORTCUTS, Shortcut

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["Actions", "KeyBindings"]


class Actions(Protocol):
    """What keys are bound to: an object with a method for each action of `SHORTCUTS`."""

    @property
    def is_closed(self) -> bool:
        """Whether its dock is gone."""
        ...


class KeyBindings:
    """Binds `SHORTCUTS` to actions.

    Parameters
    ----------
    viewer : Viewer
    actions : Actions
    """

    def __init__(self, viewer: Viewer, actions: Actions) -> None:
        self._viewer, self.actions = viewer, actions
        self._slots = {shortcut.key: _Slot(self, shortcut) for shortcut in SHORTCUTS.values()}

    def bind(self) -> None:
        """Take the keys."""
        for key, slot in self._slots.items():
            slot.shadowed = self._viewer.bind_key(key, None)  # that of another dock in this viewer
            self._viewer.bind_key(key, slot.call)

    def release(self) -> None:
        """Give the keys back to the dock that had them before, if that is still open."""
        for key, slot in self._slots.items():
            bound = self._viewer.bind_key(key, None)
            if bound == slot.call:
                bound = slot.shadowed
                while isinstance(owner := getattr(bound, "__self__", None), _Slot) and owner.is_closed:
                    bound = owner.shadowed
            if bound is not None:
                self._viewer.bind_key(key, bound)


class _Slot:
    """One key of one dock."""

    def __init__(self, bindings: KeyBindings, shortcut: Shortcut) -> None:
        self._actions = bindings.actions
        self._action = shortcut.action
        self.shadowed: Callable[..., Any] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether its dock is gone."""
        return self._actions.is_closed

    def call(self, viewer: Any) -> None:
        """Do what the key stands for."""
        getattr(self._actions, self._action)()
