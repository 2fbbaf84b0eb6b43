"""The worker: ``python -m napari_mlbseg.jobs.worker JOB_DIR`` does what the folder's request asks.

It says everything through ``events.jsonl``, ends with exactly one terminal event, and imports torch only after the
first initial labels are out, so that the user sees something at once.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import psutil

from napari_mlbseg._util.files import write_atomically
from napari_mlbseg._util.logs import configure
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Event, Failed, Progress, Stage, is_terminal
from napari_mlbseg.jobs.failures import failure, is_out_of_memory
from napari_mlbseg.jobs.folder import JobFolder, Request, ZarrResults
from napari_mlbseg.jobs.processes import is_running, lower_priority, parent
from napari_mlbseg.jobs.startup import run
from napari_mlbseg.jobs.worker_log import EventLog, log_request, log_task
from napari_mlbseg.task import SegmentationTask
from napari_mlbseg.training.imports import gc_disabled

__all__ = ["main"]

_HEARTBEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.2  # between two looks for a cancel
_ANSWER_SECONDS = 1.4  # that the training has to answer a cancel by itself
_RELAY_SECONDS = 4.5  # that a relay to a cluster has, which waits for the other machine


def main(arguments: list[str] | None = None) -> int:
    """Run the job in the folder given as the only argument; 0 unless it failed."""
    start = time.monotonic()
    configure("info")
    folder = JobFolder((arguments or sys.argv[1:])[0])
    voice = EventWriter(folder)
    threading.Thread(target=_beat, args=(folder, voice, start, parent()), name="heartbeat", daemon=True).start()
    try:
        request = folder.read_request()
        voice.answers_within = _RELAY_SECONDS if request.config.cluster else _ANSWER_SECONDS
        lower_priority(request.threads)
        log_request(request)
        for event in _run(folder, request, start):
            voice.say(event)
    except Exception as error:  # the one place where any failure becomes the job's terminal event
        traceback.print_exc()
        voice.say(failure(error, folder))
    return 1 if isinstance(voice.last, Failed) else 0


class EventWriter:
    """Appends events, and logs them; after a terminal one it is silent, whichever thread spoke it."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._log = EventLog()
        self._lock = threading.Lock()
        self.last: Event | None = None
        self.answers_within = _ANSWER_SECONDS  # of a cancel

    @property
    def has_ended(self) -> bool:
        """Whether the job has had its terminal event."""
        return self.last is not None and is_terminal(self.last)

    def say(self, event: Event) -> None:
        """Append `event` unless the job has had its terminal event."""
        with self._lock:
            if not self.has_ended:
                self._folder.append_event(event)
                self.last = event
                self._log.note(event)


def _run(folder: JobFolder, request: Request, start: float) -> Iterator[Event]:
    """Events of the job; once, after running out of memory, with half the batch and a smaller patch."""
    folder.fetch_inputs(request)
    if request.config.cluster:
        yield from _relay(folder, request)
        return
    task = folder.open_task(request)
    log_task(task)
    smaller: TrainingConfig | None = None
    try:
        yield from _attempt(folder, request, task, start)
    except Exception as error:
        smaller = _smaller(task.config)
        if smaller is None or not is_out_of_memory(error):
            raise
        message = (
            f"Out of memory: trying again with batch_size {smaller.batch_size} and patch_size {smaller.patch_size}."
        )
    if smaller is None:
        return
    # outside the handler, whose traceback would keep alive what filled the memory
    yield Progress(stage=Stage.PREPARE, fraction=0, seconds=time.monotonic() - start, message=message)
    _free_memory()
    yield from _attempt(folder, request, replace(task, config=smaller), start)


def _relay(folder: JobFolder, request: Request) -> Iterator[Event]:
    try:
        from napari_mlbseg.jobs.dask.runner import run_on_cluster
    except ImportError:
        raise ValueError("For a cluster, install the extra of that name: pip install napari-mlbseg[cluster].") from None
    yield from run_on_cluster(folder, request)


def _attempt(folder: JobFolder, request: Request, task: SegmentationTask, start: float) -> Iterator[Event]:
    previous = JobFolder(request.previous) if request.previous else None
    events: Iterator[Event]
    if request.kind == "leave_one_out":
        from napari_mlbseg.training.cross_validation import leave_one_out

        events = leave_one_out(task, task.config.device, stop=folder.cancel_file.exists, start=start)
    elif request.kind == "predict":
        if previous is None:
            raise ValueError("A prediction needs the folder of a finished training.")
        with gc_disabled():
            from napari_mlbseg.training.inference import predict

        events = predict(
            task,
            model=previous.model_file,
            device=task.config.device,
            results=ZarrResults(folder, task),
            stop=folder.cancel_file.exists,
            start=start,
        )
    else:
        from napari_mlbseg.training.trainer import train

        events = train(
            task,
            task.config.device,
            results=ZarrResults(folder, task),
            stop=folder.cancel_file.exists,
            focus=folder.focus,
            warm_start=previous.model_file if previous else None,
            save_to=folder.model_file,
            start=start,
        )
    for event in events:
        yield event
        if is_terminal(event):
            return


def _beat(folder: JobFolder, voice: EventWriter, start: float, parent: psutil.Process | None) -> None:
    """Rewrite the heartbeat for as long as this process is_running, and answer a cancel that nobody else answers.

    The training answers between two steps. While it cannot (it imports torch, or computes a very long step), this
    thread ends the process: every slice in the results is whole, old or new. A Dask worker that dies takes its job's
    process with it.
    """
    beat = json.dumps({"pid": os.getpid(), "created": psutil.Process().create_time()})
    next_beat = asked = 0.0
    while True:
        now = time.monotonic()
        if now >= next_beat:
            with suppress(OSError):  # a full disk must not end the training; the next beat may succeed
                write_atomically(folder.heartbeat_file, beat)
            next_beat = now + _HEARTBEAT_SECONDS
        if parent is not None and not is_running(parent):
            os._exit(1)
        if folder.cancel_file.exists():
            asked = asked or now
            if now - asked > voice.answers_within:
                voice.say(Cancelled(seconds=now - start))
                os._exit(0)
        time.sleep(_LOOK_SECONDS)


def _smaller(config: TrainingConfig) -> TrainingConfig | None:
    """A config that needs about half the memory, or None if there is none."""
    if config.batch_size == config.clean_batch_size == 1 and config.patch_size <= 64:
        return None
    return config.updated(
        batch_size=max(1, config.batch_size // 2),
        clean_batch_size=max(1, config.clean_batch_size // 2),
        patch_size=max(64, config.patch_size * 3 // 4),
    )


def _free_memory() -> None:
    import gc

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    run(main)
