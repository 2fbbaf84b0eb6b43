"""Beginning a job: the task frozen into a folder, and a worker started on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

from napari_mlbseg.jobs.folder import JobKind
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session.annotations import KeptVolumes
from napari_mlbseg.session.records import RoundRecord
from napari_mlbseg.session.rounds import Check, Round
from napari_mlbseg.session.storage import SessionFolder
from napari_mlbseg.task import FEWEST_TO_LEAVE_OUT, SegmentationTask, TaskError

__all__ = ["launch_check", "launch_round"]


def launch_round(
    volumes: KeptVolumes,
    task: SegmentationTask,
    folder: SessionFolder,
    number: int,
    *,
    base: Round | None,
    like: Round | None,
) -> Round:
    """Begin a training.

    Parameters
    ----------
    volumes : KeptVolumes
        All that is painted on them is kept with the round, not only the clean slices.
    task : SegmentationTask
    folder : SessionFolder
    number : int
        Of the new round.
    base : Round, optional
        Starts from this one's model.
    like : Round, optional
        Images that are the same there are shared on the disk.

    Raises
    ------
    OSError
        If the folder cannot be written or the worker not be started; nothing is left behind.
    """
    path = folder.round_path(number)
    job = _launch(
        path,
        task,
        previous=base.job.folder.path if base is not None else None,
        painted={volume.name: volumes.painted_slices(volume.name) for volume in volumes},
        like=like,
    )
    record = RoundRecord(
        number=number,
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        names={volume.uid: volume.name for volume in volumes},
        slice_axes={volume.uid: volume.slice_axis for volume in volumes},
        clean={volume.uid: tuple(sorted(volume.clean)) for volume in volumes},
        checksums={volume.uid: volumes.checksum(volume.name) for volume in volumes},
        base=base.number if base is not None else None,
    )
    return Round(number=number, job=job, task=task, record=record)


def launch_check(volumes: KeptVolumes, task: SegmentationTask, folder: SessionFolder, *, like: Round | None) -> Check:
    """Begin a leave-one-clean-slice-out; earlier ones are deleted, since only their scores are of use.

    Raises
    ------
    TaskError
        If there are too few clean slices.
    OSError
        As `launch_round`.
    """
    if sum(len(volume.clean_slices) for volume in task.volumes) < FEWEST_TO_LEAVE_OUT:
        raise TaskError(
            f"To leave one out, at least {FEWEST_TO_LEAVE_OUT} clean slices are needed: mark more slices clean."
        )
    shutil.rmtree(folder.checks_path, ignore_errors=True)
    job = _launch(folder.next_check_path(), task, kind="leave_one_out", like=like)
    return Check(job=job, volumes={volume.name: (volume.uid, volume.unit) for volume in volumes})


def _launch(
    path: Path,
    task: SegmentationTask,
    *,
    like: Round | None,
    kind: JobKind = "train",
    previous: Path | None = None,
    painted: Mapping[str, Collection[int]] | None = None,
) -> LocalJob:
    try:
        job = LocalJob.create(
            path,
            task,
            kind=kind,
            previous=previous,
            threads=_threads_beside_a_window(),
            painted=painted,
            like=like.job.folder.path if like is not None else None,
        )
        job.start()
    except OSError:
        shutil.rmtree(path, ignore_errors=True)  # half a job is none
        raise
    return job


def _threads_beside_a_window() -> int:
    """Threads of a worker beside a window: a core stays free where there are enough.

    On two or three cores the worker's low priority does it: half the cores idle would cost more than it gives.
    """
    cores = os.cpu_count() or 1
    return cores - 1 if cores >= 4 else cores
