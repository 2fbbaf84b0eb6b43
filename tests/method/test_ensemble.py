"""PLE: mean and agreement of what views saw, consistency that every view feels, labels that stay probabilities."""

from __future__ import annotations

import pytest
import torch

from napari_mlbseg.method.ensemble import (
    Ensemble,
    consistency_loss,
    ensemble,
    hard_labels,
    most_likely,
    project_labels,
    teacher_loss,
)
from napari_mlbseg.method.views import IDENTITY, View, sample_views, seen, warp

SIDE = 24
VIEWS = (IDENTITY, View(1.3, (0.1, -0.1)), View(0.8), View(0.9), View(flip=(-1,)))


def one_hot(index: int, classes: int = 2, side: int = SIDE) -> torch.Tensor:
    """The same class everywhere, (1, K, side, side)."""
    labels = torch.zeros(1, classes, side, side)
    labels[:, index] = 1
    return labels


def smooth_labels(classes: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    coarse = torch.randn(2, classes, 4, 4)
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").softmax(1)


def everywhere(n: int) -> torch.Tensor:
    return torch.ones(n, 1, 1, SIDE, SIDE, dtype=torch.bool)


def test_a_zoom_in_does_not_pull_the_border_to_background():
    views = (IDENTITY, View(1.4))
    mean = ensemble([one_hot(1), one_hot(0)], views).mean()[0, 1]
    mask = seen(views[1], mean)
    assert mask.any()
    assert not mask.all()
    assert torch.equal(mean[~mask], torch.ones_like(mean[~mask])), "only the identity saw the border"
    assert torch.equal(mean[mask], torch.full_like(mean[mask], 0.5))


def test_the_mean_is_a_probability_and_that_of_equal_views_is_theirs():
    views = sample_views(8, (1.1, 1.4), (0.7, 0.95), torch.Generator().manual_seed(3))
    labels = smooth_labels()
    mean = ensemble([warp(labels, view) for view in views], views).mean()
    torch.testing.assert_close(mean.sum(1), torch.ones_like(mean[:, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(mean[..., 3:-3, 3:-3], labels[..., 3:-3, 3:-3], atol=0.05, rtol=0)


def test_a_flipped_prediction_is_mapped_back():
    labels = smooth_labels()
    views = (View(flip=(-1,)),)
    assert torch.equal(ensemble([torch.flip(labels, (-1,))], views).mean(), labels)


def test_agreement_is_one_where_all_views_say_the_same():
    agreement = Ensemble(smooth_labels().expand(4, -1, -1, -1, -1), everywhere(4)).agreement()
    torch.testing.assert_close(agreement, torch.ones_like(agreement))


@pytest.mark.parametrize("classes", [2, 4])
def test_agreement_is_zero_where_half_are_sure_of_another_class(classes):
    sure = torch.stack([one_hot(0, classes), one_hot(0, classes), one_hot(1, classes), one_hot(1, classes)])
    assert torch.equal(Ensemble(sure, everywhere(4)).agreement(), torch.zeros(1, SIDE, SIDE))


def test_agreement_lies_between_and_asks_only_who_saw_the_pixel():
    torch.manual_seed(0)
    agreement = Ensemble(torch.rand(5, 2, 3, SIDE, SIDE).softmax(2), everywhere(5)).agreement()
    assert ((agreement > 0) & (agreement < 1)).all()
    masks = everywhere(2).clone()
    masks[1, ..., 0] = False
    agreement = Ensemble(torch.stack([one_hot(0), one_hot(1)]), masks).agreement()[0]
    assert (agreement[:, 0] == 1).all()
    assert (agreement[:, 1:] == 0).all()


def test_consistency_is_zero_for_predictions_that_move_with_the_view():
    labels = torch.full((1, 2, SIDE, SIDE), 0.3)
    labels[:, 1] = 0.7
    mask = torch.ones(1, 1, SIDE, SIDE)
    assert float(consistency_loss(ensemble([labels] * 5, VIEWS), mask)) < 1e-12
    moved = [warp(smooth_labels(), view) for view in VIEWS]
    still = [smooth_labels()] * 5
    mask = torch.ones(2, 1, SIDE, SIDE)
    assert consistency_loss(ensemble(moved, VIEWS), mask) < 0.05 * consistency_loss(ensemble(still, VIEWS), mask)


def test_consistency_is_the_mean_over_all_pairs_of_views():
    views = (IDENTITY, View(flip=(-1,)), View(flip=(-2,)))
    parts = [one_hot(1), one_hot(1), one_hot(0)]
    loss = consistency_loss(ensemble(parts, views), torch.ones(1, 1, SIDE, SIDE))
    assert float(loss) == pytest.approx((0 + 1 + 1) / 3)


def test_one_view_is_consistent_with_itself():
    assert float(consistency_loss(ensemble([one_hot(1)], [IDENTITY]), torch.ones(1, 1, SIDE, SIDE))) == 0


def test_consistency_does_not_look_at_padding():
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., 12:] = 0
    wrong = one_hot(1)
    wrong[..., 12:] = one_hot(0)[..., 12:]
    views = (IDENTITY, View(flip=(-2,)))
    assert float(consistency_loss(ensemble([one_hot(1), wrong], views), mask)) == 0
    assert float(consistency_loss(ensemble([one_hot(1), wrong], views), 1 - mask)) > 0


def test_every_view_learns_from_the_consistency_the_flip_too():
    torch.manual_seed(0)
    logits = [torch.randn(1, 2, SIDE, SIDE, requires_grad=True) for _ in VIEWS]
    on_slice = ensemble([part.softmax(1) for part in logits], VIEWS)
    loss = consistency_loss(on_slice, torch.ones(1, 1, SIDE, SIDE))
    sizes = [float(gradient.norm()) for gradient in torch.autograd.grad(loss, logits)]
    assert min(sizes) > 0.2 * max(sizes)


def test_hard_labels_are_the_most_likely_class():
    probability = smooth_labels(4)
    hard = hard_labels(probability)
    assert hard.dtype == probability.dtype
    assert torch.equal(hard.sum(1), torch.ones(2, SIDE, SIDE))
    assert torch.equal(hard.argmax(1), probability.argmax(1))


def test_of_equal_classes_the_first_is_the_most_likely() -> None:
    probability = torch.randint(0, 3, (3, 4, 20, 20), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(most_likely(probability), probability.argmax(1))


def test_hard_labels_of_two_classes_are_the_threshold_at_one_half():
    probability = smooth_labels(2)
    assert torch.equal(hard_labels(probability)[:, 1], (probability[:, 1] > 0.5).float())


def test_projected_labels_sum_to_one_and_do_not_grow():
    disc = torch.zeros(1, 2, SIDE, SIDE)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc[0, 1] = ((rows - 11.5) ** 2 + (columns - 11.5) ** 2 < 36).float()
    disc[:, 0] = 1 - disc[:, 1]
    for view, projected in zip(VIEWS, project_labels(disc, VIEWS), strict=True):
        torch.testing.assert_close(projected.sum(1), torch.ones(1, SIDE, SIDE), atol=1e-5, rtol=0)
        assert float(projected[:, 1].sum()) == pytest.approx(float(disc[:, 1].sum()) * view.zoom**2, rel=0.06)


def test_teacher_loss_is_the_mean_square_where_the_mask_is_one():
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., :6] = 1
    taught = one_hot(0)
    taught[..., :3] = one_hot(1)[..., :3]
    assert float(teacher_loss(one_hot(0), taught, mask)) == pytest.approx(0.5)
    assert float(teacher_loss(one_hot(0), taught, 0 * mask)) == 0


@pytest.mark.parametrize("blind", [0, 1])
def test_views_are_not_held_to_what_one_of_them_did_not_see(blind):
    probabilities = torch.stack([one_hot(1), one_hot(1)])
    seen = torch.ones(2, 1, 1, SIDE, SIDE, dtype=torch.bool)
    probabilities[blind, ..., :4] = 1 - probabilities[blind, ..., :4]  # they contradict each other in four columns
    mask = torch.ones(1, 1, SIDE, SIDE)
    assert float(consistency_loss(Ensemble(probabilities, seen), mask)) > 0
    seen[blind, ..., :4] = False
    assert float(consistency_loss(Ensemble(probabilities, seen), mask)) == 0
