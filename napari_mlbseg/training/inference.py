"""Prediction of slices and of whole volumes, averaged over views (PLE), bounded in memory whatever the volume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Event, Finished, FinishReason, Metrics, Preview, Progress, Stage, Started
from napari_mlbseg.method.ensemble import ensemble, most_likely
from napari_mlbseg.method.normalisation import WHOLE_SIDE, needs_tiling
from napari_mlbseg.method.shape_prior import ShapePrior
from napari_mlbseg.method.views import View, sample_views, warp
from napari_mlbseg.task import SegmentationTask, TaskError, Volume
from napari_mlbseg.training.checkpoint import Model, load_model
from napari_mlbseg.training.devices import computes_in_half, describe_device, find_device
from napari_mlbseg.training.label_planes import label_numbers, link_slices
from napari_mlbseg.training.networks import size_divisor
from napari_mlbseg.training.results import MemoryResults, NullResults, ResultArray, Results
from napari_mlbseg.training.slice_statistics import slice_statistics
from napari_mlbseg.training.slices import SliceStore, no_data_note, pad_to, round_up

__all__ = ["PREDICTED", "Predictor", "in_batches", "predict", "predict_volume", "probe", "write_slices"]

_TILE = WHOLE_SIDE // 2  # side of the overlapping tiles in which larger slices are predicted
_OVERLAP = 0.25
_BATCH_PIXELS = 2**19  # pixels of slices times views that are predicted together


class Predictor:
    """Predicts slices with a network, averaging views.

    Parameters
    ----------
    network : torch.nn.Module
    config : TrainingConfig
    n_views : int
        1: the slice as it is.
    """

    def __init__(self, network: nn.Module, config: TrainingConfig, n_views: int) -> None:
        self._network = network
        self._config = config
        rng = torch.Generator().manual_seed(config.seed)
        self.views: tuple[View, ...] = sample_views(n_views, config.zoom_in, config.zoom_out, rng)

    def batch_size(self, shape: tuple[int, int]) -> int:
        """Slices of this shape that are predicted together."""
        return max(1, _BATCH_PIXELS // (shape[0] * shape[1] * len(self.views)))

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Probabilities (B, K, Y, X) and agreement of the views (B, Y, X) of slices (C, Y, X) of one shape."""
        height, width = images[0].shape[-2:]
        divisor = size_divisor(self._config)
        sides = (max(round_up(height, divisor), 2 * divisor), max(round_up(width, divisor), 2 * divisor))
        x = torch.stack([pad_to(image, *sides) for image in images])
        training = self._network.training
        self._network.eval()
        is_half = self._config.mixed_precision and computes_in_half(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=is_half):
            parts = [self._probability(warp(x, view)) for view in self.views]
        self._network.train(training)
        views = ensemble(parts, self.views)
        return views.mean()[..., :height, :width], views.agreement()[..., :height, :width]

    def _probability(self, x: Tensor) -> Tensor:
        if not needs_tiling((x.shape[-2], x.shape[-1])):
            return self._network(x).float().softmax(1)
        tile = tuple(min(side, _TILE) for side in x.shape[-2:])
        infer = SlidingWindowInferer(tile, sw_batch_size=4, overlap=_OVERLAP, mode="gaussian")
        predicted = infer(x, lambda patch: self._network(patch).float().softmax(1))
        assert isinstance(predicted, Tensor)
        return predicted


def probe(image: Tensor) -> tuple[Tensor, int]:
    """A part of a slice (C, Y, X), and how many times as long as it the slice takes to predict.

    A slice that is predicted at once is that part itself.
    """
    shape = image.shape[-2], image.shape[-1]
    if not needs_tiling(shape):
        return image, 1
    strides = [max(1, int(min(side, _TILE) * (1 - _OVERLAP))) for side in shape]
    tiles = math.prod(max(0, math.ceil((n - _TILE) / stride)) + 1 for n, stride in zip(shape, strides, strict=True))
    return image[:, :_TILE, :_TILE], tiles


def write_slices(
    arrays: Mapping[str, ResultArray],
    task: SegmentationTask,
    volume: Volume,
    slices: Sequence[int],
    probability: Tensor,
    agreement: Tensor,
) -> None:
    """Write predicted slices into the result arrays; on clean slices the label is the user's own.

    Parameters
    ----------
    arrays : mapping of str to array
    slices : sequence of int
    probability : Tensor, (B, K, Y, X)
    agreement : Tensor, (B, Y, X)
    """
    classes = most_likely(probability).cpu().numpy()
    for i, z in enumerate(slices):
        arrays["probability"][z] = probability[i].cpu().numpy().astype(np.float16)
        arrays["view_agreement"][z] = agreement[i].cpu().numpy()
        if volume.clean[z]:
            arrays["pseudo_labels"][z] = volume.label_slice(z)
        else:
            arrays["pseudo_labels"][z] = label_numbers(task, classes[i], z)


