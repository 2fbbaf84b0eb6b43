"""From how a napari layer lies in the world to the grid of a file, and what a format has no place for.

*Save*, *Export* and weight maps go through here, so that they agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg.io.files import has_known_suffix
from napari_mlbseg.io.image_file import METADATA_KEY, ImageFileError, ImageGeometry
from napari_mlbseg.io.nifti import NIFTI_SUFFIXES, NiftiMetadata, nifti_grid_with_affine
from napari_mlbseg.io.ome_zarr import new_zarr_grid
from napari_mlbseg.io.readers import layer_geometry
from napari_mlbseg.io.tiff import TIFF_SUFFIXES, new_tiff_grid
from napari_mlbseg.io.units import conversion_factor, unit_name

__all__ = ["layer_grid", "needs_affine", "warn_of_loss"]

_LETTERS = {"T": "T", "Z": "Z", "Y": "Y", "X": "X", "K": "Z", "J": "Y", "I": "X"}  # axis labels of layers
_EXACT = 1e-5  # of a voxel: what rounding in headers comes to


@dataclass(frozen=True)
class _Placed:
    """Where a layer lies.

    Attributes
    ----------
    letters : str
        Of its axes, among ``TZYX``.
    matrix : ndarray, (n + 1, n + 1)
        Indices to the world, in `unit`.
    unit : str
    """

    letters: str
    matrix: np.ndarray
    unit: str

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighbours along each axis."""
        return tuple(float(step) for step in np.linalg.norm(self.matrix[:-1, :-1], axis=0))

    @property
    def is_turned(self) -> bool:
        """Whether there is more than voxel sizes and a position: a rotation, a reflection or a shear."""
        return not np.allclose(self.matrix[:-1, :-1], np.diag(self.spacing), rtol=0, atol=_EXACT * min(self.spacing))

    @property
    def is_moved(self) -> bool:
        """Whether the first voxel lies elsewhere than at the origin."""
        return not np.allclose(self.matrix[:-1, -1], 0, rtol=0, atol=_EXACT * min(self.spacing))


def layer_grid(path: Path, shape: tuple[int, ...], attributes: Mapping[str, Any]) -> ImageGeometry:
    """The grid of a file for an array that lies as a layer does.

    Parameters
    ----------
    path : Path
        Of the file; its suffix decides the format.
    shape : tuple of int
        Of the layer at full resolution, colours not counted.
    attributes : mapping
        Of the layer: ``scale``, ``translate``, ``rotate``, ``shear``, ``affine``, ``units``, ``axis_labels`` and
        ``metadata``, as far as they are known. A layer that lies where its file put it has that file's own header.

    Raises
    ------
    ImageFileError
        If the layer has more axes than the format.
    """
    is_nifti, is_tiff = has_known_suffix(path, NIFTI_SUFFIXES), has_known_suffix(path, TIFF_SUFFIXES)
    target = "nifti" if is_nifti else "tiff" if is_tiff else "zarr"
    placed = _placed(shape, attributes)
    source = _source(attributes)
    if source is not None and source.format == target and _fits(source, shape, placed, attributes):
        return source
    if not 2 <= len(shape) <= (4 if is_tiff else 3):
        raise ImageFileError(
            f"The layer '{attributes.get('name')}' has {len(shape)} axes and cannot be written: {target.upper()} files "
            f"are written from {'two to four' if is_tiff else 'two or three'}."
        )
    if is_nifti:
        return _nifti_grid(path, shape, _in_world_of_file(placed, source))
    if is_tiff:
        return new_tiff_grid(path, placed.letters, shape, placed.spacing, placed.unit)
    origin = tuple(float(start) for start in placed.matrix[:-1, -1])
    return new_zarr_grid(path, placed.letters, shape, placed.spacing, origin, placed.unit)


def needs_affine(shape: tuple[int, ...], attributes: Mapping[str, Any]) -> bool:
    """Whether only NIfTI has a place for how a layer lies."""
    placed = _placed(shape, attributes)
    return placed.is_turned or placed.is_moved


def warn_of_loss(grid: ImageGeometry, attributes: Mapping[str, Any]) -> None:
    """Warn of what a file with `grid` has no place for in how the layer lies."""
    if grid is _source(attributes) or grid.format == "nifti":
        return
    placed = _in_world_of_file(_placed(grid.stack_shape, attributes), _source(attributes))
    lost = (["its rotation or reflection"] if placed.is_turned else []) + (
        ["its position"] if placed.is_moved and grid.format == "tiff" else []
    )
    if lost:
        warnings.warn(
            f"'{attributes.get('name', grid.name)}' is written without {' and '.join(lost)}, for which "
            f"{grid.format.upper()} has no place: save it as NIfTI (.nii.gz) to keep them.",
            stacklevel=3,
        )


