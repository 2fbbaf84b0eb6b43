"""What a training draws from: the clean slices with their labels, the others with their initial labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from napari_mlbseg.initial_labels.interpolation import interpolate
from napari_mlbseg.initial_labels.label_stack import LabelStack, SparseLabels, index_dtype
from napari_mlbseg.initial_labels.selection import Guesses
from napari_mlbseg.method.normalisation import WHOLE_SIDE, needs_tiling
from napari_mlbseg.method.shape_prior import ShapePrior, confidence_at_distance, typical_label_error_px
from napari_mlbseg.task import SegmentationTask
from napari_mlbseg.training.augmentation import Batch, PatchSampler, Sample
from napari_mlbseg.training.networks import size_divisor
from napari_mlbseg.training.slices import SliceStore, round_up

__all__ = ["SampledBatch", "Key", "SliceSampler"]

Key = tuple[int, int]  # number of the volume, and the slice
_CACHED_PRIORS = 256
_CACHED_BYTES = 2**28  # of priors, and of clean slices' labels
_TILE_SIDE = WHOLE_SIDE // 2  # side of the parts in which large slices are weighed
_REACH = 1.6  # sides of what a turned, shrunken and bent patch shows, in sides of the patch
_ON_FOREGROUND = 0.7  # share of the patches that are put around a pixel of the foreground


@dataclass(frozen=True)
class SampledBatch:
    """A batch, and the slices it shows."""

    keys: list[Key]
    batch: Batch


class SliceSampler:
    """Draws batches of clean and of unlabelled slices.

    Parameters
    ----------
    task : SegmentationTask
    device : torch.device
    generator : torch.Generator
        On the CPU; decides which slices and patches come.

    Attributes
    ----------
    generator : torch.Generator
        The same.
    stores : list of SliceStore
        Normalised slices of each volume.
    initial : list of (LabelStack or None)
        y^n of each volume as class indices; see `set_initial_labels`.
    from_own_annotation : list of bool
        Whether a volume's y^n was interpolated or propagated from its own clean slices.
    is_known_beforehand : list of bool
        Whether there was a y^n of it before the network had learnt anything.
    withheld : frozenset of (int, int)
        Clean slices that are not sampled: the network is measured on them.
    prior : ShapePrior
    """

    def __init__(self, task: SegmentationTask, device: torch.device, generator: torch.Generator) -> None:
        self.task = task
        self.device = device
        self.generator = generator
        n_volumes = len(task.volumes)
        self.stores = [SliceStore(volume, task.config.context, device, n_volumes) for volume in task.volumes]
        self.initial: list[LabelStack | None] = [None] * n_volumes
        self.from_own_annotation = [False] * n_volumes
        self.is_known_beforehand = [False] * n_volumes
        self.withheld: frozenset[Key] = frozenset()
        self._guesses: Mapping[str, Guesses] = {}
        self.clean: list[Key] = [(i, z) for i, v in enumerate(task.volumes) for z in v.clean_slices]
        self.unlabelled: list[Key] = [(i, z) for i, v in enumerate(task.volumes) for z in v.unlabelled_slices]
        self.patch = self._patch_size()
        self._patches = PatchSampler(self.patch, task.n_classes, generator)
        self._is_clean = frozenset(self.clean)
        largest = max(math.prod(volume.slice_shape) for volume in task.volumes)
        dtype = index_dtype(task.n_classes)
        fitting = _CACHED_BYTES // (largest * dtype.itemsize)  # whole volumes may be clean
        self._clean_labels = lru_cache(maxsize=max(8, fitting))(self._read_clean_labels)
        self.prior = ShapePrior(
            task.config, task.n_classes, typical_label_error_px(map(self._clean_labels, self.clean))
        )
        fitting = _CACHED_BYTES // (4 * largest * max(1, task.n_classes - 1))
        self._prior_of = lru_cache(maxsize=max(4, min(_CACHED_PRIORS, fitting)))(self._make_prior)

    def set_initial_labels(
        self,
        labels: Sequence[LabelStack | None],
        from_own_annotation: Sequence[bool],
        guesses: Mapping[str, Guesses] | None = None,
    ) -> None:
        """y^n of each volume as class indices; None where they are not known yet.

        `from_own_annotation` says whether they were interpolated or propagated from the volume's own clean slices.
        Where labels of some slices are known, only these are sampled from then on.
        """
        self.initial, self.from_own_annotation = list(labels), list(from_own_annotation)
        if guesses is not None:
            self._guesses = guesses
        self._prior_of.cache_clear()
        some = {number: set(stack) for number, stack in enumerate(labels) if isinstance(stack, SparseLabels)}
        self.unlabelled = [(i, z) for i, z in self.unlabelled if i not in some or z in some[i]]

    def draw_clean(self, n: int, *, augment: bool) -> Batch:
        """`n` patches of clean slices with the user's labels."""
        samples = [self._sample(key) for key in self._pick([k for k in self.clean if k not in self.withheld], n)]
        return self._patches.augmented(samples) if augment else self._patches.plain(samples)

    def draw_unlabelled(self, n: int) -> SampledBatch:
        """`n` patches of unlabelled slices with their initial labels, not augmented: their views are."""
        keys = self._pick(self.unlabelled, n)
        return SampledBatch(keys, self._patches.plain([self._sample(key) for key in keys]))

    def clean_patch(self, key: Key) -> Batch:
        """One patch of a clean slice, not augmented."""
        return self._patches.plain([self._sample(key)])

    def tiles(self, key: Key) -> Iterator[Batch]:
        """One whole slice with its initial labels, padded to what the network takes; a large one part by part."""
        divisor, shape = size_divisor(self.task.config), self.task.volumes[key[0]].slice_shape
        sides = [min(side, _TILE_SIDE) for side in shape] if needs_tiling(shape) else list(shape)
        padded = tuple(max(round_up(side, divisor), 2 * divisor) for side in sides)
        sampler = PatchSampler((padded[0], padded[1]), self.task.n_classes, self.generator)
        for top in range(0, shape[0], sides[0]):
            for left in range(0, shape[1], sides[1]):
                rows = slice(top, min(top + sides[0], shape[0]))
                columns = slice(left, min(left + sides[1], shape[1]))
                centre = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
                yield sampler.plain([self._cut(key, rows, columns, centre)])

    def n_tiles(self, number: int) -> int:
        """How many parts `tiles` makes of a slice of a volume."""
        shape = self.task.volumes[number].slice_shape
        return math.prod(-(-side // _TILE_SIDE) for side in shape) if needs_tiling(shape) else 1

    def perturbed(self, batch: Batch) -> Tensor:
        """What the student sees of a batch in training: the image, and the prior bent at random."""
        return torch.cat([batch.image, self.deform_prior(batch.prior)], 1)

    def deform_prior(self, prior: Tensor) -> Tensor:
        """A prior (B, K - 1, H, W), bent at random and sometimes withheld."""
        return self.prior.perturb_prior(prior, self.generator)

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
        return self._clean_labels(key).astype(np.int64)

    def initial_slice(self, key: Key) -> np.ndarray | None:
        """y^n of a slice as class indices (Y, X), on clean slices the user's labels; None where not known."""
        if key in self._is_clean:
            return self._clean_labels(key)
        initial = self.initial[key[0]]
        if isinstance(initial, SparseLabels):
            return initial.get(key[1])
        return None if initial is None else initial[key[1]]

    def blind_labels(self, key: Key) -> np.ndarray | None:
        """y^n (Y, X) that a clean slice would have were it not clean; None where nothing would be known."""
        volume = self.task.volumes[key[0]]
        if not self.from_own_annotation[key[0]]:
            given = volume.initial_labels if self.task.config.initial_labels in ("given", "auto") else None
            return None if given is None else self.task.class_indices(np.asarray(given[key[1]]))
        guessed = self._guesses.get(volume.name, {}).get(key[1])
        return self._from_others(key) if guessed is None else guessed

    def is_comparable(self, key: Key) -> bool:
        """Whether a clean slice has other labels to compare with: given ones, or those of clean slices around it."""
        clean = self.task.volumes[key[0]].clean_slices
        if not self.is_known_beforehand[key[0]]:
            return False
        return not self.from_own_annotation[key[0]] or clean[0] < key[1] < clean[-1]

    def initial_share(self, key: Key, *, blind: bool = False) -> float:
        """Share of y^n in what is shown of a slice: it falls with the distance to the nearest clean slice.

        `blind`: as if the slice itself were not clean.
        """
        if not self.from_own_annotation[key[0]]:
            return 0.0
        volume = self.task.volumes[key[0]]
        across, *in_plane = volume.spacing
        nearest = min(abs(key[1] - z) for z in volume.clean_slices if not (blind and z == key[1]))
        pixels = nearest * across / math.sqrt(math.prod(in_plane))
        return self.task.config.initial_share * confidence_at_distance(pixels, self.prior.reach)

    def _from_others(self, key: Key) -> np.ndarray:
        """Labels (Y, X) of a clean slice interpolated between those beside it, or of its only neighbour."""
        clean = self.task.volumes[key[0]].clean_slices
        i = clean.index(key[1])
        beside = [j for j in (i - 1, i + 1) if 0 <= j < len(clean)]
        labels = np.stack([self._clean_labels((key[0], clean[j])) for j in beside])
        if len(beside) == 1:
            return labels[0]
        return interpolate(labels, [clean[j] for j in beside], [key[1]], self.task.n_classes)[0]

    def _sample(self, key: Key) -> Sample:
        """As much of a slice as a patch may show, around a pixel that is mostly on the foreground."""
        shape = self.task.volumes[key[0]].slice_shape
        centre = self._centre(self.initial_slice(key), shape)
        return self._cut(key, *self._window(centre, shape), centre)

    def _cut(self, key: Key, rows: slice, columns: slice, centre: tuple[int, int]) -> Sample:
        """Rows and columns of a slice with what is known of them, around `centre` (of the slice)."""
        shape, known = self.task.volumes[key[0]].slice_shape, self.initial_slice(key)
        if needs_tiling(shape):
            prior = self.prior.window(known, rows, columns, self.device)
        else:
            prior = self._prior_of(key)[:, rows, columns]
        labels = np.zeros(shape, np.uint8) if known is None else known
        return Sample(
            self.stores[key[0]].window(key[1], rows, columns),
            prior,
            torch.from_numpy(labels[rows, columns].astype(np.int64)).to(self.device),
            centre=(centre[0] - rows.start, centre[1] - columns.start),
            origin=(rows.start, columns.start),
        )

    def _read_clean_labels(self, key: Key) -> np.ndarray:
        labels = self.task.class_indices(self.task.volumes[key[0]].label_slice(key[1]))
        return labels.astype(index_dtype(self.task.n_classes))

    def _centre(self, labels: np.ndarray | None, shape: tuple[int, int]) -> tuple[int, int]:
        """A pixel to put a patch around: mostly one of a foreground class, each class alike, else any."""
        if labels is not None and float(torch.rand((), generator=self.generator)) < _ON_FOREGROUND:
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
        return int(torch.randint(n, (), generator=self.generator))

    def _make_prior(self, key: Key) -> Tensor:
        return self.prior(self.initial_slice(key), self.task.volumes[key[0]].slice_shape, self.device)

    def _pick(self, keys: Sequence[Key], n: int) -> list[Key]:
        """`n` of `keys`, each at most once as long as they suffice."""
        order: list[int] = []
        while len(order) < n:
            order += torch.randperm(len(keys), generator=self.generator).tolist()
        return [keys[k] for k in order[:n]]

    def _patch_size(self) -> tuple[int, int]:
        """Sides of all patches: the largest slice's, at most ``patch_size``, multiples of the network's divisor."""
        divisor = size_divisor(self.task.config)
        largest = np.max([volume.slice_shape for volume in self.task.volumes], axis=0)
        limit = round_up(self.task.config.patch_size, divisor)
        rows, columns = (min(round_up(int(side), divisor), limit) for side in largest)
        return max(rows, 2 * divisor), max(columns, 2 * divisor)
