"""Look again: errors among the painted slices are doubted where they are, and predictions come first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Event, Finished, Preview
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.label_errors import LabelErrorFinder, label_error_probability
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.stages import Training
from napari_mlbseg.training.trainer import train

CLEAN = (2, 5, 8, 11, 14)


def column(clean: tuple[int, ...] = CLEAN, name: str = "column") -> Volume:
    """A bright, slightly slanted column in noise, label 5."""
    z, y, x = np.indices((17, 48, 48))
    inside = (y - 22 - 0.3 * z) ** 2 + (x - 24) ** 2 < 13**2
    image = (100 + 80 * inside + np.random.default_rng(0).normal(0, 12, inside.shape)).astype(np.float32)
    return Volume(name, image, 5 * inside.astype(np.uint8), np.isin(np.arange(17), clean))


def config(**changes: object) -> TrainingConfig:
    small = {"features": (8, 16, 16), "time_budget": None, "bootstrap_steps": 3, "steps": 2, "patch_size": 48}
    return TrainingConfig.from_preset("quick", **{**small, **changes})


def run(volumes: list[Volume], **changes: object) -> tuple[MemoryResults, list[Event]]:
    task = resolve_task(volumes, config(**changes))
    results = MemoryResults(task)
    return results, list(train(task, "cpu", results=results))


def doubted(events: list[Event]) -> list[tuple[str, int]]:
    return [(e.volume, z) for e in events if isinstance(e, Preview) and "label_doubt" in e.arrays for z in e.slices]


def test_what_was_missed_and_what_is_too_much_is_doubted() -> None:
    volume = column()
    volume.labels[8, 20:30, 14:24] = 0
    volume.labels[11, 2:9, 38:46] = 5
    results, _ = run([volume], bootstrap_steps=60, steps=5)
    doubt = results["column"]["label_doubt"]
    assert doubt[8, 22:28, 16:22].min() > 0.5
    assert doubt[11, 4:7, 40:44].min() > 0.5
    for z in (2, 5, 14):
        assert doubt[z].max() < 0.5
    assert 0 <= doubt.min() <= doubt.max() <= 1


def test_a_swapped_class_is_doubted() -> None:
    volume = column()
    right_half = (volume.labels > 0) & (np.arange(48) >= 24)
    volume.labels[right_half] = 9
    volume.image[right_half] -= 40
    volume.labels[8][volume.labels[8] == 5] = 9
    results, _ = run([volume], bootstrap_steps=60, steps=5)
    left_halves = results["column"]["label_doubt"][:, 20:30, 15:21].mean((1, 2))
    assert left_halves[8] > 0.5
    assert left_halves[8] > 0.1 + max(left_halves[z] for z in CLEAN if z != 8)


def test_only_clean_slices_are_looked_at_after_all_predictions() -> None:
    results, events = run([column()])
    assert sorted(doubted(events)) == [("column", z) for z in CLEAN]
    others = np.setdiff1d(np.arange(17), CLEAN)
    assert not results["column"]["label_doubt"][others].any()
    previews = [event for event in events if isinstance(event, Preview)]
    kinds = ["label_doubt" in event.arrays for event in previews]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize(
    ("clean", "changes"),
    [((5, 11), {}), (CLEAN, {"find_label_errors": False}), (CLEAN, {"bootstrap_steps": 0, "steps": 0})],
    ids=["two clean slices", "switched off", "nothing learnt"],
)
def test_sometimes_there_is_nothing_to_say(clean: tuple[int, ...], changes: dict[str, object]) -> None:
    results, events = run([column(clean)], **changes)
    assert not doubted(events)
    assert not results["column"]["label_doubt"].any()
    assert isinstance(events[-1], Finished)


def test_without_time_left_the_predictions_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr("napari_mlbseg.training.prediction_writer.LabelErrorFinder", lambda *given: begun.append(given))
    monkeypatch.setattr("napari_mlbseg.training.schedule.Schedule.remaining", 0.0)
    results, events = run([column()])
    assert not begun, "not even a gradient is computed"
    assert not doubted(events)
    assert results["column"]["probability"].any((1, 2, 3)).all()


def test_clean_slices_of_all_volumes_count_together() -> None:
    single, pair = column((8,), "single"), column((5, 11), "pair")
    _, events = run([single, pair])
    assert sorted(doubted(events)) == [("pair", 5), ("pair", 11), ("single", 8)]


@pytest.mark.parametrize("changes", [{"shape_prior": False}, {"initial_labels": "network"}, {"norm": "batch"}], ids=str)
def test_it_needs_no_outline(changes: dict[str, object]) -> None:
    results, _ = run([column()], **changes)
    doubt = results["column"]["label_doubt"][list(CLEAN)]
    assert np.isfinite(doubt).all()
    assert doubt.any((1, 2)).all()


def prepared(volume: Volume, **changes: object) -> LabelErrorFinder:
    """After a few steps of training."""
    task = resolve_task([volume], config(**changes))
    training = Training(task, "cpu", MemoryResults(task), lambda: False, lambda: None, None, None, 0.0)
    known = {volume.name: known_labels(task, volume, task.config.initial_labels)}
    for stage in (training.initial_labels(known), training.bootstrap()):
        list(stage)
    return LabelErrorFinder(training.sampler, training.learner)


def test_the_direction_is_that_of_the_others_alone() -> None:
    """The sum without the slice's own gradient is the sum over the others."""
    look = prepared(column())
    expected: dict[str, torch.Tensor] = {}
    for z in CLEAN:
        if z != 8:
            for name, value in look._gradient((0, z)).items():
                expected[name] = expected.get(name, torch.zeros_like(value)) + value
    direction = look.direction((0, 8))
    for name, value in expected.items():
        torch.testing.assert_close(direction[name], value, atol=1e-5, rtol=1e-3)


def test_of_many_clean_slices_some_give_the_direction() -> None:
    look = prepared(column(tuple(range(17))))
    assert len(look._shown) == 8
    left_over = next(z for z in range(17) if (0, z) not in look._shown)
    assert look.doubt((0, left_over)).shape == (48, 48)


def test_given_labels_are_the_outline_of_the_slice_itself() -> None:
    volume = column()
    given = np.roll(volume.labels, 4, axis=2)
    look = prepared(replace(volume, initial_labels=given))
    assert np.array_equal(look.outline((0, 8)), given[8] == 5)


def test_labels_from_others_know_nothing_of_the_slice() -> None:
    volume, nonsense = column(), column()
    nonsense.labels[8] = 5 * (np.random.default_rng(0).random((48, 48)) > 0.5)
    looks = prepared(volume), prepared(nonsense)
    first, *_, last = volume.clean_slices
    assert np.array_equal(looks[0].outline((0, 8)), looks[1].outline((0, 8)))
    assert np.array_equal(looks[0].outline((0, first)), volume.labels[5] > 0)  # the first gets its neighbour's
    assert np.array_equal(looks[0].outline((0, last)), volume.labels[11] > 0)
    agreement = (looks[0].outline((0, 8)) == (volume.labels[8] > 0)).mean()
    assert agreement > 0.98


def test_doubt_is_the_probability_of_everything_else() -> None:
    probability = torch.tensor([0.7, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    torch.testing.assert_close(
        label_error_probability(probability, torch.tensor([[[0, 1, 2]]])), torch.tensor([[[0.3, 0.8, 0.9]]])
    )
