"""What there is to say of each volume of a session, in a line: for a table in a window and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_mlbseg.events import Failed
from napari_mlbseg.session.rounds import Round
from napari_mlbseg.session.scores import mean_dice

if TYPE_CHECKING:
    from napari_mlbseg.session.session import SegmentationSession

__all__ = ["STATUSES", "VolumeOverview", "overview"]

#: What a volume can be, in the order in which it happens.
STATUSES = ("not annotated", "annotated", "training", "predicted", "failed")


@dataclass(frozen=True)
class VolumeOverview:
    """A volume in a line.

    Attributes
    ----------
    name : str
    uid : str
    n_slices : int
    clean, painted : int
        Slices that are marked clean, and slices on which something is painted.
    status : str
        One of `STATUSES`.
    doubt : float, optional
        Mean over the slices of how wrong the model expects to be, 0 to 1.
    dice : float, optional
        Mean held-out Dice of the latest round that has any for this volume.
    """

    name: str
    uid: str
    n_slices: int
    clean: int
    painted: int
    status: str
    doubt: float | None = None
    dice: float | None = None


def overview(session: SegmentationSession, name: str) -> VolumeOverview:
    """What there is to say of a volume; raises KeyError if there is none of that name."""
    volume = session.volume(name)
    painted = len(session.painted_slices(name))
    return VolumeOverview(
        name=name,
        uid=volume.uid,
        n_slices=volume.n_slices,
        clean=len(volume.clean),
        painted=painted,
        status=_status(session, volume.uid, is_annotated=bool(painted or volume.clean)),
        doubt=_doubt(session.shown_round, volume.uid),
        dice=_dice(session, volume.uid),
    )


def _status(session: SegmentationSession, uid: str, *, is_annotated: bool) -> str:
    """What has become of a volume: the latest round tells, then the one whose results are shown."""
    latest, shown = session.current_round, session.shown_round
    if latest is not None and latest.name_of(uid) is not None:
        if latest.outcome is None:
            return "training"
        if isinstance(latest.outcome, Failed):
            return "failed"
    if shown is not None and (name := shown.name_of(uid)) is not None and shown.predicted.get(name):
        return "predicted"
    return "annotated" if is_annotated else "not annotated"


def _doubt(shown: Round | None, uid: str) -> float | None:
    name = shown.name_of(uid) if shown is not None else None
    doubt = shown.doubt(name) if shown is not None and name is not None else None
    return None if doubt is None or np.isnan(doubt).all() else float(np.nanmean(doubt))


def _dice(session: SegmentationSession, uid: str) -> float | None:
    for past in reversed(session.rounds):
        scores = [score for (volume, _), score in past.scores.items() if volume == uid]
        if scores:
            return mean_dice(scores)
    return None
