"""Weight maps that a person can look at: running means of the pixels' weights over the visits of a training.

One step's map is noise; the mean over many, mapped back from the views to the slice, is not. Values are relative: 1 is
the mean weight of a pixel in its batch, both maps together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from napari_mlbseg.engine.pixel_weights import PixelWeights
from napari_mlbseg.engine.views import View, seen, unwarp

__all__ = ["WeightMaps", "on_slice"]


def on_slice(weights: PixelWeights, views: Sequence[View]) -> tuple[Tensor, Tensor]:
    """Weights of all views, mapped back and averaged over the views that saw a pixel.

    Parameters
    ----------
    weights : PixelWeights
        Of the views of B slices, view after view: (V * B, H, W).
    views : sequence of View

    Returns
    -------
    initial, pseudo : Tensor, (B, H, W)
        Relative weights: multiplied by the number of pixels over which they were normalised.
    """
    pixels = weights.initial.numel()
    both = torch.stack([weights.initial, weights.pseudo], 1) * pixels  # (V * B, 2, H, W)
    parts = both.chunk(len(views))
    masks = [seen(view, both).to(both.dtype) for view in views]
    total = torch.stack([unwarp(part, view) * mask for part, view, mask in zip(parts, views, masks, strict=True)]).sum(
        0
    )
    mean = total / torch.stack(masks).sum(0).clamp(min=1)
    return mean[:, 0], mean[:, 1]


class WeightMaps:
    """Running mean of w^n and w^p for every pixel that was visited."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], np.ndarray] = {}  # (volume, z) -> (3, Y, X): w^n, w^p, visits

    def add(
        self,
        key: tuple[int, int],
        shape: tuple[int, int],
        corner: tuple[int, int],
        initial: Tensor,
        pseudo: Tensor,
    ) -> None:
        """Add one visit.

        Parameters
        ----------
        key : tuple of int
            Number of the volume, and the slice.
        shape : tuple of int
            Rows and columns of the slice.
        corner : tuple of int
            Where on the slice the patch begins.
        initial, pseudo : Tensor, (h, w)
            The patch; what reaches beyond the slice is padding.
        """
        total = self._sums.setdefault(key, np.zeros((3, *shape), np.float32))
        patch = torch.stack([initial, pseudo]).cpu().numpy()
        target = total[:, corner[0] : corner[0] + patch.shape[1], corner[1] : corner[1] + patch.shape[2]]
        target[:2] += patch[:, : target.shape[1], : target.shape[2]]
        target[2] += 1

    def mean(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean w^n and w^p, (Y, X) each; None for a slice never visited."""
        total = self._sums.get(key)
        if total is None:
            return None
        visits = np.maximum(total[2], 1)
        return total[0] / visits, total[1] / visits

    @property
    def visited(self) -> bool:
        """Whether anything was visited."""
        return bool(self._sums)

    def covers(self, key: tuple[int, int]) -> bool:
        """Whether every pixel of the slice was visited."""
        total = self._sums.get(key)
        return total is not None and bool(total[2].min() > 0)
