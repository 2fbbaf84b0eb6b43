"""Label numbers of single objects: told from classes, learnt as foreground and borders, and given back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_mlbseg.cli import main as cli
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Finished
from napari_mlbseg.instances import are_instances, link_objects, objects_of, to_classes
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
from napari_mlbseg.training.label_planes import instance_note, label_numbers, link_slices
from napari_mlbseg.training.results import MemoryResults, result_layout
from napari_mlbseg.training.trainer import train


def discs(n: int = 49, side: int = 112, radius: float = 7.5, shift: float = 0.0) -> np.ndarray:
    """Touching discs in rows, numbered in a random order, (Y, X)."""
    rows = round(n**0.5)
    pitch = side / rows
    y, x = np.indices((side, side)) + 0.5
    row, column = (y // pitch).astype(int), ((x - shift) // pitch).astype(int).clip(0, rows - 1)
    inside = np.hypot(y - (row + 0.5) * pitch, x - shift - (column + 0.5) * pitch) < radius
    return np.where(inside, 1 + np.random.default_rng(0).permutation(n)[row * rows + column], 0)


def stack(**changes: object) -> Volume:
    """Five slices on which the discs drift; the first and the last are clean."""
    labels = np.stack([discs(shift=0.5 * z) for z in range(5)])
    clean = np.array([True, False, False, False, True])
    return Volume("cells", np.zeros(labels.shape, np.float32), labels, clean, **changes)


def test_many_small_similar_pieces_are_instances():
    assert are_instances([discs(), discs(shift=2)])


@pytest.mark.parametrize(
    "plane",
    [
        discs(16),  # few
        1 + np.arange(36).reshape(6, 6).repeat(10, 0).repeat(10, 1),  # regions that tile the slice are large
        np.where(discs(49) > 0, np.random.default_rng(0).integers(1, 40, (112, 112)), 0),  # many pieces a number
    ],
)
def test_classes_are_no_instances(plane):
    assert not are_instances([plane])


def test_one_large_organ_among_small_ones_makes_them_classes():
    plane = discs()
    plane[:80] = 99
    plane[0, :60] = np.arange(1, 61)
    assert not are_instances([plane])


def test_a_task_learns_three_classes_of_instances():
    task = resolve_task([stack()], TrainingConfig())
    assert task.class_values == (0, 1, 2)
    assert task.last_instance == 49
    assert result_layout(task, task.volumes[0])["probability"][0][1] == 3
    assert "single object" in instance_note(task)["note_instances"]


def test_the_config_overrules_what_the_numbers_look_like():
    assert resolve_task([stack()], TrainingConfig(label_kind="classes")).n_classes == 50
    few = Volume("few", np.zeros((3, 8, 8), np.float32), np.ones((3, 8, 8), np.uint8), np.ones(3, bool))
    assert resolve_task([few], TrainingConfig()).last_instance is None
    assert resolve_task([few], TrainingConfig(label_kind="instances")).last_instance == 1


def test_many_classes_are_learnt_as_such_but_it_is_said_what_else_they_may_be():
    task = SegmentationTask((), tuple(range(26)), TrainingConfig())
    assert "label_kind" in instance_note(task)["note_instances"]
    assert not instance_note(SegmentationTask((), (0, 1, 2), TrainingConfig()))


def test_borders_lie_where_another_object_is_near_and_leave_every_object_an_interior():
    labels = np.zeros((2, 20, 30), int)
    plane = labels[1]
    plane[4:14, 2:12], plane[4:14, 12:22], plane[4:14, 27:29] = 7, 900, 5
    plane[16, 2], plane[16, 3] = 8, 9  # of one pixel each
    classes = to_classes(labels)[1]
    assert (classes[4:14, 10:14] == 2).all()
    assert (classes[4:14, 2:10] == 1).all()
    assert (classes[4:14, 27:29] == 1).all()  # nothing is near
    assert (classes[16, 2:4] == 1).all()
    assert np.array_equal(classes > 0, plane > 0)
    assert set(np.unique(to_classes(discs() + 1))) == {1, 2}  # no background at all


def test_an_object_with_a_thin_waist_stays_one():
    plane = np.zeros((30, 30), int)
    plane[2:12, 4:14], plane[12:18, 8:10], plane[18:28, 4:14], plane[2:28, 17:27] = 3, 3, 3, 6
    assert len(np.unique(objects_of(to_classes(plane)))) == 3


def test_an_object_is_grown_to_its_edge_but_not_across_the_background():
    classes = np.zeros((12, 12), int)
    classes[1:11, 1:4], classes[1:11, 4], classes[1:11, 6:10], classes[2:9, 2] = 2, 2, 2, 1
    classes[5, 9] = 1  # the farthest of its object from what is nearest to the other one
    objects = objects_of(classes)
    assert len(np.unique(objects[1:11, 1:5])) == len(np.unique(objects[1:11, 6:10])) == 1
    assert objects[5, 4] != objects[5, 6]


def test_objects_come_back_from_their_classes():
    labels = discs()
    objects = objects_of(to_classes(labels), first=100)
    assert objects.min() == 0
    assert set(np.unique(objects)) - {0} == set(range(100, 149))
    assert np.array_equal(objects > 0, labels > 0)
    assert all(len(np.unique(labels[objects == number])) == 1 for number in range(100, 149))


def test_an_object_without_an_interior_is_one_all_the_same():
    classes = np.zeros((9, 9), int)
    classes[4, 4:6] = 2
    assert np.unique(objects_of(classes)).tolist() == [0, 1]
    assert not objects_of(np.zeros((4, 4), int)).any()


def test_objects_keep_the_number_that_they_have_on_the_slice_beside():
    beside, here = discs(), discs(shift=1.5)
    numbered = objects_of(to_classes(here))
    linked, new = link_objects(numbered, beside, 50)
    assert new == 50
    assert (linked == here)[here > 0].mean() > 0.98


def test_objects_that_merged_are_split_where_they_were_apart():
    beside = discs()
    merged = (discs() > 0).astype(int)
    linked, new = link_objects(merged, beside, 50)
    assert new == 50
    assert (linked == beside)[beside > 0].mean() > 0.9


def test_two_halves_are_two_objects_and_a_chip_is_part_of_its_own():
    beside = np.zeros((20, 20), int)
    beside[4:16, 4:16] = 3
    halves = np.where(beside > 0, 1, 0)
    halves[10:16, 4:16] = 2
    assert len(np.unique(link_objects(halves, beside, 4)[0])) == 3
    chip = np.where(beside > 0, 1, 0)
    chip[4:6, 4:6] = 2
    assert np.array_equal(link_objects(chip, beside, 4)[0], beside)


def test_numbers_of_unlinked_slices_are_all_different():
    task = resolve_task([stack()], TrainingConfig())
    planes = [label_numbers(task, to_classes(discs()), z) for z in (1, 2, 3)]
    numbers = [set(np.unique(plane)) - {0} for plane in planes]
    assert not numbers[0] & numbers[1]
    assert not numbers[1] & numbers[2]
    assert min(min(each) for each in numbers) > task.last_instance


def test_linking_goes_from_the_clean_slices_outwards():
    volume = stack()
    task = resolve_task([volume], TrainingConfig())
    array = np.stack([label_numbers(task, to_classes(plane), z) for z, plane in enumerate(volume.labels)])
    array[[0, 4]] = volume.labels[[0, 4]]
    said = list(link_slices(array, task, volume))
    assert {z for event in said for z in event.slices} == {1, 2, 3}
    for z in range(5):
        assert (array[z] == volume.labels[z])[volume.labels[z] > 0].mean() > 0.97


@pytest.mark.slow
def test_a_training_gives_objects_back_with_the_numbers_of_the_clean_slices():
    volume = stack()
    volume.image[:] = 100 * (volume.labels > 0) + np.random.default_rng(1).normal(0, 5, volume.labels.shape)
    config = TrainingConfig.from_preset("quick", time_budget=None, bootstrap_steps=2, steps=1)
    task = resolve_task([volume], config)
    results = MemoryResults(task)
    assert isinstance(list(train(task, "cpu", results=results))[-1], Finished)
    found = results["cells"]["pseudo_labels"]
    assert np.array_equal(found[[0, 4]], volume.labels[[0, 4]])
    for z in (1, 2, 3):
        assert (found[z] == volume.labels[z])[volume.labels[z] > 0].mean() > 0.8


def test_many_numbers_without_a_clean_slice_are_named_shortly_with_what_they_may_be():
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[0, 2:4, 2:4] = 1
    volume = Volume("cells", np.zeros(labels.shape, np.float32), labels, np.array([True, False, False]))
    note = resolve_task([volume], TrainingConfig(), elsewhere=dict.fromkeys(range(1, 32), "slice 2 of 'cells'")).note
    assert "and 27 more occur on no clean slice" in note
    assert "label_kind to 'instances'" in note


def test_few_of_many_clean_slices_are_looked_at():
    class Counted:
        shape, ndim, dtype, read = (200, 112, 112), 3, np.dtype(int), 0

        def __getitem__(self, z: int) -> np.ndarray:
            self.read += 1
            return discs()

        def values_of(self, z: int) -> set[int]:
            return set(range(1, 50))

    labels = Counted()
    volume = Volume("cells", np.zeros((200, 112, 112), np.uint8), labels, np.ones(200, bool))
    assert resolve_task([volume], TrainingConfig()).last_instance == 49
    assert labels.read <= 16


@pytest.mark.parametrize(("kind", "score"), [("auto", "instances"), ("instances", "instances"), ("classes", "classes")])
def test_evaluate_counts_objects_unless_it_is_told_that_they_are_classes(tmp_path, capsys, kind, score):
    for name, labels in (("truth", discs()), ("found", np.where(discs() > 0, 60 - discs(), 0))):
        planes = np.stack([labels] * 5).astype(np.uint8)
        tifffile.imwrite(tmp_path / f"{name}.tif", planes, imagej=True, metadata={"axes": "ZYX"})
    words = [str(tmp_path / "found.tif"), str(tmp_path / "truth.tif")]
    assert cli.main(["evaluate", *words, "--label-kind", kind]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) & {"instances", "classes"} == {score}
    assert score == "classes" or said["instances"]["f1"] == 1
