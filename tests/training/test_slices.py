"""Slices as a network sees them: finite, scaled alike, with their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mlbseg.method.normalisation import Normalisation
from napari_mlbseg.task import Volume
from napari_mlbseg.training.slices import SliceStore, no_data_note, pad_to, round_up

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


def two_classes(share: float) -> np.ndarray:
    """Labels (8, 64, 64) whose classes 1 and 2 fill this share of the volume together."""
    labels = np.zeros((8, 64, 64), np.uint8)
    rows = round(64 * share**0.5)
    labels[:, :rows, :rows] = 1
    labels[:, : rows // 2, :rows] = 2
    return labels


def seen(image: np.ndarray, labels: np.ndarray, clean: bool = False) -> list[float]:
    """What a network sees of background and both classes, on average."""
    stack = Volume("v", image, labels, np.full(len(image), clean))
    store = SliceStore(stack, 0, CPU)
    shown = np.stack([store[z][0].numpy() for z in range(len(image))])
    assert np.isfinite(shown).all()
    return [float(shown[labels == k].mean()) for k in range(3)]


def blur(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 8, shape)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("levels", [(0, 500, 1000), (100, 600, 1100), (1e-8, 1.6e-8, 2.2e-8), (1000, 600, 100)])
def test_structures_of_less_than_half_a_percent_are_told_apart(levels, clean):
    labels = two_classes(0.004)
    image = np.asarray(levels, np.float64)[labels] * (1 + 0.02 * blur(labels.shape) / 8)
    background, first, second = seen(image, labels, clean)
    assert abs(first - background) > 1
    assert abs(second - first) > 1


@pytest.mark.parametrize("value", [-3.4028235e38, 3.4e38, -1e31, 65535 * 1e4, -1e7])
def test_a_border_of_no_data_changes_nothing_elsewhere(value):
    labels = two_classes(0.3)
    image = np.array([100.0, 160, 220])[labels] + blur(labels.shape)
    plain = seen(image, labels)
    bordered = image.copy()
    bordered[:, :, 52:] = value
    stack = Volume("scan", bordered, labels, np.zeros(8, bool))
    store = SliceStore(stack, 0, CPU)
    assert not store[3][:, :, 52:].any()
    assert seen(bordered, labels)[1:] == pytest.approx(plain[1:], abs=0.25)
    assert f"'scan': {value:g}" in no_data_note([store])["note_no_data"]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_the_end_of_a_number_type_is_no_data_where_it_lies_apart(dtype):
    labels = two_classes(0.3)
    image = (np.array([1000.0, 1600, 2200])[labels] + blur(labels.shape)).astype(dtype)
    image[:, :, 60:] = np.iinfo(dtype).max
    assert SliceStore(Volume("v", image, labels, np.zeros(8, bool)), 0, CPU).no_data == [np.iinfo(dtype).max]


@pytest.mark.parametrize("levels", [(0, 255, 255), (0, 128, 255), (0, 1, 65535)])
def test_few_grey_levels_are_all_data(levels):
    labels = two_classes(0.3)
    image = np.asarray(levels, np.uint16)[labels]
    assert SliceStore(Volume("v", image, labels, np.zeros(8, bool)), 0, CPU).no_data == []


def test_what_is_painted_is_data_however_far_outside_it_lies():
    labels = two_classes(0.05)
    image = np.where(labels == 2, 1e6, 100 + blur(labels.shape))
    assert SliceStore(Volume("v", image, labels, np.zeros(8, bool)), 0, CPU).no_data == [1e6]
    painted = SliceStore(Volume("v", image, labels, np.ones(8, bool)), 0, CPU)
    assert painted.no_data == []
    assert float(painted[0][0][labels[0] == 2].min()) > 5


def test_a_single_painted_lesion_is_not_cut_off():
    labels = np.zeros((8, 256, 256), np.uint8)
    labels[3, 100:103, 100:103] = 1
    image = np.where(labels > 0, 5000.0, 100 + blur(labels.shape))
    image[5, 7, 7] = 1e5  # a hot pixel
    clean = np.zeros(8, bool)
    clean[3] = True
    assert Normalisation(Volume("v", image, labels, clean)).limits[1, 0] == pytest.approx(5000)
