"""The session: rounds of training on kept volumes, the past ones too, in a folder of its own; emits psygnal signals.

Panels call its methods and listen to its signals; they keep no state of their own.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from psygnal import Signal

from napari_mlbseg._version import __version__
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence import session_paths
from napari_mlbseg.session.persistence.autosave import Autosave
from napari_mlbseg.session.persistence.folder import SUFFIX, SessionFolder
from napari_mlbseg.session.persistence.loader import LoadedSession
from napari_mlbseg.session.persistence.lock import SessionBusyError
from napari_mlbseg.session.persistence.recording import volume_records
from napari_mlbseg.session.persistence.restoring import RemovedAnnotation, RestoredAnnotation, removed_annotations
from napari_mlbseg.session.persistence.schema import RoundRecord, SessionError, SessionRecord, VolumeRecord
from napari_mlbseg.session.rounds import Round
from napari_mlbseg.session.suggestions import Suggestion
from napari_mlbseg.session.training import SessionState, TrainingSession
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["SegmentationSession"]

_LOG = logging.getLogger(__name__)


class SegmentationSession(TrainingSession):
    """State of a label-and-retrain session, kept in a folder seconds after every change.

    Parameters
    ----------
    folder : path, optional
        ``NAME.mlbseg``; made when there is something to keep. By default one among the sessions that nobody has saved
        yet (see `session_paths`), which is deleted at the end if nothing was painted and nothing trained.

    Notes
    -----
    All methods and signals belong to one thread, the window's. `poll` must be called now and then; it reads what a job
    wrote, begins to save what was painted, and returns at once.
    """

    round_shown = Signal(object)  # Round or None: this one's results are to be seen now
    error_regions_changed = Signal()  # it is known where to look again

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.detached: list[VolumeRecord] = []  # of volumes that an earlier process took out of the session
        super().__init__(folder)
        self._history.measured.connect(self._on_measured)
        self._history.error_regions_found.connect(self._on_error_regions_found)

    def suggestions(self, name: str) -> Sequence[Suggestion]:
        """Which slices of a volume to annotate next, best first, each with its reason."""
        painted = self.painted_slices(name)
        return self._history.suggestions(self._volumes[name], painted - self.accepted_slices(name), painted)

    def removed_annotations(self, name: str) -> list[RemovedAnnotation]:
        """Annotations of a volume's image that are part of the session no more, the one that went last at the end."""
        return removed_annotations(self._volumes[name], self._marks, self.detached, self._saver())

    def take_back(self, restored: RestoredAnnotation, volume: AnnotatedVolume) -> None:
        """Know again what an earlier process removed, so that its volume can be part of the session.

        Parameters
        ----------
        restored : RestoredAnnotation
        volume : AnnotatedVolume
            What it is part of now, of the same image.
        """
        self._marks[restored.uid] = restored.marks
        record = restored.record
        if record is not None:
            painted = replace(volume, uid=restored.uid, annotation=restored.pixels, slice_axis=record.slice_axis)
            painted = replace(
                painted, is_annotated=True, marks=restored.marks.setdefault(record.slice_axis, SliceMarks())
            )
            self._saver().registry.adopt(painted, record.annotation, record.image)

    # -- rounds --------------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> list[Round]:
        """All rounds, oldest first."""
        return self._history.rounds

    @property
    def lost_rounds(self) -> list[RoundRecord]:
        """Records of rounds whose files cannot be read now: they are kept, since the files may come back."""
        return self._history.lost

    @property
    def restored(self) -> Round | None:
        """The round that a person went back to; None: the latest is the one to go on from."""
        return self._history.restored

    @property
    def current_round(self) -> Round | None:
        """The latest round."""
        return self._history.latest

    @property
    def shown_round(self) -> Round | None:
        """The round whose results are to be seen: the restored one, else the latest that has any."""
        return self._history.shown

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
        self._history.restored = past = self.round(number)
        if past.task.config.learns:
            self.config = past.task.config
        self._mark_record_dirty()
        self._refresh_metrics()
        self.rounds_changed.emit()
        self.round_shown.emit(past)

    def delete_round(self, number: int) -> None:
        """Delete a round and its files; raises as `restore`, and SessionError if the session is only read."""
        self._refuse_while_running()
        self._refuse_read_only()
        gone = self.round(number)
        self._history.remove(gone)
        path = gone.job.folder.path
        self._saver().background.submit(lambda: shutil.rmtree(path, ignore_errors=True))
        self._mark_record_dirty()
        self.rounds_changed.emit()
        self.scores_changed.emit()
        self.round_shown.emit(self.shown_round)  # it may have filled gaps of the one that is shown

    def round(self, number: int) -> Round:
        """The round of that number; raises KeyError."""
        return self._history.get(number)

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
        session_paths.remember(target)
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

        Notes
        -----
        A session that another program has open can be looked at, see `read_only`.
        """
        self._refuse_while_running()
        config = TrainingConfig.parse(loaded.record.config)
        is_locked, busy = False, None
        try:
            loaded.folder.lock()
            is_locked = True
        except SessionBusyError as error:
            busy = error
        except OSError:  # a folder that cannot be written: it can still be looked at, and painting goes on in memory
            pass
        self._let_go()
        self._use(loaded.folder)
        saver = self._saver()
        if is_locked:
            saver.holds_lock()
        elif busy is not None:
            saver.only_read(busy)
        self._marks = {each.volume.uid: each.marks for each in loaded.volumes}
        for each in loaded.volumes:
            saver.registry.adopt(each.volume, each.record.annotation, each.record.image)
        self._history.reopen(loaded.folder, loaded.record.rounds, loaded.record.restored, observe=busy is not None)
        self.left_out = list(loaded.record.left_out)
        self.detached = [volume for volume in loaded.record.volumes if not volume.attached]
        self._run = None
        self.config = config
        self.set_volumes([each.volume for each in loaded.volumes])
        try:
            make_layers()
        except Exception:
            self._let_go(save=False)  # a record of half a session must not be written
            self._history.clear()
            raise
        if busy is None:
            saver.mark_record_dirty(wake=True)
        session_paths.remember(loaded.folder.path)
        _LOG.info("opened %s: %d volumes, %d rounds", loaded.folder.path.name, len(self), len(self.rounds))
        self.folder_changed.emit()
        self.rounds_changed.emit()
        self.scores_changed.emit()
        self._refresh_metrics()
        last = self.current_round
        if last is not None and not last.job.state.is_final and busy is None:
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
        self._end_job(stop_job)
        self._let_go()
        self._history.clear()
        self._set_state(SessionState.IDLE)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _make_record(self, saver: Autosave) -> SessionRecord:
        rounds = (*(past.to_record() for past in self.rounds), *self.lost_rounds)
        return SessionRecord(
            version=__version__,
            classes=tuple(self.known_classes()),
            config=self.config.model_dump(mode="json"),
            volumes=volume_records(self, self._marks, self.detached, saver),
            rounds=tuple(sorted(rounds, key=lambda record: record.number)),
            restored=self.restored.number if self.restored is not None else None,
            left_out=tuple(self.left_out),
        )

    def _slice_settled(self, volume: AnnotatedVolume, z: int) -> None:
        """Compare what the last round predicted for the slice with what it is now."""
        self._history.score(volume, z, self._saver().background)

    def _is_worth_keeping(self, saver: Autosave) -> bool:
        """Whether anything was painted, marked or trained."""
        return bool(self.rounds or self._history.lost) or super()._is_worth_keeping(saver)

    def _move(self, saver: Autosave, target: Path) -> None:
        was_unsaved = self.is_unsaved
        target.parent.mkdir(parents=True, exist_ok=True)
        saver.move(SessionFolder(target), keep=not was_unsaved)
        for past in self.rounds:
            past.move(JobFolder(saver.folder.round_path(past.number)))
        saver.flush()

    def _refresh_metrics(self) -> None:
        """Find out in the background what there is to know of the rounds."""
        background = self._saver().background
        self._history.measure(background)
        self._history.find_error_regions(self.shown_round, background)

    def _on_measured(self) -> None:
        self.rounds_changed.emit()

    def _on_error_regions_found(self) -> None:
        self.error_regions_changed.emit()
