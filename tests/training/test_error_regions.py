"""Places at which to look again."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from napari_mlbseg.training.error_regions import ErrorRegion, find_error_regions


def test_places_are_connected_regions_the_strongest_first() -> None:
    doubt, painted = np.zeros((20, 30), np.float32), np.zeros((20, 30), np.uint8)
    doubt[2:5, 3:6] = 0.78
    doubt[10:12, 20:25] = 0.8
    doubt[11, 22] = 0.9
    painted[8:, 15:] = 4
    assert find_error_regions(doubt, painted) == [
        ErrorRegion(centre=(10, 22), pixels=10, strength=pytest.approx(0.9), label=4),
        ErrorRegion(centre=(3, 4), pixels=9, strength=pytest.approx(0.78), label=0),
    ]


def test_the_centre_lies_on_the_place_even_if_it_is_a_ring() -> None:
    y, x = np.indices((40, 40))
    radius = np.hypot(y - 20, x - 20)
    ring = (radius > 10) & (radius < 13)
    (place,) = find_error_regions(ring.astype(np.float32), np.zeros((40, 40), int))
    assert ring[place.centre]
    assert place.pixels == ring.sum()


def test_diagonal_neighbours_are_one_place_and_specks_are_none() -> None:
    doubt = np.zeros((10, 10), np.float32)
    doubt[[1, 2, 3, 4], [1, 2, 3, 4]] = 1
    doubt[8, 8] = 1
    (place,) = find_error_regions(doubt, np.zeros((10, 10), int))
    assert place.pixels == 4


def test_the_threshold_is_the_callers() -> None:
    doubt = np.full((5, 5), 0.4)
    assert find_error_regions(doubt, np.zeros((5, 5), int)) == []
    assert len(find_error_regions(doubt, np.zeros((5, 5), int), threshold=0.3)) == 1


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="does not belong to labels"):
        find_error_regions(np.zeros((4, 5)), np.zeros((5, 4), int))


def test_it_loads_no_torch() -> None:
    code = "import sys, napari_mlbseg.training.error_regions; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
