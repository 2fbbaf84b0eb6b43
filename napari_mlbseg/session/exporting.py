"""Annotation and results of a session as NIfTI or TIFF files, in the space of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg._util.arrays import ArrayView, moved_axis
from napari_mlbseg._util.files import safe_name
from napari_mlbseg.io.files import write_array
from napari_mlbseg.io.image_file import METADATA_KEY, ImageGeometry
from napari_mlbseg.io.layer_grid import layer_grid, needs_affine, warn_of_loss
from napari_mlbseg.io.units import unit_name
from napari_mlbseg.jobs.report import TRAINED_FILES
from napari_mlbseg.session.rounds import Round
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["export_session"]


def export_session(volumes: Sequence[AnnotatedVolume], shown: Round | None, out: Path) -> list[Path]:
    """Write what was painted and what a round made of it.

    Parameters
    ----------
    volumes : sequence of AnnotatedVolume
    shown : Round, optional
        None: only what was painted.
    out : Path
        A folder; of several volumes, each gets a folder of its own in it.

    Returns
    -------
    list of Path
        ``annotation``, ``pseudo_labels``, ``probability``, ``weight_initial``, ``weight_pseudo``, ``view_agreement``,
        ``initial_doubt`` and ``label_doubt``, as far as they are there, in the format of the image; an image without a
        file gets NIfTI if its unit is the millimetre or if it is placed or turned in the world, else TIFF.

    Raises
    ------
    OSError
        If a file cannot be written.
    ImageFileError
        If a label number is too large for the format.
    """
    written = []
    for volume in volumes:
        folder = out / safe_name(volume.name) if len(volumes) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        grid = _grid(volume, folder)
        if volume.is_annotated:
            written.append(_write(folder / "annotation", np.asarray(volume.annotation), grid))
        name = shown.name_of(volume.uid) if shown is not None else None
        if shown is None or name is None:
            continue
        results, axis = shown.job.folder.results(name), shown.record.slice_axes[volume.uid]
        for array_name in (*TRAINED_FILES, "initial_doubt", "label_doubt"):
            if array_name in results:
                array = _in_users_order(ArrayView(results[array_name]), axis)
                written.append(_write(folder / array_name, array, grid))
    return written


def _in_users_order(array: ArrayView, slice_axis: int) -> Any:
    """(Z, Y, X) or (Z, C, Y, X) -> the user's three axes, channels last."""
    channels_last = moved_axis(array, 1, -1) if array.ndim == 4 else array
    return moved_axis(channels_last, 0, slice_axis)


def _write(stem: Path, array: Any, grid: ImageGeometry) -> Path:
    """Write an array in the user's order, which for NIfTI is that of the file reversed."""
    path = stem.with_name(stem.name + grid.suffix)
    has_channels = array.ndim == 4
    if grid.format == "nifti":
        stored, axes = (
            (array.transpose(2, 1, 0, 3), grid.stack_axes + "C") if has_channels else (array.T, grid.stack_axes)
        )
    else:
        stored = moved_axis(array, -1, 1) if has_channels else array
        axes = f"{grid.stack_axes[:1]}C{grid.stack_axes[1:]}" if has_channels else grid.stack_axes
    write_array(path, stored, axes, grid)
    return path


def _grid(volume: AnnotatedVolume, folder: Path) -> ImageGeometry:
    """The grid of the files, from how the image's layer lies: what `write_layer` gives the layer itself."""
    n = len(volume.annotation.shape)
    attributes: dict[str, Any] = {"scale": volume.spacing, "units": (volume.unit,) * n}
    if volume.geometry is not None:
        attributes = volume.geometry.model_dump()
    attributes["name"] = volume.name
    shape = tuple(int(length) for length in volume.annotation.shape)
    if volume.grid is not None:
        suffix = volume.grid.suffix or ".zarr"
        attributes["metadata"] = {METADATA_KEY: {"grid": volume.grid}}
    else:
        is_nifti = unit_name(volume.unit) == "mm" or needs_affine(shape, attributes)
        suffix = ".nii.gz" if is_nifti else ".tif"
    grid = layer_grid(folder / f"image{suffix}", shape, attributes)
    warn_of_loss(grid, attributes)
    return grid
