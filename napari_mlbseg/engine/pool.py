"""What a training draws from: the clean slices with their labels, the others with their initial labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from napari_mlbseg.engine.augment import Batch, Sample, Sampler
from napari_mlbseg.engine.initial_labels import index_dtype
from napari_mlbseg.engine.networks import size_divisor
from napari_mlbseg.engine.shape_prior import ShapePrior, typical_reach
from napari_mlbseg.engine.slices import SliceStore, round_up
from napari_mlbseg.task import SegmentationTask

__all__ = ["Drawn", "Key", "Pool"]

Key = tuple[int, int]  # number of the volume, and the slice
_CACHED_PRIORS = 256
_REACH = 1.6  # sides of what a turned, shrunken and bent patch shows, in sides of the patch
_ON_FOREGROUND = 0.7  # share of the patches that are put around a pixel of the foreground


@dataclass(frozen=True)
class Drawn:
    """A batch, and the slices it shows."""

    keys: list[Key]
    batch: Batch


class Pool:
    """Draws batches of clean and of unlabelled slices.

    Parameters
    ----------
    task : SegmentationTask
    device : torch.device
    generator : torch.Generator
        On the CPU; decides which slices and patches come.

    Attributes
    ----------
    stores : list of SliceStore
        Normalised slices of each volume.
    initial : list of (ndarray or None)
        y^n of each volume as class indices (Z, Y, X); see `set_initial_labels`.
    anchored : list of bool
        Whether a volume's y^n was interpolated or propagated from its own clean slices.
    prior : ShapePrior
    """

    def __init__(self, task: SegmentationTask, device: torch.device, generator: torch.Generator) -> None:
        self.task = task
        self.device = device
        self._rng = generator
        n_volumes = len(task.volumes)
        self.stores = [SliceStore(volume, task.config.context, device, n_volumes) for volume in task.volumes]
        self.initial: list[np.ndarray | None] = [None] * n_volumes
        self.anchored = [False] * n_volumes
        self.clean: list[Key] = [(i, z) for i, v in enumerate(task.volumes) for z in v.clean_slices]
        self.unlabelled: list[Key] = [(i, z) for i, v in enumerate(task.volumes) for z in v.unlabelled_slices]
        self.patch = self._patch_size()
        self._sampler = Sampler(self.patch, task.n_classes, generator)
        dtype = index_dtype(task.n_classes)  # whole volumes may be clean
        self._clean_labels = {
            (i, z): task.class_indices(task.volumes[i].label_slice(z)).astype(dtype) for i, z in self.clean
        }
        self.prior = ShapePrior(task.config, task.n_classes, typical_reach(list(self._clean_labels.values())))
        self._prior_of = lru_cache(maxsize=_CACHED_PRIORS)(self._make_prior)

    def set_initial_labels(self, labels: Sequence[np.ndarray | None], anchored: Sequence[bool]) -> None:
        """y^n of each volume as class indices (Z, Y, X); None where they are not known yet.

        `anchored` says whether they were interpolated or propagated from the volume's own clean slices.
        """
        self.initial, self.anchored = list(labels), list(anchored)
        self._prior_of.cache_clear()

    def draw_clean(self, n: int, *, augment: bool) -> Batch:
        """`n` patches of clean slices with the user's labels."""
        samples = [self._sample(key) for key in self._pick(self.clean, n)]
        return self._sampler.augmented(samples) if augment else self._sampler.plain(samples)

    def draw_unlabelled(self, n: int) -> Drawn:
        """`n` patches of unlabelled slices with their initial labels, not augmented: their views are."""
        keys = self._pick(self.unlabelled, n)
        return Drawn(keys, self._sampler.plain([self._sample(key) for key in keys]))

    def clean_patch(self, key: Key) -> Batch:
        """One patch of a clean slice, not augmented."""
        return self._sampler.plain([self._sample(key)])

    def whole(self, key: Key) -> Batch:
        """One whole slice with its initial labels, padded to what the network takes."""
        divisor = size_divisor(self.task.config)
        rows, columns = (max(round_up(side, divisor), 2 * divisor) for side in self.task.volumes[key[0]].slice_shape)
        return Sampler((rows, columns), self.task.n_classes, self._rng).plain([self._sample(key, whole=True)])

    def doubted(self, batch: Batch) -> Tensor:
        """What the student sees of a batch in training: the image, and the prior bent at random."""
        return torch.cat([batch.image, self.bent(batch.prior)], 1)

    def bent(self, prior: Tensor) -> Tensor:
        """A prior (B, K - 1, H, W), bent at random and sometimes withheld."""
        return self.prior.doubted(prior, self._rng)

    def network_input(self, key: Key) -> Tensor:
        """What the network sees of a slice when it predicts, (C + K - 1, Y, X)."""
        return torch.cat([self.stores[key[0]][key[1]], self._prior_of(key)])

    def seen_with(self, key: Key, labels: np.ndarray | None) -> Tensor:
        """What the network would see were `labels` (Y, X) the initial ones, or for None nothing known."""
        prior = self.prior(labels, self.task.volumes[key[0]].slice_shape, self.device)
        return torch.cat([self.stores[key[0]][key[1]], prior])

    def pick_clean(self, most: int) -> list[Key]:
        """Clean slices at random, each at most once, at most so many."""
        return self._pick(self.clean, min(most, len(self.clean)))

    def clean_labels(self, key: Key) -> np.ndarray:
        """The user's labels of a clean slice as class indices (Y, X), int64."""
        return self._clean_labels[key].astype(np.int64)

    def initial_slice(self, key: Key) -> np.ndarray | None:
        """y^n of a slice as class indices (Y, X), on clean slices the user's labels; None where not known."""
        if key in self._clean_labels:
            return self._clean_labels[key]
        initial = self.initial[key[0]]
        return None if initial is None else initial[key[1]]

    def _sample(self, key: Key, *, whole: bool = False) -> Sample:
        """A slice, or as much of it as a patch may show, around a pixel that is mostly on the foreground."""
        shape, known = self.task.volumes[key[0]].slice_shape, self.initial_slice(key)
        row, column = self._centre(known, shape)
        rows, columns = (slice(0, shape[0]), slice(0, shape[1])) if whole else self._window((row, column), shape)
        labels = np.zeros(shape, np.uint8) if known is None else known
        return Sample(
            self.stores[key[0]][key[1]][:, rows, columns],
            self._prior_of(key)[:, rows, columns],
            torch.from_numpy(labels[rows, columns].astype(np.int64)).to(self.device),
            centre=(row - rows.start, column - columns.start),
            origin=(rows.start, columns.start),
        )

    def _centre(self, labels: np.ndarray | None, shape: tuple[int, int]) -> tuple[int, int]:
        """A pixel to put a patch around: mostly one of a foreground class, each class alike, else any."""
        if labels is not None and float(torch.rand((), generator=self._rng)) < _ON_FOREGROUND:
            shown = np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:]) + 1
            if len(shown):
                candidates = np.flatnonzero(labels == shown[self._random(len(shown))])
                row, column = divmod(int(candidates[self._random(len(candidates))]), shape[1])
                return row, column
        return self._random(shape[0]), self._random(shape[1])

    def _window(self, centre: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns that an augmented patch around `centre` may reach."""
        starts_and_stops = []
        for middle, size, side in zip(centre, shape, self.patch, strict=True):
            reach = min(size, math.ceil(_REACH * side))
            start = min(max(middle - reach // 2, 0), size - reach)
            starts_and_stops.append(slice(start, start + reach))
        return starts_and_stops[0], starts_and_stops[1]

    def _random(self, n: int) -> int:
        return int(torch.randint(n, (), generator=self._rng))

    def _make_prior(self, key: Key) -> Tensor:
        return self.prior(self.initial_slice(key), self.task.volumes[key[0]].slice_shape, self.device)

    def _pick(self, keys: Sequence[Key], n: int) -> list[Key]:
        """`n` of `keys`, each at most once as long as they suffice."""
        order: list[int] = []
        while len(order) < n:
            order += torch.randperm(len(keys), generator=self._rng).tolist()
        return [keys[k] for k in order[:n]]

    def _patch_size(self) -> tuple[int, int]:
        """Sides of all patches: the largest slice's, at most ``patch_size``, multiples of the network's divisor."""
        divisor = size_divisor(self.task.config)
        largest = np.max([volume.slice_shape for volume in self.task.volumes], axis=0)
        limit = round_up(self.task.config.patch_size, divisor)
        rows, columns = (min(round_up(int(side), divisor), limit) for side in largest)
        return max(rows, 2 * divisor), max(columns, 2 * divisor)
