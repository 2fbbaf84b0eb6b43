"""Errors that benchmarks plant into labels, and how well a map of doubt tells wrong pixels from right ones."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata

__all__ = ["KINDS", "auroc", "in_halves", "plant"]

#: Kinds of errors; ``swapped`` needs two classes, see `in_halves`.
KINDS = ("shifted", "eroded", "missed", "spurious", "swapped")

_SHIFT = 5.0  # pixels


def auroc(doubt: np.ndarray, wrong: np.ndarray) -> float:
    """Chance that a wrong pixel is doubted more than a right one; a tie counts half. NaN without one of both.

    Parameters
    ----------
    doubt : ndarray of float
    wrong : ndarray of bool, of the same shape
    """
    ranks = rankdata(doubt)  # ties share their mean rank
    wrong = wrong.ravel()
    n = int(wrong.sum())
    pairs = n * (wrong.size - n)
    return float((ranks[wrong].sum() - n * (n + 1) / 2) / pairs) if pairs else float("nan")


def in_halves(labels: np.ndarray) -> np.ndarray:
    """The structure as two classes, left and right of its middle; labels (Z, Y, X) of 0 and 1."""
    middle = round(float(np.average(np.arange(labels.shape[2]), weights=labels.sum((0, 1)))))
    return labels + (labels > 0) * (np.arange(labels.shape[2]) >= middle).astype(np.uint8)


def plant(kind: str, plane: np.ndarray, rng: np.random.Generator, shift: float = _SHIFT) -> np.ndarray:
    """Labels (Y, X) with an error in them. Discs are sized by the structure's radius, that of a disc of its area.

    Parameters
    ----------
    kind : {"shifted", "eroded", "missed", "spurious", "swapped"}
    plane : ndarray of int, (Y, X)
        Some of it foreground.
    rng : numpy.random.Generator
    shift : float
        Pixels by which an outline is moved.
    """
    inside = plane > 0
    radius = np.sqrt(inside.sum() / np.pi)
    if kind == "shifted":
        angle = rng.uniform(0, 2 * np.pi)
        return ndimage.shift(plane, (round(shift * np.sin(angle)), round(shift * np.cos(angle))), order=0)
    if kind == "eroded":
        return np.where(ndimage.distance_transform_edt(inside) > 0.2 * radius + 0.5, plane, 0)
    if kind == "missed":
        return np.where(_disc(inside, 0.45 * radius, rng), 0, plane)
    if kind == "spurious":
        away = ndimage.distance_transform_edt(~inside)
        around = (away > 0.35 * radius + 2) & (away < 2.35 * radius)
        return np.where(_disc(around, 0.35 * radius, rng), plane.max(), plane)
    one = int(rng.integers(1, 3))  # swapped: one half is painted as the other class
    return np.where(plane == one, 3 - one, plane)


def _disc(centres: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """A disc around a random pixel of a mask (Y, X)."""
    row, column = rng.choice(np.argwhere(centres))
    y, x = np.indices(centres.shape)
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2
