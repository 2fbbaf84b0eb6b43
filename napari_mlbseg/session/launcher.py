"""Writing a job's folder and starting its worker, in a thread: what is needed of the session is noted before."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from pathlib import Path

from napari_mlbseg.jobs.folder import JobKind
from napari_mlbseg.jobs.inputs import CopyProgress
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session.annotations import SessionVolumes
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.schema import RoundRecord
from napari_mlbseg.session.round_history import RoundHistory
from napari_mlbseg.session.rounds import Check, Round, Run
from napari_mlbseg.task import FEWEST_TO_LEAVE_OUT, SegmentationTask, TaskError

__all__ = ["AbandonedError", "Launch", "Permit", "check_launch", "round_launch"]


class AbandonedError(Exception):
    """Nobody wants the job any more."""


class Permit:
    """Whether a job may still begin: asked by the thread that writes it, taken away by the window's.

    Attributes
    ----------
    copied : CopyProgress, optional
        How far the thread is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_withdrawn = False
        self._has_started = False
        self.copied: CopyProgress | None = None

    @property
    def is_withdrawn(self) -> bool:
        """Whether it was taken away."""
        return self._is_withdrawn

    def step(self, copied: CopyProgress | None = None) -> None:
        """Go on with the next slice; raises AbandonedError."""
        if self._is_withdrawn:
            raise AbandonedError
        self.copied = copied

    def start(self, job: LocalJob) -> None:
        """Start the worker; raises AbandonedError, or OSError if that fails."""
        with self._lock:
            self.step()
            job.start()
            self._has_started = True

    def withdraw(self) -> bool:
        """Take it away: no worker is started from now on. False if that was done already."""
        with self._lock:
            self._is_withdrawn = not self._has_started
            return self._is_withdrawn


#: Writes the job of a task into a session folder and starts its worker, as far as that is permitted. Belongs to a
#: thread. Raises AbandonedError, or OSError if the folder cannot be written or the worker not be started; then nothing
#: is left behind.
Launch = Callable[[SegmentationTask, SessionFolder, Permit], Run]


def round_launch(volumes: SessionVolumes, history: RoundHistory, *, warm_start: bool) -> Launch:
    """How a training of all that is painted now begins.

    Parameters
    ----------
    volumes : SessionVolumes
        All that is painted on them is kept with the round, not only the clean slices.
    history : RoundHistory
        Nothing is put on it or taken from it until the round has begun.
    warm_start : bool
        Start from the model of an earlier round, if there is one that fits.
    """
    painted = {volume.name: volumes.painted_slices(volume.name) for volume in volumes}
    now = RoundRecord(
        number=0,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        names={volume.uid: volume.name for volume in volumes},
        slice_axes={volume.uid: volume.slice_axis for volume in volumes},
        clean={volume.uid: tuple(sorted(volume.clean)) for volume in volumes},
        checksums={volume.uid: volumes.checksum(volume.name) for volume in volumes},
    )

    def launch(task: SegmentationTask, folder: SessionFolder, permit: Permit) -> Round:
        folder.remove_half_rounds(history.numbers)
        number = history.next_number(folder)
        base = history.warm_for(task) if warm_start else None
        job, frozen = _launch(
            folder,
            folder.round_path(number),
            task,
            permit,
            previous=base.job.folder.path if base is not None else None,
            painted=painted,
            reuse_from=history.latest,
        )
        base_number = base.number if base is not None else None
        record = now.model_copy(update={"number": number, "base": base_number})
        return Round(number=number, job=job, task=frozen, record=record)

    return launch


def check_launch(volumes: SessionVolumes, task: SegmentationTask, history: RoundHistory) -> Launch:
    """How a leave-one-clean-slice-out begins; earlier ones are deleted, since only their scores are of use.

    Raises
    ------
    TaskError
        If there are too few clean slices.
    """
    if sum(len(volume.clean_slices) for volume in task.volumes) < FEWEST_TO_LEAVE_OUT:
        raise TaskError(
            f"To leave one out, at least {FEWEST_TO_LEAVE_OUT} clean slices are needed: mark more slices clean."
        )
    known = {volume.name: (volume.uid, volume.unit) for volume in volumes}

    def launch(task: SegmentationTask, folder: SessionFolder, permit: Permit) -> Check:
        shutil.rmtree(folder.checks_path, ignore_errors=True)
        path = folder.next_check_path()
        job, _ = _launch(folder, path, task, permit, kind="leave_one_out", reuse_from=history.latest)
        return Check(job=job, volumes=known)

    return launch


def _launch(
    folder: SessionFolder,
    path: Path,
    task: SegmentationTask,
    permit: Permit,
    *,
    reuse_from: Round | None,
    kind: JobKind = "train",
    previous: Path | None = None,
    painted: Mapping[str, Collection[int]] | None = None,
) -> tuple[LocalJob, SegmentationTask]:
    """The job, its worker started, and its task as the folder holds it: what was copied can leave the memory."""
    try:
        job = LocalJob.create(
            path,
            task,
            kind=kind,
            previous=previous,
            threads=_threads_beside_a_window(),
            painted=painted,
            reuse_from=reuse_from.job.folder.path if reuse_from is not None else None,
            relative_to=folder.path,
            step=permit.step,
        )
        frozen = job.folder.open_task(job.folder.read_request())
        permit.start(job)
    except Exception:
        shutil.rmtree(path, ignore_errors=True)  # half a job is none
        raise
    return job, frozen


def _threads_beside_a_window() -> int:
    """Threads of a worker beside a window: a core stays free where there are enough.

    On two or three cores the worker's low priority does it: half the cores idle would cost more than it gives.
    """
    cores = os.cpu_count() or 1
    return cores - 1 if cores >= 4 else cores
