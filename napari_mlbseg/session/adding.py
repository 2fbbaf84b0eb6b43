"""Volumes of a study for a session: read once to see whether they fit, their images forgotten again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_mlbseg.io.dataset_table import DatasetRow
from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.io.files import read_labels
from napari_mlbseg.io.image_file import METADATA_KEY, ImageFileError, ImageGeometry, default_slice_axis, layer_axis
from napari_mlbseg.io.orientation import on_grid_of
from napari_mlbseg.io.read_pixels import READ_KEY
from napari_mlbseg.io.readers import image_layers, read_layer, read_layers
from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence.schema import Geometry
from napari_mlbseg.session.volume import AnnotatedVolume, ImageSource

__all__ = ["read_volume"]


def read_volume(row: DatasetRow) -> AnnotatedVolume:
    """A row of a study as a session keeps it: axes in the order of napari's layer, labels as if they were painted.

    Its image is a `FileArray`. Without labels, nobody paints on it yet.

    Raises
    ------
    ValueError
        If a file cannot be read, is no stack of slices, or does not fit the others; the sentence names the row.
    """
    try:
        return _read_volume(row)
    except (ValueError, OSError) as error:
        raise ImageFileError(row.explain(error)) from error


def _read_volume(row: DatasetRow) -> AnnotatedVolume:
    layers = read_layers(str(row.image))
    data, options, _ = layers[0]
    entry = options["metadata"][METADATA_KEY]
    grid: ImageGeometry = entry["grid"]
    if len(layers) > 1:
        raise ImageFileError(f"{row.image} has {len(layers)} channels: open it in napari and choose one of its layers.")
    if len(grid.stack_shape) != 3:
        raise ImageFileError(f"{row.image} has {len(grid.stack_shape)} axes: a stack of slices has three.")
    is_colour = bool(options.get("rgb"))
    shape = data.shape[:3]
    slice_axis = layer_axis(grid, default_slice_axis(grid) if row.slice_axis is None else row.slice_axis)
    painted = np.broadcast_to(np.uint8(0), shape) if row.labels is None else _labels(row.labels, grid)[0]
    given = None if row.initial_labels is None else _given(row.initial_labels, grid)
    outside = [z for z in row.clean if not 0 <= z < shape[slice_axis]]
    if outside:
        raise ImageFileError(
            f"Slice {outside[0]} is given as clean but '{row.name}' has slices 0 to {shape[slice_axis] - 1}: correct "
            "the column 'clean'."
        )
    scale = tuple(float(step) for step in options["scale"])
    return AnnotatedVolume(
        name=row.name,
        image=FileArray(FileSource.of(row.image, "layer", data, entry["channel"])),
        annotation=painted,
        slice_axis=slice_axis,
        channel_axis=3 if is_colour else None,
        spacing=(scale[0], scale[1], scale[2]),
        unit=str(options["units"][slice_axis]),
        marks=SliceMarks(clean=set(row.clean)),
        initial_labels=given,
        source=ImageSource("file", row.image.absolute(), entry["channel"], entry[READ_KEY].digest),
        grid=grid,
        geometry=Geometry(
            scale=scale,
            translate=tuple(float(step) for step in options["translate"]),
            rotate=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
            shear=(0.0, 0.0, 0.0),
            affine=tuple(tuple(map(float, line)) for line in np.eye(4)),
            units=tuple(map(str, options["units"])),
            axis_labels=tuple(options["axis_labels"]),
        ),
        is_annotated=row.labels is not None,
    )


def _given(path: Path, image: ImageGeometry) -> FileArray | np.ndarray:
    """Initial labels, which are only read: those of a file that holds integers and lies as the image are forgotten."""
    labels, is_turned = _labels(path, image)
    stored = read_layer(str(path))[0]
    can_be_forgotten = stored.dtype.kind in "iu" and not is_turned
    return FileArray(FileSource.of(path, "layer", stored)) if can_be_forgotten else labels


def _labels(path: Path, image: ImageGeometry) -> tuple[np.ndarray, bool]:
    """Label numbers on the grid of an image for a person to paint on, and whether they had to be turned for it.

    They come in the order of a layer, in the smallest type that holds them.
    """
    labels, turn = on_grid_of(image, read_labels(path))
    data = image_layers(labels, "labels")[0][0]
    low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
    if low < 0:
        raise ImageFileError(f"The labels {path} hold the negative number {low}: label numbers start at 0.")
    painted = np.zeros(data.shape, dtype=np.min_scalar_type(high))
    np.copyto(painted, data, where=data != 0, casting="unsafe")  # pages that stay zero take no memory
    return painted, not turn.is_none
