"""Tasks: what is read from volumes, and one sentence for every mistake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.task import SegmentationTask, TaskError, Volume, resolve_task


def volume(name: str = "heart", clean: tuple[int, ...] = (1, 4), **changes: object) -> Volume:
    """Six slices; label 2 on slices 1 and 4, label 7 on slice 4."""
    labels = np.zeros((6, 8, 9), np.uint8)
    labels[[1, 4], 2:5, 2:5] = 2
    labels[4, 6, 6] = 7
    marks = np.zeros(6, bool)
    marks[list(clean)] = True
    return replace(Volume(name, np.ones((6, 8, 9), np.float32), labels, marks), **changes)


def resolve(*volumes: Volume, elsewhere: dict[int, str] | None = None, **fields: object) -> SegmentationTask:
    return resolve_task(volumes, TrainingConfig(**fields), elsewhere=elsewhere)


def test_classes_are_the_numbers_on_clean_slices():
    assert resolve(volume()).class_values == (0, 2, 7)
    assert resolve(volume(clean=(1,))).class_values == (0, 2)
    assert resolve(volume(clean=(1,)), volume("other", clean=(4,))).class_values == (0, 2, 7)


def test_numbers_become_indices_and_unknown_ones_background():
    indices = resolve(volume()).class_indices(np.array([[0, 2, 7], [1, 8, 255]]))
    assert indices.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert indices.dtype == np.int64


def test_a_volume_without_clean_slices_may_come_along():
    task = resolve(volume(), volume("other", clean=()))
    assert task.volumes[1].unlabelled_slices == tuple(range(6))


def test_a_background_slice_may_be_clean():
    assert resolve(volume(clean=(0, 1))).volumes[0].clean_slices == (0, 1)


def test_channels_and_slices_are_read_from_the_shape():
    task = resolve(volume(image=np.ones((6, 3, 8, 9))))
    assert task.n_channels == 3
    assert task.volumes[0].shape == (6, 8, 9)
    assert task.volumes[0].image_slice(2).shape == (3, 8, 9)
    assert volume().image_slice(2).shape == (1, 8, 9)


def test_nothing_is_changed():
    given = volume()
    before = given.image.copy(), given.labels.copy(), given.clean.copy()
    resolve(given)
    for after, array in zip((given.image, given.labels, given.clean), before, strict=True):
        assert np.array_equal(after, array)


def test_some_nan_is_no_mistake():
    image = np.full((6, 8, 9), np.nan)
    image[[1, 4], 0, 0] = 1
    resolve(volume(image=image))


def nan_on_slice_four() -> np.ndarray:
    image = np.ones((6, 8, 9))
    image[4] = np.nan
    return image


def with_label(value: int) -> np.ndarray:
    labels = volume().labels.astype(int)
    labels[1, 0, 0] = value
    return labels


MISTAKES = {
    "no image": ([], "There is no image: choose an image"),
    "two of one name": ([volume(), volume()], "have the same name .heart, heart.: rename"),
    "no clean slice": ([volume(clean=())], "No slice is marked clean: paint at least one slice"),
    "nothing painted": ([volume(clean=(0, 2))], "Nothing is painted on the clean slices.*paint the structure"),
    "labels of another shape": (
        [volume(labels=np.zeros((6, 8, 8), int))],
        "labels of 'heart' have shape 6 x 8 x 8 but the image has 6 x 8 x 9: choose labels",
    ),
    "initial labels of another shape": (
        [volume(initial_labels=np.zeros((5, 8, 9), int))],
        "initial labels of 'heart' have shape 5 x 8 x 9",
    ),
    "float labels": ([volume(labels=np.zeros((6, 8, 9)))], "labels of 'heart' are float64, not integers: convert"),
    "float initial labels": (
        [volume(initial_labels=np.zeros((6, 8, 9)))],
        "initial labels of 'heart' are float64, not integers",
    ),
    "negative labels": ([volume(labels=with_label(-3))], "hold the negative number -3: label numbers start at 0"),
    "empty image": (
        [volume(image=np.zeros((6, 0, 9)), labels=np.zeros((6, 0, 9), int))],
        "is empty .shape 6 x 0 x 9.: choose another",
    ),
    "all NaN": ([volume(image=np.full((6, 8, 9), np.nan))], "holds no number, only NaN: choose another image"),
    "a clean slice of NaN": ([volume(image=nan_on_slice_four())], "Slice 4 of 'heart' is marked clean but .* unmark"),
    "one slice": (
        [Volume("heart", np.ones((1, 8, 9)), np.ones((1, 8, 9), int), np.ones(1, bool))],
        "has only one slice: at least two are needed.*change the slice axis",
    ),
    "two axes": ([volume(image=np.ones((8, 9)))], "has shape 8 x 9: a stack of slices with three axes is needed"),
    "five axes": ([volume(image=np.ones((2, 2, 6, 8, 9)))], "a stack of slices with three axes is needed"),
    "complex image": ([volume(image=np.ones((6, 8, 9), complex))], "holds complex128, not real numbers: convert"),
    "clean slices outside the stack": (
        [replace(volume(), clean=np.ones(7, bool))],
        "must be one yes or no for each of its 6 slices",
    ),
    "clean slices by number": ([replace(volume(), clean=np.array([1, 4]))], "must be one yes or no for each"),
    "other channels": (
        [volume(), volume("other", image=np.ones((6, 3, 8, 9)))],
        "different numbers of channels .1, 3.: train on images of one kind",
    ),
    "no spacing": ([volume(spacing=(1.0, 0.0, 1.0))], "three positive distances are needed"),
}


@pytest.mark.parametrize(("volumes", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_that_says_what_to_do(volumes, words):
    with pytest.raises(TaskError, match=words) as caught:
        resolve(*volumes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", ")."))


def test_a_number_on_no_clean_slice_is_not_learnt_and_it_is_said_where_it_is():
    task = resolve(volume(), elsewhere={2: "slice 1 of 'heart'", 9: "slice 3 of 'heart'"})
    assert task.class_values == (0, 2, 7)
    assert task.note == "Label 9 (slice 3 of 'heart') occurs on no clean slice: it is not learnt."
    many = resolve(volume(), elsewhere=dict.fromkeys(range(2, 14), "slice 5 of 'heart'")).note
    assert many.startswith("Labels 3 (slice 5 of 'heart'), 4 (")
    assert "and 7 more occur on no clean slice: they are not learnt." in many
    assert resolve(volume(), elsewhere={7: "slice 4 of 'heart'"}).note == ""


def test_initial_labels_that_are_to_be_given_must_be_there():
    with pytest.raises(TaskError, match="initial labels are to be given, but there are none: choose"):
        resolve(volume(), initial_labels="given")
