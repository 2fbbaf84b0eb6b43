"""The manifest's writers: a layer that came from a file goes back with that file's affine, resolution and units."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg._util.arrays import MAPPED_BYTES, ArrayView, is_lazy
from napari_mlbseg.io.files import write_array
from napari_mlbseg.io.image_file import ImageFileError
from napari_mlbseg.io.layer_grid import layer_grid, warn_of_loss

__all__ = ["save_layer", "write_layer"]


def save_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """`write_layer` for napari, which takes a ValueError for 'not my format': the sentence becomes a warning.

    Returns
    -------
    list of str
        The path; empty if the layer cannot be written.
    """
    try:
        return write_layer(path, data, attributes)
    except ValueError as error:
        warnings.warn(f"MLB-Seg did not write {Path(path).name}: {error}", stacklevel=2)
        return []


def write_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image or labels layer.

    Parameters
    ----------
    path : str
        Ends in ``.nii``, ``.nii.gz``, ``.tif`` or ``.tiff``, which decides the format.
    data : array-like
        The layer's array, of two to four axes; of several levels, the first is written.
    attributes : dict
        Of the layer: ``scale``, ``translate``, ``units``, ``metadata``, ...

    Returns
    -------
    list of str
        The path.

    Raises
    ------
    ImageFileError
        If the layer has more axes than the format has, or label numbers that it cannot hold.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If the format has no place for how the layer lies.
    """
    target = Path(path)
    if attributes.get("rgb", False):
        raise ImageFileError(
            f"The layer '{attributes.get('name')}' is in colour and cannot be written: split its channels first."
        )
    array = _in_parts(data[0] if attributes.get("multiscale") else data)
    grid = layer_grid(target, array.shape, attributes)
    warn_of_loss(grid, attributes)
    write_array(target, array.T if grid.format == "nifti" else array, grid.stack_axes, grid)
    return [path]


def _in_parts(data: Any) -> Any:
    """The array, or, of one that is large and lazy (zarr, dask), a view of which a slice at a time can be read."""
    is_large = is_lazy(data) and hasattr(data, "dtype") and math.prod(data.shape) * data.dtype.itemsize > MAPPED_BYTES
    return ArrayView(data) if is_large else np.asarray(data)
