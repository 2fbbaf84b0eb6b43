"""The manifest's writers: a layer that came from a file goes back with that file's affine, resolution and units."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg.io.array_view import MAPPED_BYTES, ArrayView, is_lazy
from napari_mlbseg.io.files import has_known_suffix, write_array
from napari_mlbseg.io.image_file import FileGrid
from napari_mlbseg.io.nifti import NIFTI_SUFFIXES, new_nifti_grid
from napari_mlbseg.io.readers import METADATA_KEY
from napari_mlbseg.io.tiff import new_tiff_grid

__all__ = ["write_layer"]


def write_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image or labels layer.

    Parameters
    ----------
    path : str
        Ends in ``.nii``, ``.nii.gz``, ``.tif`` or ``.tiff``.
    data : array-like
        The layer's array, of two to four axes.
    attributes : dict
        Of the layer: ``scale``, ``translate``, ``units``, ``metadata``, ...

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    ValueError
        If the layer has more axes than the format has.
    OSError
        If the file cannot be written.
    """
    target = Path(path)
    array = _in_parts(data)
    is_nifti = has_known_suffix(target, NIFTI_SUFFIXES)
    if attributes.get("rgb", False):
        raise ValueError(f"The layer '{attributes.get('name')}' is in colour: split its channels first.")
    grid = _own_grid(array, attributes, is_nifti)
    if grid is None:
        grid = _new_grid(target, array, attributes, is_nifti)
    write_array(target, array.T if is_nifti else array, grid.stack_axes, grid)
    return [path]


def _in_parts(data: Any) -> Any:
    """The array, or, of one that is large and lazy (zarr, dask), a view of which a slice at a time can be read."""
    is_large = is_lazy(data) and hasattr(data, "dtype") and math.prod(data.shape) * data.dtype.itemsize > MAPPED_BYTES
    return ArrayView(data) if is_large else np.asarray(data)


def _own_grid(array: Any, attributes: dict[str, Any], is_nifti: bool) -> FileGrid | None:
    """The grid of the file that the layer came from, if it is of the wanted format and still fits the array."""
    entry = (attributes.get("metadata") or {}).get(METADATA_KEY)
    grid = entry.get("grid") if isinstance(entry, dict) else None
    if not isinstance(grid, FileGrid) or (grid.format == "nifti") is not is_nifti:
        return None
    stored_shape = array.shape[::-1] if is_nifti else array.shape
    return grid if grid.stack_shape == stored_shape else None


def _new_grid(path: Path, array: Any, attributes: dict[str, Any], is_nifti: bool) -> FileGrid:
    """A grid from the layer's scale, translation and units."""
    if not 2 <= array.ndim <= (3 if is_nifti else 4):
        raise ValueError(
            f"The layer '{attributes.get('name')}' has {array.ndim} axes: {'NIfTI' if is_nifti else 'TIFF'} files are "
            f"written from {'two or three' if is_nifti else 'two to four'}."
        )
    scale = tuple(float(value) for value in attributes.get("scale", np.ones(array.ndim)))
    unit = _unit_name(attributes.get("units"))
    if not is_nifti:
        return new_tiff_grid(path, "TZYX"[-array.ndim :], array.shape, scale, unit)
    translate = tuple(float(value) for value in attributes.get("translate", np.zeros(array.ndim)))
    shape, spacing = _three(array.shape[::-1], 1), _three(scale[::-1], 1.0)
    grid = new_nifti_grid(path, shape, spacing, _three(translate[::-1], 0.0), unit)
    return FileGrid(**{**vars(grid), "axes": "IJK"[: array.ndim]})


def _three(values: tuple[Any, ...], fill: Any) -> tuple[Any, ...]:
    return values + (fill,) * (3 - len(values))


def _unit_name(units: Any) -> str:
    """Name of the last axis' unit: napari gives pint units, manifests and scripts strings."""
    last = str(units[-1] if isinstance(units, list | tuple) else units or "pixel")
    return {"millimeter": "mm", "micrometer": "um", "µm": "um", "nanometer": "nm", "centimeter": "cm"}.get(last, last)
