"""What is known on this machine of a job on a cluster, so that another process can ask for it again."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace

from napari_mlbseg._util.files import write_atomically
from napari_mlbseg.events import Event, Metrics, to_json
from napari_mlbseg.jobs.dask.remote import digest_of
from napari_mlbseg.jobs.folder import JobFolder

__all__ = ["ClusterNote", "DeliveredEvents", "attempt_began"]

_ATTEMPT = "cluster_attempt"


@dataclass(frozen=True)
class ClusterNote:
    """What a job is called on the cluster: the content of ``cluster.json``.

    Attributes
    ----------
    topic : str
        Of its events.
    key : str
        Of its task; empty until it was submitted.
    tries : int
        How often it was submitted.
    """

    topic: str
    key: str = ""
    tries: int = 0

    @classmethod
    def of(cls, folder: JobFolder) -> ClusterNote:
        """The note in a job's folder, else one of a job that was not submitted yet."""
        try:
            return cls(**json.loads(folder.cluster_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls(topic=f"napari-mlbseg-{digest_of(folder.path)[:12]}-{time.time_ns()}")

    def next_try(self) -> ClusterNote:
        """The note of the job that is submitted once more."""
        return replace(self, key=f"{self.topic}-{self.tries + 1}", tries=self.tries + 1)

    def write(self, folder: JobFolder) -> None:
        """Keep it in the job's folder."""
        write_atomically(folder.cluster_file, json.dumps(asdict(self)))


def attempt_began(address: str, worker: str, attempt: str) -> Event:
    """The event that says where an attempt runs; its events follow."""
    return Metrics(values={"cluster": address, "cluster_worker": worker, _ATTEMPT: attempt})


class DeliveredEvents:
    """What an earlier process passed on of the attempt that it followed last; the job's terminal event is taken back.

    Parameters
    ----------
    folder : JobFolder
    """

    def __init__(self, folder: JobFolder) -> None:
        self._attempt = ""
        self._events = Counter[str]()
        if not folder.cluster_file.exists():
            return
        folder.withdraw_terminal_event()
        for event in folder.events():
            entered = str(event.values.get(_ATTEMPT, "")) if isinstance(event, Metrics) else ""
            if entered and entered != self._attempt:
                self._attempt, self._events = entered, Counter()
            self._events[to_json(event)] += 1

    def enter(self, attempt: str) -> None:
        """An attempt is followed from now on: what was told of another does not count."""
        if attempt != self._attempt:
            self._events.clear()

    def take(self, event: Event) -> bool:
        """Whether an event was passed on before; each time that it was counts once."""
        text = to_json(event)
        was_told = self._events[text] > 0
        self._events[text] -= was_told
        return was_told
