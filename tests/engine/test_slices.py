"""Slices as a network sees them: finite, scaled alike, with their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mlbseg.engine.slices import Normalisation, SliceStore, pad_to, round_up
from napari_mlbseg.task import Volume

CPU = torch.device("cpu")


def volume(image: np.ndarray, **options: object) -> Volume:
    shape = (image.shape[0], *image.shape[-2:])
    return Volume("v", image, np.zeros(shape, np.uint8), np.zeros(shape[0], bool), **options)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 15, shape).astype(np.float32)


def whole(image: np.ndarray, **options: object) -> torch.Tensor:
    store = SliceStore(volume(image, **options), 0, CPU)
    return torch.stack([store[z] for z in range(len(image))])


def test_a_volume_has_zero_mean_and_unit_variance():
    slices = whole(noise(6, 32, 32))
    assert slices.shape == (6, 1, 32, 32)
    assert slices.dtype == torch.float32
    assert float(slices.mean()) == pytest.approx(0, abs=1e-3)
    assert float(slices.std()) == pytest.approx(1, abs=1e-2)


def test_slices_keep_their_brightness_relative_to_each_other():
    image = noise(4, 16, 16)
    image[2] += 50
    slices = whole(image)
    assert slices[2].mean() > slices[1].mean() + 1


def test_one_hot_pixel_does_not_change_the_others():
    image = noise(4, 32, 32)
    plain = whole(image)
    image[1, 3, 3] = 1e9
    hot = whole(image)
    assert float((hot - plain).abs().flatten(1).median()) < 0.01
    assert float(hot.abs().max()) < 5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_becomes_the_mean(value):
    image = noise(4, 16, 16)
    image[1, 2:5] = value
    slices = whole(image)
    assert torch.isfinite(slices).all()
    assert not slices[1, 0, 2:5].any()
    assert float(slices[0].std()) == pytest.approx(1, abs=0.2)


def test_a_slice_without_any_number_is_zero():
    image = noise(4, 16, 16)
    image[2] = np.nan
    assert not whole(image)[2].any()


@pytest.mark.parametrize("value", [0, 7, -3e6, np.nan])
def test_a_constant_volume_is_zero(value):
    assert not whole(np.full((3, 8, 8), value, np.float32)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float64, bool])
def test_the_number_type_does_not_matter(dtype):
    image = noise(4, 16, 16).clip(0, 255).astype(dtype)
    same = whole(image.astype(np.float32))
    torch.testing.assert_close(whole(image), same)


def test_every_channel_is_scaled_by_itself():
    image = np.stack([noise(5, 24, 24), 1000 * noise(5, 24, 24)[::-1]], axis=1)  # (Z, C, Y, X)
    slices = whole(image)
    assert slices.shape == (5, 2, 24, 24)
    assert slices.std((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.02)


def test_the_scale_is_read_from_slices_all_over_the_volume():
    image = noise(200, 8, 8)
    image[100:] += 1000
    assert Normalisation(volume(image)).mean[0] == pytest.approx(600, rel=0.05)


def ramp(**options: object) -> SliceStore:
    """Slices whose value is their number, with two neighbours on each side."""
    return SliceStore(volume(np.arange(5.0)[:, None, None] * np.ones((5, 4, 4)), **options), 2, CPU)


def test_neighbours_are_channels_in_order_and_the_ends_are_repeated():
    alone = SliceStore(ramp().volume, 0, CPU)
    for z, expected in ((2, [0, 1, 2, 3, 4]), (0, [0, 0, 0, 1, 2]), (4, [2, 3, 4, 4, 4])):
        assert torch.equal(ramp()[z], torch.cat([alone[i] for i in expected]))


def test_unrelated_slices_have_only_themselves_as_neighbours():
    store = ramp(independent_slices=True)
    assert store[3].shape == (5, 4, 4)
    assert len(store[3].unique()) == 1


@pytest.mark.parametrize(("size", "rounded"), [(1, 8), (8, 8), (9, 16)])
def test_round_up(size, rounded):
    assert round_up(size, 8) == rounded


def test_padding_repeats_the_last_row_and_column():
    x = torch.randn(3, 2, 5, 7)
    padded = pad_to(x, 8, 8)
    assert torch.equal(padded[..., :5, :7], x)
    assert torch.equal(padded[..., 7, :7], x[..., 4, :])
    assert torch.equal(padded[..., :5, 7], x[..., 6])
    assert pad_to(x, 5, 7) is x


@pytest.mark.parametrize(("n_volumes", "kept"), [(1, 96), (8, 96), (64, 16), (5000, 2)])
def test_many_volumes_share_what_is_cached(n_volumes, kept):
    store = SliceStore(volume(noise(100, 4, 4)), 0, CPU, n_volumes)
    first = [store[z] for z in range(100)]
    assert sum(store[z] is first[z] for z in reversed(range(100))) == kept
