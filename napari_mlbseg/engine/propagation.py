"""Slice-to-slice propagation: labels of clean slices carried along the image's own motion, as a source of y^n."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from napari_mlbseg.config import InitialLabelSource
from napari_mlbseg.engine.initial_labels import (
    Fading,
    Filler,
    bounding_box,
    class_areas,
    class_distances,
    clean_labels,
    decide,
    held_out_dice,
    index_dtype,
    interpolate,
    is_interpolable,
    is_large,
)
from napari_mlbseg.engine.slices import Normalisation
from napari_mlbseg.task import SegmentationTask, Volume

__all__ = ["Guesses", "SliceMotion", "improve", "optical_flow", "unrelated_slices"]

Guesses = dict[int, np.ndarray]  # slice -> labels (Y, X)

_WINDOW = 5  # of Lucas-Kanade, in pixels of the level: nearly Gaussian, about so wide
_FINEST = 1  # level at which the pyramid ends: half resolution, a quarter of the pixels
_COARSER = 2  # levels above the finest
_FINE_SIDE = 256  # larger images end at a coarser level, about this large
_WARPS = 3  # linearisations on each level
_DAMPING = 1e-2  # of the least squares, relative to the image's mean squared gradient
_BATCH_PIXELS = 2**21  # pixels of all pairs that are registered together: bounds the memory
_MARGIN = 24  # pixels around the labels that take part in the registration
_NEIGHBOURHOOD = 5.0  # pixels, standard deviation: where two images are compared to see how well one was carried
_RELATED = 0.25  # of what lies between chance and perfection: less than that, slices tell nothing of each other
_TOLERANCE = 0.1  # of the images' range: so much difference makes a carried label count e times less


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


class SliceMotion:
    """Displacements between neighbouring slices, computed once and used for any choice of clean slices.

    Parameters
    ----------
    volume : Volume
    labels : ndarray of int, (n, Y, X)
        Class indices on the volume's clean slices: only their surroundings are registered, between the first and the
        last of them and as far beyond as what they show goes on.
    end : float
        `time.monotonic` at which it is given up.

    Raises
    ------
    TimeoutError
        If that is reached, here or in `propagate`.
    """

    def __init__(self, volume: Volume, labels: np.ndarray, end: float = math.inf) -> None:
        self.volume, self._end = volume, end
        before, after = self._reaches(labels)
        self._first, self._last = volume.clean_slices[0] - before, volume.clean_slices[-1] + after
        self._region = bounding_box(np.any(labels > 0, axis=0), _MARGIN)
        if self._region is not None:
            path, normalise = range(self._first, self._last + 1), Normalisation(volume)
            images = [_flow_image(volume, z, normalise)[self._region] for z in path]
            self._images = torch.from_numpy(np.stack(images))[:, None]
            self._forward = _flows(self._images[1:], self._images[:-1], end)
            self._backward = _flows(self._images[:-1], self._images[1:], end)

    def _reaches(self, labels: np.ndarray) -> tuple[int, int]:
        """Slices before the first and after the last clean one to which labels are carried."""
        clean, n_classes = self.volume.clean_slices, int(labels.max(initial=1)) + 1
        if len(clean) < 2:
            return 0, 0
        areas = np.array([class_areas(plane, n_classes) for plane in labels])
        before, after = (math.ceil(min(Fading(areas[::o], clean[::o]).reach, self.volume.n_slices)) for o in (-1, 1))
        return min(clean[0], before), min(self.volume.n_slices - 1 - clean[-1], after)

    def propagate(self, clean: Sequence[int], labels: np.ndarray, n_classes: int, *, beyond: bool = True) -> np.ndarray:
        """Labels of every slice, carried from clean ones; outside their range as `Fading` says.

        Every slice between two clean ones gets the labels of both, each carried by the chained displacement between
        neighbouring slices; their signed distances are averaged. The nearer one counts more, and at each pixel the one
        whose image, carried along, looks more like the slice there.

        Parameters
        ----------
        clean : sequence of int
            Ascending; some or all of the volume's clean slices.
        labels : ndarray of int, (len(clean), Y, X)
            Class indices on them.
        n_classes : int
        beyond : bool
            Whether slices outside the range of `clean` are wanted; else they are background.

        Returns
        -------
        ndarray of int, (Z, Y, X)
        """
        filled = np.zeros(self.volume.shape, index_dtype(n_classes))
        filled[list(clean)] = labels
        here = self._region
        if here is None:
            return filled
        distances = [torch.from_numpy(class_distances(plane[here], n_classes)) for plane in labels]
        for left in range(len(clean) - 1):
            a, b = clean[left] - self._first, clean[left + 1] - self._first
            up = self._carried(distances[left], a, self._forward[a : b - 1])
            down = self._carried(distances[left + 1], b, self._backward[a + 1 : b].flip(0))[::-1]
            for step, (from_left, from_right) in enumerate(zip(up, down, strict=True), start=1):
                share = step / (b - a)
                slice_here = self._images[a + step]
                weights = torch.cat(
                    [(1 - share) * from_left.likeness(slice_here), share * from_right.likeness(slice_here)]
                )
                both = torch.stack([from_left.distances, from_right.distances])
                averaged = (weights[:, None] * both).sum(0) / weights.sum(0)
                filled[(clean[left] + step, *here)] = decide(averaged.numpy())
        if beyond and len(clean) > 1:
            areas = np.array([class_areas(plane, n_classes) for plane in labels])
            for outer, direction in ((0, -1), (len(clean) - 1, 1)):
                fading = Fading(areas[::direction], clean[::direction])
                at = clean[outer] - self._first
                flows = self._backward[:at].flip(0) if direction < 0 else self._forward[at:]
                n = int(min(len(flows), fading.reach))
                for step, carried in enumerate(self._carried(distances[outer], at, flows[:n]), start=1):
                    filled[(clean[outer] + direction * step, *here)] = decide(fading(carried.distances.numpy(), step))
        return filled

    def _carried(self, distances: Tensor, start: int, flows: Tensor) -> list[_Carried]:
        """Signed distances (K, H, W) of a clean slice and its image on each following slice, by the flow from each to
        the one before.
        """
        both = torch.cat([distances, self._images[start]])[None]
        total = torch.zeros_like(flows[:1])
        carried = []
        for flow in flows[:, None]:
            _in_time(self._end)
            total = flow + _displaced(total, flow)  # where a pixel lies on the clean slice, relative to itself
            moved = _displaced(both, total)[0]
            carried.append(_Carried(moved[:-1], moved[-1:]))
        return carried


class _Carried(NamedTuple):
    """A clean slice as the image's motion brings it to another one."""

    distances: Tensor  # (K, H, W)
    image: Tensor  # (1, H, W)

    def likeness(self, image: Tensor) -> Tensor:
        """How well the surroundings of each pixel were carried: 1 where the images are equal, towards 0, (1, H, W)."""
        sigma = _NEIGHBOURHOOD * 2 ** (_finest_level(image.shape[-2:]) - _FINEST)
        difference = ndimage.gaussian_filter((self.image - image).abs().numpy(), (0, sigma, sigma), mode="nearest")
        return torch.exp(torch.from_numpy(difference) / -_TOLERANCE)


