"""The stages of a training, one method each, in the order in which `train` runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from napari_mlbseg.engine.checkpoint import Model, save_model, warm_start
from napari_mlbseg.engine.devices import describe_device, find_device
from napari_mlbseg.engine.learner import Learner, StepReport
from napari_mlbseg.engine.memory import peak_memory
from napari_mlbseg.engine.networks import build_network
from napari_mlbseg.engine.pool import Key, Pool
from napari_mlbseg.engine.predict import PREDICTED, Predictor, write_slices
from napari_mlbseg.engine.progress import Meter, PreviewOrder
from napari_mlbseg.engine.propagation import improve
from napari_mlbseg.engine.results import Results
from napari_mlbseg.engine.schedule import Schedule
from napari_mlbseg.engine.train import Focus, write_initial_labels
from napari_mlbseg.engine.views import View, sample_views
from napari_mlbseg.engine.weight_maps import WeightMaps, on_slice
from napari_mlbseg.events import Cancelled, Event, Finished, FinishReason, Metrics, Preview, Progress, Stage
from napari_mlbseg.task import SegmentationTask

__all__ = ["Training"]

_WRITE_SECONDS = 0.012  # to write a slice's six arrays
_WEIGHTS = ("weight_initial", "weight_pseudo")


class Training:
    """State of one training; each public method is a stage that yields its events.

    Parameters are those of `napari_mlbseg.engine.train.train`.
    """

    def __init__(
        self,
        task: SegmentationTask,
        device: str,
        results: Results,
        stop: Callable[[], bool],
        focus: Callable[[], Focus | None],
        previous: Path | None,
        save_to: Path | None,
        start: float,
    ) -> None:
        config = task.config
        self.task, self.results = task, results
        self._stop, self._save_to, self._start = stop, save_to, start
        self._device = find_device(device)
        self._rng = torch.Generator().manual_seed(config.seed)
        self._pool = Pool(task, self._device, self._rng)
        network = build_network(config, task.n_channels, task.n_classes)
        self._is_warm = previous is not None and warm_start(network, previous)
        self._learner = Learner(network, config, self._device, self._pool.doubted)
        steps_per_epoch = max(1, len(self._pool.unlabelled) // config.batch_size)
        self._schedule = Schedule(config, steps_per_epoch, start)
        self._maps = WeightMaps()
        self._meter = Meter(self._schedule)
        self._order = PreviewOrder(task, focus)
        self._bootstrap_step = 0
        self._step = 0
        self._stopped = False
        self._direction: dict[str, torch.Tensor] | None = None  # clean gradient of the final maps
        self._costs: list[tuple[float, float]] = []  # seconds to predict and to weigh a slice of each volume

    # -- stages --------------------------------------------------------------------------------------------------

    def initial_labels(self, known: Mapping[str, np.ndarray | None]) -> Iterator[Event]:
        """Take what is known, improved by propagation where that is wanted or measured to be better."""
        config = self.task.config
        yield Metrics(values={"device": describe_device(self._device), "warm_start": int(self._is_warm)})
        labels = dict(known)
        if config.initial_labels in ("auto", "propagation"):
            improved, scores = improve(self.task, config.initial_labels)
            labels.update(improved)
            yield Metrics(values={f"held_out_dice_{name}": score for name, score in scores.items()})
            for volume in self.task.volumes:
                if volume.name in improved:
                    yield write_initial_labels(self.results, self.task, volume, labels[volume.name], self._start)
        self._pool.set_initial_labels([labels[volume.name] for volume in self.task.volumes])
        sources = {self._source(volume.name, known, labels) for volume in self.task.volumes}
        yield Metrics(values={"initial_labels": " and ".join(sorted(sources))})

    def bootstrap(self) -> Iterator[Event]:
        """Learn from the clean slices (and a little from initial labels that are known) until the weights take over.

        Where no initial labels are known, the network's own predictions become them: the paper's bootstrap.
        """
        schedule, config = self._schedule, self.task.config
        self._reserve_final_pass()
        schedule.begin_training()
        use_prior = (
            config.bootstrap_prior > 0 and all(v is not None for v in self._pool.initial) and self._pool.unlabelled
        )
        while not schedule.bootstrap_is_over(self._bootstrap_step) and not self._stops():
            self._learner.set_learning_rate(schedule.learning_rate(self._bootstrap_step, 0))
            clean = self._pool.draw_clean(config.clean_batch_size, augment=config.augment)
            prior = self._pool.draw_unlabelled(config.batch_size).batch if use_prior else None
            losses = self._learner.supervised_step(clean, prior)
            self._bootstrap_step += 1
            yield from self._meter.tick(Stage.BOOTSTRAP, self._bootstrap_step, 0, losses)
            if self._meter.preview_is_due() and not use_prior:
                yield from self._preview(Stage.BOOTSTRAP)
        yield from self._label_by_network()

    def weighted(self) -> Iterator[Event]:
        """Learn from all slices by meta weights."""
        schedule, config = self._schedule, self.task.config
        if not self._pool.unlabelled:
            return
        while not schedule.training_is_over(self._step) and not self._stops():
            self._learner.set_learning_rate(schedule.learning_rate(self._bootstrap_step, self._step))
            drawn = self._pool.draw_unlabelled(config.batch_size)
            clean = self._pool.draw_clean(config.clean_batch_size, augment=config.augment)
            views = sample_views(config.n_views, config.zoom_in, config.zoom_out, self._rng)
            report = self._learner.weighted_step(drawn.batch, clean, views)
            self._remember(drawn.keys, drawn.batch.corners, report, views)
            self._step += 1
            yield from self._meter.tick(Stage.TRAIN, self._bootstrap_step, self._step, report.losses)
            if self._meter.preview_is_due():
                yield from self._preview(Stage.TRAIN)

    def finish(self) -> Iterator[Event]:
        """Predict every slice with all views, write both weight maps of every slice, save the model."""
        trained = self._schedule.seconds
        if self._save_to is not None:
            model = Model(
                self._model(),
                self.task.config,
                self.task.class_values,
                self.task.n_channels,
                prior_reach=self._pool.prior.reach,
            )
            save_model(self._save_to, model)
        if self._stops():
            yield Cancelled(steps=self._step, seconds=self._schedule.seconds)
            return
        done, total = 0, sum(volume.n_slices for volume in self.task.volumes)
        predictor = Predictor(self._model(), self.task.config, self.task.config.n_views_predict)
        for number, volume in enumerate(self.task.volumes):
            order = self._order.outwards(number)
            size = predictor.batch_size(volume.slice_shape)
            for batch in (order[i : i + size] for i in range(0, len(order), size)):
                if self._stops():
                    yield Cancelled(steps=self._step, seconds=self._schedule.seconds)
                    return
                yield self._predict(predictor, number, batch, Stage.PREDICT, final=True)
                done += len(batch)
                fraction = 0.95 + 0.05 * done / total
                left = (self._schedule.seconds - trained) * (total - done) / done
                yield Progress(
                    stage=Stage.PREDICT,
                    fraction=fraction,
                    step=self._step,
                    seconds=self._schedule.seconds,
                    seconds_left=left,
                )
        yield Metrics(
            values={
                "seconds_training": trained,
                "seconds_predict": self._schedule.seconds - trained,
                "bootstrap_steps": self._bootstrap_step,
                "steps": self._step,
                "peak_memory_bytes": peak_memory(self._device),
            }
        )
        reason = self._schedule.finish_reason(self._step) or FinishReason.NOTHING_TO_TRAIN
        yield Finished(reason=reason, steps=self._bootstrap_step + self._step, seconds=self._schedule.seconds)

    # -- initial labels ------------------------------------------------------------------------------------------

    def _label_by_network(self) -> Iterator[Event]:
        """The bootstrapped network's predictions become y^n of the volumes for which nothing was known."""
        predictor = Predictor(self._model(), self.task.config, n_views=1)
        found = list(self._pool.initial)
        for number, volume in enumerate(self.task.volumes):
            if self._pool.initial[number] is not None or self._stops():
                continue
            labels = np.zeros(volume.shape, np.int64)
            for first in range(0, volume.n_slices, predictor.batch_size(volume.slice_shape)):
                batch = range(first, min(first + predictor.batch_size(volume.slice_shape), volume.n_slices))
                probability, _ = predictor([self._pool.network_input((number, z)) for z in batch])
                labels[list(batch)] = probability.argmax(1).cpu().numpy()
            for z in volume.clean_slices:
                labels[z] = self.task.class_indices(volume.label_slice(z))
            found[number] = labels
            yield write_initial_labels(self.results, self.task, volume, labels, self._start)
        self._pool.set_initial_labels(found)

    def _source(
        self, name: str, known: Mapping[str, np.ndarray | None], labels: Mapping[str, np.ndarray | None]
    ) -> str:
        """Where the initial labels of a volume came from, in a word."""
        if labels[name] is None:
            return "network"
        if labels[name] is not known[name]:
            return "propagation"
        given = next(v for v in self.task.volumes if v.name == name).initial_labels is not None
        return "given" if given and self.task.config.initial_labels in ("given", "auto") else "interpolation"

    # -- predictions and maps ------------------------------------------------------------------------------------

    def _model(self) -> torch.nn.Module:
        """The network that is shown and saved: the teacher, which is the student's average."""
        return self._learner.teacher.network

    def _preview(self, stage: Stage) -> Iterator[Event]:
        """Predict some slices as they are, the one in view first, for a small share of the time."""
        deadline = time.monotonic() + self._meter.preview_seconds()
        predictor = Predictor(self._model(), self.task.config, n_views=1)
        for number, z in self._order.previews():
            yield self._predict(predictor, number, [z], stage)
            if time.monotonic() > deadline:
                break
        self._meter.previewed()
        self._reserve_final_pass()

    def _predict(
        self, predictor: Predictor, number: int, slices: Sequence[int], stage: Stage, final: bool = False
    ) -> Preview:
        """Predict slices of a volume and write them with their weight maps."""
        volume = self.task.volumes[number]
        arrays = self.results[volume.name]
        probability, agreement = predictor([self._pool.network_input((number, z)) for z in slices])
        write_slices(arrays, self.task, volume, slices, probability, agreement)
        mapped = [z for z in slices if self._write_weights((number, z), complete=final)]
        return Preview(
            volume=volume.name,
            slices=tuple(slices),
            arrays=(*PREDICTED, *(_WEIGHTS if mapped else ())),
            stage=stage,
            seconds=self._schedule.seconds,
        )

    def _remember(
        self, keys: Sequence[Key], corners: Sequence[tuple[int, int]], report: StepReport, views: Sequence[View]
    ) -> None:
        """Add a step's weights to the running means of the slices that it saw."""
        initial, pseudo = on_slice(report.weights, views)
        for i, key in enumerate(keys):
            shape = self.task.volumes[key[0]].slice_shape
            self._maps.add(key, shape, corners[i], initial[i], pseudo[i])

    def _write_weights(self, key: Key, *, complete: bool) -> bool:
        """Write both maps of a slice; whether there were any. `complete`: look at pixels that no step visited now."""
        if complete and not self._maps.covers(key):
            self._visit(key)
        mean = self._maps.mean(key)
        if mean is None:
            return False
        arrays = self.results[self.task.volumes[key[0]].name]
        arrays["weight_initial"][key[1]], arrays["weight_pseudo"][key[1]] = mean
        return True

    def _visit(self, key: Key) -> None:
        """Weights of one whole slice without learning from it."""
        if self._direction is None:
            config = self.task.config
            clean = self._pool.draw_clean(max(config.clean_batch_size, len(self._pool.clean[:8])), augment=False)
            self._direction = self._learner.clean_direction(clean)
        weights = self._learner.weights(self._pool.whole(key), self._direction)
        initial, pseudo = on_slice(weights, [View()])
        self._maps.add(key, self.task.volumes[key[0]].slice_shape, (0, 0), initial[0], pseudo[0])

    def _reserve_final_pass(self) -> None:
        """Keep the time free that the final predictions and weight maps will take, from what one of each takes."""
        if not self._costs:
            self._measure_costs()
        needed = 0.0
        for number, (volume, (predicting, weighing)) in enumerate(zip(self.task.volumes, self._costs, strict=True)):
            unseen = sum(not self._maps.covers((number, z)) for z in range(volume.n_slices))
            needed += predicting * volume.n_slices + weighing * unseen
        self._schedule.reserve(needed)

    def _measure_costs(self) -> None:
        """Seconds to predict and to weigh a slice of each volume."""
        predictor = Predictor(self._model(), self.task.config, self.task.config.n_views_predict)
        clean = self._pool.draw_clean(1, augment=False)
        direction = self._learner.clean_direction(clean)
        for number, volume in enumerate(self.task.volumes):
            n = min(predictor.batch_size(volume.slice_shape), volume.n_slices)
            images = [self._pool.network_input((number, z)) for z in range(n)]
            whole = self._pool.whole((number, 0))
            predicting = _seconds(predictor, images) / n + _WRITE_SECONDS
            weighing = _seconds(self._learner.weights, whole, direction)
            self._costs.append((predicting, weighing))

    def _stops(self) -> bool:
        self._stopped = self._stopped or self._stop()
        return self._stopped


def _seconds(action: Callable[..., object], *arguments: object) -> float:
    """What `action` takes the second time: the first also sets things up."""
    action(*arguments)
    began = time.monotonic()
    action(*arguments)
    return time.monotonic() - began
