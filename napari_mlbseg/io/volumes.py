"""Files as volumes of a task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_mlbseg._util.arrays import MAPPED_BYTES, is_lazy, is_on_disk
from napari_mlbseg.io.file_array import FileArray, FileSource, Part
from napari_mlbseg.io.files import check_writable, read_image, read_labels
from napari_mlbseg.io.image_file import (
    ImageFile,
    ImageGeometry,
    axis_words,
    default_slice_axis,
    has_clear_slice_axis,
    slice_spacing,
    to_slices,
)
from napari_mlbseg.io.orientation import Turn, axis_along, direction_of_axis, on_grid_of, turn_note
from napari_mlbseg.task import TaskError, Volume

__all__ = ["FileVolume", "load_volume"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FileVolume:
    """A volume of a task with the file that it came from.

    Attributes
    ----------
    volume : Volume
    grid : ImageGeometry
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
    grid: ImageGeometry
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
    _LOG.info("'%s': %s of %s, slices along axis %d", image.name, slices.shape, image.data.dtype, axis)
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
