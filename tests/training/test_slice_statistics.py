"""One number a slice: what it counts, and what is left out where nothing is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from napari_mlbseg.training.slice_statistics import slice_statistics


def probability(*foreground: float, side: int = 10) -> torch.Tensor:
    """Slices of `side` x `side` pixels with the same probability of the foreground everywhere, (B, 2, Y, X)."""
    p = torch.tensor(foreground)[:, None, None].expand(-1, side, side)
    return torch.stack([1 - p, p], 1)


def test_uncertainty_is_the_expected_number_of_wrong_pixels():
    found = slice_statistics(probability(0.0, 0.25, 0.8))
    assert found["uncertainty"] == pytest.approx((0, 25, 20), abs=0.1)
    assert found["foreground"] == (0, 0, 100)


def test_a_little_doubt_of_every_pixel_does_not_add_up():
    assert slice_statistics(probability(0.05, 0.95))["uncertainty"] == (0, 0)


def test_uncertainty_of_many_classes_is_the_distance_of_the_largest_from_one():
    thirds = torch.full((1, 3, 6, 5), 1 / 3)
    assert slice_statistics(thirds)["uncertainty"] == pytest.approx((20,), abs=0.1)


def test_what_is_not_known_is_left_out():
    assert set(slice_statistics(probability(0.5))) == {"uncertainty", "foreground"}


def test_a_slice_of_which_something_is_not_known_has_none():
    labels, weights = np.zeros((10, 10), int), (np.full((10, 10), 0.25), np.full((10, 10), 0.5))
    labels[:3] = 1
    found = slice_statistics(
        probability(0.9, 0.9),
        torch.full((2, 10, 10), 0.75),
        network=torch.ones(2, 10, 10, dtype=torch.int64),
        initial=[None, labels],
        weights=[weights, None],
    )
    assert found["view_disagreement"] == (25, 25)
    assert found["initial_disagreement"] == (None, 70)
    assert found["weight"] == (0.75, None)


def test_it_takes_less_than_a_millisecond_a_slice():
    p = torch.rand(16, 2, 192, 144).softmax(1)
    arguments = {"network": p.argmax(1), "initial": [np.zeros((192, 144), np.uint8)] * 16}
    arguments["weights"] = [(np.zeros((192, 144), np.float32),) * 2] * 16
    took = []
    for _ in range(7):
        began = time.process_time()
        slice_statistics(p, p[:, 0], **arguments)
        took.append((time.process_time() - began) / 16)
    assert min(took) < 1e-3
