"""What a strip of slices shows: what each slice is, how sure the model is of it, which ones are worth a look."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["WORDS", "StripState"]

#: What a slice can be, in words. Of a slice that is several of these, the later one is told.
WORDS = {
    "predicted": "predicted",
    "rejected": "prediction rejected",
    "painted": "painted, not yet clean",
    "taken over": "taken over from a prediction, not yet clean",
    "accepted": "clean, taken over from a prediction",
    "clean": "clean",
}


@dataclass(frozen=True, eq=False)
class StripState:
    """What the strip shows.

    Attributes
    ----------
    n_slices : int
    clean : collection of int
        Slices that a person vouches for.
    accepted : collection of int
        Slices taken over from a prediction; clean ones among them are drawn as both.
    painted : collection of int
        Slices on which something is painted.
    rejected, predicted : collection of int
        Slices whose prediction was refused, and slices that have one.
    suggested : mapping of int to str
        Slice -> why it should be looked at, the best first. The reason goes on after "Slice 41: suggested, ".
    doubt : ndarray, (n_slices,), optional
        How unsure the model is of each slice, 0 to 1; NaN where that is not known.
    current : int, optional
        The slice in view.
    """

    n_slices: int = 0
    clean: Collection[int] = frozenset()
    accepted: Collection[int] = frozenset()
    painted: Collection[int] = frozenset()
    rejected: Collection[int] = frozenset()
    predicted: Collection[int] = frozenset()
    suggested: Mapping[int, str] = field(default_factory=dict)
    doubt: np.ndarray | None = None
    current: int | None = None

    def __post_init__(self) -> None:
        """Copy what may be changed elsewhere: else a change would not be noticed."""
        for name in ("clean", "accepted", "painted", "rejected", "predicted"):
            object.__setattr__(self, name, frozenset(getattr(self, name)))
        object.__setattr__(self, "suggested", dict(self.suggested))
        if self.doubt is not None:
            doubt = np.array(self.doubt, dtype=np.float32)
            if doubt.shape != (self.n_slices,):
                raise ValueError(f"The doubt has shape {doubt.shape}: the stack has {self.n_slices} slices.")
            object.__setattr__(self, "doubt", doubt)

    def looks_like(self, other: StripState) -> bool:
        """Whether both are drawn alike but for the slice in view."""
        names = ("n_slices", "clean", "accepted", "painted", "rejected", "predicted")
        if any(getattr(self, name) != getattr(other, name) for name in names):
            return False
        if list(self.suggested.items()) != list(other.suggested.items()):
            return False
        if self.doubt is None or other.doubt is None:
            return self.doubt is other.doubt
        return np.array_equal(self.doubt, other.doubt, equal_nan=True)

    def kind(self, z: int) -> str:
        """What slice `z` is first of all; empty where there is nothing to say."""
        if z in self.clean:
            return "accepted" if z in self.accepted else "clean"
        if z in self.accepted:
            return "taken over"
        return next((name for name in ("painted", "rejected", "predicted") if z in getattr(self, name)), "")

    def kinds(self) -> np.ndarray:
        """What every slice is, as numbers: 0 for nothing, else a place among `WORDS`, from 1."""
        numbers = np.zeros(self.n_slices, dtype=np.uint8)
        accepted, clean = frozenset(self.accepted), frozenset(self.clean)
        members = {
            "predicted": self.predicted,
            "rejected": self.rejected,
            "painted": self.painted,
            "taken over": accepted - clean,
            "accepted": accepted & clean,
            "clean": clean - accepted,
        }
        for number, name in enumerate(WORDS, start=1):
            slices = np.fromiter(members[name], dtype=int)
            numbers[slices[(slices >= 0) & (slices < self.n_slices)]] = number
        return numbers

    def sentence(self, z: int) -> str:
        """What there is to say of slice `z`."""
        kind, reason = self.kind(z), self.suggested.get(z)
        words = WORDS[kind] if kind else "nothing painted"
        if reason is not None:
            suggestion = f"suggested, {reason}" if reason else "suggested"
            words = suggestion if kind in ("", "predicted") else f"{words}; {suggestion}"
        doubt = np.nan if self.doubt is None else self.doubt[z]
        return f"Slice {z}: {words}" + ("" if np.isnan(doubt) else f"\nThe model's doubt: {doubt:.2f} of 1")
