"""Files as volumes of a task, and a job's results as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_mlbseg import __version__
from napari_mlbseg.events import Event, Failed, Finished, Metrics, Preview, Progress, Started
from napari_mlbseg.io.array_view import MAPPED_BYTES, ArrayView, is_lazy, is_on_disk
from napari_mlbseg.io.file_array import FileArray, FileSource, Part
from napari_mlbseg.io.files import check_writable, read_image, read_labels, write_result
from napari_mlbseg.io.image_file import (
    FileGrid,
    ImageFile,
    axis_words,
    default_slice_axis,
    has_clear_slice_axis,
    slice_spacing,
    to_slices,
)
from napari_mlbseg.io.orientation import Turn, axis_along, direction_of_axis, on_grid_of, turn_note
from napari_mlbseg.jobs.folder import JobFolder, safe_name, write_atomically
from napari_mlbseg.task import TaskError, Volume

__all__ = [
    "PREDICTED_FILES",
    "TRAINED_FILES",
    "FileVolume",
    "load_volume",
    "slice_facts",
    "write_job_results",
    "write_report",
]

#: Results of a prediction and of a training that are written as image files.
PREDICTED_FILES = ("pseudo_labels", "probability", "view_agreement")
TRAINED_FILES = ("pseudo_labels", "probability", "weight_initial", "weight_pseudo", "view_agreement")


@dataclass(frozen=True, eq=False)
class FileVolume:
    """A volume of a task with the file that it came from.

    Attributes
    ----------
    volume : Volume
    grid : FileGrid
        Of the image file; results are written into its space.
    slice_axis : int
        Axis of the file along which the volume's slices lie.
    label_values : dict of int to str
        All label numbers in the label file but 0, on whatever slice, and the first slice that shows each, in words; of
        a large file, on the clean slices.
    notes : tuple of str
        What is odd about the files but need not be wrong, a sentence each.
    """

    volume: Volume
    grid: FileGrid
    slice_axis: int
    label_values: dict[int, str]
    notes: tuple[str, ...] = ()


def load_volume(
    image_path: str | Path,
    *,
    labels_path: str | Path | None = None,
    clean: Sequence[int] = (),
    initial_labels_path: str | Path | None = None,
    slice_axis: int | None = None,
    slice_direction: str = "",
    forget: bool = False,
) -> FileVolume:
    """Read an image and its labels as a volume.

    Parameters
    ----------
    image_path, labels_path, initial_labels_path : path
        NIfTI or TIFF; without labels, they are all 0. Of labels, only the clean slices are kept.
    clean : sequence of int
        Slices along the slice axis, in the file's order.
    slice_axis : int, optional
        Axis of the file; by default the one along `slice_direction`, else the one that `default_slice_axis` chooses.
    slice_direction : str
        Where a model's slices lie along in the world (see `Volume`).
    forget : bool
        Keep no image in memory: it was read and checked, and is read again when it is needed.

    Raises
    ------
    ImageFileError
        If a file cannot be read or has no stack of slices.
    TaskError
        If the files do not fit each other or the clean slices not the image.
    """
    image = read_image(image_path)
    forget = forget or (image.format != "zarr" and is_on_disk(image.data))
    axis, axis_note = _slice_axis(image, slice_direction) if slice_axis is None else (slice_axis, "")
    slices = to_slices(_forgotten(image, "image") if forget else image, axis)
    check_writable(image.grid, axis)
    n_slices = slices.shape[0]
    marks = np.zeros(n_slices, dtype=bool)
    for z in clean:
        if not 0 <= z < n_slices:
            raise TaskError(
                f"Slice {z} is given as clean but '{image.name}' has slices 0 to {n_slices - 1} along axis {axis}: "
                "correct --clean, or choose another --slice-axis."
            )
        marks[z] = True
    shape = (n_slices, *slices.shape[-2:])
    files = [None if path is None else _labels_on(image, path) for path in (labels_path, initial_labels_path)]
    painted, given = (None if file is None else to_slices(file.labels, axis) for file in files)
    if (other := files[1]) is not None and forget and other.turn.is_none:  # a file is read again as it lies
        given = to_slices(_forgotten(other.labels, "labels"), axis)
    notes = [*image.notes, axis_note]
    for file in files:
        notes += [*file.labels.notes, file.note] if file is not None else []
    labels = np.zeros(shape, dtype=np.uint8 if painted is None else painted.dtype)
    if painted is not None:  # pages of zeros that nobody writes to take no memory
        for z in np.flatnonzero(marks).tolist():
            labels[z] = painted[z]
    return FileVolume(
        volume=Volume(
            name=image.name,
            image=slices,
            labels=labels,
            clean=marks,
            initial_labels=given,
            spacing=slice_spacing(image, axis),
            unit=image.unit,
            slice_direction=direction_of_axis(image, axis),
        ),
        grid=image.grid,
        slice_axis=axis,
        label_values={} if painted is None else _label_values(painted, marks, image.name),
        notes=tuple(dict.fromkeys(filter(None, notes))),
    )


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


def _slice_axis(image: ImageFile, direction: str) -> tuple[int, str]:
    """The slice axis of an image for which nobody gave one, and a sentence where another would be as likely."""
    axis = default_slice_axis(image)
    along = axis_along(image, direction) if direction else None
    if along is not None and along != axis:
        return along, (
            f"'{image.name}' is sliced along {axis_words(image, along)} as the model has learnt it, not along "
            f"{axis_words(image, axis)} as its spacing suggests: give --slice-axis for another."
        )
    if direction and along is None:
        return axis, (
            f"The model has learnt slices along {direction}, which '{image.name}' does not have: it is sliced along "
            f"{axis_words(image, axis)}."
        )
    if along is None and not has_clear_slice_axis(image):
        return axis, (
            f"'{image.name}' is sliced along {axis_words(image, axis)}, as no axis alone has the coarsest spacing: "
            "give --slice-axis for another."
        )
    return axis, ""


def _label_values(labels: np.ndarray, marks: np.ndarray, name: str) -> dict[int, str]:
    """Label numbers but 0, read a slice at a time, and the first slice that shows each, in words."""
    slices = np.flatnonzero(marks).tolist() if is_lazy(labels) or labels.size > MAPPED_BYTES else range(len(labels))
    found: dict[int, str] = {}
    for z in slices:
        for value in np.unique(labels[z]):
            if value:
                found.setdefault(int(value), f"slice {z} of '{name}'")
    return found


def _forgotten(image: ImageFile, part: Part) -> ImageFile:
    """The same file, its array read again when it is needed."""
    return replace(image, data=FileArray(FileSource.of(image.path, part, image.data)))


class _LabelsOnImage(NamedTuple):
    labels: ImageFile
    turn: Turn
    note: str


def _labels_on(image: ImageFile, path: str | Path) -> _LabelsOnImage:
    """A file of label numbers on the grid of `image`."""
    labels = read_labels(path)
    if not is_lazy(labels.data) and labels.data.size and labels.data.min() < 0:
        raise TaskError(
            f"The labels {path} hold the negative number {labels.data.min()}: label numbers start at 0, the background."
        )
    on_image, turn = on_grid_of(image, labels)
    return _LabelsOnImage(on_image, turn, turn_note(image, labels, turn))


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
