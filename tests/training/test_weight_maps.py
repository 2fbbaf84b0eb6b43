"""Weight maps: a weight is shown at the pixel that it was given to, whatever the view, and averaged over visits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mlbseg.method.pixel_weights import PixelWeights
from napari_mlbseg.method.views import IDENTITY, View, warp
from napari_mlbseg.training.weight_maps import WeightMaps, on_slice

H, W = 32, 40
VIEWS = (IDENTITY, View(1.3, (0.1, -0.1)), View(0.8), View(flip=(-1,)))


def spot(row: int = 12, column: int = 25) -> torch.Tensor:
    """A slice that is dark but for one pixel and, less, its neighbours, (1, 1, H, W)."""
    x = torch.zeros(1, 1, H, W)
    x[..., row - 1 : row + 2, column - 1 : column + 2] = 1
    x[..., row, column] = 2
    return x


def weights(initial: torch.Tensor, pseudo: torch.Tensor) -> PixelWeights:
    return PixelWeights(initial, pseudo, 1.0)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_weight_is_mapped_back_to_its_pixel(view):
    in_view = warp(spot(), view)[:, 0]
    initial, pseudo = on_slice(weights(in_view, 2 * in_view), [view])
    assert divmod(int(initial[0].argmax()), W) == (12, 25)
    torch.testing.assert_close(pseudo, 2 * initial)


def test_the_map_is_the_mean_over_the_views_that_saw_the_pixel():
    ones = torch.ones(len(VIEWS), H, W)
    initial, pseudo = on_slice(weights(ones, 3 * ones), VIEWS)
    pixels = len(VIEWS) * H * W
    torch.testing.assert_close(initial, torch.full((1, H, W), float(pixels)))
    torch.testing.assert_close(pseudo, torch.full((1, H, W), 3.0 * pixels))


def test_slices_of_a_batch_are_not_mixed_up():
    batch = torch.cat([spot(5, 8), spot(20, 30)])
    in_views = torch.cat([warp(batch, view) for view in VIEWS])[:, 0]
    initial, _ = on_slice(weights(in_views, in_views), VIEWS)
    assert [divmod(int(plane.argmax()), W) for plane in initial] == [(5, 8), (20, 30)]


def test_one_is_the_mean_weight():
    even = torch.full((1, H, W), 1 / (2 * H * W))
    initial, pseudo = on_slice(weights(even, even), [IDENTITY])
    assert float((initial + pseudo).mean()) == pytest.approx(1)


def test_visits_are_averaged_for_each_pixel():
    maps, key = WeightMaps(), (0, 3)
    maps.add(key, (6, 6), (0, 0), torch.full((4, 4), 2.0), torch.zeros(4, 4))
    maps.add(key, (6, 6), (2, 2), torch.full((4, 4), 6.0), torch.ones(4, 4))
    initial, pseudo = maps.mean(key)
    assert initial[0, 0] == 2
    assert initial[3, 3] == 4
    assert initial[5, 5] == 6
    assert initial[0, 5] == 0
    assert pseudo[3, 3] == 0.5


def test_what_reaches_beyond_the_slice_is_left_out():
    maps, key = WeightMaps(), (0, 0)
    patch = torch.arange(16.0).reshape(4, 4)
    maps.add(key, (5, 3), (3, 0), patch, patch)
    initial, _ = maps.mean(key)
    assert np.array_equal(initial[3:], patch[:2, :3].numpy())


def test_a_slice_is_covered_once_every_pixel_was_visited():
    maps, key = WeightMaps(), (1, 2)
    assert maps.mean(key) is None
    assert not maps.covers(key)
    maps.add(key, (4, 6), (0, 0), torch.zeros(4, 4), torch.zeros(4, 4))
    assert not maps.covers(key)
    maps.add(key, (4, 6), (0, 2), torch.zeros(4, 4), torch.zeros(4, 4))
    assert maps.covers(key)
    assert not maps.covers((1, 3))
