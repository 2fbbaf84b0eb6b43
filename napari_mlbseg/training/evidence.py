"""Whether the network is better than the initial labels: measured on clean slices that it has not learnt from.

Of at least three clean slices some are withheld from learning, until the network labels them better than the initial
labels do that the other ones give. Then it learns from them, too. Until then, and for every class for which that never
happens, the initial labels are what is shown: a network that has hardly begun must not replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from napari_mlbseg.method.ensemble import most_likely
from napari_mlbseg.method.normalisation import needs_tiling
from napari_mlbseg.method.shape_prior import blended, soft_labels
from napari_mlbseg.task import FEWEST_TO_LEAVE_OUT
from napari_mlbseg.training.checkpoint import LearntFrom
from napari_mlbseg.training.dataset import Key, SliceSampler
from napari_mlbseg.training.inference import Predictor

__all__ = ["Evidence"]

_ONE_IN, _MOST = 5, 4  # one clean slice in so many is withheld, at least one, at most so many
_FEWEST_STEPS = 20  # of a network, before it is compared at all
_CHECKS = (0.5, 0.75, 1.0)  # shares of the bootstrap after which it is compared


class Evidence:
    """Withholds clean slices, and compares the network on them with the initial labels.

    Parameters
    ----------
    sampler : SliceSampler
        With its initial labels set.
    network : torch.nn.Module
        The one that is shown.
    earlier : LearntFrom, optional
        Of the model from which the training goes on: what that has learnt from can't be withheld from it any more.
    withholds : bool
        Whether anything is to be withheld: not where nothing is learnt, or where there is no time to compare.

    Attributes
    ----------
    better : ndarray of bool, (K,)
        Classes for which the network is shown where there are initial labels; that of the background is always true.
    """

    def __init__(
        self, sampler: SliceSampler, network: nn.Module, earlier: LearntFrom | None = None, *, withholds: bool = True
    ) -> None:
        self._sampler, self._task, self._network = sampler, sampler.task, network
        self._is_warm = earlier is not None
        known = () if earlier is None else earlier.better
        self.better = np.array([k == 0 or value in known for k, value in enumerate(self._task.class_values)])
        self._scores: tuple[float, float] | None = None  # mean Dice of the network and of the initial labels
        sampler.withheld = frozenset(self._chosen(None if earlier is None else earlier.slices) if withholds else ())
        self._n_withheld = len(sampler.withheld)
        shapes = [self._task.volumes[number].slice_shape for number, _ in sampler.withheld]
        self._due = [*([0.0] if self._is_warm else []), *(_CHECKS[-1:] if any(map(needs_tiling, shapes)) else _CHECKS)]

    def check(self, fraction: float, steps: int) -> None:
        """Compare if that is due after so much of the bootstrap and so many steps of both kinds."""
        if self._due and fraction >= self._due[0]:
            self._due = [share for share in self._due if share > fraction]
            self.compare(steps)

    def compare(self, steps: int) -> None:
        """Compare now; nothing is withheld any more once the network is better in every class that can be compared."""
        if not self._sampler.withheld or not (steps >= _FEWEST_STEPS or self._is_warm):
            return
        network, initial = self._dice()
        shown = np.isfinite(initial)
        self.better[1:] = (network > initial)[1:]  # nan, where nothing can be compared, is not better
        self._scores = float(network[shown].mean()), float(initial[shown].mean())
        if self.better[shown].all():
            self._sampler.withheld = frozenset()

    @property
    def learnt(self) -> LearntFrom:
        """What the network has learnt from, and for which label numbers it is better."""
        slices = {
            volume.name: [z for z in volume.clean_slices if (number, z) not in self._sampler.withheld]
            for number, volume in enumerate(self._task.volumes)
        }
        return LearntFrom(slices, [v for v, better in zip(self._task.class_values, self.better, strict=True) if better])

    @property
    def initial_labels_stand(self) -> bool:
        """Whether initial labels are shown for some class."""
        return any(self._sampler.is_known_beforehand) and not self.better.all()

    def __str__(self) -> str:
        """What is shown, and why, in a sentence; empty where there were no initial labels to compare with."""
        if not any(self._sampler.is_known_beforehand):
            return ""
        values = [str(value) for value, better in zip(self._task.class_values, self.better, strict=True) if better][1:]
        if self.better.all():
            decision = "the network is shown"
        elif values:
            decision = f"the network is shown for label {', '.join(values)}, the initial labels for the others"
        else:
            decision = "the initial labels are shown"
        if self._scores is not None:
            slices = "1 clean slice" if self._n_withheld == 1 else f"{self._n_withheld} clean slices"
            network, initial = self._scores
            return (
                f"On {slices} that it had not learnt from, the network has a Dice of {network:.2f} and the initial "
                f"labels of {initial:.2f}: {decision}."
            )
        if self._is_warm:
            return f"As in the round before, {decision}."
        if self._n_withheld:
            return f"The network has learnt too little to be compared with the initial labels: {decision}."
        return (
            f"The network could not be compared with the initial labels on a clean slice: {decision}. Mark at least "
            f"{FEWEST_TO_LEAVE_OUT} slices clean."
        )

    def _dice(self) -> tuple[np.ndarray, np.ndarray]:
        """Dice of each class on the withheld slices, of what would be shown and of the initial labels, (K,) each.

        nan where no slice shows the class.
        """
        n_classes = self._task.n_classes
        common, total, painted = np.zeros((2, n_classes)), np.zeros((2, n_classes)), np.zeros(n_classes)
        predictor = Predictor(self._network, self._task.config, n_views=1)
        for key in sorted(self._sampler.withheld):
            truth, initial = self._sampler.clean_labels(key), self._sampler.blind_labels(key)
            assert initial is not None  # else it would not have been chosen
            probability, _ = predictor([self._sampler.seen_with(key, initial)])
            soft = soft_labels(self._sampler.prior.distances(initial, n_classes)[None])
            share = torch.tensor([self._sampler.initial_share(key, blind=True)])
            shown = most_likely(blended(probability, soft, share))[0].cpu().numpy()
            painted += np.bincount(truth.ravel(), minlength=n_classes)
            for i, found in enumerate((shown, initial)):
                common[i] += 2 * np.bincount(found[found == truth].ravel(), minlength=n_classes)
                total[i] += np.bincount(found.ravel(), minlength=n_classes)
        total += painted
        network, before = np.where(painted > 0, common / np.maximum(total, 1), np.nan)
        return network, before

    def _chosen(self, learnt: Mapping[str, Sequence[int]] | None) -> list[Key]:
        """Clean slices to withhold: of those with other labels to compare with that show most classes, the middle ones.

        None that alone shows a class, and none that the network has `learnt` from, which for None may be any.
        """
        clean, volumes = self._sampler.clean, self._task.volumes
        if len(clean) < FEWEST_TO_LEAVE_OUT or (self._is_warm and learnt is None):
            return []
        classes = {key: set(np.unique(self._sampler.clean_labels(key)).tolist()) - {0} for key in clean}
        shown_by = [sum(k in found for found in classes.values()) for k in range(self._task.n_classes)]
        candidates = [
            key
            for key in clean
            if self._sampler.is_comparable(key)
            and (learnt is None or key[1] not in learnt.get(volumes[key[0]].name, ()))
            and classes[key]
            and all(shown_by[k] > 1 for k in classes[key])
        ]
        distance = {key: abs(i - (len(clean) - 1) / 2) for i, key in enumerate(clean)}
        wanted = min(_MOST, max(1, len(clean) // _ONE_IN))
        return sorted(candidates, key=lambda key: (-len(classes[key]), distance[key]))[:wanted]
