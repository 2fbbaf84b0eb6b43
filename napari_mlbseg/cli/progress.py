"""Jobs in a terminal: a progress bar, and signals that ask to stop."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from napari_mlbseg import events
from napari_mlbseg.cli.exit_code import ExitCode
from napari_mlbseg.events import Event
from napari_mlbseg.io.volumes import FileVolume
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.jobs.report import slice_facts, write_job_results, write_report

__all__ = ["Watchable", "interrupt_on_signals", "run_job", "signals_noted", "watch"]


def interrupt_on_signals() -> None:
    """Take the end of a batch job (SIGTERM) or of the terminal (SIGHUP) for Ctrl+C: what there is has to be written.

    A process that was started to outlive its terminal (nohup) goes on.
    """

    def hang_up(number: int, frame: object) -> None:
        _leave_terminal()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)


@contextmanager
def signals_noted() -> Iterator[threading.Event]:
    """Until the end of the block, signals to stop are noted in the event that is yielded, and interrupt nothing.

    An exception could come where Python drops it, within a finaliser: then nobody would be asked to stop.
    """
    asked = threading.Event()

    def note(number: int, frame: object) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        asked.set()

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    handled = [number for number, handler in before.items() if callable(handler)]
    for number in handled:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in handled:
            if signal.getsignal(number) is note:
                signal.signal(number, before[number])


def _leave_terminal() -> None:
    """The terminal is closed: to write to it is an error, and a second signal must not break off what is written."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)


class Watchable(Protocol):
    """What a progress bar needs of a job."""

    @property
    def state(self) -> JobState:
        """State of the job."""
        ...

    def poll(self) -> Sequence[Event]:
        """Events since the last call; ends with a terminal event when the job ended, however it did."""
        ...

    def cancel(self) -> None:
        """Ask the worker to stop and keep what it has."""
        ...


def run_job(job: LocalJob, volumes: list[FileVolume], names: Sequence[str], **facts: Any) -> int:
    """Run a job to its end, write its results, and print their paths."""
    interrupt_on_signals()
    # a job on a cluster goes on without us, and is found again; a worker here would train on for nobody
    job.start(bound=not job.folder.read_request().config.cluster)
    interrupted, outcome = watch(job)
    facts |= slice_facts(volumes)
    report = job.folder.path / "report.json"
    if isinstance(outcome, events.Failed):
        print(f"napari-mlbseg: {outcome.message} {outcome.advice}".rstrip(), file=sys.stderr)
        with suppress(OSError):  # a full disk may be why it failed
            write_report(report, job.folder, **facts)
        return ExitCode.FAILED
    try:
        written = write_job_results(job.folder, volumes, names)
        write_report(report, job.folder, **facts)
    except OSError as error:
        print(
            f"napari-mlbseg: The results cannot be written to {error.filename or job.folder.path} "
            f"({error.strerror or error}): make room there. What was found lies in {job.folder.results_path}.",
            file=sys.stderr,
        )
        return ExitCode.FAILED
    for path in (*written, report):
        print(path)
    return ExitCode.INTERRUPTED if interrupted else ExitCode.DONE


def watch(job: Watchable) -> tuple[bool, Event | None]:
    """Show the job's progress until it ends; Ctrl+C asks it to stop and keep what it has.

    Returns whether that happened, and the job's last event, which a full disk may not hold.
    """
    interrupted, notes, event = False, list[str](), None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with signals_noted() as asked, Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("start", total=1.0)
        while not job.state.is_final:
            for event in job.poll():
                if isinstance(event, events.Progress):
                    bar.update(line, completed=event.fraction, description=event.message or str(event.stage))
                elif isinstance(event, events.Metrics):
                    notes += event.notes
                elif isinstance(event, events.Finished):
                    bar.update(line, completed=1.0, description="done")
            if asked.is_set() and not interrupted:
                interrupted = True
                job.cancel()
                bar.update(line, description="stopping")
            time.sleep(0.1)
    for note in notes:
        print(f"napari-mlbseg: {note}", file=sys.stderr)
    return interrupted, event
