"""Scores against values that one can work out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from napari_mlbseg.method.metrics import compare_instances, compare_labels, compare_masks, dice


def block(*corners: tuple[int, int], shape: tuple[int, ...] = (10, 12, 14)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*corner) for corner in corners)] = True
    return mask


def test_equal_masks():
    mask = block((2, 6), (3, 9), (1, 13))
    scores = compare_masks(mask, mask, (2.0, 1.0, 0.5))
    assert (scores.dice, scores.jaccard, scores.hd95, scores.asd) == (1, 1, 0, 0)


def test_a_shift_is_measured_in_units_of_the_spacing():
    """Two flat sheets that lie three slices of 2.5 mm apart."""
    a, b = block((2, 3), (0, 12), (0, 14)), block((5, 6), (0, 12), (0, 14))
    scores = compare_masks(a, b, (2.5, 1.0, 1.0))
    assert (scores.dice, scores.jaccard) == (0, 0)
    assert (scores.hd95, scores.asd) == (7.5, 7.5)


def test_overlap_of_half():
    scores = compare_masks(block((0, 4), (0, 4), (0, 4)), block((2, 6), (0, 4), (0, 4)))
    assert scores.dice == pytest.approx(0.5)
    assert scores.jaccard == pytest.approx(1 / 3)


def test_distances_are_those_of_a_search_over_all_pairs():
    random = np.random.default_rng(0)
    a, b = random.random((6, 7, 8)) > 0.8, random.random((6, 7, 8)) > 0.7
    spacing = np.array([3.0, 1.0, 0.7])

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inside = mask.copy()
        for axis in range(3):
            for step in (-1, 1):
                inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
        return np.argwhere(mask & ~inside) * spacing

    points_a, points_b = surface(a), surface(b)
    pooled = np.concatenate([cKDTree(points_b).query(points_a)[0], cKDTree(points_a).query(points_b)[0]])
    scores = compare_masks(a, b, spacing)
    assert scores.hd95 == pytest.approx(np.percentile(pooled, 95))
    assert scores.asd == pytest.approx(pooled.mean())


def test_empty_masks_are_defined():
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    both = compare_masks(empty, empty)
    assert (both.dice, both.jaccard, both.hd95, both.asd) == (1, 1, 0, 0)
    one = compare_masks(full, empty)
    assert (one.dice, one.jaccard) == (0, 0)
    assert np.isnan([one.hd95, one.asd]).all()
    assert dice(empty, empty) == 1


def test_excluded_slices_do_not_count_and_make_no_surface():
    a = block((0, 10), (2, 8), (2, 8))
    b = a.copy()
    b[5] = False
    b[5, 0, 0] = True  # far off, on the excluded slice
    scores = compare_masks(a, b, exclude=[5])
    assert scores.dice == 1
    assert scores.hd95 <= 1
    assert compare_masks(a, b).dice < 1


def test_classes_of_both_are_scored_by_their_own_number():
    reference = np.zeros((4, 5, 6), int)
    reference[1:3, 1:4, 1:4] = 3
    prediction = reference.copy()
    prediction[0, 0, 0] = 70_000
    scores = compare_labels(prediction, reference)
    assert sorted(scores) == [3, 70_000]
    assert scores[3].dice == 1
    assert scores[70_000].dice == 0
    assert list(compare_labels(prediction, reference, class_values=[3])) == [3]


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_masks(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="no slice 7 to exclude: the slices are 0 to 1"):
        compare_masks(np.zeros((2, 3), bool), np.zeros((2, 3), bool), exclude=[7])


def test_objects_count_as_found_whatever_their_numbers():
    reference = np.zeros((2, 8, 12), int)
    reference[0, 1:5, 1:5], reference[0, 1:5, 6:10] = 1, 2
    prediction = np.zeros_like(reference)
    prediction[0, 1:5, 1:5] = 9  # found
    prediction[0, 1:5, 6:7] = 4  # a quarter of one
    prediction[1, 0:2, 0:2] = 5  # on a slice that does not count
    scores = compare_instances(prediction, reference, exclude=[1])
    assert (scores.predicted, scores.true, scores.matched, scores.f1) == (2, 2, 1, 0.5)
    assert scores.foreground.dice == pytest.approx(2 * 20 / (20 + 32))
    assert compare_instances(reference * 7, reference).f1 == 1
