"""Clean slices left out in turn: nothing of their labels takes part in what they are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Event, Finished, FinishReason, HeldOut, Progress, Started, is_terminal
from napari_mlbseg.task import SegmentationTask, TaskError, Volume, resolve_task
from napari_mlbseg.training import cross_validation as module
from napari_mlbseg.training.cross_validation import leave_one_out

CLEAN = (1, 5, 7, 11)


def ball(clean: tuple[int, ...] = CLEAN, name: str = "ball", spacing: tuple[float, float, float] = (2, 1, 1)) -> Volume:
    """A bright ball in noise, label 4."""
    z, y, x = np.indices((13, 40, 44))
    inside = (2.2 * (z - 6)) ** 2 + (y - 20) ** 2 + (x - 22) ** 2 < 15**2
    image = (100 + 80 * inside + np.random.default_rng(0).normal(0, 12, inside.shape)).astype(np.float32)
    return Volume(name, image, 4 * inside.astype(np.uint8), np.isin(np.arange(13), clean), spacing=spacing)


def config(**changes: object) -> TrainingConfig:
    small = {"features": (8, 16, 16), "time_budget": None, "bootstrap_steps": 3, "steps": 2, "patch_size": 48}
    return TrainingConfig.from_preset("quick", **{**small, **changes})


def scores(events: list[Event]) -> list[HeldOut]:
    return [event for event in events if isinstance(event, HeldOut)]


def test_every_clean_slice_is_scored_once_and_the_job_ends_once() -> None:
    events = list(leave_one_out(resolve_task([ball()], config(bootstrap_steps=30)), "cpu"))
    assert isinstance(events[0], Started)
    assert [event.slice for event in scores(events)] == list(CLEAN)
    assert [is_terminal(event) for event in events].index(True) == len(events) - 1
    assert events[-1] == Finished(reason=FinishReason.STEPS, steps=4 * 32, seconds=events[-1].seconds)
    assert all(set(event.classes) <= {4} and event.volume == "ball" for event in scores(events))
    inner = scores(events)[1:3]
    assert all(event.dice > 0.9 and event.hd95 is not None and event.hd95 < 4 for event in inner)


def test_progress_never_goes_back_and_names_the_slice() -> None:
    events = list(leave_one_out(resolve_task([ball()], config()), "cpu"))
    progress = [event for event in events if isinstance(event, Progress)]
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert {event.message for event in progress} == {f"Slice {i} of 4 is left out" for i in range(1, 5)}


def test_the_labels_that_are_left_out_take_part_in_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was painted on a slice, its prediction is the same to the last bit."""
    predictions: list[np.ndarray] = []
    compared = module._compared

    def spy(task: SegmentationTask, key: tuple[int, int], prediction: np.ndarray) -> HeldOut:
        predictions.append(prediction.copy())
        return compared(task, key, prediction)

    monkeypatch.setattr(module, "_compared", spy)
    honest, nonsense = ball(), ball()
    nonsense.labels[5] = 4 * (np.random.default_rng(1).random((40, 44)) > 0.5)
    for volume in (honest, nonsense):
        list(leave_one_out(resolve_task([volume], config(bootstrap_steps=8)), "cpu"))
    assert predictions[1].any()
    assert np.array_equal(predictions[1], predictions[5])
    assert not np.array_equal(predictions[2], predictions[6])  # where it was learnt, it made a difference


def test_two_clean_slices_are_too_few() -> None:
    with pytest.raises(TaskError, match=r"Only 2 slices are marked clean: .* mark at least 3"):
        list(leave_one_out(resolve_task([ball((5, 7))], config()), "cpu"))


def test_clean_slices_of_all_volumes_count() -> None:
    volumes = [ball((5,), "a"), ball((6, 7), "b")]
    events = list(leave_one_out(resolve_task(volumes, config()), "cpu"))
    assert [(event.volume, event.slice) for event in scores(events)] == [("a", 5), ("b", 6), ("b", 7)]


def test_of_many_clean_slices_eight_are_left_out() -> None:
    events = list(leave_one_out(resolve_task([ball(tuple(range(13)))], config(bootstrap_steps=1, steps=0)), "cpu"))
    left_out = [event.slice for event in scores(events)]
    assert len(left_out) == 8
    assert (left_out[0], left_out[-1]) == (0, 12)


@pytest.mark.slow
def test_time_is_shared_and_bounds_the_job() -> None:
    task = resolve_task([ball()], config(time_budget=10, bootstrap_steps=None, steps=None))
    events = list(leave_one_out(task, "cpu"))
    assert len(scores(events)) == 2  # rather than four of 2.5 seconds each
    assert events[-1].reason is FinishReason.TIME


def test_what_a_training_leaves_over_is_shared_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given = SimpleNamespace(now=100.0), list[float]()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def spend(task: SegmentationTask, key: object, device: str, stop: object, seconds: float) -> Iterator[Event]:
        clock.now += (1.0, seconds + 2, seconds)[len(given)]  # early, late, in time
        given.append(seconds)
        yield Finished(reason=FinishReason.TIME, steps=1, seconds=seconds)

    monkeypatch.setattr(module, "_without", spend)
    task = resolve_task([ball((1, 5, 7))], config(time_budget=30, bootstrap_steps=None, steps=None))
    events = list(leave_one_out(task, "cpu"))
    assert given == [10, 14.5, 12.5]  # of 30, of 29, and of what the late one left
    assert events[-1] == Finished(reason=FinishReason.TIME, steps=3, seconds=30)


def test_a_class_that_only_the_slice_shows_is_missed_and_said() -> None:
    volume = ball()
    volume.labels[7, 15:20, 15:20] = 9
    long_enough = config(bootstrap_steps=30)  # that a class which is never taught is never said
    (scored,) = [e for e in leave_one_out(resolve_task([volume], long_enough), "cpu") if isinstance(e, HeldOut)][2:3]
    assert scored.slice == 7
    assert scored.classes[9] == (0.0, None)


def test_stop_ends_with_cancelled_and_keeps_the_scores_so_far() -> None:
    events: list[Event] = []
    for event in leave_one_out(resolve_task([ball()], config()), "cpu", stop=lambda: len(scores(events)) == 2):
        events.append(event)
    assert isinstance(events[-1], Cancelled)
    assert events[-1].steps == 10
    assert len(scores(events)) == 2


def test_distances_are_those_of_the_spacing_within_the_slice() -> None:
    task = resolve_task([ball(spacing=(7, 0.5, 2))], config())
    moved = np.roll(task.volumes[0].label_slice(5), 3, axis=1)
    scored = module._compared(task, (0, 5), moved)
    assert scored.hd95 == pytest.approx(6, abs=0.5)
    assert scored.classes == {4: (scored.dice, scored.hd95)}
    nothing = module._compared(task, (0, 5), np.zeros_like(moved))
    assert (nothing.dice, nothing.hd95) == (0, None)


def test_only_one_slice_is_kept() -> None:
    task = resolve_task([ball()], config())
    kept = module._OneSlice(task, (0, 5))
    for z in range(13):
        kept["ball"]["pseudo_labels"][z] = np.full((40, 44), z)
        kept["ball"]["probability"][z] = np.ones((2, 40, 44))
    assert (kept.labels == 5).all()
