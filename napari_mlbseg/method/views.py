"""Views of a slice for Pseudo Label Enhancement: sampled once, then applied and undone by deterministic functions.

A view flips a slice and then zooms into or out of it. `warp` makes it, `unwarp` maps a prediction back; both are
differentiable and run on the tensor's device, a whole batch at a time. What a view did not see is masked: the border
of a slice in a zoom-in (`seen`), the surroundings of a slice in a zoom-out (`inside`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["IDENTITY", "View", "inside", "sample_views", "seen", "unwarp", "warp"]


@dataclass(frozen=True)
class View:
    """How a slice is looked at.

    Attributes
    ----------
    zoom : float
        > 1 magnifies; < 1 shrinks the slice within the frame.
    centre : tuple of float
        Point of the slice at the middle of a zoomed view, (x, y) in [-1, 1].
    flip : tuple of int
        Axes that are mirrored before the zoom, of -2 (rows) and -1 (columns).
    """

    zoom: float = 1.0
    centre: tuple[float, float] = (0.0, 0.0)
    flip: tuple[int, ...] = ()

    @property
    def is_resampled(self) -> bool:
        """Whether pixels are interpolated: without it, warping is exact."""
        return self.zoom != 1.0 or self.centre != (0.0, 0.0)


IDENTITY = View()


def sample_views(
    n: int, zoom_in: tuple[float, float], zoom_out: tuple[float, float], generator: torch.Generator
) -> tuple[View, ...]:
    """Draw `n` views in the order of the paper: identity, a zoom-in, two zoom-outs, a flip; then flipped zooms.

    The cheapest prefix is the most useful one: with one view there is only the slice itself, with two a zoom-in as
    well.

    Parameters
    ----------
    n : int
        Number of views, at least 1.
    zoom_in, zoom_out : tuple of float
        Ranges of the zoom factors.
    generator : torch.Generator
        On the CPU; the only source of randomness.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def zoomed_in(flip: tuple[int, ...] = ()) -> View:
        zoom = uniform(*zoom_in)
        reach = max(0.0, 1 - 1 / zoom)  # the view stays within the slice
        return View(zoom, (uniform(-reach, reach), uniform(-reach, reach)), flip)

    def zoomed_out(flip: tuple[int, ...] = ()) -> View:
        return View(uniform(*zoom_out), (0.0, 0.0), flip)

    views = [IDENTITY, zoomed_in(), zoomed_out(), zoomed_out(), View(flip=(-1,))]
    while len(views) < n:
        views.append((zoomed_in if len(views) % 2 else zoomed_out)((-1,)))
    return tuple(views[:n])


def warp(x: Tensor, view: View, mode: str = "bilinear") -> Tensor:
    """What `view` shows of `x`, (B, C, H, W) -> (B, C, H, W). Beyond the slice its border pixels are repeated."""
    if view.flip:
        x = torch.flip(x, view.flip)
    if not view.is_resampled:
        return x
    return F.grid_sample(x, _grid(x, *_to_slice(view)), mode, padding_mode="border", align_corners=False)


def unwarp(y: Tensor, view: View, mode: str = "bilinear") -> Tensor:
    """Map what was seen in `view` back to the slice, (B, C, H, W) -> (B, C, H, W): the inverse of `warp`.

    Pixels that the view did not see repeat the nearest one that it saw: mask them with `seen`.
    """
    if view.is_resampled:
        y = F.grid_sample(y, _grid(y, *_to_view(view)), mode, padding_mode="border", align_corners=False)
    return torch.flip(y, view.flip) if view.flip else y


def seen(view: View, like: Tensor) -> Tensor:
    """Which pixels of the slice the view saw: (H, W) bool, sides and device as of `like` (..., H, W)."""
    mask = _within(like, *_to_view(view)) if view.is_resampled else _ones(like)
    return torch.flip(mask, view.flip) if view.flip else mask


def inside(view: View, like: Tensor) -> Tensor:
    """Which pixels of the view show the slice and not its surroundings: (H, W) bool."""
    return _within(like, *_to_slice(view)) if view.is_resampled else _ones(like)


def _to_slice(view: View) -> tuple[float, Sequence[float]]:
    """Scale and offset that take a point of the view to the (flipped) slice."""
    return 1 / view.zoom, view.centre


def _to_view(view: View) -> tuple[float, Sequence[float]]:
    """Scale and offset that take a point of the (flipped) slice to the view."""
    return view.zoom, [-view.zoom * c for c in view.centre]


def _grid(x: Tensor, scale: float, offset: Sequence[float]) -> Tensor:
    """Sampling grid (B, H, W, 2) of the map p -> scale * p + offset, points as (x, y) in [-1, 1]."""
    theta = torch.tensor([[scale, 0.0, offset[0]], [0.0, scale, offset[1]]], dtype=x.dtype, device=x.device)
    return F.affine_grid(theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)


def _within(like: Tensor, scale: float, offset: Sequence[float]) -> Tensor:
    """Where the map p -> scale * p + offset stays between the centres of the outermost pixels (H, W)."""
    height, width = like.shape[-2:]
    frame = torch.empty(1, 1, height, width, device=like.device, dtype=torch.float32)
    grid = _grid(frame, scale, offset)[0]
    limit = torch.tensor([1 - 1 / width, 1 - 1 / height], device=like.device) + 1e-6
    return (grid.abs() <= limit).all(-1)


def _ones(like: Tensor) -> Tensor:
    return torch.ones(like.shape[-2:], dtype=torch.bool, device=like.device)
