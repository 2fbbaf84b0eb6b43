"""Losses: against torch's own where that has one, and at the ends of their range."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from napari_mlbseg.method.losses import pixel_cross_entropy, supervised_loss


def batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, class indices, and a mask of all ones."""
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 6, 5, dtype=torch.float64)
    return logits, torch.randint(classes, (2, 6, 5)), torch.ones(2, 1, 6, 5, dtype=torch.float64)


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return F.one_hot(labels, classes).movedim(-1, 1).double()


def test_pixel_cross_entropy_is_torchs():
    logits, labels, _ = batch()
    found = pixel_cross_entropy(logits, one_hot(labels, 3))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


def test_pixel_cross_entropy_takes_soft_labels():
    logits, _, _ = batch()
    soft = torch.rand(2, 3, 6, 5, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(pixel_cross_entropy(logits, soft), F.cross_entropy(logits, soft, reduction="none"))


def test_sure_and_wrong_logits_still_have_a_gradient():
    logits = torch.tensor([[[[80.0]], [[-80.0]]]], requires_grad=True)
    pixel_cross_entropy(logits, one_hot(torch.ones(1, 1, 1, dtype=torch.long), 2).float()).sum().backward()
    assert logits.grad.abs().min() > 0.9


def test_padding_does_not_count():
    logits, labels, mask = batch()
    mask[..., 3:] = 0
    other = logits.clone()
    other[..., 3:] += 7
    for kind in ("ce", "dice_ce"):
        assert supervised_loss(logits, one_hot(labels, 3), mask, kind) == supervised_loss(
            other, one_hot(labels, 3), mask, kind
        )


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_a_whole_dice():
    _, labels, mask = batch()
    sure = 200 * one_hot(labels, 3) - 100
    assert float(supervised_loss(sure, one_hot(labels, 3), mask, "dice_ce")) == pytest.approx(0, abs=1e-5)
    wrong = supervised_loss(-sure, one_hot(labels, 3), mask, "dice_ce")
    assert float(wrong - supervised_loss(-sure, one_hot(labels, 3), mask, "ce")) > 0.5


def test_a_class_that_does_not_occur_has_no_dice():
    logits, labels, mask = batch()
    labels[labels == 2] = 0
    base, more = one_hot(labels, 3), one_hot(labels, 4)
    impossible = torch.full((2, 1, 6, 5), -1e4, dtype=torch.float64)
    torch.testing.assert_close(
        supervised_loss(torch.cat([logits, impossible], 1), more, mask, "dice_ce"),
        supervised_loss(logits, base, mask, "dice_ce"),
    )


def test_slices_of_background_alone_cost_no_dice():
    logits, labels, mask = batch()
    empty = one_hot(0 * labels, 3)
    assert supervised_loss(logits, empty, mask, "dice_ce") == supervised_loss(logits, empty, mask, "ce")
