"""The stages of a training, one method each, in the order in which `train` runs them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from napari_mlbseg.events import Cancelled, Event, Finished, FinishReason, Metrics, Stage
from napari_mlbseg.initial_labels.known import is_known_beforehand, is_out_of_core
from napari_mlbseg.initial_labels.label_stack import LabelStack, SparseLabels, index_dtype
from napari_mlbseg.initial_labels.selection import Guesses, select_initial_labels, unrelated_slices
from napari_mlbseg.method.ensemble import most_likely
from napari_mlbseg.method.views import sample_views
from napari_mlbseg.task import SegmentationTask, TaskError, Volume
from napari_mlbseg.training.checkpoint import Model, learnt_from, save_model, warm_start
from napari_mlbseg.training.dataset import Key, SliceSampler
from napari_mlbseg.training.devices import describe_device, find_device
from napari_mlbseg.training.evidence import Evidence
from napari_mlbseg.training.inference import Predictor, in_batches
from napari_mlbseg.training.initial_label_writer import InitialWriter
from napari_mlbseg.training.label_planes import instance_note
from napari_mlbseg.training.memory import peak_memory
from napari_mlbseg.training.networks import build_network
from napari_mlbseg.training.prediction_writer import PredictionWriter
from napari_mlbseg.training.progress import Focus, PreviewOrder, ProgressReporter, bit_reversed_order
from napari_mlbseg.training.results import Results
from napari_mlbseg.training.schedule import Schedule
from napari_mlbseg.training.slices import no_data_note
from napari_mlbseg.training.step import Learner

__all__ = ["Training", "with_fitting_prior"]

_LABELLING_SHARE = 0.15  # of the time that is left, for the initial labels of a large volume by the network
_MOST_LABELLED = 64  # of its slices


class Training:
    """State of one training; each public method is a stage that yields its events.

    Parameters are those of `napari_mlbseg.training.trainer.train`, but `only` names volumes by their number.
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
        only: Collection[Key] | None = None,
        writer: InitialWriter | None = None,
        not_counted: float = 0.0,
    ) -> None:
        self._writer = InitialWriter(results, task, start) if writer is None else writer
        self._stop, self._focus, self._previous, self._save_to = stop, focus, previous, save_to
        self._results, self._only, self._start, self._not_counted = results, only, start, not_counted
        self._stopped = False
        self._device = find_device(device)
        self._build(task)

    def _build(self, task: SegmentationTask) -> None:
        """All that depends on the task: as it comes, or once its volumes turn out to be stacks of unrelated images."""
        task = with_fitting_prior(task)
        config = task.config
        self.task = task
        self._rng = torch.Generator().manual_seed(config.seed)
        self._sampler = SliceSampler(task, self._device, self._rng)
        network = build_network(config, task.n_channels, task.n_classes)
        self._is_warm = self._previous is not None and warm_start(network, self._previous)
        self._learner = Learner(network, config, self._device, self._sampler.perturbed)
        n_steps = max(1, len(self._sampler.unlabelled) // config.batch_size)
        self._schedule = Schedule(config, n_steps, self._start, self._not_counted)
        self._progress = ProgressReporter(self._schedule)
        order = PreviewOrder(task, self._focus)
        self._prediction_writer = PredictionWriter(
            self._sampler, self._learner, self._results, self._schedule, order, self._only
        )
        self._bootstrap_step = self._step = 0

    @property
    def sampler(self) -> SliceSampler:
        """What the training draws from."""
        return self._sampler

    @property
    def learner(self) -> Learner:
        """What it trains."""
        return self._learner

    @property
    def prediction_writer(self) -> PredictionWriter:
        """What it shows."""
        return self._prediction_writer

    def initial_labels(self, known: Mapping[str, LabelStack | None]) -> Iterator[Event]:
        """Take what is known, improved by propagation where that is wanted or measured to be better."""
        config = self.task.config
        facts = {"device": describe_device(self._device), "warm_start": int(self._is_warm)}
        notes = no_data_note(self._sampler.stores) | instance_note(self.task)
        if self._previous is not None and not self._is_warm:
            notes["note_warm_start"] = "The earlier model does not fit this training, which begins anew."
        yield Metrics(values=facts | notes | ({"note_labels": self.task.note} if self.task.note else {}))
        labels, guesses = dict(known), dict[str, Guesses]()
        if config.initial_labels in ("auto", "propagation"):
            improved, scores = select_initial_labels(
                self.task, config.initial_labels, self._schedule.carrying_ends, guesses
            )
            labels.update(improved)
            yield Metrics(values={f"held_out_dice_{name}": score for name, score in scores.items()})
            if config.initial_labels == "auto" and (unrelated := unrelated_slices(self.task, scores)):
                labels |= dict.fromkeys(unrelated)
                volumes = (
                    replace(v, independent_slices=v.independent_slices or v.name in unrelated)
                    for v in self.task.volumes
                )
                self._build(replace(self.task, volumes=tuple(volumes)))
            for volume in self.task.volumes:
                if volume.name in improved:
                    yield from self._writer.write(volume, labels[volume.name])
        sources = [self._source(volume, known, labels) for volume in self.task.volumes]
        found = [labels[volume.name] for volume in self.task.volumes]
        from_own_annotation = [source in ("interpolation", "propagation") for source in sources]
        self._sampler.set_initial_labels(found, from_own_annotation, guesses)
        self._sampler.is_known_beforehand = [stack is not None for stack in found]
        self._begin_evidence()
        yield Metrics(values={"initial_labels": " and ".join(sorted(set(sources)))})
        for volume in self.task.volumes:
            if config.learns and not is_out_of_core(volume):  # so that no slice is empty, whatever there is time for
                yield from self._writer.write_rest(volume, labels[volume.name], range(volume.n_slices))

    def _begin_evidence(self) -> None:
        """Withhold clean slices, on which the network is compared with the initial labels."""
        earlier = learnt_from(self._previous) if self._is_warm and self._previous is not None else None
        self._evidence = Evidence(
            self._sampler, self._prediction_writer.network, earlier, withholds=self.task.config.learns
        )
        self._prediction_writer.evidence = self._evidence

    def bootstrap(self) -> Iterator[Event]:
        """Learn from the clean slices (and a little from initial labels that are known) until the weights take over.

        Where no initial labels are known, the network's own predictions become them: the paper's bootstrap.
        """
        schedule, config, sampler = self._schedule, self.task.config, self._sampler
        if schedule.has_time_to_learn:
            self._prediction_writer.reserve_final(training_visits=False)
        schedule.begin_training()
        known = all(labels is not None for labels in sampler.initial)
        use_prior = known and bool(sampler.unlabelled) and config.bootstrap_prior > 0
        while self._begins_step(schedule.bootstrap_is_over(self._bootstrap_step)):
            clean = sampler.draw_clean(config.clean_batch_size, augment=config.augment)
            prior = sampler.draw_unlabelled(config.batch_size).batch if use_prior else None
            losses = self._learner.supervised_step(clean, prior)
            self._bootstrap_step += 1
            self._evidence.check(schedule.bootstrap_fraction(self._bootstrap_step), self._bootstrap_step)
            yield from self._progress.update(Stage.BOOTSTRAP, self._bootstrap_step, 0, losses)
            if not known:  # known initial labels are better than a network that has just begun
                yield from self._preview(Stage.BOOTSTRAP)
        yield from self._progress.flush(Stage.BOOTSTRAP, self._bootstrap_step, 0)
        if not known:
            yield from self._label_by_network()

    def weighted(self) -> Iterator[Event]:
        """Learn from all slices by meta weights."""
        schedule, config, sampler = self._schedule, self.task.config, self._sampler
        while sampler.unlabelled and self._begins_step(schedule.training_is_over(self._step)):
            sampled = sampler.draw_unlabelled(config.batch_size)
            clean = sampler.draw_clean(config.clean_batch_size, augment=config.augment)
            views = sample_views(config.n_views, config.zoom_in, config.zoom_out, self._rng)
            report = self._learner.meta_step(sampled.batch, clean, views)
            self._prediction_writer.accumulate_weights(sampled, report, views)
            self._step += 1
            yield from self._progress.update(Stage.TRAIN, self._bootstrap_step, self._step, report.losses)
            yield from self._preview(Stage.TRAIN)
        yield from self._progress.flush(Stage.TRAIN, self._bootstrap_step, self._step)
        self._evidence.compare(self._bootstrap_step + self._step)

    def finish(self) -> Iterator[Event]:
        """Save the model, predict every slice with all views, write both weight maps of every slice, look again."""
        trained_until = predicted_until = self._schedule.seconds
        steps, trained = self._bootstrap_step + self._step, self._has_learnt
        if not trained and not self._stops() and not self._has_labels:
            raise TaskError(
                "No training step was made, so there is nothing to show: allow more time or more steps, or choose "
                "initial labels that need no training (interpolation or propagation)."
            )
        if trained and self._save_to is not None:
            model = Model(
                self._prediction_writer.network,
                self.task.config,
                self.task.class_values,
                self.task.n_channels,
                prior_reach=self._sampler.prior.reach,
                learnt=self._evidence.learnt,
                slice_direction=self.task.slice_direction,
                instances=self.task.last_instance is not None,
            )
            save_model(self._save_to, model)
        goes_on = not self._stops()
        if goes_on:
            yield from self._prediction_writer.predict_all(trained=trained, stops=self._stops)
        if goes_on:
            if not self._stopped:
                yield from self._show_initial_labels()
                yield from self._prediction_writer.link_slices()
            predicted_until = self._schedule.seconds
            if trained:
                yield from self._prediction_writer.find_label_errors(self._stops)
        if self._stopped:
            yield Cancelled(steps=steps, seconds=self._schedule.seconds)
            return
        note = str(self._evidence) if trained and self._evidence.initial_labels_stand else ""
        if not trained and self.task.config.learns:
            note = "No training step was made in the time that there was: the initial labels are shown."
        yield Metrics(
            values={
                "seconds_training": trained_until,
                "seconds_predict": predicted_until - trained_until,
                "seconds_label_errors": self._schedule.seconds - predicted_until,
                "bootstrap_steps": self._bootstrap_step,
                "steps": self._step,
                "slices_unreached": self._prediction_writer.n_unpredicted,
                "peak_memory_bytes": peak_memory(self._device),
                "evidence": str(self._evidence) if trained else "",
            }
            | ({"note_evidence": note} if note else {})
        )
        reason = self._schedule.finish_reason(self._step) or FinishReason.NOTHING_TO_TRAIN
        unpredicted = self._prediction_writer.n_unpredicted
        yield Finished(reason=reason, steps=steps, seconds=self._schedule.seconds, unreached=unpredicted)

    def _preview(self, stage: Stage) -> Iterator[Event]:
        """Show some slices if the last ones are old enough."""
        if self._progress.preview_is_due():
            began = self._schedule.seconds
            yield from self._prediction_writer.preview(stage, self._progress.preview_seconds())
            self._progress.previewed(self._schedule.seconds - began)

    def _label_by_network(self) -> Iterator[Event]:
        """The bootstrapped network's predictions become y^n of the volumes for which nothing was known.

        Of many volumes that takes minutes: it says how far it is, and can be stopped. Of a large volume only some
        slices are predicted, as many as a share of the time allows, and only these are learnt from.
        """
        predictor = Predictor(self._prediction_writer.network, self.task.config, n_views=1)
        if not self._has_learnt:  # its predictions would be noise
            return
        found = list(self._sampler.initial)
        wanted = [number for number, labels in enumerate(found) if labels is None]
        for done, number in enumerate(wanted):
            volume = self.task.volumes[number]
            if len(wanted) > 1:
                yield self._progress.progress(
                    Stage.BOOTSTRAP, self._bootstrap_step, 0, f"Initial labels: volume {done + 1} of {len(wanted)}"
                )
            labels: LabelStack
            if is_out_of_core(volume):
                labels = self._label_some(predictor, number, _spread(volume))
            else:
                labels = self._label_all(predictor, number, volume.unlabelled_slices)
            if self._stopped:
                return
            found[number] = labels
            yield from self._writer.write(volume, labels)
        self._sampler.set_initial_labels(found, self._sampler.from_own_annotation)

    def _label_all(self, predictor: Predictor, number: int, slices: Sequence[int]) -> np.ndarray:
        """Labels of a volume (Z, Y, X) by the network."""
        volume = self.task.volumes[number]
        labels = np.zeros(volume.shape, index_dtype(self.task.n_classes))
        for batch in in_batches(slices, predictor.batch_size(volume.slice_shape)):
            if self._stops():
                return labels
            labels[batch] = self._labelled(predictor, number, batch)
        for z in volume.clean_slices:
            labels[z] = self._sampler.clean_labels((number, z))
        return labels

    def _label_some(self, predictor: Predictor, number: int, slices: Sequence[int]) -> SparseLabels:
        """Labels of as many of `slices` as there is time for."""
        volume = self.task.volumes[number]
        labels = SparseLabels({z: self._sampler.clean_labels((number, z)) for z in volume.clean_slices})
        end = _LABELLING_SHARE * self._schedule.remaining + self._schedule.seconds
        for z in slices:
            if self._schedule.seconds > end or self._stops():
                break
            labels[z] = self._labelled(predictor, number, [z])[0]
        return labels

    def _labelled(self, predictor: Predictor, number: int, slices: Sequence[int]) -> np.ndarray:
        """What the network labels slices, (B, Y, X)."""
        probability, _ = predictor([self._sampler.network_input((number, z)) for z in slices])
        return most_likely(probability).cpu().numpy().astype(index_dtype(self.task.n_classes))

    def _show_initial_labels(self) -> Iterator[Event]:
        """Initial labels that are not to be seen yet; they stand in for predictions that there was no time for."""
        for number, volume in enumerate(self.task.volumes):
            unpredicted = self._prediction_writer.unpredicted.get(number, [])
            yield from self._writer.write_rest(volume, self._sampler.initial[number], unpredicted)

    def _source(
        self, volume: Volume, known: Mapping[str, LabelStack | None], labels: Mapping[str, LabelStack | None]
    ) -> str:
        """Where the initial labels of a volume came from, in a word."""
        if labels[volume.name] is None:
            return "network"
        if labels[volume.name] is not known[volume.name]:
            return "propagation"
        is_given = volume.initial_labels is not None and self.task.config.initial_labels in ("given", "auto")
        return "given" if is_given else "interpolation"

    def _begins_step(self, is_over: bool) -> bool:
        """Whether a step follows, for which the learning rate is set."""
        if is_over or self._stops():
            return False
        self._learner.set_learning_rate(self._schedule.learning_rate(self._bootstrap_step, self._step))
        return True

    @property
    def _has_learnt(self) -> bool:
        """Whether the network knows anything: else it is neither shown nor saved."""
        return self._bootstrap_step + self._step > 0 or self._is_warm

    @property
    def _has_labels(self) -> bool:
        """Whether every slice that is to be labelled has initial labels."""
        stacks = zip(self.task.volumes, self._sampler.initial, strict=True)
        return all(labels is not None or not volume.unlabelled_slices for volume, labels in stacks)

    def _stops(self) -> bool:
        self._stopped = self._stopped or self._stop()
        return self._stopped


def _spread(volume: Volume) -> list[int]:
    """Some unlabelled slices of a large volume, in an order whose every beginning is spread over the stack."""
    return [z for _, z in bit_reversed_order(0, volume.n_slices) if not volume.clean[z]][:_MOST_LABELLED]


def with_fitting_prior(task: SegmentationTask) -> SegmentationTask:
    """The task with a prior that is withheld in training as often as it will be missing, or with none.

    On clean slices the prior is made from the user's own labels, so a network comes to rely on it. Volumes without a
    clean slice have none to show; where that is so of every slice that is to be labelled, a prior is of no use.
    """
    config = task.config
    if not config.shape_prior:
        return task
    wanted = {volume.name: len(volume.unlabelled_slices) for volume in task.volumes}
    known = sum(wanted[v.name] for v in task.volumes if is_known_beforehand(v, config.initial_labels))
    if not known:
        return replace(task, config=config.model_copy(update={"shape_prior": False}))
    missing = 1 - known / sum(wanted.values())
    if missing <= config.prior_dropout:
        return task
    return replace(task, config=config.model_copy(update={"prior_dropout": missing}))
