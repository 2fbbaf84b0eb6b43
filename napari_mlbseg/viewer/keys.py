"""Every shortcut of the dock, declared once: the key, what it does, and the command that does the same.

No layer of napari's binds these keys: a layer's keys would win over the viewer's.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SHORTCUTS", "Shortcut", "with_key"]


@dataclass(frozen=True)
class Shortcut:
    """A key of the viewer's.

    Attributes
    ----------
    key : str
        As `napari.Viewer.bind_key` takes it.
    action : str
        Name in code: a method of the dock's controller, and the command ``napari-mlbseg.ACTION``.
    words : str
        What it does.
    """

    key: str
    action: str
    words: str


SHORTCUTS = {
    shortcut.action: shortcut
    for shortcut in (
        Shortcut("K", "mark_slice_clean", "Mark the slice in view clean, or take the mark away"),
        Shortcut("J", "next_clean_slice", "Go to the next clean slice"),
        Shortcut("Shift-J", "previous_clean_slice", "Go to the previous clean slice"),
        Shortcut("N", "next_suggestion", "Go to the slice that is suggested next"),
        Shortcut("G", "accept", "Accept the prediction of the slice in view into the annotation"),
        Shortcut("W", "reject", "Reject the prediction of the slice in view"),
    )
}


def with_key(text: str, action: str) -> str:
    """`text` of a button, with its key behind it."""
    return f"{text}  ({SHORTCUTS[action].key.replace('-', '+')})"
