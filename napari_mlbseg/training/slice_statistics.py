"""One number a slice for what a training knows about it: what "where next" ranks slices by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

__all__ = ["Statistics", "slice_statistics"]

#: A network is a little in doubt of every pixel, which adds up over a slice that shows nothing: less does not count.
_DOUBT = 0.1

#: Name of a statistic -> one value for each slice, None where it is not known.
Statistics = dict[str, tuple[float | None, ...]]


def slice_statistics(
    probability: Tensor,
    agreement: Tensor | None = None,
    *,
    network: Tensor | None = None,
    initial: Sequence[np.ndarray | None] = (),
    weights: Sequence[tuple[np.ndarray, np.ndarray] | None] = (),
) -> Statistics:
    """Statistics of predicted slices; those of which nothing is known for any slice are left out.

    Parameters
    ----------
    probability : Tensor, (B, K, Y, X)
        As it is shown: initial labels have their share in it where they keep one.
    agreement : Tensor, (B, Y, X), optional
        Of the views, 0 to 1. Leave it out where a single view was predicted: it agrees with itself.
    network : Tensor of int, (B, Y, X), optional
        Most likely class by the network alone.
    initial : sequence of (ndarray of int, (Y, X), or None), optional
        y^n of each slice as class indices.
    weights : sequence of (pair of ndarray, (Y, X), or None), optional
        Mean w^n and w^p of each slice.

    Returns
    -------
    dict of str to tuple
        ``uncertainty``: expected number of wrong pixels, the sum of 1 - the largest class probability where that is
        more than 0.1.
        ``foreground``: predicted foreground, in pixels.
        ``view_disagreement``: sum of 1 - agreement, in pixels.
        ``initial_disagreement``: pixels in which y^n and the network differ.
        ``weight``: mean of w^n + w^p; 1 is the weight of an average slice of a batch.
    """
    largest = probability.amax(1)
    doubt = 1 - largest
    found: Statistics = {
        "uncertainty": _sums(doubt * (doubt > _DOUBT)),
        "foreground": _sums(probability[:, 0] < largest),  # a tie is background, as for argmax
    }
    if agreement is not None:
        found["view_disagreement"] = _sums(1 - agreement)
    if network is not None and any(plane is not None for plane in initial):
        own = network.cpu().numpy()
        found["initial_disagreement"] = tuple(
            None if plane is None else float(np.count_nonzero(plane != mine))
            for plane, mine in zip(initial, own, strict=True)
        )
    if any(pair is not None for pair in weights):
        found["weight"] = tuple(
            None if pair is None else round(float(pair[0].mean() + pair[1].mean()), 4) for pair in weights
        )
    return found


def _sums(pixels: Tensor) -> tuple[float, ...]:
    """Sum of each slice, (B, Y, X) -> B numbers; rounded, as they travel as text."""
    return tuple(round(value, 1) for value in pixels.flatten(1).sum(1).tolist())
