"""Supervised losses on clean slices, and the per-pixel cross-entropy that the weights multiply."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["pixel_cross_entropy", "supervised_loss"]

_SMOOTH = 1e-5


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each pixel, (B, H, W); `labels` are class probabilities (B, K, H, W), one-hot or soft."""
    return -(labels * F.log_softmax(logits, 1)).sum(1)


def supervised_loss(logits: Tensor, labels: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Loss on clean slices, a scalar.

    Parameters
    ----------
    logits, labels : Tensor, (B, K, H, W)
    mask : Tensor, (B, 1, H, W)
        1 where the slice has a pixel.
    kind : {"ce", "dice_ce"}
        Mean cross-entropy, or its sum with the Dice loss over the batch, averaged over the foreground classes that
        occur in it.
    """
    cross_entropy = (pixel_cross_entropy(logits, labels) * mask[:, 0]).sum() / mask.sum().clamp(min=1)
    if kind == "ce":
        return cross_entropy
    probability, labels = logits.softmax(1)[:, 1:] * mask, labels[:, 1:] * mask
    overlap, size, truth = (part.sum((0, 2, 3)) for part in (probability * labels, probability, labels))  # (K - 1,)
    occurs = (truth > 0).to(truth.dtype)
    dice = 1 - (2 * overlap + _SMOOTH) / (size + truth + _SMOOTH)
    return cross_entropy + (dice * occurs).sum() / occurs.sum().clamp(min=1)