PREDICTED = ("pseudo_labels", "probability", "view_agreement")


def predict(
    task: SegmentationTask,
    *,
    model: Path,
    device: str = "auto",
    results: Results | None = None,
    stop: Callable[[], bool] = lambda: False,
    start: float | None = None,
) -> Iterator[Event]:
    """Predict every slice of every volume of `task` with a trained model; a generator of events.

    Parameters
    ----------
    task : SegmentationTask
        Its volumes need no clean slices; its classes are those of the model.
    model : Path
        A ``model.safetensors``, its JSON beside it.
    device : str
    results : Results, optional
        Where the arrays go; by default nowhere.
    stop : callable
        Asked between batches.
    start : float, optional
        `time.monotonic` at the start of the job.

    Raises
    ------
    TaskError
        If there is no model, or it was trained on another number of channels.
    """
    start = time.monotonic() if start is None else start

    def elapsed() -> float:
        return time.monotonic() - start

    results = NullResults() if results is None else results
    target = find_device(device)
    loaded = load_model(model)
    if loaded.image_channels != task.n_channels:
        raise TaskError(
            f"The model was trained on images with {loaded.image_channels} channel(s), these have {task.n_channels}: "
            "choose images of the same kind."
        )
    yield Started(device=describe_device(target), seed=loaded.config.seed)
    predictor = Predictor(loaded.network.to(target).eval(), loaded.config, loaded.config.n_views_predict)
    total = sum(volume.n_slices for volume in task.volumes)
    done = 0
    for volume in task.volumes:
        store = SliceStore(volume, loaded.config.context, target)
        if store.no_data:
            yield Metrics(values=no_data_note([store]))
        for batch in in_batches(range(volume.n_slices), predictor.batch_size(volume.slice_shape)):
            if stop():
                yield Cancelled(seconds=time.monotonic() - start)
                return
            probability, agreement = _predict_unseen(predictor, loaded, [store[z] for z in batch])
            write_slices(results[volume.name], task, volume, batch, probability, agreement)
            done += len(batch)
            seconds = time.monotonic() - start
            yield Preview(
                volume=volume.name,
                slices=tuple(batch),
                arrays=PREDICTED,
                stage=Stage.PREDICT,
                seconds=seconds,
                statistics=slice_statistics(probability, agreement if len(predictor.views) > 1 else None),
            )
            yield Progress(stage=Stage.PREDICT, fraction=done / total, seconds=seconds)
        yield from link_slices(results[volume.name]["pseudo_labels"], task, volume, elapsed)
    yield Metrics(values={"device": describe_device(target), "slices": total})
    yield Finished(reason=FinishReason.NOTHING_TO_TRAIN, steps=0, seconds=time.monotonic() - start)


def predict_volume(model: Model | Path, volume: Volume, device: str = "auto") -> dict[str, np.ndarray]:
    """Predict one volume into memory.

    Parameters
    ----------
    model : Model or Path
        A loaded model, or the path of its ``model.safetensors``.
    volume : Volume
    device : str

    Returns
    -------
    dict of str to ndarray
        ``pseudo_labels`` (Z, Y, X) in the user's label numbers, ``probability`` (Z, K, Y, X), ``view_agreement``
        (Z, Y, X).
    """
    loaded = load_model(model) if isinstance(model, Path) else model
    target = find_device(device)
    last_instance = 0 if loaded.instances else None
    task = SegmentationTask((volume,), loaded.class_values, loaded.config, last_instance)
    arrays = MemoryResults(task)[volume.name]
    predictor = Predictor(loaded.network.to(target).eval(), loaded.config, loaded.config.n_views_predict)
    store = SliceStore(volume, loaded.config.context, target)
    for batch in in_batches(range(volume.n_slices), predictor.batch_size(volume.slice_shape)):
        write_slices(arrays, task, volume, batch, *_predict_unseen(predictor, loaded, [store[z] for z in batch]))
    for _ in link_slices(arrays["pseudo_labels"], task, volume):
        pass
    return {name: arrays[name] for name in PREDICTED}


def _predict_unseen(predictor: Predictor, model: Model, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Probabilities and agreement of slices of which nothing is known.

    A network that takes a shape prior is first asked without one; what it says is its prior the second time.
    """
    prior = ShapePrior(model.config, len(model.class_values), model.prior_reach)
    shape = (images[0].shape[-2], images[0].shape[-1])
    blank = prior(None, shape, images[0].device)
    probability, agreement = predictor([torch.cat([image, blank]) for image in images])
    if not prior.channels:
        return probability, agreement
    guesses = [prior(labels, shape, images[0].device) for labels in most_likely(probability).cpu().numpy()]
    return predictor([torch.cat([image, guess]) for image, guess in zip(images, guesses, strict=True)])


def in_batches(slices: Sequence[int], size: int) -> Iterator[list[int]]:
    """`slices`, at most `size` of them at a time."""
    for first in range(0, len(slices), size):
        yield list(slices[first : first + size])
