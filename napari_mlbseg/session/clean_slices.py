"""What a person said of the slices of a volume, and where what is painted on them came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

__all__ = ["Acceptance", "Provenance", "SliceMarks", "combined_digest", "label_values", "slice_digest"]


class Provenance(StrEnum):
    """Where the voxels of a slice came from."""

    NOTHING = "nothing painted"
    PAINTED = "painted"
    ACCEPTED = "accepted"  # taken over from a prediction, as it was
    CORRECTED = "corrected"  # taken over from a prediction, then painted on


class Acceptance(BaseModel):
    """A prediction that was taken over into a slice of the annotation.

    Attributes
    ----------
    round : int
        Number of the round that predicted it.
    before, after : str
        `slice_digest` of the slice before and after: so an undo is told from a correction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    before: str
    after: str


@dataclass(eq=False)
class SliceMarks:
    """Marks on the slices along one axis of a volume.

    Attributes
    ----------
    clean : set of int
        Painted completely, and vouched for.
    rejected : set of int
        The last prediction is wrong there.
    skipped : set of int
        Not to be suggested.
    accepted : dict of int to list of Acceptance
        In the order in which they happened.
    """

    clean: set[int] = field(default_factory=set)
    rejected: set[int] = field(default_factory=set)
    skipped: set[int] = field(default_factory=set)
    accepted: dict[int, list[Acceptance]] = field(default_factory=dict)

    @property
    def are_any(self) -> bool:
        """Whether anything was said."""
        return bool(self.clean or self.rejected or self.skipped or self.accepted)

    def provenance(self, z: int, digest: str) -> Provenance:
        """Where slice `z` came from, whose voxels have this digest now."""
        acceptances = self.accepted.get(z, [])
        if any(acceptance.after == digest for acceptance in acceptances):
            return Provenance.ACCEPTED
        if not digest:
            return Provenance.NOTHING
        if acceptances and digest != acceptances[0].before:
            return Provenance.CORRECTED
        return Provenance.PAINTED

    def note_change(self, z: int, old: str, new: str) -> None:
        """Slice `z` changed: an acceptance that was undone before it is forgotten, unless this is its redo."""
        acceptances = self.accepted.get(z)
        if not acceptances or any(new in (a.before, a.after) for a in acceptances):
            return
        if any(old == a.after for a in acceptances):
            return  # a correction of what was accepted
        undone = next((i for i, a in enumerate(acceptances) if old == a.before), None)
        if undone is not None:
            del acceptances[undone:]
            if not acceptances:
                del self.accepted[z]


def label_values(plane: Any) -> frozenset[int]:
    """Label numbers painted on a slice, without background."""
    pixels = np.asarray(plane)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        counts = np.bincount(pixels.ravel())  # ten times faster than sorting
        return frozenset(int(value) for value in np.flatnonzero(counts) if value)
    return frozenset(int(value) for value in np.unique(pixels[pixels != 0]))


def slice_digest(plane: Any) -> str:
    """Fingerprint of a slice's voxels; empty where nothing is painted."""
    pixels = np.ascontiguousarray(plane)
    if not pixels.any():
        return ""
    return hashlib.blake2b(pixels.data, digest_size=12).hexdigest()


def combined_digest(digests: list[str]) -> str:
    """Fingerprint of a whole annotation, from those of its slices in order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
