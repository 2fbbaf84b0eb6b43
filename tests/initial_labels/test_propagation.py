"""Propagation: a known motion is found, and labels follow what moves in the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.initial_labels.interpolation import interpolate
from napari_mlbseg.initial_labels.propagation import SliceRegistration
from napari_mlbseg.initial_labels.registration import optical_flow
from napari_mlbseg.initial_labels.selection import select_initial_labels, unrelated_slices
from napari_mlbseg.method.metrics import dice
from napari_mlbseg.task import SegmentationTask, Volume

HEIGHT, WIDTH, N = 80, 112, 9
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(float)


def texture(dy: float = 0.0, dx: float = 0.0) -> np.ndarray:
    """The same smooth noise everywhere in the plane, moved by (dy, dx)."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(HEIGHT + 40, WIDTH + 40)), 3)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    at = np.stack([ROWS + 20 - dy, COLUMNS + 20 - dx])
    return ndimage.map_coordinates(noise, at, order=3).astype(np.float32)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.5, -2.0), (-3.0, 4.0), (0.4, 5.0)], ids=str)
def test_optical_flow_finds_a_known_shift(shift):
    fixed, moving = (torch.from_numpy(a)[None, None] for a in (texture(), texture(*shift)))
    flow = optical_flow(fixed, moving)[0, :, 12:-12, 12:-12]
    expected = torch.tensor([shift[1], shift[0]])[:, None, None]
    assert float((flow - expected).norm(dim=0).mean()) < 0.3
    assert float((flow - expected).norm(dim=0).max()) < 1


def test_where_nothing_is_seen_nothing_moves():
    flat = torch.full((1, 1, 40, 40), 0.5)
    assert float(optical_flow(flat, flat).abs().max()) < 1e-6


def test_pairs_do_not_disturb_each_other():
    still, moved = (torch.from_numpy(a)[None, None] for a in (texture(), texture(2, 1)))
    together = optical_flow(torch.cat([still, still]), torch.cat([still, moved]))
    torch.testing.assert_close(together[:1], optical_flow(still, still), atol=1e-3, rtol=0)
    torch.testing.assert_close(together[1:], optical_flow(still, moved), atol=1e-3, rtol=0)


def path(z: int) -> tuple[float, float]:
    """Centre of the disc on slice z: there and back, so that the ends tell nothing of the middle."""
    return 40.0, 40.0 + 24 * np.sin(np.pi * z / (N - 1))


def moving_discs() -> tuple[np.ndarray, np.ndarray]:
    """A bright disc of class 1 with a brighter core of class 2 that wanders to the right and back, (Z, Y, X)."""
    labels = np.zeros((N, HEIGHT, WIDTH), np.int64)
    for z in range(N):
        row, column = path(z)
        distance = np.hypot(ROWS - row, COLUMNS - column)
        labels[z][distance < 14] = 1
        labels[z][distance < 7] = 2
    noise = np.random.default_rng(1).normal(0, 2, labels.shape)
    return (100 + 60 * ndimage.gaussian_filter(labels.astype(float), (0, 1.5, 1.5)) + noise).astype(np.float32), labels


def task_of(image: np.ndarray, labels: np.ndarray, clean: tuple[int, ...], source: str = "auto") -> SegmentationTask:
    marks = np.zeros(len(image), bool)
    marks[list(clean)] = True
    volume = Volume("v", image, labels, marks)
    return SegmentationTask((volume,), (0, 1, 2), TrainingConfig(initial_labels=source))


def test_labels_follow_what_moves_and_interpolation_does_not():
    image, labels = moving_discs()
    clean = (0, N - 1)
    volume = task_of(image, labels, clean).volumes[0]
    found = SliceRegistration(volume, labels[list(clean)]).propagate(clean, labels[list(clean)], 3)
    guess = interpolate(labels[list(clean)], clean, range(N), 3)
    inner = slice(1, N - 1)
    for k in (1, 2):
        truth = labels[inner] == k
        assert dice(found[inner] == k, truth) > 0.8
        assert dice(found[inner] == k, truth) > dice(guess[inner] == k, truth) + 0.3
    assert np.array_equal(found[[0, -1]], labels[[0, -1]])


