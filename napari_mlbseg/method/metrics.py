"""How well two segmentations agree: Dice, Jaccard, and distances of their surfaces in physical units. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array

__all__ = ["ClassScores", "InstanceScores", "compare_instances", "compare_labels", "compare_masks", "dice"]

_MATCHED = 0.5  # intersection over union from which on two objects are the same: no other can have as much


@dataclass(frozen=True)
class ClassScores:
    """Agreement of one class.

    Attributes
    ----------
    dice, jaccard : float
        Overlap, 0 to 1; 1 where the class is in neither.
    hd95 : float
        95th percentile of the distances from each surface to the other, both ways pooled, in the unit of the spacing.
        0 where the class is in neither, nan where it is in one only.
    asd : float
        Mean of the same distances (average symmetric surface distance); 0 and nan as `hd95`.
    """

    dice: float
    jaccard: float
    hd95: float
    asd: float


@dataclass(frozen=True)
class InstanceScores:
    """Agreement of two segmentations whose label numbers are those of single objects.

    Attributes
    ----------
    foreground : ClassScores
        Of all objects together.
    f1 : float
        Twice the objects that are in both (intersection over union of at least 0.5), over the objects of both.
    predicted, true, matched : int
        Objects in the prediction, in the reference, and in both.
    """

    foreground: ClassScores
    f1: float
    predicted: int
    true: int
    matched: int


def compare_instances(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    exclude: Sequence[int] = (),
) -> InstanceScores:
    """Scores of instance labels, (Z, Y, X), whatever number an object has; parameters as in `compare_labels`."""
    foreground = compare_masks(prediction > 0, reference > 0, spacing, exclude=exclude)
    counted = np.ones(len(prediction), bool)
    counted[list(exclude)] = False
    mine, i = np.unique(prediction[counted], return_inverse=True)
    true, j = np.unique(reference[counted], return_inverse=True)
    i, j = i.ravel(), j.ravel()
    shared = coo_array((np.ones(i.size, np.int64), (i, j))).tocsr().tocoo()  # a conversion that adds up
    either = np.bincount(i)[shared.row] + np.bincount(j)[shared.col] - shared.data
    are_objects = (mine[shared.row] > 0) & (true[shared.col] > 0)
    matched = int(np.count_nonzero(are_objects & (shared.data >= _MATCHED * either)))
    n_mine, n_true = int(np.count_nonzero(mine)), int(np.count_nonzero(true))
    total = n_mine + n_true
    return InstanceScores(foreground, 2 * matched / total if total else 1.0, n_mine, n_true, matched)


def compare_labels(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    class_values: Sequence[int] | None = None,
    exclude: Sequence[int] = (),
) -> dict[int, ClassScores]:
    """Scores of every class.

    Parameters
    ----------
    prediction, reference : ndarray of int, (Z, Y, X)
        Label numbers.
    spacing : sequence of float, optional
        Distance of voxels along (z, y, x); 1 by default.
    class_values : sequence of int, optional
        Classes to score; by default all label numbers in either but 0.
    exclude : sequence of int
        Slices, along the first axis, that do not count: those that were painted by hand.

    Returns
    -------
    dict
        Class value -> scores.

    Raises
    ------
    ValueError
        If the shapes differ, or a slice to exclude does not exist.
    """
    if class_values is None:
        found = np.union1d(np.unique(prediction), np.unique(reference))
        class_values = [int(value) for value in found if value != 0]
    return {
        value: compare_masks(prediction == value, reference == value, spacing, exclude=exclude)
        for value in class_values
    }


def compare_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float] | None = None,
    *,
    exclude: Sequence[int] = (),
) -> ClassScores:
    """Scores of two masks, (Z, Y, X) or any other number of axes; parameters as in `compare_labels`.

    Surfaces are those of the whole masks. Distances are measured from surface voxels outside the excluded slices, to
    the other's whole surface: a cut through the masks is no surface.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"A prediction of shape {prediction.shape} cannot be compared with {reference.shape}.")
    n_slices = prediction.shape[0]
    outside = [z for z in exclude if not 0 <= z < n_slices]
    if outside:
        raise ValueError(f"There is no slice {outside[0]} to exclude: the slices are 0 to {n_slices - 1}.")
    counted = np.ones(n_slices, dtype=bool)
    counted[list(exclude)] = False
    intersection = np.count_nonzero(prediction[counted] & reference[counted])
    total = np.count_nonzero(prediction[counted]) + np.count_nonzero(reference[counted])
    distances = _surface_distances(prediction, reference, spacing, counted)
    return ClassScores(
        dice=float(2 * intersection / total) if total else 1.0,
        jaccard=float(intersection / (total - intersection)) if total else 1.0,
        hd95=float(np.percentile(distances, 95)),
        asd=float(distances.mean()),
    )


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return float(2 * np.count_nonzero(prediction & reference) / total) if total else 1.0


def _surface_distances(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float] | None, counted: np.ndarray
) -> np.ndarray:
    """Distances from the counted surface voxels of each mask to the surface of the other, pooled.

    A single 0 where there is no counted surface voxel in either, a single nan where one mask is empty.
    """
    if not (a[counted].any() or b[counted].any()):
        return np.zeros(1)
    if not (a.any() and b.any()):
        return np.full(1, np.nan)
    box = _bounding_box(a | b)
    counted = counted[box[0]]
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=spacing)
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=spacing)
    return np.concatenate([to_b[counted][surface_a[counted]], to_a[counted][surface_b[counted]]])


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask that touch its outside by a face; the border of the array is outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty."""
    return ndimage.find_objects(mask.astype(np.uint8))[0]
