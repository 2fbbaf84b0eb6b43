"""Instance labels: a number for each object, as cell segmentation programs write them, and not for each class.

A network learns three classes of them, background, interior and border, and what it predicts is separated into
objects again. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CLASSES", "LOOKED_AT", "MANY", "are_instances", "link_objects", "objects_of", "to_classes"]

#: What the network learns of instance labels, as `SegmentationTask.class_values`: background, interior, border.
CLASSES = (0, 1, 2)

#: Label numbers on the clean slices from which on they may be instances; hardly anybody paints as many classes.
MANY = 30

#: Slices, or somewhat more, by which instance labels are recognised: the window waits for it.
LOOKED_AT = 8

_ONE_PIECE = 0.9  # share of the label numbers on a slice that are one connected piece each
_LARGEST = 0.02  # of a slice: nine in ten objects are smaller; organs and regions of an atlas are not
_ALIKE = 50.0  # times as large as the small ones are the large ones at most: cells are alike, organs are not
_COVERED = 0.6  # of an object on the neighbouring slice, to be part of the same one here
_CHIP = 0.25  # of an object's area, up to which a piece is a part of it that came off
_INTERIOR = 0.2  # of an object's pixels at least, that are no border
_OVERLAP = 0.1  # of two outlines on neighbouring slices (intersection over union), to be the same object


def are_instances(planes: Sequence[np.ndarray]) -> bool:
    """Whether the numbers on some clean slices, (Y, X) each, are more likely those of single objects than of classes.

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
    """Instance labels (..., Y, X) -> `CLASSES`: a border is every pixel of an object that another object is near.

    Borders are two pixels wide, in objects that would be little else one pixel, and objects that are as thin as that
    have none. Nor has an object without neighbours, whose thin parts would come off.
    """
    labels = np.asarray(labels)
    planes = labels.reshape(-1, *labels.shape[-2:])
    return np.stack([_plane_to_classes(plane) for plane in planes]).reshape(labels.shape)


def objects_of(classes: np.ndarray, first: int = 1) -> np.ndarray:
    """Objects of predicted classes on a slice, (Y, X), numbered from `first` on: connected interiors, grown.

    Foreground without an interior is an object of its own.
    """
    from scipy import ndimage

    foreground = classes > 0
    pieces, n_pieces = ndimage.label(foreground)
    seeds, n_seeds = ndimage.label(classes == 1)
    has_seed = np.zeros(n_pieces + 1, bool)
    has_seed[pieces[seeds > 0]] = True
    alone = foreground & ~has_seed[pieces]
    objects = _grown(np.where(alone, pieces + n_seeds, seeds), foreground)
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
    rows, columns, known, both = _overlaps(objects, beside)
    covers = both >= _COVERED * _areas(beside)[columns]
    several = np.flatnonzero(np.bincount(rows[covers]) > 1)
    if not several.size:
        return objects
    found, index = np.unique(objects, return_inverse=True)
    merged = np.isin(index.reshape(objects.shape), several)
    parts = np.where(merged & np.isin(beside, known[columns[covers]]), beside, 0)
    pieces = _grown(np.unique(parts, return_inverse=True)[1].reshape(objects.shape), merged)
    return np.where(merged, pieces + int(found.max()), objects)


def _plane_to_classes(plane: np.ndarray) -> np.ndarray:
    """`to_classes` of a slice, (Y, X)."""
    values, index = np.unique(plane, return_inverse=True)
    index = np.asarray(index.reshape(plane.shape) + int(values[0] != 0), np.int32)
    sizes = np.bincount(index.ravel())
    undecided, border = index > 0, np.zeros(plane.shape, bool)
    for radius in (2, 1):
        near = _near_another(index, radius)
        inside = np.bincount(index[~near], minlength=len(sizes))
        fits = undecided & (inside >= _INTERIOR * sizes)[index]
        border |= fits & near
        undecided &= ~fits
    return np.where(border, 2, np.where(index > 0, 1, 0)).astype(np.int64)


def _near_another(index: np.ndarray, radius: int) -> np.ndarray:
    """Pixels of objects (Y, X), numbered from 1 on, with a pixel of another one within so many pixels."""
    from scipy import ndimage

    offsets = np.arange(-radius, radius + 1)
    disk = np.hypot(offsets[:, None], offsets) < radius + 0.4
    highest = ndimage.grey_dilation(index, footprint=disk)
    lowest = ndimage.grey_erosion(np.where(index == 0, index.max() + 1, index), footprint=disk)
    return (index > 0) & ((highest != index) | (lowest != index))


def _grown(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Numbered seeds (0: none), (Y, X), grown until they fill the connected parts of the mask that hold one."""
    from scipy import ndimage

    seeds = np.where(mask, seeds, 0).astype(np.int64)
    parts, _ = ndimage.label(mask)
    nearest = tuple(ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True))
    grown = np.where(parts == parts[nearest], seeds[nearest], 0)  # not across the background
    cross, n_left = ndimage.generate_binary_structure(2, 1), grown.size
    while 0 < int(np.count_nonzero(left := mask & (grown == 0))) < n_left:
        n_left = int(np.count_nonzero(left))
        grown[left] = ndimage.grey_dilation(grown, footprint=cross)[left]
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
