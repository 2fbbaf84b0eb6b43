"""The cluster backend: the job's process on this machine hands the work to a Dask worker and mirrors what comes of it.

A job on a cluster is a job folder like any other. Its worker process is here, but instead of training it relays: the
task goes to a Dask worker (`napari_mlbseg.jobs.remote`), events come back by a Dask topic, and every slice that a
`Preview` names is fetched into the folder's own results before the event is passed on. So the window reads, cancels and
finds again a job of either kind alike, and needs no Dask.

Inputs are read from where they lie if the Dask workers can open the job's folder themselves; otherwise they are
scattered. A lost Dask worker is a new attempt: by Dask itself or, where the scattered inputs were lost too, by this
process.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import distributed

from napari_mlbseg.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Metrics,
    Preview,
    Progress,
    Stage,
    from_json,
    is_terminal,
)
from napari_mlbseg.jobs import remote
from napari_mlbseg.jobs.cluster_connection import check_versions, connect, facts_of
from napari_mlbseg.jobs.folder import JobFolder, Request, ZarrResults, write_atomically
from napari_mlbseg.jobs.inputs import ArrayReference

__all__ = ["relay"]

_LOST_SECONDS = 30.0  # without the scheduler until the job is given up
_SILENT_SECONDS = 15.0  # that the last words of a job may be on their way after Dask called it done
_LOOK_SECONDS = 0.1
_CHECK_SECONDS = 0.5  # between two looks at what Dask says of the job
_ANSWER_SECONDS = 3.0  # that the other machine has to answer a cancel
_ATTEMPTS = 3
_AT_ONCE = 16  # slices that are fetched together
_MODEL = ("model.safetensors", "model.json")


def relay(folder: JobFolder, request: Request) -> Iterator[Event]:
    """Events of a job that runs on the cluster at ``request.config.cluster``.

    Raises
    ------
    ValueError
        If no scheduler answers there, or its workers have another version of this package; a sentence.
    """
    address = request.config.cluster
    yield Progress(stage=Stage.PREPARE, fraction=0, message=f"Asking the cluster at {address}")
    client = connect(address)
    try:
        yield from _Relay(client, folder, request).events()
    finally:
        with suppress(Exception):  # a scheduler that is gone cannot be taken leave of
            client.close(timeout=2)


class _Relay:
    """One job on a cluster.

    Parameters
    ----------
    client : distributed.Client
    folder : JobFolder
        On this machine.
    request : Request
    """

    def __init__(self, client: distributed.Client, folder: JobFolder, request: Request) -> None:
        self._client, self._folder, self._request = client, folder, request
        self._address = request.config.cluster
        self._note = folder.path / "cluster.json"
        self._results: ZarrResults | None = None
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._future: distributed.Future | None = None
        self._tries = 0
        self._attempt, self._last, self._old = "", -1, set[str]()
        self._worker, self._there = "", ""  # address of the Dask worker, and the folder on it
        self._cancelled_at: float | None = None
        self._focus: tuple[str, int] | None = None
        self._unreachable_since = self._done_since = 0.0
        self._waits = False

    def events(self) -> Iterator[Event]:
        """Every event up to the terminal one."""
        topic = self._topic()
        self._client.subscribe_topic(topic, self._news.put)
        if self._future is not None:  # submitted by a process before this one: the scheduler knows what it said since
            for entry in self._client.get_events(topic):
                self._news.put(entry)
        next_check = 0.0
        while True:
            with suppress(queue.Empty):
                for event in self._take(self._news.get(timeout=_LOOK_SECONDS)[1]):
                    yield event
                    if is_terminal(event):
                        return
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + _CHECK_SECONDS
                for event in self._check(topic):
                    yield event
                    if is_terminal(event):
                        return

    # -- beginning -----------------------------------------------------------------------------------------------

    def _topic(self) -> str:
        """The job's topic; of a job that was submitted before, the one that it got then."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            self._future = distributed.Future(note["key"], client=self._client)
            self._tries = 1
            return str(note["topic"])
        except (OSError, ValueError, KeyError):
            return f"napari-mlbseg-{remote.digest_of(self._folder.path)[:12]}-{time.time_ns()}"

    def _submit(self, topic: str) -> None:
        self._tries += 1
        request, files = self._packed()
        future = self._client.submit(
            remote.run_here,
            request,
            self._client.scatter(files, hash=False) if files else {},
            topic,
            key=f"{topic}-{self._tries}",
            pure=False,
            resources={"GPU": 1} if facts_of(self._client).has_gpu else None,
        )
        distributed.fire_and_forget(future)  # it goes on if this process ends
        self._future = future
        write_atomically(self._note, json.dumps({"key": future.key, "topic": topic}))

    def _packed(self) -> tuple[str, dict[str, bytes]]:
        """The request with paths that the workers can open, and the files that have to be sent along."""
        digest = remote.digest_of(self._folder.path)
        seen = self._client.run(remote.sees, str(self._folder.path), digest)
        shared = bool(seen) and all(seen.values())
        files: dict[str, bytes] = {}
        volumes = tuple(
            volume.model_copy(
                update={
                    name: self._reference(getattr(volume, name), f"inputs/{number}/{name}", files, shared)
                    for name in ("image", "labels", "initial_labels")
                    if getattr(volume, name) is not None
                }
            )
            for number, volume in enumerate(self._request.volumes)
        )
        if self._request.previous is not None:
            for name in _MODEL:
                files[f"{remote.PREVIOUS}/{name}"] = (Path(self._request.previous) / name).read_bytes()
        config = self._request.config.updated(cluster="")
        return self._request.model_copy(update={"volumes": volumes, "config": config}).model_dump_json(), files

    def _reference(self, reference: ArrayReference, stem: str, files: dict[str, bytes], shared: bool) -> ArrayReference:
        path = (self._folder.path / reference.path).absolute()
        if shared:
            return reference.model_copy(update={"path": str(path)})
        target = f"{stem}.{reference.format}"
        if path.is_dir():
            for file in path.rglob("*"):
                if file.is_file():
                    files[f"{target}/{file.relative_to(path).as_posix()}"] = file.read_bytes()
        else:
            files[target] = path.read_bytes()
        return reference.model_copy(update={"path": target})

    # -- what comes ----------------------------------------------------------------------------------------------

    def _take(self, message: dict[str, Any]) -> Iterator[Event]:
        """Events of a message; none if it is known, or of an attempt that was given up."""
        attempt, n = message["attempt"], message["n"]
        if attempt in self._old or (attempt == self._attempt and n <= self._last):
            return
        if attempt != self._attempt:
            if n:  # its beginning is still on its way
                return
            if self._attempt:
                self._old.add(self._attempt)
                yield _preparing("The cluster's worker was lost: starting again on another one.")
            self._attempt, self._worker, self._there = attempt, message["worker"], message["folder"]
            self._focus = None
        self._last = n
        if "event" not in message:
            yield Metrics(values={"cluster": self._address, "cluster_worker": self._worker})
            return
        event = from_json(message["event"])
        if isinstance(event, Preview) and not self._fetch(event):
            return
        yield self._end(event) if is_terminal(event) else event

    def _fetch(self, event: Preview) -> bool:
        """Bring the slices of a preview into the results here; False if the worker is gone."""
        if self._results is None:
            self._results = ZarrResults(self._folder, self._folder.open_task(self._request))
        for first in range(0, len(event.slices), _AT_ONCE):
            slices = event.slices[first : first + _AT_ONCE]
            arrays = self._on_worker(remote.read_slices, event.volume, event.arrays, slices)
            if arrays is None:
                return False
            for name, planes in arrays.items():
                for z, plane in zip(slices, planes, strict=True):
                    self._results[event.volume][name][z] = plane
        return True

    def _end(self, event: Event) -> Event:
        """Fetch the model, and clear up over there; gives the job's last word."""
        files = self._on_worker(remote.read_files, _MODEL) or {}
        for name, content in files.items():
            (self._folder.path / name).write_bytes(content)
        self._on_worker(remote.forget)
        self._note.unlink(missing_ok=True)
        if isinstance(event, Finished) and self._request.kind == "train" and not files:
            return Failed(
                message="The cluster's worker was lost with the trained model.",
                advice="The labels have come, the model has not: press Train again.",
            )
        return event

    def _on_worker(self, function: Any, *arguments: Any) -> Any:
        """Call a function with the folder there, on the Dask worker that has the job; None if that worker is gone."""
        try:
            return self._client.run(function, self._there, *arguments, workers=[self._worker])[self._worker]
        except (OSError, ValueError, KeyError, TimeoutError):
            return None

    # -- whether it still runs -----------------------------------------------------------------------------------

    def _check(self, topic: str) -> Iterator[Event]:
        """What the person wants, and what Dask says."""
        now = time.monotonic()
        if self._folder.cancel_file.exists():
            yield from self._cancel(now)
            return
        if self._client.status != "running":
            self._unreachable_since = self._unreachable_since or now
            if now - self._unreachable_since > _LOST_SECONDS:
                yield Failed(
                    message=f"The connection to the cluster at {self._address} was lost.",
                    advice="What came until then is kept. See that the scheduler runs and can be reached, then press "
                    "Train again.",
                )
            return
        self._unreachable_since = 0.0
        if self._future is None:
            yield from self._begin(topic)
            return
        if self._attempt:
            self._tell_focus()
        status = self._future.status
        if status in ("cancelled", "lost", "error"):
            yield from self._again(topic, status)
        elif status == "finished":
            self._done_since = self._done_since or now
            if now - self._done_since > _SILENT_SECONDS:
                yield Failed(message="The cluster's worker ended without a last word.", advice=_LOOK_AT_THE_LOG)
        else:
            self._done_since = 0.0

    def _cancel(self, now: float) -> Iterator[Event]:
        """Ask the other machine to stop, and say so if it does not answer."""
        if self._cancelled_at is None:
            self._cancelled_at = now
            if self._attempt:
                self._on_worker(remote.write_file, "cancel", "")
        if not self._attempt or now - self._cancelled_at > _ANSWER_SECONDS:
            if self._future is not None:
                with suppress(OSError, TimeoutError):
                    self._future.cancel()
            self._note.unlink(missing_ok=True)
            yield Cancelled()

    def _tell_focus(self) -> None:
        focus = self._folder.focus()
        if focus is not None and focus != self._focus:
            self._focus = focus
            self._on_worker(remote.write_file, "focus", json.dumps({"volume": focus[0], "slice": focus[1]}))

    def _begin(self, topic: str) -> Iterator[Event]:
        """Submit the job, once there is a worker to hold its inputs."""
        if facts_of(self._client).n_workers:
            check_versions(self._client, self._address)
            self._submit(topic)
        elif not self._waits:
            self._waits = True
            yield _preparing("Waiting: the cluster has no worker yet.")

    def _again(self, topic: str, status: str) -> Iterator[Event]:
        """Dask has given the job up: begin it again, unless it was tried often enough or failed by itself."""
        error = self._future.exception() if self._future is not None and status == "error" else None
        was_lost = error is None or isinstance(error, distributed.client.FutureCancelledError)
        if not was_lost and not isinstance(error, distributed.KilledWorker):
            yield Failed(
                message=f"The cluster could not run the job: {type(error).__name__}: {error}", advice=_LOOK_AT_THE_LOG
            )
        elif not was_lost or self._tries >= _ATTEMPTS:
            yield Failed(
                message="The cluster's workers died with this job, again and again: probably out of memory.",
                advice="Train with a smaller batch_size or patch_size (Advanced), or give the workers more memory.",
            )
        else:
            if self._attempt:
                self._old.add(self._attempt)
                self._attempt, self._last = "", -1
            yield _preparing("The cluster's worker was lost: starting again on another one.")
            self._future = None


_LOOK_AT_THE_LOG = "The logs of the scheduler and of its workers say more. What you painted is safe."


def _preparing(message: str) -> Progress:
    return Progress(stage=Stage.PREPARE, fraction=0, message=message)
