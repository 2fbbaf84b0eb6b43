"""Training samples: patches of slices, clean ones strongly augmented. Batched, on the device.

A sample's geometry (where the patch lies, how it is turned, scaled and bent) is one sampling grid, so image and labels
are interpolated once and stay aligned; labels as class probabilities, so that nothing is thresholded or dilated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_mlbseg.training.slices import pad_to

__all__ = ["Batch", "Sample", "PatchSampler"]


@dataclass(frozen=True)
class Batch:
    """Patches of slices.

    Attributes
    ----------
    image : Tensor, (B, C, H, W)
    prior : Tensor, (B, K - 1, H, W)
        Shape prior as the initial labels say it; no channels where the network does not take one.
    labels : Tensor, (B, K, H, W)
        Class probabilities.
    mask : Tensor, (B, 1, H, W)
        1 where the patch lies within its slice.
    corners : list of tuple of int
        Row and column of each patch's first pixel on its slice (patches that are not augmented).
    """

    image: Tensor
    prior: Tensor
    labels: Tensor
    mask: Tensor
    corners: list[tuple[int, int]]


@dataclass(frozen=True)
class Sample:
    """A slice, or a part of it, from which a patch is taken.

    Attributes
    ----------
    image : Tensor, (C, Y, X)
    prior : Tensor, (K - 1, Y, X)
    labels : Tensor, (Y, X)
        Class indices.
    centre : tuple of int
        Row and column of the patch's middle, counted in these arrays.
    origin : tuple of int
        Row and column of these arrays' first pixel on the slice.
    """

    image: Tensor
    prior: Tensor
    labels: Tensor
    centre: tuple[int, int]
    origin: tuple[int, int] = (0, 0)


class PatchSampler:
    """Draws patches from slices.

    Parameters
    ----------
    size : tuple of int
        Rows and columns of a patch.
    n_classes : int
    generator : torch.Generator
        On the CPU; the only source of randomness.
    """

    def __init__(self, size: tuple[int, int], n_classes: int, generator: torch.Generator) -> None:
        self.size = size
        self.n_classes = n_classes
        self._rng = generator

    def plain(self, samples: Sequence[Sample]) -> Batch:
        """Patches as they are, around the samples' centres, kept within the slice where it is large enough."""
        rows, columns = self.size
        patches, masks, corners = [], [], []
        for sample in samples:
            stack = self._stack(sample)
            top = min(max(sample.centre[0] - rows // 2, 0), max(stack.shape[-2] - rows, 0))
            left = min(max(sample.centre[1] - columns // 2, 0), max(stack.shape[-1] - columns, 0))
            here = stack[:, top : top + rows, left : left + columns]
            patches.append(pad_to(here, rows, columns))
            missing = (0, columns - here.shape[-1], 0, rows - here.shape[-2])
            masks.append(F.pad(torch.ones_like(here[:1]), missing))
            corners.append((sample.origin[0] + top, sample.origin[1] + left))
        image, prior, labels = self._parts(torch.stack(patches), samples[0])
        return Batch(image, prior, labels, torch.stack(masks), corners)

    def augmented(self, samples: Sequence[Sample]) -> Batch:
        """Patches turned, scaled, sheared, mirrored, bent and changed in intensity."""
        patches, masks = [], []
        for sample in samples:
            stack = self._stack(sample)[None]
            grid = self._bent_grid(stack.shape[-2:], sample.centre).to(stack.device)
            patches.append(F.grid_sample(stack, grid, "bilinear", padding_mode="border", align_corners=False)[0])
            masks.append((grid.abs() <= 1).all(-1).to(stack.dtype))
        image, prior, labels = self._parts(torch.stack(patches), samples[0])
        return Batch(self._recoloured(image), prior, labels, torch.stack(masks), [])

    # -- geometry ------------------------------------------------------------------------------------------------

    def _bent_grid(self, shape: Sequence[int], centre: tuple[int, int]) -> Tensor:
        """Where on the slice each pixel of the patch is read, (1, H, W, 2), (x, y) in [-1, 1]."""
        height, width = shape
        rows, columns = self.size
        half = torch.tensor([columns / width, rows / height])
        middle = torch.tensor([(2 * centre[1] + 1) / width - 1, (2 * centre[0] + 1) / height - 1])
        reach = (1 - half).clamp(min=0)
        middle = torch.minimum(torch.maximum(middle, -reach), reach)  # the patch stays within the slice
        theta = torch.eye(2, 3)
        theta[:, :2] = self._random_matrix()
        grid = F.affine_grid(theta[None], [1, 1, rows, columns], align_corners=False)
        if self._uniform(0, 1) < 0.7:
            grid = grid + self._elastic()
        return grid * half + middle

    def _random_matrix(self) -> Tensor:
        """Rotation, anisotropic scale, shear and mirror of a patch, (2, 2)."""
        angle = torch.tensor(self._uniform(-0.35, 0.35))
        scale = torch.tensor([self._uniform(0.8, 1.25), self._uniform(0.8, 1.25)])
        shear = self._uniform(-0.1, 0.1)
        turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        matrix = turn @ torch.tensor([[1.0, shear], [0.0, 1.0]]) @ torch.diag(1 / scale)
        if self._uniform(0, 1) < 0.5:
            matrix[0] = -matrix[0]
        return matrix

    def _elastic(self) -> Tensor:
        """A smooth random displacement of the grid, (1, H, W, 2)."""
        strength = self._uniform(0.02, 0.1)
        coarse = torch.randn(1, 2, 5, 5, generator=self._rng) * strength
        return F.interpolate(coarse, self.size, mode="bicubic", align_corners=True).movedim(1, -1)

    # -- intensity -----------------------------------------------------------------------------------------------

    def _recoloured(self, x: Tensor) -> Tensor:
        """Random contrast, brightness, gamma, blur and noise of each sample, (B, C, H, W)."""
        samples = []
        for image in x:
            image = image * self._uniform(0.75, 1.3) + self._uniform(-0.3, 0.3)
            if self._uniform(0, 1) < 0.3:
                low, high = image.amin(), image.amax()
                span = (high - low).clamp(min=1e-6)
                image = ((image - low) / span) ** self._uniform(0.7, 1.5) * span + low
            if self._uniform(0, 1) < 0.2:
                small = F.interpolate(image[None], scale_factor=self._uniform(0.5, 0.9), mode="area")
                image = F.interpolate(small, self.size, mode="bilinear", align_corners=False)[0]
            if self._uniform(0, 1) < 0.3:
                noise = torch.randn(image.shape, generator=self._rng).to(image.device)
                image = image + noise * self._uniform(0.0, 0.2)
            samples.append(image)
        return torch.stack(samples)

    # -- helpers -------------------------------------------------------------------------------------------------

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._rng))

    def _stack(self, sample: Sample) -> Tensor:
        """Image, prior and one-hot labels of a slice, (C + K - 1 + K, Y, X): what is interpolated together."""
        one_hot = F.one_hot(sample.labels, self.n_classes).movedim(-1, 0).to(sample.image.dtype)
        return torch.cat([sample.image, sample.prior, one_hot])

    def _parts(self, stack: Tensor, sample: Sample) -> tuple[Tensor, Tensor, Tensor]:
        image, prior, labels = stack.split([len(sample.image), len(sample.prior), self.n_classes], dim=1)
        return image, prior, labels
