"""What a dock shows, frozen, so that two moments can be compared: who shows something is told only of what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from napari_mlbseg.session import AnnotatedVolume

if TYPE_CHECKING:
    from napari_mlbseg.viewer.layers.binding import VolumeBinding

__all__ = ["ViewState"]

#: Fields of a volume that are the same only if they are one object: to compare pixels would take too long.
_BY_IDENTITY = frozenset({"image", "annotation", "initial_labels", "marks", "grid"})


@dataclass(frozen=True, eq=False)
class ViewState:
    """The volumes of a session and the layers that show them.

    Attributes
    ----------
    volumes : sequence of AnnotatedVolume
    bindings : sequence of VolumeBinding
        Of those that have layers.
    """

    volumes: Sequence[AnnotatedVolume]
    bindings: Sequence[VolumeBinding]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ViewState):
            return NotImplemented
        return (
            len(self.volumes) == len(other.volumes)
            and len(self.bindings) == len(other.bindings)
            and all(map(_is_same_volume, self.volumes, other.volumes))
            and all(mine is theirs for mine, theirs in zip(self.bindings, other.bindings, strict=True))
        )


def _is_same_volume(one: AnnotatedVolume, other: AnnotatedVolume) -> bool:
    """Whether two descriptions of a volume say the same and share their arrays."""
    for field in fields(AnnotatedVolume):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name == "annotation" and not (one.is_annotated or other.is_annotated):
            is_same = mine.shape == theirs.shape  # nobody paints there: it is made anew for each look
        elif field.name in _BY_IDENTITY:
            is_same = mine is theirs
        else:
            is_same = mine == theirs
        if not is_same:
            return False
    return True
