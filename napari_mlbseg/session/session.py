"""The session: config, and the rounds of training on kept volumes; emits psygnal signals.

Panels call its methods and listen to its signals; they keep no state of their own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from psygnal import Signal

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Event, HeldOut, is_terminal
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session import home
from napari_mlbseg.session.annotations import KeptVolumes
from napari_mlbseg.session.autosave import Autosave
from napari_mlbseg.session.launching import launch_check, launch_round
from napari_mlbseg.session.opening import LoadedSession
from napari_mlbseg.session.recording import make_record
from napari_mlbseg.session.records import RoundRecord, SessionError, SessionRecord, SliceScore, VolumeRecord
from napari_mlbseg.session.rounds import Round, Run
from napari_mlbseg.session.shelf import RoundShelf
from napari_mlbseg.session.storage import SUFFIX, SessionFolder
from napari_mlbseg.session.suggest import Suggestion
from napari_mlbseg.session.volume import AnnotatedVolume
from napari_mlbseg.task import SegmentationTask, resolve_task

__all__ = ["SegmentationSession", "SessionState"]

_SECONDS_TO_DIE = 5.0  # of a worker that was killed


class SessionState(Enum):
    """What the session is doing.

    ::

        IDLE --start, check--> RUNNING --stop--> STOPPING
          ^                       |                  |
          +------- terminal event of the job -------+
    """

    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"


class SegmentationSession(KeptVolumes):
    """State of a label-and-retrain session, kept in a folder seconds after every change.

    Parameters
    ----------
    folder : path, optional
        ``NAME.mlbseg``; made when there is something to keep. By default one among the sessions that nobody has saved
        yet (`napari_mlbseg.session.home`), which is deleted at the end if nothing was painted and nothing trained.

    Notes
    -----
    All methods and signals belong to one thread, the window's. `poll` must be called now and then; it reads what a job
    wrote, begins to save what was painted, and returns at once.
    """

    config_changed = Signal(object)  # TrainingConfig
    state_changed = Signal(object)  # SessionState
    round_started = Signal(object)  # Round
    check_started = Signal()
    event_received = Signal(object)  # Event of the running job
    rounds_changed = Signal()  # one came, went, ended or was measured
    round_shown = Signal(object)  # Round or None: this one's results are to be seen now
    scores_changed = Signal()
    places_changed = Signal()  # it is known where to look again

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._config = TrainingConfig.from_preset("quick")
        self._state = SessionState.IDLE
        self._run: Run | None = None
        self._shelf = RoundShelf()
        self._shelf.measured.connect(self._on_measured)
        self._shelf.scored.connect(self._on_scored)
        self._shelf.places_found.connect(self._on_places_found)
        self.left_out: list[SliceScore] = []
        self.detached: list[VolumeRecord] = []  # of volumes that an earlier process took out of the session
        self.warm_start = True
        super().__init__(folder)

    def suggestions(self, name: str) -> Sequence[Suggestion]:
        """Which slices of a volume to annotate next, best first, each with its reason."""
        return self._shelf.suggestions(self._volumes[name], self.painted_slices(name) - self.accepted_slices(name))

    # -- config --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> TrainingConfig:
        """Parameters of the next training."""
        return self._config

    @config.setter
    def config(self, config: TrainingConfig) -> None:
        if config != self._config:
            self._config = config
            self._touch_record()
            self.config_changed.emit(config)

    # -- rounds --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """What the session is doing."""
        return self._state

    @property
    def rounds(self) -> list[Round]:
        """All rounds, oldest first."""
        return self._shelf.rounds

    @property
    def lost_rounds(self) -> list[RoundRecord]:
        """Records of rounds whose files cannot be read now: they are kept, since the files may come back."""
        return self._shelf.lost

    @property
    def restored(self) -> Round | None:
        """The round that a person went back to; None: the latest is the one to go on from."""
        return self._shelf.restored

    @property
    def current_round(self) -> Round | None:
        """The latest round."""
        return self._shelf.latest

    @property
    def shown_round(self) -> Round | None:
        """The round whose results are to be seen: the restored one, else the latest that has any."""
        return self._shelf.shown

    @property
    def run(self) -> Run | None:
        """What runs, a `Round` or a `Check`, or what ran last."""
        return self._run

    @property
    def runs_elsewhere(self) -> bool:
        """Whether a job runs on a cluster, where it needs no window."""
        if self._state is SessionState.IDLE or self._run is None:
            return False
        return bool(self._run.job.folder.read_request().config.cluster)

    def resolve(self, focus: tuple[str, int] | None = None) -> SegmentationTask:
        """The frozen task of the next training.

        Parameters
        ----------
        focus : tuple of (str, int), optional
            Name of the volume and slice in view.

        Raises
        ------
        TaskError
            One sentence that says what is missing and what to do.
        """
        volumes = [v.freeze(focus[1] if focus and focus[0] == v.name else None) for v in self]
        self._saver().sweep()
        return resolve_task(volumes, self._config, class_values=self.known_classes())

    def start(self, focus: tuple[str, int] | None = None) -> Round:
        """Begin a round: save, freeze the task into a job folder and start a worker on it.

        Raises
        ------
        TaskError
            If the session cannot be trained on yet; nothing was written.
        SessionError
            If another window has the session's folder open.
        OSError
            If the folder cannot be written or the worker not be started.
        RuntimeError
            If a training is running.
        """
        saver, task = self._saved_task(focus)
        number = self._shelf.next_number(saver.folder)
        base = self._shelf.warm_for(task) if self.warm_start else None
        started = launch_round(self, task, saver.folder, number, base=base, like=self.current_round)
        self.rounds.append(started)
        self._shelf.restored = None
        for volume in self:
            volume.marks.rejected.clear()  # said of a prediction that will be replaced
        self._begin_round(started)
        return started

    def start_check(self) -> None:
        """Begin a leave-one-clean-slice-out: an estimate of the accuracy while nothing was held out yet.

        Raises
        ------
        TaskError, SessionError, OSError, RuntimeError
            As `start`.
        """
        saver, task = self._saved_task(None)
        check = launch_check(self, task, saver.folder, like=self.current_round)
        self.left_out = check.scores
        self._begin(check)
        self.check_started.emit()

    def stop(self) -> None:
        """Ask the running job to stop and keep what it has."""
        if self._state is SessionState.RUNNING and self._run is not None:
            self._run.job.cancel()
            self._set_state(SessionState.STOPPING)

    def poll(self) -> None:
        """Take in what the job said since the last call, and save what changed."""
        if self._state is not SessionState.IDLE and self._run is not None:
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
        if is_terminal(event):
            self._set_state(SessionState.IDLE)
            self._touch_record()
            self._appraise()
            self.rounds_changed.emit()
        self.event_received.emit(event)

    def look_at(self, name: str, z: int) -> None:
        """The user looks at slice `z` of a volume now: the job predicts it first."""
        if self._state is SessionState.RUNNING and self._run is not None:
            self._run.job.look_at(name, z)

    def restore(self, number: int) -> None:
        """Go back to a round: its results are shown, its config is taken, and the next round starts from its model.

        What is painted and marked stays as it is.

        Raises
        ------
        KeyError
            If there is no such round.
        RuntimeError
            If a training is running.
        """
        self._refuse_while_running()
        self._shelf.restored = past = self.round(number)
        self.config = past.task.config
        self._touch_record()
        self._appraise()
        self.rounds_changed.emit()
        self.round_shown.emit(past)

    def delete_round(self, number: int) -> None:
        """Delete a round and its files; raises as `restore`."""
        self._refuse_while_running()
        gone = self.round(number)
        self._shelf.remove(gone)
        path = gone.job.folder.path
        self._saver().background.submit(lambda: shutil.rmtree(path, ignore_errors=True))
        self._touch_record()
        self.rounds_changed.emit()
        self.scores_changed.emit()
        self.round_shown.emit(self.shown_round)  # it may have filled gaps of the one that is shown

    def round(self, number: int) -> Round:
        """The round of that number; raises KeyError."""
        return self._shelf.get(number)

    # -- the folder ----------------------------------------------------------------------------------------------

    def save_as(self, path: str | os.PathLike[str]) -> None:
        """Keep the session in another folder from now on; one that nobody had saved is moved there.

        Raises
        ------
        SessionError
            If the folder is there already, or a training is running.
        OSError
            If it cannot be written.
        """
        target = Path(path).absolute()
        if not target.name.lower().endswith(SUFFIX):
            target = target.with_name(target.name + SUFFIX)
        if target == self.folder:
            self.save()
            return
        if self._state is not SessionState.IDLE:
            raise SessionError("A training is running in the session's folder: stop it or wait, then save elsewhere.")
        if target.exists():
            raise SessionError(f"{target} is there already: choose another name.")
        if target.is_relative_to(self.folder):
            raise SessionError(f"{target} lies within the session itself: choose another folder.")
        with suppress(OSError, SessionError):  # what cannot be written here is written there
            self.save()
        self._move(self._saver(), target)
        home.remember(target)
        self.folder_changed.emit()
        self.round_shown.emit(self.shown_round)  # its files lie elsewhere now

    def load(self, loaded: LoadedSession, make_layers: Callable[[], None] = lambda: None) -> None:
        """Become the session that was read.

        Parameters
        ----------
        loaded : LoadedSession
        make_layers : callable
            Called when nothing can go wrong any more and before anybody is told: a window makes its layers there.

        Raises
        ------
        RuntimeError
            If a training is running.
        SessionError
            If another window has it open.
        """
        self._refuse_while_running()
        config = TrainingConfig.parse(loaded.record.config)
        try:
            loaded.folder.lock()
            is_locked = True
        except OSError:  # a folder that cannot be written: it can still be looked at, and painting goes on in memory
            is_locked = False
        self._let_go()
        self._use(loaded.folder)
        saver = self._saver()
        if is_locked:
            saver.holds_lock()
        self._marks = {each.volume.uid: each.marks for each in loaded.volumes}
        for each in loaded.volumes:
            saver.registry.adopt(each.volume, each.record.annotation, each.record.image)
        self._shelf.reopen(loaded.folder, loaded.record.rounds, loaded.record.restored)
        self.left_out = list(loaded.record.left_out)
        self.detached = [volume for volume in loaded.record.volumes if not volume.attached]
        self._run = None
        self.config = config
        self.set_volumes([each.volume for each in loaded.volumes])
        try:
            make_layers()
        except Exception:
            self._let_go(save=False)  # a record of half a session must not be written
            self._shelf.clear()
            raise
        saver.touch_record(wake=True)
        home.remember(loaded.folder.path)
        self.folder_changed.emit()
        self.rounds_changed.emit()
        self.scores_changed.emit()
        self._appraise()
        last = self.current_round
        if last is not None and not last.job.state.is_final:
            self._begin_round(last)
        elif self.shown_round is not None:
            self.round_shown.emit(self.shown_round)

    def close(self, *, stop_job: bool = True) -> None:
        """Stop a running job, save, and let go of everything. Call it when the window goes.

        Parameters
        ----------
        stop_job : bool
            Otherwise a running job goes on, to be found again when the session is opened.
        """
        job = self._run.job if self._run is not None else None
        if stop_job and job is not None and not job.state.is_final:
            job.cancel()
            if isinstance(job, LocalJob):
                if not self.runs_elsewhere:  # there, only the process that is asked to stop can end it
                    job.kill()
                end = time.monotonic() + _SECONDS_TO_DIE
                while not job.state.is_final and time.monotonic() < end:
                    job.poll()
                    time.sleep(0.02)
                job.kill()
        self._let_go()
        self._shelf.clear()
        self._set_state(SessionState.IDLE)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _make_record(self, saver: Autosave) -> SessionRecord:
        return make_record(self, saver)

    def _slice_settled(self, volume: AnnotatedVolume, z: int) -> None:
        """Compare what the last round predicted for the slice with what it is now."""
        self._shelf.score(volume, z, self._saver().background)

    def _is_worth_keeping(self, saver: Autosave) -> bool:
        """Whether anything was painted, marked or trained."""
        return bool(self.rounds or self._shelf.lost) or super()._is_worth_keeping(saver)

    def _move(self, saver: Autosave, target: Path) -> None:
        was_unsaved = self.is_unsaved
        target.parent.mkdir(parents=True, exist_ok=True)
        saver.move(SessionFolder(target), keep=not was_unsaved)
        for past in self.rounds:
            past.move(JobFolder(saver.folder.round_path(past.number)))
        saver.flush()

    def _begin_round(self, started: Round) -> None:
        self._begin(started)
        self.round_started.emit(started)
        self.rounds_changed.emit()

    def _begin(self, run: Run) -> None:
        self._run = run
        self._touch_record()
        self._set_state(SessionState.RUNNING)

    def _saved_task(self, focus: tuple[str, int] | None) -> tuple[Autosave, SegmentationTask]:
        """The frozen task, after everything that is painted was written."""
        self._refuse_while_running()
        task = self.resolve(focus)
        saver = self._saver()
        saver.flush()
        return saver, task

    def _refuse_while_running(self) -> None:
        if self._state is not SessionState.IDLE:
            raise RuntimeError("A training is running: stop it first.")

    def _appraise(self) -> None:
        """Find out in the background what there is to know of the rounds."""
        background = self._saver().background
        self._shelf.measure(background)
        self._shelf.find_places(self.shown_round, background)

    def _on_measured(self) -> None:
        self.rounds_changed.emit()

    def _on_scored(self) -> None:
        self._touch_record()
        self.scores_changed.emit()

    def _on_places_found(self) -> None:
        self.places_changed.emit()

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)