def improve(
    task: SegmentationTask,
    source: InitialLabelSource,
    end: float = math.inf,
    guesses: dict[str, Guesses] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Propagated labels of the volumes for which they are wanted, or under ``"auto"`` measured to be better.

    Every inner clean slice of a volume is predicted from its other clean ones, by interpolation and by propagation; the
    higher mean Dice over all volumes wins. Without inner clean slices propagation is taken: it was better on cardiac
    MRI (docs/evidence.md). Volumes that are clean throughout need no labels and are not asked. What is not done at
    `end` (`time.monotonic`) is left: those volumes keep the labels that they have.

    Parameters
    ----------
    task : SegmentationTask
    source : {"auto", "propagation"}
    end : float
    guesses : dict of str to dict of int to ndarray, optional
        Is filled with the labels (Y, X) of each volume's inner clean slices by the clean slices beside them.

    Returns
    -------
    labels : dict of str to ndarray
        (Z, Y, X) class indices by volume; empty where interpolation is better.
    scores : dict of str to float
        Held-out Dice of both sources, where they were compared.
    """
    usable = [v for v in task.volumes if v.unlabelled_slices and _is_propagable(v, source)]
    labels: dict[str, np.ndarray] = {}
    means: dict[str, float] = {}
    with suppress(TimeoutError):
        motions = [SliceMotion(volume, clean_labels(task, volume), end) for volume in usable]
        names = ("interpolation", "propagation") if source == "auto" else ("propagation",)
        means, found = _held_out(task, motions, names)
        better = max(names, key=lambda name: (means.get(name, 0.0), name))
        if guesses is not None:
            guesses.update(found[better])
        if better == "propagation":
            for motion in motions:
                painted = clean_labels(task, motion.volume)
                labels[motion.volume.name] = motion.propagate(motion.volume.clean_slices, painted, task.n_classes)
    return labels, means


def _held_out(
    task: SegmentationTask, motions: Sequence[SliceMotion], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, Guesses]]]:
    """Mean Dice of some sources on inner clean slices, none where there are none, and their labels of these slices."""
    scores: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, dict[str, Guesses]] = {name: {} for name in names}
    for name, motion in product(names, motions):
        clean, truth = motion.volume.clean_slices, clean_labels(task, motion.volume)
        fill = _propagating(task, motion) if name == "propagation" else _interpolating(task)
        guesses = found[name].setdefault(motion.volume.name, {})
        scores[name] += held_out_dice(_noting(fill, guesses), clean, truth, task.n_classes)
    return {name: float(np.mean(values)) for name, values in scores.items() if values}, found


def _noting(fill: Filler, guesses: Guesses) -> Filler:
    """`fill`, which notes what it finds."""

    def noted(clean: Sequence[int], labels: np.ndarray, z: int) -> np.ndarray:
        guesses[z] = fill(clean, labels, z)
        return guesses[z]

    return noted


def unrelated_slices(task: SegmentationTask, scores: Mapping[str, float]) -> set[str]:
    """Names of the volumes whose slices say nothing of each other, so that their labels are of no use there.

    What the clean slices tell of one another, `scores` of `improve`, is no more than chance, and the labels of
    neighbouring ones do not lie one within the other. (A structure may end in a few pixels, which tell little.)
    """
    names = [v.name for v in task.volumes if v.unlabelled_slices and _is_propagable(v, "auto")]
    if not scores or not names:
        return set()
    chances, within = [], []
    for volume in (v for v in task.volumes if v.name in names):
        labels = clean_labels(task, volume)
        for a, b in pairwise(labels):
            for k in range(1, task.n_classes):
                small, large = sorted((np.mean(a == k), np.mean(b == k)))
                if small > 0:
                    chances.append(large)
                    within.append(np.mean((a == k) & (b == k)) / small)
    if not chances:
        return set()
    found, chance = max(*scores.values(), float(np.mean(within))), float(np.mean(chances))
    return set(names) if found < chance + _RELATED * (1 - chance) else set()


def _is_propagable(volume: Volume, source: InitialLabelSource) -> bool:
    """Whether labels of the volume are wanted by propagation, and its displacements fit into memory."""
    wanted = source == "propagation" or volume.initial_labels is None
    return wanted and is_interpolable(volume) and not is_large(volume)


def _interpolating(task: SegmentationTask) -> Filler:
    return lambda clean, labels, z: interpolate(labels, clean, [z], task.n_classes)[0]


def _propagating(task: SegmentationTask, motion: SliceMotion) -> Filler:
    return lambda clean, labels, z: motion.propagate(clean, labels, task.n_classes, beyond=False)[z]


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
