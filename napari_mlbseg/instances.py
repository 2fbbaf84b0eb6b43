"""Instance labels: a number for each object, as cell segmentation programs write them, and not for each class.

A network learns three classes of them, background, interior and border, and what it predicts is separated into
objects again. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CLASSES", "MANY", "are_instances", "link_objects", "objects_of", "to_classes"]

#: What the network learns of instance labels, as `SegmentationTask.class_values`: background, interior, border.
CLASSES = (0, 1, 2)

#: Label numbers on the clean slices from which on they may be instances; hardly anybody paints as many classes.
MANY = 30

_ONE_PIECE = 0.9  # share of the label numbers on a slice that are one connected piece each
_LARGEST = 0.02  # of a slice: nine in ten objects are smaller; organs and regions of an atlas are not
_ALIKE = 50.0  # times as large as the small ones are the large ones at most: cells are alike, organs are not
_COVERED = 0.6  # of an object on the neighbouring slice, to be part of the same one here
_CHIP = 0.25  # of an object's area, up to which a piece is a part of it that came off
_HEIGHTS = 1000  # steps in which a watershed rises
_OVERLAP = 0.1  # of two outlines on neighbouring slices (intersection over union), to be the same object


def are_instances(planes: Sequence[np.ndarray]) -> bool:
    """Whether the label numbers of clean slices, (Y, X) each, are more likely those of single objects than of classes.

    There are many of them, each is one connected piece on a slice, and they are small and of similar sizes.
    """
    from skimage.measure import label

    pieces, numbers, areas = 0, 0, list[np.ndarray]()
    for plane in planes:
        values, counts = np.unique(plane[plane > 0], return_counts=True)
        numbers += len(values)
        pieces += int(label(plane, background=0, connectivity=2).max())
        areas.append(counts / plane.size)
    if not numbers or len(np.unique(np.concatenate([np.unique(plane) for plane in planes]))) <= MANY:
        return False
    small, large = np.percentile(np.concatenate(areas), [10, 90])
    return bool(numbers / pieces >= _ONE_PIECE and large <= _LARGEST and large <= _ALIKE * small)


def to_classes(labels: np.ndarray) -> np.ndarray:
    """Instance labels (..., Y, X) -> `CLASSES`: a border is every pixel of an object beside one of something else."""
    inside = labels > 0
    for axis in (-2, -1):
        n = labels.shape[axis]
        low, high = _part(labels, axis, 0, n - 1), _part(labels, axis, 1, n)
        differs = low != high
        _part(inside, axis, 0, n - 1)[differs] = False
        _part(inside, axis, 1, n)[differs] = False
    return np.where(labels > 0, np.where(inside, 1, 2), 0).astype(np.int64)


def objects_of(classes: np.ndarray, interior: np.ndarray | None = None, first: int = 1) -> np.ndarray:
    """Objects of predicted classes on a slice, numbered from `first` on: a watershed from the interiors.

    Parameters
    ----------
    classes : ndarray of int, (Y, X)
        `CLASSES`.
    interior : ndarray of float, (Y, X), optional
        Probability of the interior, along which the objects are separated; by default the distance to the background.
    first : int
    """
    from scipy import ndimage

    foreground = classes > 0
    if not foreground.any():
        return np.zeros(classes.shape, np.int64)
    height = ndimage.distance_transform_edt(foreground) if interior is None else interior
    pieces, n_pieces = ndimage.label(foreground)
    seeds, n_seeds = ndimage.label(classes == 1)
    has_seed = np.zeros(n_pieces + 1, bool)
    has_seed[pieces[seeds > 0]] = True
    alone = foreground & ~has_seed[pieces]  # too small to have an interior
    objects = _watershed(height, np.where(alone, pieces + n_seeds, seeds), foreground)
    return np.where(foreground, objects + (first - 1), 0)


def link_objects(objects: np.ndarray, beside: np.ndarray, new: int) -> tuple[np.ndarray, int]:
    """Give the objects of a slice the numbers that they have on the slice beside it.

    An object that covers several of the neighbour's is split into these: on the way from a clean slice, where a person
    drew their borders, touching objects merge.

    Parameters
    ----------
    objects, beside : ndarray of int, (Y, X)
        Objects of a slice, numbered anyhow, and those of its neighbour.
    new : int
        Number of the next object that the neighbour does not show.

    Returns
    -------
    linked : ndarray of int, (Y, X)
    new : int
        Number of the next object.
    """
    objects = _split(objects, beside)
    found, index = np.unique(objects, return_inverse=True)
    rows, columns, known, both = _overlaps(objects, beside)
    own, others = np.bincount(index.ravel()), _areas(beside)
    likeness = both / (own[rows] + others[columns] - both)
    numbers, taken = np.zeros(len(found), np.int64), set[int]()
    for i in np.argsort(-likeness, kind="stable"):
        if likeness[i] >= _OVERLAP and not numbers[rows[i]] and columns[i] not in taken:
            numbers[rows[i]] = known[columns[i]]
            taken.add(columns[i])
    # chips of an object that is there already; half of it would be one of two daughters
    is_chip = (numbers[rows] == 0) & (both >= _COVERED * own[rows]) & (own[rows] <= _CHIP * others[columns])
    numbers[rows[is_chip]] = known[columns[is_chip]]
    for row in np.flatnonzero((numbers == 0) & (found != 0)):
        numbers[row], new = new, new + 1
    return numbers[index].reshape(objects.shape), new


def _split(objects: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Objects (Y, X), those that cover most of each of several objects of the neighbouring slice split into these."""
    from scipy import ndimage

    rows, columns, known, both = _overlaps(objects, beside)
    covers = both >= _COVERED * _areas(beside)[columns]
    several = np.flatnonzero(np.bincount(rows[covers]) > 1)
    if not several.size:
        return objects
    found, index = np.unique(objects, return_inverse=True)
    merged = np.isin(index.reshape(objects.shape), several)
    parts = np.where(merged & np.isin(beside, known[columns[covers]]), beside, 0)
    markers = np.where(to_classes(parts) == 1, parts, 0)
    markers = np.where(np.isin(parts, markers), markers, parts)  # what is too small to have an interior
    seeds = np.unique(markers, return_inverse=True)[1].reshape(objects.shape)
    pieces = _watershed(ndimage.distance_transform_edt(merged), seeds, merged)
    return np.where(merged, pieces + int(found.max()), objects)


