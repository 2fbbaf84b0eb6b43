"""Weight maps that a person can look at: running means of the pixels' weights over the visits of a training.

One step's map is noise; the mean over many, mapped back from the views to the slice, is not. Values are relative: 1 is
the mean weight of a pixel in its batch, both maps together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from napari_mlbseg._util.disk_cache import DiskCache
from napari_mlbseg.method.normalisation import needs_tiling
from napari_mlbseg.method.pixel_weights import PixelWeights
from napari_mlbseg.method.views import View, seen, unwarp

__all__ = ["WeightMaps", "on_slice"]

_TILE = 256  # side of the parts of a large slice that are kept each by itself, if they were visited at all
_MOST_BYTES = 2**29  # of sums in memory: a map takes 12 bytes a pixel


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
        self._sums = DiskCache(_MOST_BYTES)  # (volume, z, row, column) -> (3, y, x): w^n, w^p, visits of a tile
        self._shapes: dict[tuple[int, int], tuple[int, int]] = {}  # of the slices that were visited
        self._whole: set[tuple[int, int, int, int]] = set()  # tiles of which every pixel was visited

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
        self._shapes[key] = shape
        patch = torch.stack([initial, pseudo]).cpu().numpy()
        bottom, right = corner[0] + patch.shape[1], corner[1] + patch.shape[2]
        for top, left, rows, columns in _tiles(shape):
            if top >= bottom or top + rows <= corner[0] or left >= right or left + columns <= corner[1]:
                continue
            tile = (*key, top, left)
            if tile not in self._sums:
                self._sums[tile] = np.zeros((3, rows, columns), np.float32)
            total = self._sums[tile]
            row, column = max(0, corner[0] - top), max(0, corner[1] - left)
            target = total[:, row : bottom - top, column : right - left]
            above, before = max(0, top - corner[0]), max(0, left - corner[1])
            target[:2] += patch[:, above : above + target.shape[1], before : before + target.shape[2]]
            target[2] += 1
            if tile not in self._whole and total[2].min() > 0:
                self._whole.add(tile)

    def mean(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean w^n and w^p, (Y, X) each; None for a slice never visited."""
        if key not in self._shapes:
            return None
        shape = self._shapes[key]
        initial, pseudo = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for top, left, rows, columns in _tiles(shape):
            tile = (*key, top, left)
            if tile in self._sums:
                total = self._sums[tile]
                visits = np.maximum(total[2], 1)
                here = slice(top, top + rows), slice(left, left + columns)
                initial[here], pseudo[here] = total[0] / visits, total[1] / visits
        return initial, pseudo

    @property
    def visited(self) -> bool:
        """Whether anything was visited."""
        return bool(self._shapes)

    def covers(self, key: tuple[int, int]) -> bool:
        """Whether every pixel of the slice was visited."""
        return key in self._shapes and all((*key, *tile[:2]) in self._whole for tile in _tiles(self._shapes[key]))


def _tiles(shape: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Row, column, rows and columns of the parts of a slice: itself, unless it is large."""
    if not needs_tiling(shape):
        yield 0, 0, *shape
        return
    for top in range(0, shape[0], _TILE):
        for left in range(0, shape[1], _TILE):
            yield top, left, min(_TILE, shape[0] - top), min(_TILE, shape[1] - left)
