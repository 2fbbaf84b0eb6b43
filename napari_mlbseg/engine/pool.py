"""What a training draws from: the clean slices with their labels, the others with their initial labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_mlbseg.engine.augment import Batch, Sampler
from napari_mlbseg.engine.networks import size_divisor
from napari_mlbseg.engine.slices import SliceStore, round_up
from napari_mlbseg.task import SegmentationTask

__all__ = ["Key", "Pool"]

Key = tuple[int, int]  # number of the volume, and the slice
_ON_FOREGROUND = 0.7  # share of the patches that are put around a pixel of the foreground


@dataclass(frozen=True)
class _Drawn:
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
        y^n of each volume as class indices (Z, Y, X); set by the training when it is known.
    """

    def __init__(self, task: SegmentationTask, device: torch.device, generator: torch.Generator) -> None:
        self.task = task
        self.device = device
        self._rng = generator
        self.stores = [SliceStore(volume, task.config.context, device) for volume in task.volumes]
        self.initial: list[np.ndarray | None] = [None] * len(task.volumes)
        self.clean: list[Key] = [(i, z) for i, v in enumerate(task.volumes) for z in v.clean_slices]
        self.unlabelled: list[Key] = [(i, z) for i, v in enumerate(task.volumes) for z in v.unlabelled_slices]
        self.patch = self._patch_size()
        self._sampler = Sampler(self.patch, task.n_classes, generator)
        self._clean_labels = {
            (i, z): torch.from_numpy(task.class_indices(task.volumes[i].label_slice(z))).to(device) for i, z in self.clean
        }

    def draw_clean(self, n: int, *, augment: bool) -> Batch:
        """`n` patches of clean slices with the user's labels."""
        keys = self._pick(self.clean, n)
        images = [self.stores[i][z] for i, z in keys]
        labels = [self._clean_labels[key] for key in keys]
        centres = [self._sampler.centre(label, _ON_FOREGROUND) for label in labels]
        return (self._sampler.augmented if augment else self._sampler.plain)(images, labels, centres)

    def draw_unlabelled(self, n: int) -> _Drawn:
        """`n` patches of unlabelled slices with their initial labels, not augmented: their views are."""
        keys = self._pick(self.unlabelled, n)
        images = [self.stores[i][z] for i, z in keys]
        labels = [self.initial_slice(key) for key in keys]
        centres = [self._sampler.centre(label, _ON_FOREGROUND) for label in labels]
        return _Drawn(keys, self._sampler.plain(images, labels, centres))

    def whole(self, key: Key) -> Batch:
        """One whole slice with its initial labels, padded to what the network takes."""
        divisor = size_divisor(self.task.config)
        sides = [max(round_up(side, divisor), 2 * divisor) for side in self.task.volumes[key[0]].slice_shape]
        sampler = Sampler((sides[0], sides[1]), self.task.n_classes, self._rng)
        return sampler.plain([self.stores[key[0]][key[1]]], [self.initial_slice(key)], [(0, 0)])

    def initial_slice(self, key: Key) -> Tensor:
        """y^n of a slice as class indices (Y, X): on clean slices the user's labels."""
        if key in self._clean_labels:
            return self._clean_labels[key]
        initial = self.initial[key[0]]
        if initial is None:
            raise RuntimeError(f"The initial labels of volume {key[0]} are not known yet.")
        return torch.from_numpy(initial[key[1]].astype(np.int64)).to(self.device)

    def _pick(self, keys: Sequence[Key], n: int) -> list[Key]:
        """`n` of `keys`, each at most once as long as they suffice."""
        order: list[int] = []
        while len(order) < n:
            order += torch.randperm(len(keys), generator=self._rng).tolist()
        return [keys[k] for k in order[:n]]

    def _patch_size(self) -> tuple[int, int]:
        """Sides of all patches: the largest slice's, at most ``patch_size``, both multiples of the network's divisor."""
        divisor = size_divisor(self.task.config)
        largest = np.max([volume.slice_shape for volume in self.task.volumes], axis=0)
        limit = round_up(self.task.config.patch_size, divisor)
        rows, columns = (min(round_up(int(side), divisor), limit) for side in largest)
        return max(rows, 2 * divisor), max(columns, 2 * divisor)