def _source(attributes: Mapping[str, Any]) -> ImageGeometry | None:
    """The grid of the file that the layer came from."""
    entry = (attributes.get("metadata") or {}).get(METADATA_KEY)
    grid = entry.get("grid") if isinstance(entry, dict) else None
    return grid if isinstance(grid, ImageGeometry) else None


def _placed(shape: tuple[int, ...], attributes: Mapping[str, Any]) -> _Placed:
    n = len(shape)
    letters = [_LETTERS.get(str(label).upper(), "") for label in attributes.get("axis_labels") or ()]
    named = "".join(letters)
    if len(named) != n or not named.endswith("YX") or named != "".join(a for a in "TZYX" if a in named):
        named = "TZYX"[-n:] if n <= 4 else "?" * n
    matrix = _matrix(n, attributes)
    units = attributes.get("units") or ("pixel",) * n
    names = [unit_name(unit) for unit in (units if isinstance(units, list | tuple) else (units,) * n)]
    in_space = [name for name, letter in zip(names, named, strict=True) if letter != "T"]
    unit = in_space[-1] if in_space else "pixel"
    for axis, name in enumerate(names):
        matrix[axis] *= conversion_factor(name, unit)
    return _Placed(named, matrix, unit)


def _matrix(n: int, attributes: Mapping[str, Any]) -> np.ndarray:
    """Indices to the world, as napari composes it: scale, then shear, rotation and translation, then the affine."""

    def given(name: str, default: np.ndarray) -> np.ndarray:
        value = attributes.get(name)
        return default if value is None else np.asarray(getattr(value, "affine_matrix", value), dtype=float)

    shear, rotate = given("shear", np.zeros(n * (n - 1) // 2)), given("rotate", np.eye(n))
    if shear.ndim == 1:
        upper = np.eye(n)
        upper[np.triu_indices(n, 1)] = shear
        shear = upper
    own = np.eye(n + 1)
    own[:n, :n] = rotate @ shear @ np.diag(given("scale", np.ones(n)))
    own[:n, n] = given("translate", np.zeros(n))
    return np.asarray(given("affine", np.eye(n + 1)) @ own)


def _fits(source: ImageGeometry, shape: tuple[int, ...], placed: _Placed, attributes: Mapping[str, Any]) -> bool:
    """Whether the layer still has the shape of its file and lies where the reader put it, or says nothing of it."""
    if shape != (source.stack_shape[::-1] if source.format == "nifti" else source.stack_shape):
        return False
    wanted = _matrix(len(shape), layer_geometry(source))
    lies = placed.matrix.copy()
    lies[:-1] *= conversion_factor(placed.unit, source.unit)
    steps_alike = np.allclose(lies[:-1, :-1], wanted[:-1, :-1], rtol=0, atol=_EXACT * min(source.spacing))
    is_default = np.array_equal(placed.matrix[:-1, :-1], np.eye(len(shape)))
    apart = np.abs(lies[:-1, -1] - wanted[:-1, -1]).max(initial=0.0)
    return (steps_alike or is_default) and (
        apart <= _EXACT * max(1.0, *shape) * min(source.spacing) or not placed.is_moved
    )


def _in_world_of_file(placed: _Placed, source: ImageGeometry | None) -> _Placed:
    """Where a layer lies in the world of the NIfTI file that it came from, which is shown along its own axes."""
    if (
        source is None
        or not isinstance(source.format_metadata, NiftiMetadata)
        or placed.letters + source.stack_axes != "ZYXIJK"
    ):
        return placed
    world = source.format_metadata.affine[[2, 1, 0, 3]][:, [2, 1, 0, 3]]  # with z first
    matrix = placed.matrix.copy()
    matrix[:-1] *= conversion_factor(placed.unit, source.unit)
    return _Placed(placed.letters, world @ np.linalg.inv(_matrix(3, layer_geometry(source))) @ matrix, source.unit)


def _nifti_grid(path: Path, shape: tuple[int, ...], placed: _Placed) -> ImageGeometry:
    """A NIfTI grid with the whole transform, x first."""
    spatial = [placed.letters.index(letter) for letter in "XYZ" if letter in placed.letters]
    affine, n = np.eye(4), len(spatial)
    affine[:n, :n] = placed.matrix[np.ix_(spatial, spatial)]
    affine[:n, 3] = placed.matrix[spatial, -1]
    letters = "".join({"X": "I", "Y": "J", "Z": "K"}.get(letter, letter) for letter in placed.letters[::-1])
    lengths = dict(zip(letters, shape[::-1], strict=True))
    grid = nifti_grid_with_affine(path, tuple(lengths.get(letter, 1) for letter in "IJK"), affine, placed.unit)
    steps = dict(zip("IJK", grid.spacing, strict=True))
    return replace(grid, axes=letters, shape=shape[::-1], spacing=tuple(steps.get(letter, 1.0) for letter in letters))
