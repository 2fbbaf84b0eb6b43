"""What a worker's log says of its job: what it was given, what began and ended when, and why it ended.

All that it tells the window stands in ``events.jsonl``; at level debug it stands here, too.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping

from napari_mlbseg._version import __version__
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Event, Finished, Metrics, Progress, Stage, Started, TerminalEvent, to_json
from napari_mlbseg.jobs.folder import Request
from napari_mlbseg.task import SegmentationTask

__all__ = ["EventLog", "describe_end", "log_request", "log_task"]

_LOG = logging.getLogger(__name__)


def log_request(request: Request) -> None:
    """Log who does what, with which parameters."""
    _LOG.info(
        "%s by napari-mlbseg %s, Python %s on %s, process %d",
        request.kind,
        __version__,
        platform.python_version(),
        platform.system(),
        os.getpid(),
    )
    of_preset = TrainingConfig.from_preset(request.config.preset)
    changed = {name: value for name, value in request.config if value != getattr(of_preset, name)}
    _LOG.info("preset %s, changed: %s", request.config.preset, _listed(changed))


def log_task(task: SegmentationTask) -> None:
    """Log what there is to learn from; reads no pixel."""
    _LOG.info("classes: %s", ", ".join(map(str, task.class_values)))
    for volume in task.volumes:
        clean = volume.clean_slices
        _LOG.info(
            "volume '%s': %s %s, spacing %s %s, %d clean slices%s",
            volume.name,
            " x ".join(map(str, volume.image.shape)),
            volume.image.dtype,
            " x ".join(f"{step:g}" for step in volume.spacing),
            volume.unit,
            len(clean),
            f": {', '.join(map(str, clean))}" if clean else "",
        )


class EventLog:
    """Logs what the events of a job say of when things began and ended."""

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._began = 0.0
        self._message = ""

    def note(self, event: Event) -> None:
        """Log `event`, if a reader of the log has to know."""
        if isinstance(event, Started):
            _LOG.info("device %s, seed %d", event.device, event.seed)
        elif isinstance(event, Progress):
            self._note_progress(event)
        elif isinstance(event, Metrics):
            values = {name: value for name, value in event.values.items() if str(value) not in event.notes}
            for line in (*([_listed(values)] if values else []), *event.notes):
                _LOG.info("%s", line)
        elif isinstance(event, TerminalEvent):
            self._end_stage()
            _LOG.info("%s", describe_end(event))
        elif _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug("%s", to_json(event))

    def _note_progress(self, event: Progress) -> None:
        if event.stage is not self._stage:
            self._end_stage()
            self._stage, self._began = event.stage, time.monotonic()
            _LOG.info("stage %s begins", event.stage)
        if event.message and event.message != self._message:  # it comes with every report until it holds no more
            _LOG.info("%s", event.message)
        self._message = event.message
        _LOG.debug("step %d, %.0f %% done", event.step, 100 * event.fraction)

    def _end_stage(self) -> None:
        if self._stage is not None:
            _LOG.info("stage %s ended after %.2f s", self._stage, time.monotonic() - self._began)


def _listed(values: Mapping[str, object]) -> str:
    shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values.values())
    return ", ".join(f"{name} {value}" for name, value in zip(values, shown, strict=True)) or "nothing"


def describe_end(event: TerminalEvent) -> str:
    """Why a job ended, in a line; the log's own last lines, which some events carry, are not repeated."""
    if isinstance(event, Finished):
        unreached = f", {event.unreached} slices not reached" if event.unreached else ""
        return f"finished ({event.reason}): {event.steps} steps in {event.seconds:.1f} s{unreached}"
    if isinstance(event, Cancelled):
        return f"cancelled after {event.steps} steps, {event.seconds:.1f} s"
    return " ".join(f"failed: {event.message} {event.advice}".split())
