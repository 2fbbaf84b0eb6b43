"""Training on kept volumes: what the session is doing, the job that runs, and one that is about to.

Panels call its methods and listen to its signals; they keep no state of their own.
"""

from __future__ import annotations

import logging
import os
import time
from abc import abstractmethod
from enum import Enum

from psygnal import Signal

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Event, Finished, HeldOut, TerminalEvent
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.jobs.worker_log import describe_end
from napari_mlbseg.session.annotations import SessionVolumes
from napari_mlbseg.session.job_starter import JobStarter, unread_images
from napari_mlbseg.session.launcher import AbandonedError, Launch, check_launch, round_launch
from napari_mlbseg.session.persistence.schema import SliceScore
from napari_mlbseg.session.round_history import RoundHistory
from napari_mlbseg.session.rounds import Check, Round, Run
from napari_mlbseg.session.snapshot import with_snapshot
from napari_mlbseg.task import SegmentationTask, TaskError, resolve_task

__all__ = ["SessionState", "TrainingSession"]

_LOG = logging.getLogger(__name__)

#: What turns a training into the prediction of slices that one had no time for: only of large volumes are there such,
#: and of these one view is all that anybody would wait for.
_NO_LEARNING = {"steps": 0, "bootstrap_steps": 0, "time_budget": None, "n_views_predict": 1, "find_label_errors": False}

_SECONDS_TO_DIE = 5.0  # of a worker that was killed
_LOOK_SECONDS = 0.005  # between looks whether a worker was started


class SessionState(Enum):
    """What the session is doing.

    ::

        IDLE --begin--> PREPARING --saved, written, worker started--> RUNNING --stop--> STOPPING
        PREPARING --failed--> IDLE, and `not_begun` says why
        PREPARING --stop--> STOPPING --nothing begins any more--> IDLE
        RUNNING, STOPPING --terminal event of the job--> IDLE

    While one is being prepared, there is no job yet.
    """

    IDLE = "idle"
    PREPARING = "preparing"
    RUNNING = "running"
    STOPPING = "stopping"


