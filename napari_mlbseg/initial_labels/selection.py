"""Which source the initial labels are taken from: measured on clean slices that each is not told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise, product

import numpy as np

from napari_mlbseg.config import InitialLabelSource
from napari_mlbseg.initial_labels.interpolation import interpolate
from napari_mlbseg.initial_labels.known import clean_labels, is_interpolable, is_out_of_core
from napari_mlbseg.initial_labels.propagation import SliceRegistration
from napari_mlbseg.method.metrics import dice
from napari_mlbseg.task import SegmentationTask, Volume

__all__ = ["Filler", "Guesses", "held_out_dice", "select_initial_labels", "unrelated_slices"]

Filler = Callable[[Sequence[int], np.ndarray, int], np.ndarray]
Guesses = dict[int, np.ndarray]  # slice -> labels (Y, X)

_RELATED = 0.25  # of what lies between chance and perfection: less than that, slices tell nothing of each other


def held_out_dice(fill: Filler, clean: Sequence[int], truth: np.ndarray, n_classes: int) -> list[float]:
    """Dice of every class on every inner clean slice, each predicted by `fill` from the clean slices beside it.

    What lies farther away has no say in either source; asking it anyway would take the square of the number of slices.

    Parameters
    ----------
    fill : callable
        (positions of clean slices, their labels, position wanted) -> labels (Y, X).
    clean : sequence of int
    truth : ndarray of int, (len(clean), Y, X)
    n_classes : int
    """
    scores = []
    for i in range(1, len(clean) - 1):
        beside = [i - 1, i + 1]
        guess = fill([clean[j] for j in beside], truth[beside], clean[i])
        scores += [dice(guess == k, truth[i] == k) for k in range(1, n_classes) if (truth[i] == k).any()]
    return scores


def select_initial_labels(
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
        motions = [SliceRegistration(volume, clean_labels(task, volume), end) for volume in usable]
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
    task: SegmentationTask, motions: Sequence[SliceRegistration], names: Sequence[str]
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

    What the clean slices tell of one another, `scores` of `select_initial_labels`, is no more than chance, and the
    labels of neighbouring ones do not lie one within the other. (A structure may end in a few pixels: they tell
    little.)
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
    return wanted and is_interpolable(volume) and not is_out_of_core(volume)


def _interpolating(task: SegmentationTask) -> Filler:
    return lambda clean, labels, z: interpolate(labels, clean, [z], task.n_classes)[0]


def _propagating(task: SegmentationTask, motion: SliceRegistration) -> Filler:
    return lambda clean, labels, z: motion.propagate(clean, labels, task.n_classes, beyond=False)[z]
