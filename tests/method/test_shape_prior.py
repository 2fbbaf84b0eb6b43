"""The shape prior: an outline that the network sees, and doubts in training."""

import numpy as np
import pytest
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.shape_prior import ShapePrior, confidence_at_distance, soft_labels, typical_label_error_px
from napari_mlbseg.task import Volume, resolve_task
from napari_mlbseg.training.stages import with_fitting_prior

CPU = torch.device("cpu")


def disc(radius: float, side: int = 64) -> np.ndarray:
    y, x = np.indices((side, side)) - side // 2
    return (y**2 + x**2 <= radius**2).astype(np.int64)


def prior_of(labels: np.ndarray | None, n_classes: int = 2, **changes: object) -> torch.Tensor:
    prior = ShapePrior(TrainingConfig(**changes), n_classes, reach=4.0)
    return prior(labels, (64, 64), CPU)


def test_reach_is_a_fifth_of_the_radius() -> None:
    assert typical_label_error_px([disc(20), np.zeros((64, 64), int)]) == pytest.approx(4.0, abs=0.1)


def test_reach_is_bounded_for_specks_and_for_nothing() -> None:
    assert typical_label_error_px([]) == typical_label_error_px([disc(1)]) == 2.0


def test_carried_labels_are_trusted_less_with_the_distance() -> None:
    trust = [confidence_at_distance(distance, reach=4.0) for distance in (0, 2, 4, 12)]
    assert trust == [1.0, 0.8, 0.5, 0.1]


def test_prior_is_positive_inside_and_negative_outside_in_units_of_reach() -> None:
    prior = prior_of(disc(20))
    assert prior.shape == (1, 64, 64)
    assert prior[0, 32, 32] == 3.0  # 20 pixels deep, cut off at 3 reaches of 4
    assert prior[0, 32, 32 + 16] == pytest.approx(4.5 / 4, abs=0.26)
    assert prior[0, 0, 0] == -3.0


def test_prior_has_a_channel_for_each_foreground_class() -> None:
    labels = disc(20)
    labels[:, :32] *= 3
    prior = prior_of(labels, n_classes=4)
    assert prior.shape == (3, 64, 64)
    assert prior[0, 32, 44] > 0 > prior[2, 32, 44]
    assert prior[2, 32, 20] > 0 > prior[0, 32, 20]
    assert (prior[1] == -3).all()


def test_unknown_labels_say_nothing() -> None:
    assert (prior_of(None) == 0).all()


def test_without_shape_prior_there_are_no_channels() -> None:
    assert prior_of(disc(20), shape_prior=False).shape == (0, 64, 64)


def test_doubt_moves_the_outline_about_as_far_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = ShapePrior(TrainingConfig(prior_doubt=1.0, prior_dropout=0.0), 2, reach=4.0)
    straight = prior(disc(20), (64, 64), CPU).expand(64, 1, 64, 64)
    moved = (prior.perturb_prior(straight, generator) - straight).abs()[
        straight.abs() < 0.3
    ] * 4.0  # pixels at the outline
    assert 0.5 < float(moved.mean()) < 4.0


def test_no_doubt_leaves_the_prior_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = ShapePrior(TrainingConfig(prior_doubt=0.0, prior_dropout=0.0), 2, reach=4.0)
    straight = prior(disc(20), (64, 64), CPU)[None]
    torch.testing.assert_close(prior.perturb_prior(straight, generator), straight, atol=1e-4, rtol=0)


def test_dropout_withholds_the_prior_of_about_its_share_of_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = ShapePrior(TrainingConfig(prior_doubt=0.0, prior_dropout=0.25), 2, reach=4.0)
    shown = prior.perturb_prior(torch.ones(400, 1, 8, 8), generator)
    withheld = (shown == 0).all((1, 2, 3)).float().mean()
    assert 0.18 < float(withheld) < 0.32


def test_same_seed_same_doubt() -> None:
    prior = ShapePrior(TrainingConfig(), 2, reach=4.0)
    straight = prior(disc(20), (64, 64), CPU)[None]
    first, second = (prior.perturb_prior(straight, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_soft_labels_are_probabilities_that_follow_the_labels() -> None:
    labels = disc(20)
    labels[:, :32] *= 2
    soft = soft_labels(prior_of(labels, n_classes=3)[None])
    torch.testing.assert_close(soft.sum(1), torch.ones(1, 64, 64))
    assert (soft.argmax(1)[0].numpy() == labels).mean() > 0.99
    assert 0.4 < float(soft[0, 1, 32, 51]) < 0.8  # near the outline it is undecided


def fitted(*clean: int, given: bool = False, **changes: object) -> TrainingConfig:
    """The config of a training on volumes of ten slices, of which so many are clean each."""
    volumes = []
    for number, n in enumerate(clean):
        labels = np.stack([disc(10, 32)] * 10)
        known = labels if given and not n else None
        volumes.append(Volume(str(number), labels.astype(np.float32), labels, np.arange(10) < n, known))
    return with_fitting_prior(resolve_task(volumes, TrainingConfig(**changes))).config


def test_a_prior_that_every_volume_has_is_left_as_it_is() -> None:
    assert fitted(3, 2, prior_dropout=0.2) == TrainingConfig(prior_dropout=0.2)
    assert fitted(3, 0, given=True) == TrainingConfig()


def test_a_prior_is_withheld_as_often_as_it_will_be_missing() -> None:
    config = fitted(4, 0, 0)
    assert config.shape_prior
    assert config.prior_dropout == pytest.approx(20 / 26)
    assert fitted(4, 0, 0, prior_dropout=0.9).prior_dropout == 0.9
    assert fitted(10, 4, 0).prior_dropout == pytest.approx(10 / 16), "slices that are clean need none"


@pytest.mark.parametrize(
    ("clean", "changes"),
    [((10, 0), {}), ((1,), {}), ((10,), {}), ((3,), {"initial_labels": "network"})],
    ids=["whole volumes teach others", "nothing to interpolate", "nothing to label", "by the network alone"],
)
def test_a_prior_that_is_nowhere_known_is_none(clean: tuple[int, ...], changes: dict[str, object]) -> None:
    assert not fitted(*clean, **changes).shape_prior
    assert not fitted(*clean, **changes, shape_prior=False).shape_prior
