"""What is learnt is shown once it beats the initial labels on clean slices that it has not learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Event, Metrics
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.method.shape_prior import blended
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
from napari_mlbseg.training.checkpoint import LearntFrom, learnt_from
from napari_mlbseg.training.dataset import SliceSampler
from napari_mlbseg.training.evidence import Evidence
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.trainer import train

CLEAN = (1, 6, 11)


def tube(classes: int = 1, clean: tuple[int, ...] = CLEAN) -> Volume:
    """A bright tube that winds through noise, so that outlines from other slices are off; its core is class 5."""
    z, y, x = np.indices((13, 48, 48)).astype(float)
    distance = np.hypot(y - 24 - 6 * np.sin(z), x - 24 - 6 * np.cos(z))
    labels = (distance < 10).astype(np.uint8)
    if classes == 2:
        labels[distance < 5] = 5
    image = 100.0 * (labels > 0) + 60 * (labels == 5) + np.random.default_rng(0).normal(0, 12, labels.shape)
    marks = np.zeros(13, bool)
    marks[list(clean)] = True
    return Volume("tube", image.astype(np.float32), labels, marks)


def task(volume: Volume, **changes: object) -> SegmentationTask:
    small = {
        "features": (8, 16, 16),
        "time_budget": None,
        "find_label_errors": False,
        "initial_labels": "interpolation",
    }
    return resolve_task([volume], TrainingConfig.from_preset("quick", **{**small, **changes}))


def run(wanted: SegmentationTask, **options: object) -> tuple[dict[str, np.ndarray], list[Event]]:
    results = MemoryResults(wanted)
    events = list(train(wanted, "cpu", results=results, **options))
    return results["tube"], events


def said(events: list[Event], name: str = "evidence") -> str:
    return "".join(str(e.values.get(name, "")) for e in events if isinstance(e, Metrics))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("steps", [1, 10])
def test_a_network_that_has_hardly_begun_replaces_no_initial_labels(steps: int, given: bool) -> None:
    volume = tube(classes=2)
    if given:
        volume = replace(volume, initial_labels=np.roll(volume.labels, 1, axis=1))
    source = "given" if given else "interpolation"
    found, events = run(task(volume, bootstrap_steps=steps, steps=1, initial_labels=source))
    others = ~volume.clean
    assert np.array_equal(found["pseudo_labels"][others], found["initial_labels"][others])
    assert found["initial_labels"][others].any()
    assert "has learnt too little to be compared" in said(events, "note_evidence")
    assert said(events) == said(events, "note_evidence")


def test_a_network_that_is_better_on_a_slice_it_has_not_learnt_from_is_shown(tmp_path: Path) -> None:
    volume, model = tube(), tmp_path / "model.safetensors"
    learning = task(volume, bootstrap_steps=80, steps=2)
    found, events = run(learning, save_to=model)
    others = ~volume.clean
    truth = volume.labels[others]
    assert dice(found["pseudo_labels"][others], truth) > dice(found["initial_labels"][others], truth) + 0.03
    assert "On 1 clean slice that it had not learnt from" in said(events)
    assert said(events).endswith("the network is shown.")
    assert said(events, "note_evidence") == ""
    assert learnt_from(model) == LearntFrom({"tube": list(CLEAN)}, [0, 1])
    # a round that only predicts shows it for what was measured in the round before
    rest, _ = run(task(volume, bootstrap_steps=0, steps=0), warm_start=model)
    assert dice(rest["pseudo_labels"][others], truth) > dice(rest["initial_labels"][others], truth) + 0.03


def test_with_two_clean_slices_there_is_no_evidence() -> None:
    volume = tube(clean=(1, 11))
    found, events = run(task(volume, bootstrap_steps=30, steps=1))
    assert np.array_equal(found["pseudo_labels"], found["initial_labels"])
    assert "Mark at least 3 slices clean" in said(events, "note_evidence")


def pool_of(volume: Volume) -> SliceSampler:
    wanted = task(volume)
    sampler = SliceSampler(wanted, torch.device("cpu"), torch.Generator().manual_seed(0))
    sampler.set_initial_labels([known_labels(wanted, volume, "interpolation")], [True])
    sampler.is_known_beforehand = [True]
    return sampler


class Oracle(torch.nn.Module):
    """Knows the label of a pixel from its brightness: bright ones are class 1, or none at all."""

    def __init__(self, n_classes: int, *, knows: bool) -> None:
        super().__init__()
        self.n_classes, self.knows = n_classes, knows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), self.n_classes, *x.shape[-2:])
        logits[:, 1] = 50 * (torch.nn.functional.avg_pool2d(x[:, 0], 3, 1, 1) - 0.5) if self.knows else -50
        return logits


def test_what_is_withheld_is_not_drawn_until_the_network_is_better_there() -> None:
    sampler, oracle = pool_of(tube()), Oracle(2, knows=False)
    sampled: set[tuple[int, int]] = set()
    pick = sampler._pick
    sampler._pick = lambda keys, n: sampled.update(keys) or pick(keys, n)  # type: ignore[method-assign]
    evidence = Evidence(sampler, oracle)
    assert sampler.withheld == {(0, 6)}
    evidence.compare(steps=100)
    sampler.draw_clean(2, augment=False)
    assert sampled == {(0, 1), (0, 11)}
    assert evidence.learnt == LearntFrom({"tube": [1, 11]}, [0])
    oracle.knows = True
    evidence.compare(steps=100)
    sampler.draw_clean(2, augment=False)
    assert sampled == {(0, z) for z in CLEAN}
    assert evidence.learnt == LearntFrom({"tube": list(CLEAN)}, [0, 1])


def test_of_several_classes_each_is_judged_for_itself() -> None:
    sampler = pool_of(tube(classes=2))
    evidence = Evidence(sampler, Oracle(3, knows=True))  # takes the core for the rim
    evidence.compare(steps=100)
    assert evidence.better.tolist() == [True, True, False]
    assert "the network is shown for label 1, the initial labels for the others" in str(evidence)
    assert sampler.withheld


def test_where_a_class_is_better_off_with_initial_labels_they_decide_about_it() -> None:
    random = torch.Generator().manual_seed(0)
    network, initial = (torch.rand(1, 4, 9, 9, generator=random).mul(8).softmax(1) for _ in range(2))
    better = np.array([True, True, False, False])
    shown = blended(network, initial, torch.tensor([0.0]), better)
    torch.testing.assert_close(shown.sum(1), torch.ones(1, 9, 9))
    assert torch.equal(shown[:, 2:], initial[:, 2:])
    torch.testing.assert_close(shown[:, 1] / shown[:, 0], network[:, 1] / network[:, 0])
    assert torch.equal(blended(network, initial, torch.tensor([0.0])), network)


def test_what_the_model_before_has_learnt_from_is_no_evidence_any_more() -> None:
    sampler = pool_of(tube(clean=(1, 4, 6, 9, 11)))
    Evidence(sampler, Oracle(2, knows=True), LearntFrom({"tube": [1, 4, 6, 11]}, [0]))
    assert sampler.withheld == {(0, 9)}
    all_known = Evidence(sampler, Oracle(2, knows=True), LearntFrom({"tube": [1, 4, 6, 9, 11]}, [0, 1]))
    assert not sampler.withheld
    assert str(all_known) == "As in the round before, the network is shown."


def test_a_slice_that_alone_shows_a_class_is_learnt_from() -> None:
    volume = tube(classes=2)
    volume.labels[[1, 11]] = np.minimum(volume.labels[[1, 11]], 1)  # the core is painted in the middle only
    sampler = pool_of(volume)
    Evidence(sampler, Oracle(3, knows=True))
    assert not sampler.withheld
