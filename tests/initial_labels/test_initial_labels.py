"""Shape interpolation: what lies between two clean slices, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.initial_labels import interpolation as initial_labels
from napari_mlbseg.initial_labels.interpolation import interpolate
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.initial_labels.selection import held_out_dice
from napari_mlbseg.method.metrics import dice
from napari_mlbseg.method.signed_distance import signed_distance
from napari_mlbseg.task import SegmentationTask, Volume

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def disc(radius: float, row: float = 32, column: float = 32) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


def task_of(labels: np.ndarray, clean: tuple[int, ...], source: str = "auto", **options: object) -> SegmentationTask:
    marks = np.zeros(len(labels), bool)
    marks[list(clean)] = True
    volume = Volume("v", np.zeros(labels.shape, np.float32), labels, marks, **options)
    values = tuple(int(v) for v in np.unique(labels[list(clean)]) if v) if clean else (1,)
    return SegmentationTask((volume,), (0, *values), TrainingConfig(initial_labels=source))


def known(task: SegmentationTask) -> np.ndarray | None:
    return known_labels(task, task.volumes[0], task.config.initial_labels)


def test_signed_distance_is_positive_inside_and_steps_by_one():
    distance = signed_distance(COLUMNS >= 20)
    assert distance[5].tolist() == pytest.approx((np.arange(SIDE) - 19.5).clip(-64, 64).tolist())


def test_signed_distance_of_nothing_and_of_everything():
    assert (signed_distance(np.zeros((4, 4), bool)) < -10).all()
    assert (signed_distance(np.ones((4, 4), bool)) > 10).all()


def test_the_slice_halfway_between_two_discs_has_the_radius_halfway():
    labels = np.stack([disc(8), disc(20)]).astype(int)
    (middle,) = interpolate(labels, [0, 10], [5], 2)
    assert np.sqrt(middle.sum() / np.pi) == pytest.approx(14, abs=0.3)
    assert dice(middle == 1, disc(14)) > 0.98


def test_the_nearer_slice_counts_more():
    labels = np.stack([disc(8), disc(20)]).astype(int)
    radii = [np.sqrt(plane.sum() / np.pi) for plane in interpolate(labels, [0, 10], range(11), 2)]
    assert radii == pytest.approx([8 + 1.2 * z for z in range(11)], abs=0.4)


def test_clean_slices_are_as_they_were_painted():
    labels = np.random.default_rng(0).integers(0, 3, (3, SIDE, SIDE))
    assert np.array_equal(interpolate(labels, [1, 4, 6], [1, 4, 6], 3), labels)


@pytest.mark.parametrize("mask", [disc(8), ~disc(2)], ids=["disc", "nearly all"])
def test_what_every_clean_slice_shows_alike_goes_on_beyond_them(mask):
    filled = interpolate(np.stack([mask, mask]).astype(int), [3, 5], range(9), 2)
    assert all(np.array_equal(plane, mask) for plane in filled)


def test_what_shrinks_towards_the_last_clean_slice_ends_soon_and_what_is_nearly_gone_with_it():
    labels = np.stack([disc(12), disc(14), disc(11)]).astype(int)
    areas = interpolate(labels, [5, 10, 15], range(21), 2).sum(axis=(1, 2))
    assert areas[16] < areas[15]
    assert areas[16:].tolist() == sorted(areas[16:], reverse=True)
    assert areas[20] == 0
    labels[2] = disc(5)
    filled = interpolate(labels, [5, 10, 15], range(21), 2)
    assert not filled[16:].any()


def test_between_classes_that_touch_no_gap_opens():
    def halves(edge: int) -> np.ndarray:
        return np.where(disc(24), 1 + (edge <= COLUMNS) + (edge + 8 <= COLUMNS), 0)

    filled = interpolate(np.stack([halves(18), halves(34)]), [0, 4], range(5), 4)
    for plane in filled:
        assert np.array_equal(plane > 0, disc(24))
        assert set(np.unique(plane)) == {0, 1, 2, 3}
    edge = [(plane[32] == 1).sum() for plane in filled]
    assert edge == sorted(edge)
    assert edge[0] < edge[2] < edge[4]


def test_what_is_missing_on_one_slice_shrinks_on_the_way():
    labels = np.stack([disc(8), 0 * disc(8)]).astype(int)
    areas = interpolate(labels, [0, 8], range(9), 2).sum((1, 2), dtype=int)
    assert areas[0] > areas[2] > areas[3] > 0
    assert (np.diff(areas) <= 0).all()
    assert areas[8] == 0
    (early,) = interpolate(labels, [0, 8], [2], 2)
    assert early[disc(4)].all(), "towards its middle"
    assert not early[~disc(6)].any()


def test_one_class_may_vanish_while_another_stays():
    both = np.where(disc(6, column=16), 1, np.where(disc(6, column=48), 2, 0))
    one = np.where(disc(6, column=16), 1, 0)
    near, far = interpolate(np.stack([both, one]), [0, 8], [1, 7], 3)
    assert set(np.unique(near)) == {0, 1, 2}
    assert set(np.unique(far)) == {0, 1}


def test_label_numbers_of_the_user_become_classes():
    labels = np.stack([disc(10) * 40, disc(10) * 0, disc(10) * 40])
    filled = known(task_of(labels, (0, 2)))
    assert set(np.unique(filled)) == {0, 1}
    assert dice(filled[1] == 1, disc(10)) == 1


@pytest.mark.parametrize(
    ("clean", "source", "options"),
    [
        ((1,), "auto", {}),
        ((1,), "interpolation", {}),
        ((0, 3), "auto", {"independent_slices": True}),
        ((0, 3), "network", {}),
    ],
    ids=["one clean slice", "one clean slice, asked for", "unrelated slices", "the paper"],
)
def test_where_only_a_network_can_tell_nothing_is_known(clean, source, options):
    assert known(task_of(np.stack([disc(9)] * 4).astype(int), clean, source, **options)) is None


@pytest.mark.parametrize("source", ["auto", "given"])
def test_given_labels_are_taken_but_clean_slices_stay_the_users(source):
    labels = np.stack([disc(10), 0 * disc(1), disc(12), 0 * disc(1)]) * 3
    given = np.stack([disc(20, row=40)] * 4) * 3
    filled = known(task_of(labels, (0, 2), source, initial_labels=given))
    assert np.array_equal(filled[[1, 3]], given[[1, 3]] // 3)
    assert np.array_equal(filled[[0, 2]], labels[[0, 2]] // 3)


def test_given_numbers_that_are_no_class_are_background():
    given = np.full((3, SIDE, SIDE), 9)
    filled = known(task_of(np.stack([disc(10)] * 3).astype(int), (0,), "given", initial_labels=given))
    assert not filled[1].any()


def test_given_labels_are_ignored_where_another_source_is_asked_for():
    labels = np.stack([disc(10)] * 3).astype(int)
    filled = known(task_of(labels, (0, 2), "interpolation", initial_labels=0 * labels))
    assert np.array_equal(filled[1], disc(10))


def test_a_source_is_judged_on_inner_clean_slices_it_has_not_seen():
    truth = np.stack([disc(8), disc(10), disc(12)]).astype(int)
    asked = []

    def fill(clean, labels, z):
        asked.append((list(clean), z))
        assert not any(np.array_equal(plane, truth[1]) for plane in labels)
        return interpolate(labels, clean, [z], 2)[0]

    (score,) = held_out_dice(fill, [2, 5, 8], truth, 2)
    assert asked == [([2, 8], 5)]
    assert score > 0.95


def test_only_the_clean_slices_beside_are_asked():
    truth = np.stack([disc(radius) for radius in (8, 9, 10, 11, 12)]).astype(int)
    asked = []

    def fill(clean, labels, z):
        asked.append((list(clean), z))
        return interpolate(labels, clean, [z], 2)[0]

    held_out_dice(fill, [0, 2, 4, 6, 8], truth, 2)
    assert asked == [([0, 4], 2), ([2, 6], 4), ([4, 8], 6)]


def test_distances_are_taken_of_those_clean_slices_alone_between_which_something_is_missing(monkeypatch):
    measured, original = [], initial_labels.per_class_sdf
    monkeypatch.setattr(
        initial_labels, "per_class_sdf", lambda plane, n: (measured.append(plane.sum()), original(plane, n))[1]
    )
    labels = np.stack([disc(radius) for radius in (6, 8, 10, 12)]).astype(int)
    interpolate(labels, (0, 1, 3, 4), range(5), 2)
    assert measured == [labels[1].sum(), labels[2].sum()]
