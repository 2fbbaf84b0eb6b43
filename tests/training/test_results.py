"""Result arrays: their names, shapes and number types."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mlbseg.task import SegmentationTask, Volume
from napari_mlbseg.training.results import RESULT_NAMES, MemoryResults, NullResults, label_dtype, result_layout


def task(values: tuple[int, ...] = (0, 4, 9)) -> SegmentationTask:
    image = np.zeros((5, 2, 6, 7), np.float32)
    volumes = [Volume(name, image, np.zeros((5, 6, 7), np.uint8), np.zeros(5, bool)) for name in ("a", "b")]
    return SegmentationTask(tuple(volumes), values)


def test_every_array_has_a_slice_axis_and_probability_a_channel_for_each_class():
    layout = result_layout(task(), task().volumes[0])
    assert tuple(layout) == RESULT_NAMES
    shapes = {name: shape for name, (shape, _) in layout.items()}
    assert shapes.pop("probability") == (5, 3, 6, 7)
    assert set(shapes.values()) == {(5, 6, 7)}


@pytest.mark.parametrize(("largest", "dtype"), [(1, "u1"), (255, "u1"), (256, "u2"), (70000, "u4"), (2**40, "u8")])
def test_label_numbers_fit(largest, dtype):
    assert label_dtype(SegmentationTask((), (0, largest))) == np.dtype(dtype)
    layout = result_layout(task((0, largest)), task().volumes[0])
    assert layout["pseudo_labels"][1] == layout["initial_labels"][1] == np.dtype(dtype)


def test_results_in_memory_are_zero_at_first_and_their_own_for_each_volume():
    results = MemoryResults(task())
    assert set(results) == {"a", "b"}
    assert not any(array.any() for volume in results.values() for array in volume.values())
    results["a"]["pseudo_labels"][2] = 9
    assert results["a"]["pseudo_labels"][2].all()
    assert not results["b"]["pseudo_labels"].any()


def test_what_nobody_wants_is_forgotten():
    kept = np.zeros((5, 6, 7), np.uint8)
    results = NullResults({"a": {"pseudo_labels": kept}})
    for volume in ("a", "b"):
        for name in RESULT_NAMES:
            results[volume][name][2] = 1
    assert kept[2].all()
    assert not kept[1].any()
    with pytest.raises(IndexError):
        results["b"]["pseudo_labels"][2]
