"""Slice-to-slice propagation: labels of clean slices carried along the image's own motion, as a source of y^n."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from napari_mlbseg.initial_labels.interpolation import Fading, class_areas
from napari_mlbseg.initial_labels.label_stack import index_dtype
from napari_mlbseg.initial_labels.registration import _FINEST, _displaced, _finest_level, _flow_image, _flows, _in_time
from napari_mlbseg.method.normalisation import Normalisation
from napari_mlbseg.method.signed_distance import bounding_box, labels_from_sdf, per_class_sdf
from napari_mlbseg.task import Volume

__all__ = ["SliceRegistration"]


_MARGIN = 24  # pixels around the labels that take part in the registration
_NEIGHBOURHOOD = 5.0  # pixels, standard deviation: where two images are compared to see how well one was carried
_TOLERANCE = 0.1  # of the images' range: so much difference makes a carried label count e times less


class SliceRegistration:
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
        distances = [torch.from_numpy(per_class_sdf(plane[here], n_classes)) for plane in labels]
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
                filled[(clean[left] + step, *here)] = labels_from_sdf(averaged.numpy())
        if beyond and len(clean) > 1:
            areas = np.array([class_areas(plane, n_classes) for plane in labels])
            for outer, direction in ((0, -1), (len(clean) - 1, 1)):
                fading = Fading(areas[::direction], clean[::direction])
                at = clean[outer] - self._first
                flows = self._backward[:at].flip(0) if direction < 0 else self._forward[at:]
                n = int(min(len(flows), fading.reach))
                for step, carried in enumerate(self._carried(distances[outer], at, flows[:n]), start=1):
                    filled[(clean[outer] + direction * step, *here)] = labels_from_sdf(
                        fading(carried.distances.numpy(), step)
                    )
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
