"""Registration of neighbouring slices: dense displacements by iterative Lucas-Kanade."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from napari_mlbseg.method.normalisation import Normalisation
from napari_mlbseg.task import Volume

__all__ = ["optical_flow"]

_WINDOW = 5  # of Lucas-Kanade, in pixels of the level: nearly Gaussian, about so wide
_FINEST = 1  # level at which the pyramid ends: half resolution, a quarter of the pixels
_COARSER = 2  # levels above the finest
_FINE_SIDE = 256  # larger images end at a coarser level, about this large
_WARPS = 3  # linearisations on each level
_DAMPING = 1e-2  # of the least squares, relative to the image's mean squared gradient
_BATCH_PIXELS = 2**21  # pixels of all pairs that are registered together: bounds the memory


def optical_flow(fixed: Tensor, moving: Tensor) -> Tensor:
    """Dense displacement with which `moving` looks like `fixed`: ``moving(x + flow(x)) ~ fixed(x)``.

    Parameters
    ----------
    fixed, moving : Tensor, (N, 1, H, W)
        Pairs of images, scaled alike.

    Returns
    -------
    Tensor, (N, 2, H, W)
        (x, y) displacement in pixels.

    Notes
    -----
    Iterative Lucas-Kanade in a pyramid: Le Besnerais and Champagnat, "Dense optical flow by iterative local window
    registration", ICIP 2005. All pairs at once.
    """
    finest = _finest_level(fixed.shape[-2:])
    levels = [(fixed, moving)]
    while len(levels) < finest + _COARSER and min(levels[-1][0].shape[-2:]) >= 4 * _WINDOW:
        levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
    flow = fixed.new_zeros(len(fixed), 2, *levels[-1][0].shape[-2:])
    for target, source in reversed(levels[min(finest, len(levels) - 1) :]):
        flow = _resized(flow, target.shape[-2:])
        for _ in range(_WARPS):
            flow = _refined(target, source, flow)
    return _resized(flow, fixed.shape[-2:])


def _finest_level(size: Sequence[int]) -> int:
    """Level of the pyramid at which the registration of images of this size ends."""
    return max(_FINEST, round(math.log2(max(size) / _FINE_SIDE)))


def _resized(flow: Tensor, size: Sequence[int]) -> Tensor:
    """A displacement in pixels of another level of the pyramid."""
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    scale = flow.new_tensor([size[1] / width, size[0] / height])[:, None, None]
    return scale * F.interpolate(flow, tuple(size), mode="bilinear", align_corners=False)


def _refined(fixed: Tensor, moving: Tensor, flow: Tensor) -> Tensor:
    """One linearisation: the displacement that solves the windowed least squares around the present one."""
    warped = _displaced(moving, flow)
    gradient_y, gradient_x = torch.gradient(warped, dim=(-2, -1))
    # residual of the linearised brightness constancy, written for the whole displacement, not for its change
    residual = fixed - warped + gradient_x * flow[:, :1] + gradient_y * flow[:, 1:]
    products = torch.cat(
        [gradient_x**2, gradient_x * gradient_y, gradient_y**2, gradient_x * residual, gradient_y * residual], 1
    )
    xx, xy, yy, bx, by = _windowed(products).unbind(1)
    damping = 1e-4 + _DAMPING * (xx + yy).mean((-2, -1), keepdim=True)  # where nothing is seen, it stays as it is
    bx, by = bx + damping * flow[:, 0], by + damping * flow[:, 1]
    xx, yy = xx + damping, yy + damping
    determinant = xx * yy - xy * xy
    return torch.stack([(yy * bx - xy * by) / determinant, (xx * by - xy * bx) / determinant], 1)


def _windowed(x: Tensor) -> Tensor:
    """Mean over a window, twice: nearly Gaussian. Borders are repeated."""
    radius = min(_WINDOW // 2 + 1, min(x.shape[-2:]) - 1)
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x, (radius,) * 4, mode="replicate"), 2 * radius + 1, stride=1)
    return x


def _displaced(x: Tensor, flow: Tensor) -> Tensor:
    """`x` read at each pixel's displaced position, (N, C, H, W)."""
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij"
    )
    grid = torch.stack([(2 * (columns + flow[:, 0]) + 1) / width - 1, (2 * (rows + flow[:, 1]) + 1) / height - 1], -1)
    return F.grid_sample(x, grid, "bilinear", padding_mode="border", align_corners=False)


def _flows(fixed: Tensor, moving: Tensor, end: float) -> Tensor:
    """`optical_flow` of many pairs, some at a time; TimeoutError at `end`."""
    n = max(1, _BATCH_PIXELS // (fixed.shape[-1] * fixed.shape[-2]))
    flows = []
    for some_fixed, some_moving in zip(fixed.split(n), moving.split(n), strict=True):
        _in_time(end)
        flows.append(optical_flow(some_fixed, some_moving))
    return torch.cat(flows)


def _in_time(end: float) -> None:
    if time.monotonic() > end:
        raise TimeoutError("There was no time to carry labels along the image.")


def _flow_image(volume: Volume, z: int, normalise: Normalisation) -> np.ndarray:
    """First channel of a slice, finite and scaled to its own 1st to 99th percentile, lightly smoothed."""
    image = normalise(volume.image_slice(z))[0]
    low, high = np.percentile(image, [1, 99])
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return ndimage.gaussian_filter(scaled, 1.0)
