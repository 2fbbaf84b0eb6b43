"""The shape prior: the network also sees where the initial labels say the structure is, and learns to doubt it.

The prior is the signed distance to the initial label's outline, one channel a foreground class. Shown as it is, a
network would copy it. In training it is therefore bent and shifted at random, about as far as initial labels err,
while the target stays where it was: the network learns to bring a wrong outline back to the image's edges from a few
clean slices. Sometimes it is withheld (all zero), so that the network also works where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.signed_distance import signed_distance

__all__ = ["ShapePrior", "blended", "soft_labels", "confidence_at_distance", "typical_label_error_px"]

_LIMIT = 3.0  # distances are cut off at this many reaches
_SOFTNESS = 0.35  # of an outline, in reaches
_KNOTS = 6  # of the random bend, along each side of a patch


def typical_label_error_px(planes: Iterable[np.ndarray]) -> float:
    """How far initial labels may err, in pixels: a fifth of the structure's radius, from clean slices (Y, X) of ints.

    The radius is that of a disc as large as the median foreground.
    """
    areas = [int(np.count_nonzero(plane)) for plane in planes]
    radius = float(np.sqrt(np.median([area for area in areas if area] or [1]) / np.pi))
    return float(np.clip(0.2 * radius, 2.0, 20.0))


def soft_labels(prior: Tensor) -> Tensor:
    """Class probabilities of prior channels, (B, K - 1, Y, X) -> (B, K, Y, X): a half on an outline, soft beside it."""
    logits = torch.cat([torch.zeros_like(prior[:, :1]), prior / _SOFTNESS], 1)
    return logits.softmax(1)


def blended(network: Tensor, initial: Tensor, share: Tensor, better: np.ndarray | None = None) -> Tensor:
    """Probabilities of both, (B, K, Y, X): where the network is not `better` for a class, initial labels decide that.

    Parameters
    ----------
    network, initial : Tensor, (B, K, Y, X)
    share : Tensor, (B,)
        Of the initial labels, for the other classes.
    better : ndarray of bool, (K,), optional
        All by default; that of the background is not asked.
    """
    mixed = torch.lerp(network, initial.to(network), share.to(network)[:, None, None, None])
    if better is None or better[1:].all():
        return mixed
    stands = torch.from_numpy(~better)
    stands[0] = False
    kept = initial.to(network)[:, stands]
    mixed[:, stands] = 0
    mixed *= (1 - kept.sum(1, keepdim=True)).clamp(min=0) / mixed.sum(1, keepdim=True).clamp(min=1e-6)
    mixed[:, stands] = kept
    return mixed


def confidence_at_distance(distance: float, reach: float) -> float:
    """How far labels carried from clean slices can be trusted, 1 on a clean slice and a half `reach` away from it.

    As errors that grow with the distance are weighed against those of a network, which do not: by their squares.

    Parameters
    ----------
    distance : float
        To the nearest clean slice, in pixels.
    reach : float
        See `typical_label_error_px`.
    """
    return 1 / (1 + (distance / reach) ** 2)


class ShapePrior:
    """Makes prior channels from labels, and doubts them for training.

    Parameters
    ----------
    config : TrainingConfig
    n_classes : int
        Background included.
    reach : float
        Pixels that initial labels may err, see `typical_label_error_px`.
    """

    def __init__(self, config: TrainingConfig, n_classes: int, reach: float) -> None:
        self.channels = n_classes - 1 if config.shape_prior else 0
        self.reach = reach
        self._doubt = config.prior_doubt
        self._dropout = config.prior_dropout

    def __call__(self, labels: np.ndarray | None, shape: tuple[int, int], device: torch.device) -> Tensor:
        """Prior channels (K - 1, Y, X) of class indices (Y, X); zero, which says nothing, for None."""
        if labels is None or not self.channels:
            return torch.zeros(self.channels, *shape, device=device)
        return self.distances(labels, self.channels + 1).to(device)

    def window(self, labels: np.ndarray | None, rows: slice, columns: slice, device: torch.device) -> Tensor:
        """Part of the prior channels, (K - 1, y, x), of class indices (Y, X): the same as that part of the whole."""
        size = rows.stop - rows.start, columns.stop - columns.start
        if labels is None or not self.channels:
            return self(None, size, device)
        margin = math.ceil(_LIMIT * self.reach) + 1  # an outline farther away makes no difference
        top, left = max(0, rows.start - margin), max(0, columns.start - margin)
        around = self(labels[top : rows.stop + margin, left : columns.stop + margin], (0, 0), device)
        return around[:, rows.start - top :, columns.start - left :][:, : size[0], : size[1]]

    def distances(self, labels: np.ndarray, n_classes: int) -> Tensor:
        """Signed distances to the outline of each foreground class in reaches, cut off, (K - 1, Y, X)."""
        distances = np.stack([signed_distance(labels == k) for k in range(1, n_classes)])
        return torch.from_numpy(np.clip(distances / self.reach, -_LIMIT, _LIMIT))

    def perturb_prior(self, prior: Tensor, generator: torch.Generator) -> Tensor:
        """Bend, shift and sometimes withhold the prior of each sample, (B, K - 1, H, W)."""
        if not self.channels:
            return prior
        batch, _, height, width = prior.shape
        strength = self._doubt * torch.rand(batch, 1, 1, 1, generator=generator)  # in reaches
        pixels = strength * self.reach * torch.tensor([2 / width, 2 / height]).view(1, 2, 1, 1)
        knots = torch.randn(batch, 2, _KNOTS, _KNOTS, generator=generator) * pixels
        bend = F.interpolate(knots, (height, width), mode="bicubic", align_corners=True).movedim(1, -1)
        grid = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), [batch, 1, height, width], align_corners=False)
        bent = F.grid_sample(prior, (grid + bend).to(prior.device), padding_mode="border", align_corners=False)
        offset = 0.2 * strength * torch.randn(batch, 1, 1, 1, generator=generator)
        kept = torch.rand(batch, 1, 1, 1, generator=generator) >= self._dropout
        return ((bent + offset.to(prior.device)).clamp(-_LIMIT, _LIMIT)) * kept.to(prior.device)