def test_labels_follow_what_moves_beyond_the_clean_slices():
    image, labels = moving_discs()
    clean = (2, 6)
    volume = task_of(image, labels, clean).volumes[0]
    motion = SliceRegistration(volume, labels[list(clean)])
    found = motion.propagate(clean, labels[list(clean)], 3)
    still = interpolate(labels[list(clean)], clean, range(N), 3)
    for z in (0, N - 1):
        assert dice(found[z] > 0, labels[z] > 0) > max(0.8, dice(still[z] > 0, labels[z] > 0))
    inner = motion.propagate(clean, labels[list(clean)], 3, beyond=False)
    assert inner.any(axis=(1, 2)).tolist() == [2 <= z <= 6 for z in range(N)]


def test_labels_of_unrelated_images_are_not_carried():
    random = np.random.default_rng(0)
    middles = random.uniform(10, 70, (N, 2, 3, 1, 1))  # three cells each
    y, x = np.ogrid[:80, :80]
    labels = (np.hypot(y - middles[:, 0], x - middles[:, 1]) < 8).any(1).astype(np.uint8)
    image = (100 * labels + random.normal(0, 5, labels.shape)).astype(np.float32)
    task = task_of(image, labels, (0, 3, 5, 8))
    assert unrelated_slices(task, {"interpolation": 0.01, "propagation": 0.02}) == {"v"}
    related = task_of(*moving_discs(), (0, 4, 8))
    assert unrelated_slices(related, select_initial_labels(related, "auto")[1]) == set()


def test_a_structure_that_ends_in_a_few_pixels_is_related():
    labels = np.zeros((N, 64, 64), np.uint8)
    for z, radius in ((0, 2), (4, 20), (8, 2)):
        labels[z][np.hypot(*np.ogrid[-32:32, -20:44]) < radius] = 1
    task = task_of(labels.astype(np.float32), labels, (0, 4, 8))
    assert unrelated_slices(task, {"interpolation": 0.01, "propagation": 0.02}) == set()


def test_one_clean_slice_and_clean_slices_of_background_are_no_mistake():
    image, labels = moving_discs()
    one = task_of(image, labels, (4,)).volumes[0]
    found = SliceRegistration(one, labels[[4]]).propagate((4,), labels[[4]], 3)
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [4]
    empty = task_of(image, 0 * labels, (1, 5)).volumes[0]
    assert not SliceRegistration(empty, 0 * labels[[1, 5]]).propagate((1, 5), 0 * labels[[1, 5]], 3).any()


def test_constant_and_nan_slices_are_no_mistake():
    image, labels = moving_discs()
    image[3], image[4] = 7, np.nan
    volume = task_of(image, labels, (0, N - 1)).volumes[0]
    found = SliceRegistration(volume, labels[[0, -1]]).propagate((0, N - 1), labels[[0, -1]], 3)
    assert found[1].any()


def test_auto_takes_what_predicts_held_out_clean_slices_better():
    image, labels = moving_discs()
    found, scores = select_initial_labels(task_of(image, labels, (0, 4, 8)), "auto")
    assert scores["propagation"] > scores["interpolation"] + 0.2
    assert set(found) == {"v"}
    unrelated = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    still = np.broadcast_to(labels[0], labels.shape)
    found, scores = select_initial_labels(task_of(unrelated, still, (0, 4, 8)), "auto")
    assert scores["interpolation"] == 1
    assert found == {} or scores["propagation"] == 1


def test_a_volume_that_is_clean_throughout_is_not_registered(monkeypatch):
    image, labels = moving_discs()
    monkeypatch.setattr("napari_mlbseg.initial_labels.selection.SliceRegistration", pytest.fail)
    assert select_initial_labels(task_of(image, labels, range(N)), "auto") == ({}, {})
