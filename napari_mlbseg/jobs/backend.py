"""What every backend offers: a job that can be started, watched, asked to stop, and found again."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Protocol

from napari_mlbseg.events import Event
from napari_mlbseg.jobs.folder import JobFolder

__all__ = ["Job", "JobState"]


class JobState(Enum):
    """Where a job is in its life.

    ::

        CREATED --start--> RUNNING --cancel--> CANCELLING
                              |                    |
                              +---> FINISHED <-----+      Finished was read (it may have been ready before the cancel)
                              +---> CANCELLED <----+      Cancelled was read
                              +---> FAILED <-------+      Failed was read, or the worker died without a terminal event

    The last three are final.
    """

    CREATED = "created"
    RUNNING = "running"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen any more."""
        return self in (JobState.FINISHED, JobState.CANCELLED, JobState.FAILED)


class Job(Protocol):
    """A task that runs somewhere else. No method blocks, but `events`."""

    folder: JobFolder

    @property
    def state(self) -> JobState:
        """State as of the last `poll`."""
        ...

    def start(self) -> None:
        """Begin; raises OSError if the worker cannot be started."""
        ...

    def poll(self) -> list[Event]:
        """Events since the last call; the last event of a job that ended is terminal, even if its worker died."""
        ...

    def cancel(self) -> None:
        """Ask the worker to stop and keep what it has; a worker that does not answer is ended."""
        ...

    def look_at(self, volume: str, z: int) -> None:
        """Tell the worker which slice the user looks at, to be predicted first."""
        ...

    def events(self, interval: float = 0.1) -> Iterator[Event]:
        """Every event up to the terminal one; waits for them."""
        ...
