"""What came of a job, as image files beside its request and as a report in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg._util.files import safe_name, write_atomically
from napari_mlbseg._version import __version__
from napari_mlbseg.events import Event, Failed, Finished, Metrics, Preview, Progress, Started
from napari_mlbseg.io.files import write_result
from napari_mlbseg.io.volumes import FileVolume
from napari_mlbseg.jobs.folder import JobFolder

__all__ = ["PREDICTED_FILES", "TRAINED_FILES", "slice_facts", "write_job_results", "write_report"]

#: Results of a prediction and of a training that are written as image files.
PREDICTED_FILES = ("pseudo_labels", "probability", "view_agreement")
TRAINED_FILES = ("pseudo_labels", "probability", "weight_initial", "weight_pseudo", "view_agreement")


def write_job_results(folder: JobFolder, volumes: Sequence[FileVolume], names: Sequence[str]) -> list[Path]:
    """Write result arrays of a job as image files, beside its request or, of several volumes, in a folder for each.

    Parameters
    ----------
    folder : JobFolder
    volumes : sequence of FileVolume
        In the job's order.
    names : sequence of str
        Of the arrays; those that the job did not make are left out.

    Returns
    -------
    list of Path
        Files that were written.
    """
    written = []
    for file_volume in volumes:
        name = file_volume.volume.name
        target = folder.path / safe_name(name) if len(volumes) > 1 else folder.path
        target.mkdir(parents=True, exist_ok=True)
        results = folder.results(name)
        for array_name in names:
            if array_name in results:
                array = ArrayView(results[array_name])
                written.append(write_result(target / array_name, array, file_volume.grid, file_volume.slice_axis))
    return written


def slice_facts(volumes: Sequence[FileVolume]) -> dict[str, Any]:
    """The slice axis of all volumes (None where they differ), and that of each with its letter, for a report."""
    axes = {volume.slice_axis for volume in volumes}
    return {
        "slice_axis": axes.pop() if len(axes) == 1 else None,
        "slice_axes": {
            volume.volume.name: {
                "axis": volume.slice_axis,
                "name": volume.grid.stack_axes[volume.slice_axis].lower(),
                "spacing": volume.grid.spacing[volume.slice_axis],
                "unit": volume.grid.unit,
            }
            for volume in volumes
        },
    }


def write_report(path: Path, folder: JobFolder, **facts: Any) -> None:
    """Write what a job was asked and how it went, as JSON.

    Parameters
    ----------
    path : Path
    folder : JobFolder
        Of a job that ended.
    **facts
        More to write, as JSON knows it.
    """
    request, events = folder.read_request(), folder.events()
    started = next((event for event in events if isinstance(event, Started)), None)
    outcome = events[-1]
    metrics = {key: value for event in events if isinstance(event, Metrics) for key, value in event.values.items()}
    report = {
        "outcome": outcome.type,
        "reason": outcome.reason if isinstance(outcome, Finished) else None,
        "error": outcome.message if isinstance(outcome, Failed) else None,
        "version": __version__,
        "device": metrics.get("device") or (started.device if started else None),
        "seed": request.config.seed,
        "class_values": request.class_values,
        "instances": request.last_instance is not None,
        "steps": getattr(outcome, "steps", 0),
        "seconds": getattr(outcome, "seconds", None),
        "seconds_per_stage": _seconds_per_stage(events),
        "seconds_to_first_preview": next((event.seconds for event in events if isinstance(event, Preview)), None),
        "peak_memory_bytes": metrics.get("peak_memory_bytes"),
        "metrics": metrics,
        "config": request.config.model_dump(mode="json"),
        **facts,
    }
    write_atomically(path, json.dumps(report, indent=2) + "\n")


def _seconds_per_stage(events: Sequence[Event]) -> dict[str, float]:
    """Seconds between the first sign of each stage and that of the next."""
    seconds: dict[str, float] = {}
    stage, since = None, 0.0
    for event in events:
        if isinstance(event, Progress):
            if stage is not None:
                seconds[stage] = round(seconds.get(stage, 0.0) + event.seconds - since, 3)
            stage, since = str(event.stage), event.seconds
    return seconds
