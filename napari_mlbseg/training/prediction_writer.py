"""What a training shows: predictions and weight maps, written slice by slice, while it runs and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mlbseg.events import Event, Preview, Progress, Stage
from napari_mlbseg.method.ensemble import most_likely
from napari_mlbseg.method.shape_prior import blended, soft_labels
from napari_mlbseg.method.views import View
from napari_mlbseg.training.dataset import Key, SampledBatch, SliceSampler
from napari_mlbseg.training.evidence import Evidence
from napari_mlbseg.training.inference import PREDICTED, Predictor, in_batches, write_slices
from napari_mlbseg.training.inference_budget import InferenceBudget
from napari_mlbseg.training.label_errors import LabelErrorFinder, label_error_probability
from napari_mlbseg.training.label_planes import link_slices
from napari_mlbseg.training.progress import PreviewOrder
from napari_mlbseg.training.results import Results
from napari_mlbseg.training.schedule import Schedule
from napari_mlbseg.training.slice_statistics import Statistics, slice_statistics
from napari_mlbseg.training.step import Learner, StepReport
from napari_mlbseg.training.weight_maps import WeightMaps, on_slice

__all__ = ["PredictionWriter"]

_WEIGHTS = ("weight_initial", "weight_pseudo")
_MAX_CLEAN = 8  # clean slices whose gradient weighs the pixels that no step visited


class _Predicted(NamedTuple):
    """Predicted slices: B slices, K classes."""

    probability: Tensor  # as it is shown, (B, K, Y, X)
    agreement: Tensor  # of the views, (B, Y, X)
    network: Tensor | None = None  # most likely class by the network alone, (B, Y, X); None if it was not asked
    doubt: Tensor | None = None  # of the initial labels by the network alone, (B, Y, X); None where it knows none
    n_views: int = 1


class PredictionWriter:
    """Predicts slices of a training's volumes and writes them into its results.

    Parameters
    ----------
    sampler : SliceSampler
    learner : Learner
        Its teacher, the student's average, is what is shown.
    results : Results
    schedule : Schedule
    order : PreviewOrder
    only : collection of (int, int), optional
        Slices that are wanted, as (number of the volume, slice): no other is predicted, during the training or at its
        end, and no other's weights are kept. By default all.

    Attributes
    ----------
    maps : WeightMaps
        Running means of the weights.
    unpredicted : dict of int to list of int
        By number of the volume, slices that `final` had no time for.
    evidence : Evidence, optional
        For which classes the network is shown where there are initial labels; by default for all.
    costs : InferenceBudget
        What `final` takes.
    """

    def __init__(
        self,
        sampler: SliceSampler,
        learner: Learner,
        results: Results,
        schedule: Schedule,
        order: PreviewOrder,
        only: Collection[Key] | None = None,
    ) -> None:
        self.task = sampler.task
        self._sampler, self._learner, self._results = sampler, learner, results
        self._schedule, self._order = schedule, order
        self._only = None if only is None else frozenset(only)
        self.maps = WeightMaps()
        self.costs = InferenceBudget(sampler, learner, schedule, self._wanted)
        self._direction: dict[str, Tensor] | None = None  # clean gradient for pixels that no step visited
        self.unpredicted: dict[int, list[int]] = {}
        self.evidence: Evidence | None = None

    @property
    def n_unpredicted(self) -> int:
        """Slices that `final` had no time for."""
        return sum(map(len, self.unpredicted.values()))

    @property
    def network(self) -> nn.Module:
        """The network that is shown and saved."""
        return self._learner.teacher.network

    def accumulate_weights(self, sampled: SampledBatch, report: StepReport, views: Sequence[View]) -> None:
        """Add a step's weights to the running means of the slices that it saw."""
        initial, pseudo = on_slice(report.weights, views)
        for i, key in enumerate(sampled.keys):
            if not self._is_wanted(key):  # a map takes 12 bytes a pixel
                continue
            shape = self.task.volumes[key[0]].slice_shape
            self.maps.add(key, shape, sampled.batch.corners[i], initial[i], pseudo[i])

    def preview(self, stage: Stage, seconds: float) -> Iterator[Event]:
        """Predict slices as they are for about `seconds`, the one in view first, going on where the last call ended."""
        deadline = time.monotonic() + seconds
        predictor = Predictor(self.network, self.task.config, n_views=1)
        for number, z in filter(self._is_wanted, self._order.previews()):
            yield self._show(number, [z], self._predicted(predictor, number, [z]), stage)
            if time.monotonic() > deadline:
                break
        self.reserve_final(self.maps.visited)

    def predict_all(self, trained: bool, stops: Callable[[], bool]) -> Iterator[Event]:
        """Predict every slice with all views and complete its weight maps; ends early if `stops` says so.

        Without training, the initial labels are the better answer and stand. If time is short, fewer views are averaged
        and pixels that no step visited keep the weight 0; if even that does not suffice, slices stay `unpredicted`.
        """
        began, done, slowest = self._schedule.seconds, 0, 0.0
        total = sum(len(self._wanted(number)) for number in range(len(self.task.volumes)))
        predictor = Predictor(self.network, self.task.config, self.costs.affordable_views())
        for number, volume in enumerate(self.task.volumes):
            for slices in in_batches(self._wanted(number), predictor.batch_size(volume.slice_shape)):
                if stops():
                    return
                if self.costs.is_overdue(number, len(slices), slowest):
                    self.unpredicted.setdefault(number, []).extend(slices)
                    continue
                began_batch = self._schedule.seconds
                self._visit([(number, z) for z in self._to_visit(number, slices, total - done)])
                if trained:
                    predicted = self._predicted(predictor, number, slices)
                else:
                    predicted = self._initial_probability(number, slices)
                yield self._show(number, slices, predicted, Stage.PREDICT)
                del predicted  # before the next batch comes
                done += len(slices)
                seconds = self._schedule.seconds
                yield Progress(
                    stage=Stage.PREDICT,
                    fraction=self._schedule.final_fraction(done / total),
                    seconds=seconds,
                    seconds_left=(seconds - began) * (total - done) / done,
                )
                slowest = max(slowest, (seconds - began_batch) / len(slices))

    def link_slices(self) -> Iterator[Event]:
        """Give objects that run through several slices one number, where label numbers are those of objects."""
        for volume in self.task.volumes if self._only is None else ():
            array = self._results[volume.name]["pseudo_labels"]
            yield from link_slices(array, self.task, volume, lambda: self._schedule.seconds)

    def reserve_final(self, training_visits: bool) -> None:
        """Keep the time free that `final` will take; see `InferenceBudget.reserve`."""
        self.costs.reserve(self.maps, training_visits)

    def find_label_errors(self, stops: Callable[[], bool]) -> Iterator[Event]:
        """Write where the other clean slices contradict what is painted on each; the predictions came first.

        Where there are too few clean slices, or too little time is left, nothing is written: a part of them would look
        as if the others had been found without a contradiction.
        """
        needed = self.costs.looking_seconds()
        if not needed or self._schedule.remaining < needed or stops():
            return
        look = LabelErrorFinder(self._sampler, self._learner)
        for number, volume in enumerate(self.task.volumes):
            for z in (z for z in self._order.outwards(number) if volume.clean[z]):
                if stops():
                    return
                self._results[volume.name]["label_doubt"][z] = look.doubt((number, z))
                yield Preview(
                    volume=volume.name,
                    slices=(z,),
                    arrays=("label_doubt",),
                    stage=Stage.PREDICT,
                    seconds=self._schedule.seconds,
                )

    def _show(self, number: int, slices: Sequence[int], predicted: _Predicted, stage: Stage) -> Preview:
        """Write predicted slices of a volume and their weight maps."""
        volume = self.task.volumes[number]
        arrays = self._results[volume.name]
        write_slices(arrays, self.task, volume, slices, predicted.probability, predicted.agreement)
        weights = [self.maps.mean((number, z)) for z in slices]
        for z, mean in zip(slices, weights, strict=True):
            if mean is not None:
                arrays["weight_initial"][z], arrays["weight_pseudo"][z] = mean
        if predicted.doubt is not None:
            for z, doubt in zip(slices, predicted.doubt.cpu().numpy(), strict=True):
                arrays["initial_doubt"][z] = doubt
        weighed = any(mean is not None for mean in weights)
        return Preview(
            volume=volume.name,
            slices=tuple(slices),
            arrays=(
                *PREDICTED,
                *(_WEIGHTS if weighed else ()),
                *(("initial_doubt",) if predicted.doubt is not None else ()),
            ),
            stage=stage,
            seconds=self._schedule.seconds,
            statistics=self._statistics(number, slices, predicted, weights),
        )

    def _statistics(
        self,
        number: int,
        slices: Sequence[int],
        predicted: _Predicted,
        weights: Sequence[tuple[np.ndarray, np.ndarray] | None],
    ) -> Statistics:
        """What is known of predicted slices; nothing where the network was not asked.

        The mean weight of a slice that was not seen whole would depend on what was seen: there it is not known.
        """
        if predicted.network is None:
            return {}
        keys = [(number, z) for z in slices]
        return slice_statistics(
            predicted.probability,
            predicted.agreement if predicted.n_views > 1 else None,
            network=predicted.network,
            initial=[self._sampler.initial_slice(key) for key in keys],
            weights=[mean if self.maps.covers(key) else None for key, mean in zip(keys, weights, strict=True)],
        )

    def _predicted(self, predictor: Predictor, number: int, slices: Sequence[int]) -> _Predicted:
        """Probability and agreement of slices; labels from the volume's own clean slices keep a share of the say.

        They are one more, independent opinion: where the network errs, they mostly do not, and the other way round. And
        they err the more the farther away the nearest clean slice is, which the network does not.
        """
        probability, agreement = predictor([self._sampler.network_input((number, z)) for z in slices])
        network = most_likely(probability)
        known = [self._sampler.initial_slice((number, z)) for z in slices]
        doubt = self._doubt(number, slices, probability, known)
        if self._sampler.is_known_beforehand[number]:
            priors = [self._sampler.prior.distances(p, self.task.n_classes) for p in known if p is not None]
            better = None if self.evidence is None else self.evidence.better
            share = torch.tensor([self._sampler.initial_share((number, z)) for z in slices])
            probability = blended(probability, soft_labels(torch.stack(priors)), share, better)
        return _Predicted(probability, agreement, network, doubt, len(predictor.views))

    def _doubt(
        self, number: int, slices: Sequence[int], probability: Tensor, known: Sequence[np.ndarray | None]
    ) -> Tensor | None:
        """How unlikely the network finds the initial labels, (B, Y, X); 0 on clean slices, which are not its to judge.

        A weight is one step's vote: how far a step along the clean gradient would move the logits towards a label. The
        prediction is where all such steps have led. Single votes go now one way, now the other, all over the volume at
        once, and neither they nor the mean of a few find wrong labels (`benchmarks.weights`).
        """
        if any(plane is None for plane in known):
            return None
        labels = torch.from_numpy(np.stack([plane for plane in known if plane is not None]).astype(np.int64))
        doubt = label_error_probability(probability, labels.to(probability.device))
        clean = self.task.volumes[number].clean
        doubt[[i for i, z in enumerate(slices) if clean[z]]] = 0
        return doubt

    def _to_visit(self, number: int, slices: Sequence[int], left: int) -> list[int]:
        """Which of `slices` no step saw whole, if there is time to weigh them."""
        if not self.costs.can_visit(number, len(slices), left):
            return []
        return [z for z in slices if not self.maps.covers((number, z))]

    def _visit(self, keys: Sequence[Key]) -> None:
        """Weigh slices without learning from them."""
        generators, seed = (self._sampler.generator, self._learner.generator), self.task.config.seed
        if keys and self._direction is None:
            with _seeded(generators, seed):
                clean = self._sampler.draw_clean(min(_MAX_CLEAN, len(self._sampler.clean)), augment=False)
                self._direction = self._learner.clean_gradient(clean)
        for key in keys:
            assert self._direction is not None
            shape = self.task.volumes[key[0]].slice_shape
            with _seeded(generators, seed, *key):
                for tile in self._sampler.tiles(key):
                    initial, pseudo = on_slice(self._learner.weights(tile, self._direction), [View()])
                    self.maps.add(key, shape, tile.corners[0], initial[0], pseudo[0])

    def _wanted(self, number: int) -> list[int]:
        """Slices of a volume that the final pass predicts, the one in view first."""
        return [z for z in self._order.outwards(number) if self._is_wanted((number, z))]

    def _is_wanted(self, key: Key) -> bool:
        return self._only is None or key in self._only

    def _initial_probability(self, number: int, slices: Sequence[int]) -> _Predicted:
        """Initial labels as probabilities (B, K, Y, X), and full agreement (B, Y, X)."""
        shape = self.task.volumes[number].slice_shape
        known = [self._sampler.initial_slice((number, z)) for z in slices]
        labels = np.stack([np.zeros(shape, np.int64) if plane is None else plane for plane in known])
        one_hot = F.one_hot(torch.from_numpy(labels.astype(np.int64)), self.task.n_classes)
        return _Predicted(one_hot.movedim(-1, 1).float(), torch.ones(labels.shape))


@contextmanager
def _seeded(generators: Sequence[torch.Generator], *seed: int) -> Iterator[None]:
    """Draw by a seed of one's own meanwhile: what a slice gets does not depend on the slices before."""
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with ExitStack() as afterwards:
        for generator in generators:
            afterwards.callback(generator.set_state, generator.get_state())
            generator.manual_seed(number)
        yield
