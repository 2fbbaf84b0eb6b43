"""Where to look again: connected places of a doubt map. Torch-free, so that a session may import it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["DOUBTFUL", "FEWEST_PIXELS", "ErrorRegion", "find_error_regions"]

#: Doubt from which on a pixel belongs to a place: about one false alarm in two clean slices (docs/evidence.md).
DOUBTFUL = 0.75
#: Smaller places are specks.
FEWEST_PIXELS = 4


@dataclass(frozen=True)
class ErrorRegion:
    """A connected place of a slice where the other clean slices contradict what was painted.

    Attributes
    ----------
    centre : tuple of int
        Row and column of the place's pixel that is nearest to its middle.
    pixels : int
        Its size.
    strength : float
        Its largest doubt, 0 to 1.
    label : int
        What is painted on most of it: a label number, 0 for background.
    """

    centre: tuple[int, int]
    pixels: int
    strength: float
    label: int


def find_error_regions(doubt: np.ndarray, painted: np.ndarray, *, threshold: float = DOUBTFUL) -> list[ErrorRegion]:
    """Places of a slice at which to look again, the strongest first.

    Parameters
    ----------
    doubt : ndarray of float, (Y, X)
        A slice of ``label_doubt``, 0 to 1.
    painted : ndarray of int, (Y, X)
        The user's labels on it.
    threshold : float
        Doubt from which on a pixel belongs to a place.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if doubt.shape != painted.shape:
        raise ValueError(f"A doubt of shape {doubt.shape} does not belong to labels of shape {painted.shape}.")
    numbered, _ = ndimage.label(doubt >= threshold, structure=np.ones((3, 3)))
    places = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        rows, columns = np.nonzero(numbered[box] == number)
        if len(rows) < FEWEST_PIXELS:
            continue
        nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        labels, counts = np.unique(painted[box][rows, columns], return_counts=True)
        places.append(
            ErrorRegion(
                centre=(int(rows[nearest] + box[0].start), int(columns[nearest] + box[1].start)),
                pixels=len(rows),
                strength=float(doubt[box][rows, columns].max()),
                label=int(labels[counts.argmax()]),
            )
        )
    return sorted(places, key=lambda place: (-place.strength, -place.pixels))
