"""The session: volumes, clean slices, config, and the rounds of training; emits psygnal signals.

Panels call its methods and listen to its signals; they keep no state of their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from psygnal import Signal

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Event, Finished, is_terminal
from napari_mlbseg.jobs.job import Job, JobState
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session.volume import AnnotatedVolume
from napari_mlbseg.task import SegmentationTask, resolve_task

__all__ = ["Round", "SegmentationSession", "SessionState"]


class SessionState(Enum):
    """What the session is doing.

    ::

        IDLE --start--> RUNNING --stop--> STOPPING
          ^                |                  |
          +---- terminal event of the job ----+
    """

    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"


class TemporaryFolder:
    """A folder that is there for as long as anybody holds this object: the session, or a layer that reads from it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="napari-mlbseg-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(eq=False)
class Round:
    """One training: a frozen task, the job that ran it and what it said.

    `keeps` holds the session's temporary folder, if it has one: whoever reads the round's results keeps the round.
    """

    number: int
    job: Job
    task: SegmentationTask
    events: list[Event] = field(default_factory=list)
    keeps: TemporaryFolder | None = None

    @property
    def outcome(self) -> Event | None:
        """The terminal event, once there is one."""
        return self.events[-1] if self.events and is_terminal(self.events[-1]) else None


class SegmentationSession:
    """State of a label-and-retrain session.

    Parameters
    ----------
    folder : path, optional
        Where rounds are kept, in ``rounds/NNN``. By default a temporary folder, which goes when the session was closed
        and nobody holds one of its rounds any more.

    Notes
    -----
    All methods and signals belong to one thread, the window's. `poll` must be called now and then while a job runs; it
    only reads what the job wrote since, and returns at once.
    """

    volumes_changed = Signal()
    clean_changed = Signal(str)  # name of the volume
    config_changed = Signal(object)  # TrainingConfig
    state_changed = Signal(object)  # SessionState
    round_started = Signal(object)  # Round
    event_received = Signal(object)  # Event of the current round

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = Path(folder) if folder is not None else None
        self._temporary: TemporaryFolder | None = None
        self._volumes: dict[str, AnnotatedVolume] = {}
        self._config = TrainingConfig.from_preset("quick")
        self._state = SessionState.IDLE
        self.rounds: list[Round] = []
        self.warm_start = True

    # -- volumes and clean slices --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[AnnotatedVolume]:
        return iter(self._volumes.values())

    def __len__(self) -> int:
        return len(self._volumes)

    def volume(self, name: str) -> AnnotatedVolume:
        """The volume of that name; raises KeyError."""
        return self._volumes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._volumes

    def set_volume(self, volume: AnnotatedVolume) -> None:
        """Add `volume`, or replace the one of its name."""
        self._volumes[volume.name] = volume
        self.volumes_changed.emit()
        self.clean_changed.emit(volume.name)

    def set_volumes(self, volumes: Iterable[AnnotatedVolume]) -> None:
        """Have exactly these volumes."""
        self._volumes = {volume.name: volume for volume in volumes}
        self.volumes_changed.emit()

    def remove_volume(self, name: str) -> None:
        """Forget the volume of that name, if there is one."""
        if self._volumes.pop(name, None) is not None:
            self.volumes_changed.emit()

    def set_clean(self, name: str, z: int, clean: bool) -> None:
        """Mark slice `z` of a volume clean or not.

        Raises
        ------
        IndexError
            If there is no such slice.
        """
        volume = self._volumes[name]
        if not 0 <= z < volume.n_slices:
            raise IndexError(f"There is no slice {z} in '{name}': it has slices 0 to {volume.n_slices - 1}.")
        if clean == (z in volume.clean):
            return
        if clean:
            volume.clean.add(z)
        else:
            volume.clean.discard(z)
        self.clean_changed.emit(name)

    # -- config --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> TrainingConfig:
        """Parameters of the next training."""
        return self._config

    @config.setter
    def config(self, config: TrainingConfig) -> None:
        if config != self._config:
            self._config = config
            self.config_changed.emit(config)

    # -- rounds --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """What the session is doing."""
        return self._state

    @property
    def current_round(self) -> Round | None:
        """The latest round."""
        return self.rounds[-1] if self.rounds else None

    @property
    def folder(self) -> Path:
        """The session's folder; a temporary one is made when it is first needed."""
        if self._folder is not None:
            return self._folder
        if self._temporary is None:
            self._temporary = TemporaryFolder()
        return self._temporary.path

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
        painted = sorted(set().union(*(v.painted_values() for v in self)) - {0}) if volumes else []
        return resolve_task(volumes, self._config, class_values=painted)

    def start(self, focus: tuple[str, int] | None = None) -> Round:
        """Begin a round: freeze the task into a job folder and start a worker on it.

        Raises
        ------
        TaskError
            If the session cannot be trained on yet; nothing was written.
        OSError
            If the folder cannot be written or the worker not be started.
        RuntimeError
            If a training is running.
        """
        if self._state is not SessionState.IDLE:
            raise RuntimeError("A training is running: stop it first.")
        task = self.resolve(focus)
        number = max((r.number for r in self.rounds), default=0) + 1
        job = LocalJob.create(
            self.folder / "rounds" / f"{number:03d}",
            task,
            previous=self._warm_model(task),
            threads=_threads_beside_a_window(),
        )
        job.start()
        started = Round(number=number, job=job, task=task, keeps=self._temporary)
        self.rounds.append(started)
        self._set_state(SessionState.RUNNING)
        self.round_started.emit(started)
        return started

    def stop(self) -> None:
        """Ask the running job to stop and keep what it has."""
        if self._state is SessionState.RUNNING and self.current_round is not None:
            self.current_round.job.cancel()
            self._set_state(SessionState.STOPPING)

    def poll(self) -> None:
        """Take in what the job said since the last call."""
        current = self.current_round
        if current is None or self._state is SessionState.IDLE:
            return
        for event in current.job.poll():
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Change state as `event` says, and tell the listeners."""
        current = self.current_round
        if current is None:
            return
        current.events.append(event)
        if is_terminal(event):
            self._set_state(SessionState.IDLE)
        self.event_received.emit(event)

    def look_at(self, name: str, z: int) -> None:
        """The user looks at slice `z` of a volume now: the job predicts it first."""
        if self._state is SessionState.RUNNING and self.current_round is not None:
            self.current_round.job.look_at(name, z)

    def close(self) -> None:
        """Stop a running job and let go of the rounds and a temporary folder. Call it when the window goes."""
        current = self.current_round
        if current is not None and not current.job.state.is_final:
            current.job.cancel()
            if isinstance(current.job, LocalJob):
                current.job.kill()
                for _ in current.job.events(interval=0.02):
                    pass
        self.rounds.clear()
        self._temporary = None
        self._set_state(SessionState.IDLE)

    def _set_state(self, state: SessionState) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)

    def _warm_model(self, task: SegmentationTask) -> Path | None:
        """Job folder of the latest round that left a model for the same classes and network."""
        if not self.warm_start:
            return None
        for previous in reversed(self.rounds):
            fits = (
                previous.job.state is JobState.FINISHED
                and isinstance(previous.outcome, Finished)
                and previous.task.class_values == task.class_values
                and previous.task.n_channels == task.n_channels
                and all(
                    getattr(previous.task.config, name) == getattr(task.config, name)
                    for name in ("architecture", "features", "norm", "context")
                )
            )
            if fits and previous.job.folder.model_file.exists():
                return previous.job.folder.path
        return None


def _threads_beside_a_window() -> int:
    """Threads of a worker beside a window: a core stays free where there are enough.

    On two or three cores the worker's low priority does it: half the cores idle would cost more than it gives.
    """
    cores = os.cpu_count() or 1
    return cores - 1 if cores >= 4 else cores
