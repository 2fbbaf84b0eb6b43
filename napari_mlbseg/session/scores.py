"""An honest score: what a round predicted for a slice that it had not seen, against what a person made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from napari_mlbseg.session.persistence.schema import SliceScore

__all__ = ["advice", "mean_dice", "mean_hd95", "score_slice"]

_FLAT = 0.005  # Dice by which a round must be better to count as progress
_ENOUGH = 0.97
_LEAST_SLICES = 2  # one slice that was right proves little


def score_slice(
    prediction: np.ndarray,
    painted: np.ndarray,
    spacing: tuple[float, float],
    *,
    volume: str,
    z: int,
    unit: str,
    unchanged: bool,
    instances: bool = False,
) -> SliceScore:
    """Agreement of a predicted slice with the painted one.

    Parameters
    ----------
    prediction, painted : ndarray of int, (Y, X)
        Label numbers.
    spacing : tuple of float
        Distance of pixels along (y, x), in `unit`.
    volume : str
        Its uid.
    unchanged : bool
        Whether the slice was accepted as it was predicted.
    instances : bool
        Label numbers are those of single objects: what counts is their foreground.

    Returns
    -------
    SliceScore
        Means over the classes that occur in either. Dice is 1 and HD95 is 0 where there is none.
    """
    from napari_mlbseg.method.metrics import compare_labels  # brings scipy, which the window need not wait for

    if instances:
        prediction, painted = prediction > 0, painted > 0
    scores = list(compare_labels(prediction[None], painted[None], (1.0, *spacing)).values())
    distances = [score.hd95 for score in scores]
    return SliceScore(
        volume=volume,
        slice=z,
        dice=float(np.mean([score.dice for score in scores])) if scores else 1.0,
        hd95=None if any(map(math.isnan, distances)) else float(np.mean(distances)) if distances else 0.0,
        unit=unit,
        unchanged=unchanged,
    )


def mean_dice(scores: Sequence[SliceScore]) -> float | None:
    """Mean Dice of some slices; None without any."""
    return float(np.mean([score.dice for score in scores])) if scores else None


def mean_hd95(scores: Sequence[SliceScore]) -> float | None:
    """Mean 95 % Hausdorff distance of the slices that have one, in their unit; None without any."""
    distances = [score.hd95 for score in scores if score.hd95 is not None]
    return float(np.mean(distances)) if distances else None


def advice(scores_of_rounds: Sequence[Sequence[SliceScore]]) -> str:
    """What the held-out scores of the rounds, oldest first, say about further slices; empty if nothing yet.

    Slices that were accepted as they were predicted do not count: nobody may have looked closely.
    """
    told = ([score for score in scores if not score.unchanged] for scores in scores_of_rounds)
    rounds = [scores for scores in told if scores]
    scored = [float(np.mean([score.dice for score in scores])) for scores in rounds]
    if rounds and len(rounds[-1]) >= _LEAST_SLICES and scored[-1] >= _ENOUGH:
        return (
            f"The last scored round was right on {len(rounds[-1])} slices before you corrected them (Dice "
            f"{scored[-1]:.3f}): this may be enough."
        )
    if len(scored) >= 3 and max(scored[-2:]) < scored[-3] + _FLAT:
        listed = ", ".join(f"{dice:.3f}" for dice in scored[-3:])
        return f"Further slices have stopped helping: held-out Dice {listed} over the last scored rounds."
    return ""
