"""The local backend: a worker process on this machine, in a process group of its own, at a lower priority."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from napari_mlbseg._util.files import write_atomically
from napari_mlbseg.events import Cancelled, Event, Failed, Finished, is_terminal
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.exit_status import describe_exit
from napari_mlbseg.jobs.failures import full_disk
from napari_mlbseg.jobs.folder import EventReader, JobFolder, JobKind
from napari_mlbseg.jobs.inputs import CopyProgress
from napari_mlbseg.jobs.processes import PARENT, is_running
from napari_mlbseg.task import SegmentationTask

__all__ = ["LocalJob"]

_LOG = logging.getLogger(__name__)

_GRACE_SECONDS = 5.0  # from the request to stop until SIGTERM, and from there until SIGKILL
_FULL_BYTES = 2**20  # that are free at most on a disk on which a worker found no room for an event
_START_SECONDS = 20.0  # that a worker may take until its first heartbeat
_FINAL_STATES = {Finished: JobState.FINISHED, Cancelled: JobState.CANCELLED, Failed: JobState.FAILED}


class LocalJob:
    """A job whose worker is a process on this machine (see `napari_mlbseg.jobs.backend.Job`).

    Make one with `create` (a new job) or `attach` (one that an earlier process started). The worker goes on if this
    process dies, because it talks to the folder only.
    """

    def __init__(self, folder: JobFolder) -> None:
        self.folder = folder
        self._state = JobState.CREATED
        self._reader = EventReader(folder)
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self._cancelled_at: float | None = None
        self._is_attached = False
        self._is_observed = False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        task: SegmentationTask,
        *,
        kind: JobKind = "train",
        previous: Path | None = None,
        threads: int | None = None,
        painted: Mapping[str, Collection[int]] | None = None,
        reuse_from: Path | None = None,
        relative_to: Path | None = None,
        step: Callable[[CopyProgress], object] = lambda copied: None,
    ) -> LocalJob:
        """A new job in the folder `path`; raises OSError if that cannot be written, and leaves nothing behind then.

        Parameters
        ----------
        path : path
            The job folder; made if missing.
        task : SegmentationTask
        kind : {"train", "predict", "leave_one_out"}
            The last scores clean slices left out in turn; it writes no results.
        previous : Path, optional
            Job folder whose model a training starts from, or a prediction uses.
        threads : int, optional
            Threads of the worker; by default one for every core.
        painted, reuse_from, relative_to, step : optional
            See `JobFolder.write_request`.
        """
        folder = JobFolder(path)
        with _undone_on_error(folder.path):
            folder.write_request(
                task,
                kind=kind,
                previous=previous,
                threads=threads,
                painted=painted,
                reuse_from=reuse_from,
                relative_to=relative_to,
                step=step,
            )
        return cls(folder)

    @classmethod
    def attach(cls, path: str | os.PathLike[str], *, observe: bool = False) -> LocalJob:
        """A job that was started by another process; its events are read from the start.

        A job on a cluster goes on there without the process here that asks for news: another one is started. `observe`
        a job that another process looks after: nothing is started, and nothing written into its folder.
        """
        job = cls(JobFolder(path))
        if observe:
            job._is_observed, job._state = True, JobState.RUNNING
            return job
        job._process = _living_worker(job.folder)
        if job._process is None and job.folder.cluster_file.exists() and not _has_ended(job.folder):
            with suppress(OSError):  # then it is a job whose worker is gone
                job._start_worker()
                return job
        job._is_attached = True
        job._state = JobState.RUNNING
        return job

    @property
    def state(self) -> JobState:
        """State as of the last `poll`."""
        return self._state

    @property
    def pid(self) -> int | None:
        """Process id of the worker, if it has one."""
        return self._process.pid if self._process else None

    def start(self, *, bound: bool = False) -> None:
        """Start the worker; raises OSError if that fails. With `bound`, it ends when this process does."""
        if self._state is not JobState.CREATED:
            raise RuntimeError(f"This job is {self._state.value} already: make a new one.")
        self.folder.cancel_file.unlink(missing_ok=True)
        self.folder.events_file.unlink(missing_ok=True)
        self._start_worker(bound=bound)

    def _start_worker(self, *, bound: bool = False) -> None:
        with self.folder.log_file.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "napari_mlbseg.jobs.worker", str(self.folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, PARENT: str(os.getpid())} if bound else None,
                # outside our group, so that it outlives us and can be ended as a whole
                start_new_session=sys.platform != "win32",
                creationflags=_creation_flags(),
            )
        self._process = psutil.Process(self._popen.pid)
        _LOG.info("worker %d started for %s", self._popen.pid, self.folder.path.name)
        # asks for the exit code when there is one: nobody may poll a job that has had its terminal event
        threading.Thread(target=self._popen.wait, name="mlbseg-reaper", daemon=True).start()
        self._state = JobState.RUNNING

    def poll(self) -> list[Event]:
        """Events since the last call; ends with a terminal event when the job ended, however it did."""
        if self._state.is_final or self._state is JobState.CREATED:
            return []
        alive = self._is_alive()  # asked before reading, so that the last events of a worker are not missed
        events = self._reader.read()
        if not self._reader.ended and not alive:
            events.append(self._missing_terminal_event())
            self._reader.ended = True
        if events and is_terminal(events[-1]):
            self._state = _FINAL_STATES[type(events[-1])]
        elif self._cancelled_at is not None:
            self._press(time.monotonic() - self._cancelled_at)
        return events

    def events(self, interval: float = 0.1) -> Iterator[Event]:
        """Every event up to the terminal one; waits `interval` seconds between looks."""
        while not self._state.is_final:
            yield from self.poll()
            if not self._state.is_final:
                time.sleep(interval)

    def cancel(self) -> None:
        """Ask the worker to stop and keep what it has; `poll` ends one that does not answer in time."""
        if self._state is JobState.RUNNING and not self._is_observed:
            self._state = JobState.CANCELLING
            self._cancelled_at = time.monotonic()
            try:
                self.folder.cancel_file.touch()
            except OSError:  # a full disk: it cannot be asked, so it is ended
                self._cancelled_at -= _GRACE_SECONDS

    def kill(self) -> None:
        """End the worker at once; the next `poll` says so."""
        self._signal_group(getattr(signal, "SIGKILL", signal.SIGTERM))

    def look_at(self, volume: str, z: int) -> None:
        """Tell the worker which slice the user looks at."""
        with suppress(OSError):  # on a full disk it goes on in the order that it knows
            write_atomically(self.folder.focus_file, json.dumps({"volume": volume, "slice": int(z)}))

    def _is_alive(self) -> bool:
        if self._is_observed:
            return True  # if not, who looks after it says so
        if self._popen is not None:
            return self._popen.poll() is None
        if self._process is None and self._is_attached:
            self._process = _living_worker(self.folder)
            if self._process is None:
                return _may_be_starting(self.folder)
        return self._process is not None and is_running(self._process)

    def _missing_terminal_event(self) -> Event:
        """The terminal event that the worker could not write; it is added to the folder for later readers."""
        returncode = self._popen.returncode if self._popen is not None else None
        event: Event = describe_exit(returncode, self.folder.log_tail())
        with suppress(OSError):  # the folder may be gone
            if returncode == 1 and shutil.disk_usage(self.folder.path).free < _FULL_BYTES:  # it could not even say so
                event = full_disk(self.folder)
        if self._cancelled_at is not None:  # it was asked to stop, and ended by us because it did not answer
            event = Cancelled()
        with suppress(OSError):  # on a full disk this process knows, if no later one does
            self.folder.append_event(event)
        return event

    def _press(self, waited: float) -> None:
        """No answer to a cancel: terminate, then kill, the process group."""
        if waited > 2 * _GRACE_SECONDS:
            self.kill()
        elif waited > _GRACE_SECONDS:
            self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: int) -> None:
        if self._process is None or not self._is_alive():
            return
        try:
            if sys.platform == "win32":
                for child in self._process.children(recursive=True):
                    child.kill()
                self._process.kill()
            else:
                os.killpg(self._process.pid, number)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass  # it ended between the look and the signal


@contextmanager
def _undone_on_error(path: Path) -> Iterator[None]:
    """Take away what was made in a folder, the folder and those above it where they are new, if that fails."""
    new = next((folder for folder in reversed((path, *path.parents)) if not folder.exists()), None)
    before = set(path.iterdir()) if new is None else set[Path]()
    try:
        yield
    except BaseException:
        for made in [new] if new is not None else set(path.iterdir()) - before:
            shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
        raise


def _creation_flags() -> int:
    """On Windows: a group of its own and no console window. Other systems have no such flags."""
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return 0


def _may_be_starting(folder: JobFolder) -> bool:
    """Whether a worker may have been started so lately that it has not written its heartbeat yet."""
    try:
        return not folder.heartbeat_file.exists() and time.time() - folder.request_file.stat().st_mtime < _START_SECONDS
    except OSError:
        return False


def _has_ended(folder: JobFolder) -> bool:
    events = folder.events()
    return bool(events) and is_terminal(events[-1])


def _living_worker(folder: JobFolder) -> psutil.Process | None:
    """The worker named in the heartbeat, unless it ended and its number went to another process."""
    try:
        beat = json.loads(folder.heartbeat_file.read_text(encoding="utf-8"))
        process = psutil.Process(beat["pid"])
        return process if abs(process.create_time() - beat["created"]) < 1 else None
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None