class TrainingSession(SessionVolumes):
    """Volumes on which rounds are trained. `SegmentationSession` gives them a name, a past and a folder.

    Parameters
    ----------
    folder : path, optional
        See `SegmentationSession`.

    Attributes
    ----------
    left_out : list of SliceScore
        Of the last leave-one-clean-slice-out.
    warm_start : bool
        Whether the next round starts from the model of the last one.
    """

    config_changed = Signal(object)  # TrainingConfig
    state_changed = Signal(object)  # SessionState
    image_copied = Signal(object)  # CopyProgress: how far a job is that is being prepared and copies an image
    not_begun = Signal(object)  # why a job that was prepared did not begin: an Exception; None: it was stopped
    round_started = Signal(object)  # Round
    check_started = Signal()
    event_received = Signal(object)  # Event of the running job
    rounds_changed = Signal()  # one came, went, ended or was measured
    scores_changed = Signal()

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._config = TrainingConfig.from_preset("quick")
        self._state = SessionState.IDLE
        self._run: Run | None = None
        self._starter: JobStarter | None = None
        self._why_not: Exception | None = None  # the last one did not begin
        self._history = RoundHistory()
        self._history.scored.connect(self._on_scored)
        self.left_out: list[SliceScore] = []
        self.warm_start = True
        super().__init__(folder)

    # -- config --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> TrainingConfig:
        """Parameters of the next training."""
        return self._config

    @config.setter
    def config(self, config: TrainingConfig) -> None:
        if config != self._config:
            self._config = config
            self._mark_record_dirty()
            self.config_changed.emit(config)

    # -- training ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """What the session is doing."""
        return self._state

    @property
    def run(self) -> Run | None:
        """What runs, a `Round` or a `Check`, or what ran last."""
        return self._run

    @property
    def runs_elsewhere(self) -> bool:
        """Whether a job runs on a cluster, where it needs no window."""
        if self._state is SessionState.IDLE or self._starter is not None or self._run is None:
            return False
        return bool(self._run.job.folder.read_request().config.cluster)

    def resolve(self, focus: tuple[str, int] | None = None, config: TrainingConfig | None = None) -> SegmentationTask:
        """The frozen task of the next training, with what is painted now; images are not read from a disk for it.

        Parameters
        ----------
        focus : tuple of (str, int), optional
            Name of the volume and slice in view.
        config : TrainingConfig, optional
            By default the session's.

        Raises
        ------
        TaskError
            One sentence that says what is missing and what to do.
        """
        volumes = [v.freeze(focus[1] if focus and focus[0] == v.name else None) for v in self]
        saver = self._saver()
        saver.scan_all()
        watched = [(frozen, saver.watcher(volume.uid)) for frozen, volume in zip(volumes, self, strict=True)]
        kept = [frozen if watcher is None else with_snapshot(frozen, watcher) for frozen, watcher in watched]
        return resolve_task(kept, config or self._config, elsewhere=self.label_places(), unread=unread_images(volumes))

    def begin(self, focus: tuple[str, int] | None = None) -> None:
        """Begin a round of what is painted now: save, freeze the task into a job folder and start a worker on it.

        Returns before that is done: what came of it is told by `poll`, as `round_started` or `not_begun`.

        Parameters
        ----------
        focus : tuple of (str, int), optional
            As `resolve`.

        Raises
        ------
        TaskError
            If the session cannot be trained on yet; nothing was written.
        SessionError
            If another program has the session open.
        RuntimeError
            If a training is running.
        """
        self._refuse_while_running()
        task = self.resolve(focus)
        self._prepare(task, round_launch(self, self._history, warm_start=self.warm_start))

    def begin_rest(self, focus: tuple[str, int] | None = None) -> None:
        """Begin a round that learns nothing more: the model of the round that is shown predicts all slices.

        For those that it had no time for, see `Round.n_unreached`. Returns and raises as `begin`; TaskError also if its
        model does not fit what is painted now, RuntimeError if there is no round.
        """
        self._refuse_while_running()
        shown = self._history.shown
        if shown is None:
            raise RuntimeError("There is no round whose model could predict: train first.")
        task = self.resolve(focus, shown.task.config.updated(**_NO_LEARNING))
        if isinstance(shown.outcome, Finished) and shown.task.config.learns and not shown.outcome.steps:
            raise TaskError(
                f"Round {shown.number} had no time to learn anything: raise the time budget and press Train."
            )
        if self._history.warm_for(task) is not shown:  # without its model, first guesses would be taken for predictions
            raise TaskError(
                f"The model of round {shown.number} knows other labels than are on the clean slices now, or its "
                "files are gone: press Train to learn them."
            )
        self._prepare(task, round_launch(self, self._history, warm_start=True))

    def begin_check(self) -> None:
        """Begin a leave-one-clean-slice-out: an estimate of the accuracy while nothing was held out yet.

        Returns and raises as `begin`; tells `check_started` or `not_begun`.
        """
        self._refuse_while_running()
        task = self.resolve()
        self._prepare(task, check_launch(self, task, self._history))

    def start(self, focus: tuple[str, int] | None = None) -> Round:
        """`begin`, and wait until the worker was started.

        Raises
        ------
        TaskError, RuntimeError
            As `begin`; TaskError also if an image turns out to hold nothing to train on.
        SessionError
            If another window has the session's folder open, or an image cannot be read.
        OSError
            If the folder cannot be written or the worker not be started.
        """
        self.begin(focus)
        self._wait_for_worker()
        return self._history.rounds[-1]

    def start_check(self) -> None:
        """`begin_check`, and wait until the worker was started; raises as `start`."""
        self.begin_check()
        self._wait_for_worker()

    def stop(self) -> None:
        """Ask the running job to stop and keep what it has; of one that is being prepared, nothing stays."""
        if self._state is SessionState.PREPARING and self._give_up_starting():
            self._set_state(SessionState.STOPPING)
        elif self._state is SessionState.RUNNING and self._run is not None:
            self._run.job.cancel()
            self._set_state(SessionState.STOPPING)

    def poll(self) -> None:
        """Take in what the job said since the last call, and save what changed."""
        if self._starter is not None:
            self._poll_starter(self._starter)
        elif self._state is not SessionState.IDLE and self._run is not None:
            for event in self._run.job.poll():
                self.apply(event)
        if self._autosave is not None:
            self._autosave.poll()

    def apply(self, event: Event) -> None:
        """Change state as `event` says, and tell the listeners."""
        if self._run is None:
            return
        self._run.take(event)
        if isinstance(event, HeldOut):
            self._on_scored()
        if isinstance(event, TerminalEvent):
            _LOG.info("the job %s", describe_end(event))
            self._set_state(SessionState.IDLE)
            self._mark_record_dirty()
            self._refresh_metrics()
            self.rounds_changed.emit()
        self.event_received.emit(event)

    def look_at(self, name: str, z: int) -> None:
        """The user looks at slice `z` of a volume now: the job predicts it first."""
        if self._starter is not None:
            self._starter.looked_at = name, z
        elif self._state is SessionState.RUNNING and self._run is not None:
            self._run.job.look_at(name, z)

    # -- what a session adds -------------------------------------------------------------------------------------

    @abstractmethod
    def _refresh_metrics(self) -> None:
        """Find out in the background what there is to know of the rounds."""

    # -- parts ---------------------------------------------------------------------------------------------------

    def _begin_round(self, started: Round) -> None:
        self._begin(started)
        self.round_started.emit(started)
        self.rounds_changed.emit()

    def _begin(self, run: Run) -> None:
        self._run = run
        self._mark_record_dirty()
        self._set_state(SessionState.RUNNING)

    def _prepare(self, task: SegmentationTask, launch: Launch) -> None:
        self._refuse_read_only()
        self._starter, self._why_not = JobStarter(self, task, self._saver(), launch), None
        self._set_state(SessionState.PREPARING)

    def _poll_starter(self, starter: JobStarter) -> None:
        """Take in what came of the job that is being prepared, if anything did."""
        try:
            run = starter.poll()
        except AbandonedError:
            self._end_starting(None)
        except Exception as error:
            self._end_starting(error)
        else:
            if run is not None:
                self._take_begun(starter, run)
            elif starter.copied is not None:
                self.image_copied.emit(starter.copied)

    def _end_starting(self, error: Exception | None) -> None:
        assert self._starter is not None  # only one that is there can end
        self._starter.close()
        self._starter = None
        self._why_not = error or RuntimeError("The training was stopped before it began.")
        self._set_state(SessionState.IDLE)
        self.not_begun.emit(error)

    def _take_begun(self, starter: JobStarter, run: Run) -> None:
        """The worker was started."""
        starter.close()
        self._starter = None
        if isinstance(run, Check):
            self.left_out = run.scores
            self._begin(run)
            self.check_started.emit()
        elif isinstance(run, Round):
            self._history.rounds.append(run)
            self._history.restored = None
            for volume in self:
                volume.marks.rejected.clear()  # said of a prediction that will be replaced
            self._begin_round(run)
        if starter.looked_at is not None:
            self.look_at(*starter.looked_at)

    def _give_up_starting(self) -> bool:
        """Whether nothing will begin; else the worker was started a moment ago, and its job is running now."""
        assert self._starter is not None  # asked while preparing
        if self._starter.abandon():
            return True
        self._starter.wait(_SECONDS_TO_DIE)
        self._poll_starter(self._starter)
        return False

    def _wait_for_worker(self) -> None:
        while self._starter is not None:
            self.poll()
            time.sleep(_LOOK_SECONDS)
        if self._why_not is not None:
            raise self._why_not

    def _end_job(self, stop: bool) -> None:
        """Let go of the job; `stop` one that runs. One that is being prepared never begins."""
        if self._starter is not None and self._give_up_starting():
            self._starter.close()  # its thread ends by itself, and starts nothing
            self._starter = None
        job = self._run.job if self._run is not None else None
        if not stop or job is None or job.state.is_final:
            return
        job.cancel()
        if isinstance(job, LocalJob):
            if not self.runs_elsewhere:  # there, only the process that is asked to stop can end it
                job.kill()
            end = time.monotonic() + _SECONDS_TO_DIE
            while not job.state.is_final and time.monotonic() < end:
                job.poll()
                time.sleep(0.02)
            job.kill()

    def _refuse_while_running(self) -> None:
        if self._state is not SessionState.IDLE:
            raise RuntimeError("A training is running: stop it first.")

    def _on_scored(self) -> None:
        self._mark_record_dirty()
        self.scores_changed.emit()

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)