def _watershed(height: np.ndarray, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grow seeds (0: none) downhill until they meet, (Y, X) of int64; every part of the mask has to hold one."""
    from scipy import ndimage

    depth = np.where(mask, np.round(_HEIGHTS * (1 - height / height.max())), 2 * _HEIGHTS)  # last across the background
    grown = ndimage.watershed_ift(depth.astype(np.uint16), seeds.astype(np.int32)).astype(np.int64)
    return np.where(mask, grown, 0)


def _overlaps(objects: np.ndarray, beside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of objects of two slices that overlap: index of each among the numbers of its slice, the second's numbers,
    and pixels of the pairs.
    """
    found, index = np.unique(objects, return_inverse=True)
    known, known_index = np.unique(beside, return_inverse=True)
    pairs, both = np.unique(index.ravel() * len(known) + known_index.ravel(), return_counts=True)
    rows, columns = np.divmod(pairs, len(known))
    real = (found[rows] != 0) & (known[columns] != 0)
    return rows[real], columns[real], known, both[real]


def _areas(objects: np.ndarray) -> np.ndarray:
    """Pixels of each number that there is, ascending."""
    return np.unique(objects, return_counts=True)[1]


def _part(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[(..., slice(start, stop), slice(None))] if axis == -2 else array[..., start:stop]
