"""Pseudo Label Enhancement (PLE): the ensemble of views, how far the views agree, and the consistency losses.

Shapes: B slices, V views, K classes. Lists over views hold one (B, K, H, W) tensor a view.
Source: Wei et al., MICCAI 2023 (MLB-Seg), section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mlbseg.method.views import View, seen, unwarp, warp

__all__ = ["Ensemble", "consistency_loss", "ensemble", "hard_labels", "most_likely", "project_labels", "teacher_loss"]


class Ensemble:
    """Predictions of several views, mapped back to the slice.

    Attributes
    ----------
    probabilities : Tensor, (V, B, K, H, W)
        Of each view, on the slice.
    seen : Tensor, (V, 1, 1, H, W) bool
        Which pixels each view saw.
    """

    def __init__(self, probabilities: Tensor, seen_by: Tensor) -> None:
        self.probabilities = probabilities
        self.seen = seen_by

    def mean(self) -> Tensor:
        """Mean probability over the views that saw a pixel, (B, K, H, W). The identity sees all, so none is empty."""
        weight = self.seen.to(self.probabilities.dtype)
        return (self.probabilities * weight).sum(0) / weight.sum(0).clamp(min=1)

    def agreement(self) -> Tensor:
        """How far the views agree on a pixel: 1 - 2 * variance summed over classes, (B, H, W) in [0, 1].

        1 where all say the same; 0 where half of them are sure of one class and half of another.
        """
        weight = self.seen.to(self.probabilities.dtype)
        count = weight.sum(0).clamp(min=1)
        mean = (self.probabilities * weight).sum(0) / count
        variance = (((self.probabilities - mean) ** 2) * weight).sum(0) / count
        return (1 - 2 * variance.sum(1)).clamp(0, 1)


def ensemble(probabilities: Sequence[Tensor], views: Sequence[View]) -> Ensemble:
    """Map the probabilities that were predicted in each view back to the slice. Differentiable."""
    back = torch.stack([unwarp(p, view) for p, view in zip(probabilities, views, strict=True)])
    masks = torch.stack([seen(view, back) for view in views])
    return Ensemble(back, masks[:, None, None])


def hard_labels(probability: Tensor) -> Tensor:
    """Most likely class as one-hot, (B, K, H, W) -> (B, K, H, W): for two classes the paper's threshold at 0.5."""
    return F.one_hot(most_likely(probability), probability.shape[1]).movedim(-1, 1).to(probability.dtype)


def most_likely(probability: Tensor) -> Tensor:
    """Index of the most likely class, of equals the first, (B, K, H, W) -> (B, H, W).

    On a CPU ten times quicker than `torch.argmax`, which took longer than a small network's whole prediction.
    """
    return probability.max(1).indices


def project_labels(labels: Tensor, views: Sequence[View]) -> list[Tensor]:
    """What each view shows of one-hot labels. Bilinear: they still sum to 1, nothing dilates."""
    return [warp(labels, view) for view in views]


def consistency_loss(views: Ensemble, mask: Tensor) -> Tensor:
    """Mean squared difference of the probabilities over all pairs of views, where both saw a pixel. A scalar.

    Parameters
    ----------
    views : Ensemble
    mask : Tensor, (B, 1, H, W)
        1 where the slice has a pixel, 0 in its padding.
    """
    pairs = list(combinations(range(len(views.probabilities)), 2))
    if not pairs:
        return views.probabilities.new_zeros(())
    differences = []
    for i, j in pairs:
        both = (views.seen[i] & views.seen[j]).to(mask.dtype) * mask
        squared = (views.probabilities[i] - views.probabilities[j]).square().mean(1, keepdim=True)
        differences.append((squared * both).sum() / both.sum().clamp(min=1))
    return torch.stack(differences).mean()


def teacher_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of two probabilities (B, K, H, W) where `mask` (B, 1, H, W) is 1."""
    squared = (student - teacher).square().mean(1, keepdim=True)
    return (squared * mask).sum() / mask.sum().clamp(min=1)
