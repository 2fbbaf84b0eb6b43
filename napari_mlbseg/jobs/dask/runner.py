"""The cluster backend: the job's process on this machine hands the work to a Dask worker and mirrors what comes of it.

A job on a cluster is a job folder like any other. Its worker process is here, but instead of training it relays: the
task goes to a Dask worker (`remote`), events come back by a Dask topic, and every slice that a `Preview` names is
brought into the folder's own results (`mirrored_folder`) before the event is passed on. So the window reads, cancels
and finds again a job of either kind alike, and needs no Dask.

What can break, and what becomes of it:

- the Dask worker: a new attempt, by Dask itself or, where inputs that were sent along were lost too, by this process;
- the connection, or the scheduler's answers: this process tries for a while to reach it again and reads what it missed
  from the events file over there; after that the job has failed;
- the scheduler: the same; one that was started anew does not know the job, which begins again;
- this process: another one on the same folder asks again.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

import distributed

from napari_mlbseg.events import (
    Cancelled,
    Event,
    Failed,
    Preview,
    Progress,
    Stage,
    from_json,
    is_terminal,
)
from napari_mlbseg.jobs.dask import remote
from napari_mlbseg.jobs.dask.connection import (
    UnreachableError,
    ask,
    check_versions,
    connect,
    facts_of,
    leave,
    task_state,
)
from napari_mlbseg.jobs.dask.mirrored_folder import WorkerFolder
from napari_mlbseg.jobs.dask.note import ClusterNote, DeliveredEvents, attempt_began
from napari_mlbseg.jobs.dask.packaging import MODEL_FILES, package_inputs
from napari_mlbseg.jobs.folder import JobFolder, Request
from napari_mlbseg.task import SegmentationTask

__all__ = ["run_on_cluster"]

_LOST_SECONDS = 30.0  # without the scheduler until the job is given up
_RETRY_SECONDS = 3.0  # that one try to reach it again may take
_SEND_SECONDS = 900.0  # that the inputs may be on their way
_SILENT_SECONDS = 15.0  # that the last events of a job may be on their way after Dask called it done
_QUIET_SECONDS = 3.0  # without news until the scheduler is asked what it is doing with the job
_LOOK_SECONDS = 0.1
_CHECK_SECONDS = 0.5  # between two looks at what the person wants and what Dask says of the job
_ANSWER_SECONDS = 3.0  # that the other machine has to answer a cancel
_ATTEMPTS = 3

_LOOK_AT_THE_LOG = "The logs of the scheduler and of its workers say more. What you painted is safe."
_LOST_WORKER = "The cluster's worker was lost: starting again on another one"


def run_on_cluster(folder: JobFolder, request: Request) -> Iterator[Event]:
    """Events of a job that runs on the cluster at ``request.config.cluster``.

    Raises
    ------
    ValueError
        If no scheduler answers there, or its workers have another version of this package; a sentence.
    """
    address = request.config.cluster
    yield _preparing(f"Asking the cluster at {address}")
    job = _Relay(connect(address), folder, request)
    try:
        yield from job.events()
    finally:
        job.close()


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
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._future: distributed.Future[Any] | None = None
        self._note, self._told = ClusterNote.of(folder), DeliveredEvents(folder)
        self._attempt, self._last, self._old = "", 0, set[str]()  # the attempt that is on, and its events so far
        self._there: WorkerFolder | None = None  # of that attempt
        self._is_behind = False  # events were missed, or could not be followed up
        self._is_lost = False  # the scheduler does not answer
        self._cancelled_at: float | None = None
        self._focus: tuple[str, int] | None = None
        self._lost_since = self._done_since = 0.0
        self._heard_at = time.monotonic()
        self._said = ""

    def events(self) -> Iterator[Event]:
        """Every event up to the terminal one."""
        for event in self._stream():
            yield event
            if is_terminal(event):
                return

    def close(self) -> None:
        """Clear up over there if all of it is here, and take leave."""
        if self._there is not None and not self._folder.cluster_file.exists():
            with suppress(UnreachableError):
                self._there.forget()
        leave(self._client)

    def _stream(self) -> Iterator[Event]:
        try:
            self._listen()
        except UnreachableError:
            self._is_lost = True
        next_check = 0.0
        while True:
            if time.monotonic() >= next_check:
                try:
                    yield from self._check(time.monotonic())
                except UnreachableError:
                    self._is_lost = True
                next_check = time.monotonic() + _CHECK_SECONDS
            with suppress(queue.Empty):
                yield from self._take(self._news.get(timeout=_LOOK_SECONDS))

    # -- beginning, and finding again ------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Hear of the job from now on and, if it was submitted before, of what it said meanwhile."""
        topic, key = self._note.topic, self._note.key
        ask(lambda: self._client.subscribe_topic(topic, lambda entry: self._news.put(entry[1])))
        if not key:
            return
        self._future = distributed.Future[Any](key, client=self._client)
        missed = [message for _, message in ask(lambda: self._client.get_events(topic))]
        for message in missed:  # of attempts that were lost, nothing is of use any more
            if message["attempt"] == missed[-1]["attempt"]:
                self._news.put(message)
        self._is_behind = bool(self._attempt)

    def _begin(self) -> Iterator[Event]:
        """Submit the job, once there is a worker to hold its inputs."""
        facts = facts_of(self._client)
        if not facts.n_workers:
            yield from self._say("Waiting: the cluster has no worker yet.")
            return
        check_versions(self._client, self._address)
        note = self._note.next_try()
        request, files = package_inputs(self._client, self._folder, self._request)
        sent = ask(lambda: self._client.scatter(files, hash=False), _SEND_SECONDS) if files else {}
        resources = {"GPU": 1} if facts.has_gpu else None
        self._future = ask(
            lambda: self._client.submit(
                remote.run_here, request, sent, note.topic, key=note.key, pure=False, resources=resources
            )
        )
        distributed.fire_and_forget(self._future)  # it goes on if this process ends
        note.write(self._folder)
        self._note = note
        self._heard_at = time.monotonic()

    # -- what comes ------------------------------------------------------------------------------------------------

    def _take(self, message: dict[str, Any]) -> Iterator[Event]:
        """Events of a message; none if it is known, or of an attempt that was given up."""
        self._heard_at = time.monotonic()
        if message["attempt"] in self._old:
            return
        if message["attempt"] != self._attempt:
            yield from self._enter(message)
        if message["n"] > self._last + 1:  # others were lost on the way
            self._is_behind = True
        if message["n"] <= self._last or self._is_behind:
            return
        try:
            yield from self._follow_up(message["event"])
        except UnreachableError:
            self._is_behind = True

    def _enter(self, message: dict[str, Any]) -> Iterator[Event]:
        """An attempt has begun."""
        if self._attempt:
            self._old.add(self._attempt)
            yield from self._say(f"{_LOST_WORKER}.")
        self._attempt, self._last, self._is_behind = message["attempt"], 0, False
        self._there = WorkerFolder(self._client, message["worker"], message["folder"], message["digest"])
        self._focus, self._said = None, ""
        self._told.enter(self._attempt)
        yield attempt_began(self._address, message["worker"], self._attempt)

    def _follow_up(self, text: str) -> Iterator[Event]:
        """The next event of the attempt, after what belongs to it was brought here; raises UnreachableError."""
        assert self._there is not None  # whoever has an attempt knows its place
        event = from_json(text)
        if self._told.take(event):
            self._last += 1
            return
        if isinstance(event, Preview):
            self._there.fetch_slices(self._folder, self._task, event)
        elif is_terminal(event):
            self._there.fetch_files(self._folder, MODEL_FILES)
            self._folder.cluster_file.unlink(missing_ok=True)
        self._last += 1
        yield event

    @cached_property
    def _task(self) -> SegmentationTask:
        return self._folder.open_task(self._request)

    def _catch_up(self) -> Iterator[Event]:
        """Events that were missed."""
        assert self._there is not None  # nothing can be missed of an attempt that is not known
        try:
            for text in self._there.events_after(self._last):
                yield from self._follow_up(text)
            self._is_behind = False
        except UnreachableError:
            yield from self._say("The cluster's worker does not answer: waiting for it, or for another one.")

    # -- whether it still runs -------------------------------------------------------------------------------------

    def _check(self, now: float) -> Iterator[Event]:
        """What the person wants, and what Dask says; raises UnreachableError."""
        if self._folder.cancel_file.exists():
            yield from self._cancel(now)
        elif self._is_lost or self._client.status != "running":
            yield from self._reconnect(now)
        elif self._future is None:
            yield from self._begin()
        else:
            yield from self._look(self._future.status, now)

    def _look(self, status: str | None, now: float) -> Iterator[Event]:
        """Go on as the task's state demands."""
        if self._attempt:
            self._tell_focus()
        if self._is_behind:
            yield from self._catch_up()
        if status == "error":
            yield from self._give_up_or_begin_again()
        elif status in ("cancelled", "lost"):  # by Dask, or only forgotten by this client while it was cut off
            self._listen()
            yield from self._explain_silence(task_state(self._client, self._note.key))
        elif status == "finished":
            self._done_since = self._done_since or now
            self._is_behind = bool(self._attempt)  # its terminal events are over there, if they do not come
            if now - self._done_since > _SILENT_SECONDS:
                yield Failed(message="The cluster's worker ended without saying why.", advice=_LOOK_AT_THE_LOG)
        elif now - self._heard_at > _QUIET_SECONDS:
            self._done_since = 0.0
            self._heard_at = now
            yield from self._explain_silence(task_state(self._client, self._note.key))

    def _explain_silence(self, state: str | None) -> Iterator[Event]:
        """Say why nothing comes, where that is known."""
        if state is None:  # it ended while this process was cut off, or the scheduler was started anew
            if self._attempt:
                yield from self._catch_up()
            yield from self._begin_again()
        elif self._attempt and state not in ("processing", "memory", "erred"):  # it waits to be run again
            self._old.add(self._attempt)
            self._attempt = ""
            yield from self._say(f"{_LOST_WORKER}, once there is one.")
        elif not self._attempt and (state == "no-worker" or not facts_of(self._client).n_workers):
            yield from self._say("Waiting: the cluster has no worker for the job.")
        elif not self._attempt:
            yield from self._say("Waiting: the cluster's workers are busy.")

    def _reconnect(self, now: float) -> Iterator[Event]:
        """Try once to reach the scheduler again."""
        self._lost_since = self._lost_since or now
        yield from self._say("The connection to the cluster was lost: trying to reach it again.")
        leave(self._client)
        try:
            self._client = connect(self._address, _RETRY_SECONDS)
        except ValueError:
            if now - self._lost_since > _LOST_SECONDS:
                yield Failed(
                    message=f"The connection to the cluster at {self._address} was lost.",
                    advice="What came until then is kept. See that the scheduler runs and can be reached, then press "
                    "Train again.",
                )
            return
        self._is_lost, self._lost_since, self._said = False, 0.0, ""
        if self._there is not None:
            self._there.client = self._client
        self._listen()

    def _cancel(self, now: float) -> Iterator[Event]:
        """Ask the other machine to stop, and say so if it does not answer."""
        if self._cancelled_at is None:
            self._cancelled_at = now
            if self._there is not None and self._attempt:
                with suppress(UnreachableError):
                    self._there.write("cancel", "")
        elif self._is_behind:
            yield from self._catch_up()
        if not self._attempt or now - self._cancelled_at > _ANSWER_SECONDS:
            if self._future is not None:
                with suppress(Exception):  # the scheduler may be gone
                    self._future.cancel(force=True)  # whoever else wants it, such as `fire_and_forget`
            self._folder.cluster_file.unlink(missing_ok=True)
            yield Cancelled()

    def _tell_focus(self) -> None:
        focus = self._folder.focus()
        if focus is not None and focus != self._focus and self._there is not None:
            self._focus = focus
            with suppress(UnreachableError):  # it goes on in the order that it knows
                self._there.write("focus", json.dumps({"volume": focus[0], "slice": focus[1]}))

    def _give_up_or_begin_again(self) -> Iterator[Event]:
        """The task ended with an error."""
        assert self._future is not None  # it has a status
        error = self._future.exception()
        if isinstance(error, distributed.client.FutureCancelledError):
            yield from self._begin_again()
        elif isinstance(error, distributed.KilledWorker):
            yield _DEADLY
        else:
            yield Failed(
                message=f"The cluster could not run the job: {type(error).__name__}: {error}", advice=_LOOK_AT_THE_LOG
            )

    def _begin_again(self) -> Iterator[Event]:
        """Dask no longer knows the job: submit it anew, unless that was done often enough."""
        if self._note.tries >= _ATTEMPTS:
            yield _DEADLY
            return
        if self._attempt:
            self._old.add(self._attempt)
            self._attempt = ""
        self._future, self._is_behind = None, False
        yield from self._say(f"{_LOST_WORKER}.")

    def _say(self, message: str) -> Iterator[Event]:
        """A word to the person, once."""
        if message != self._said:
            self._said = message
            yield _preparing(message)


_DEADLY = Failed(
    message="The cluster's workers died with this job, again and again: probably out of memory.",
    advice="Train with a smaller batch_size or patch_size (Advanced), or give the workers more memory.",
)


def _preparing(message: str) -> Progress:
    return Progress(stage=Stage.PREPARE, fraction=0, message=message)
