"""Whether two files lie on one grid in the world, and how the axes of one run along those of the other.

The world's axes are x, y and z. Two NIfTI files, and two OME-Zarr images that tell their scale, are compared by where
they place their voxels. Other files tell no orientation: X, Y and Z of a TIFF or zarr are i, j and k of NIfTI.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import nibabel
import numpy as np

from napari_mlbseg._util.arrays import flipped
from napari_mlbseg.io.image_file import ImageFile, ImageFileError, ImageGeometry
from napari_mlbseg.io.nifti import NiftiMetadata
from napari_mlbseg.io.ome_zarr import ZarrMetadata
from napari_mlbseg.io.units import conversion_factor

__all__ = ["Turn", "axis_along", "direction_of_axis", "on_grid_of", "turn_between", "turn_note", "world_affine"]

_APART = 0.5  # voxels; files that other programs have rounded differ by less
_SPACING_DIFFERS = 0.01
_WORLD_LETTER = {"I": "X", "J": "Y", "K": "Z"}


@dataclass(frozen=True)
class Turn:
    """How the array of one file is brought onto the grid of another.

    Attributes
    ----------
    axes : tuple of int
        For each axis of the grid, channels not counted, that of the array.
    flips : tuple of int
        Axes of the grid along which the array runs the other way.
    is_certain : bool
        False: a file does not tell where it lies, and the voxels are taken one by one.
    """

    axes: tuple[int, ...]
    flips: tuple[int, ...] = ()
    is_certain: bool = True

    @property
    def is_none(self) -> bool:
        """Whether nothing is to be done."""
        return not self.flips and self.axes == tuple(range(len(self.axes)))

    def apply(self, array: Any) -> Any:
        """A view of the array with its axes as those of the grid; nothing is read."""
        return flipped(array.transpose(self.axes), self.flips)


def world_affine(grid: ImageGeometry) -> np.ndarray | None:
    """Indices along (x, y, z) of the file's own axes to the world, (4, 4), in the grid's unit; of NIfTI, (i, j, k).

    None where the file does not tell.
    """
    if isinstance(grid.format_metadata, NiftiMetadata):
        header = grid.format_metadata.header
        return np.asarray(grid.format_metadata.affine) if header["sform_code"] or header["qform_code"] else None
    if isinstance(grid.format_metadata, ZarrMetadata) and grid.format_metadata.is_ome and grid.unit != "pixel":
        affine = np.eye(4)
        for letter, step, start in zip(grid.stack_axes, grid.spacing, grid.format_metadata.translation, strict=True):
            if letter in "XYZ":
                affine["XYZ".index(letter), ["XYZ".index(letter), 3]] = step, start
        return affine
    return None


def turn_between(grid: ImageGeometry, other: ImageGeometry) -> Turn:
    """How an array on `other` is brought onto `grid`.

    Raises
    ------
    ImageFileError
        If they are not the same grid, whatever its orientation: one sentence that says how far apart they are.
    """
    ours, theirs = world_affine(grid), world_affine(other)
    if grid.format == other.format and ours is not None and theirs is not None:
        return _turn_in_the_world(grid, other, ours, theirs)
    axes = _axes_by_name(grid, other)
    if tuple(other.stack_shape[axis] for axis in axes) != grid.stack_shape:
        raise _of_another_shape(grid, other)
    return Turn(axes, is_certain=not _sizes_differ(grid, other, axes))


def on_grid_of(grid: ImageGeometry, labels: ImageFile) -> tuple[ImageFile, Turn]:
    """The file `labels` with its axes as those of `grid`, and how it was turned; raises as `turn_between`."""
    turn = turn_between(grid, labels)
    own = {**vars(labels), "format": grid.format, "axes": grid.stack_axes, "shape": grid.stack_shape}
    own |= {
        "spacing": grid.spacing,
        "unit": grid.unit,
        "format_metadata": grid.format_metadata,
        "data": turn.apply(labels.data),
    }
    return ImageFile(**own), turn


def turn_note(grid: ImageGeometry, labels: ImageGeometry, turn: Turn) -> str:
    """A sentence on what was done to `labels`, read as they are, to bring them onto `grid`; empty if it needs none."""
    if not turn.is_certain:
        return (
            f"{labels.path} does not tell the same position or voxel size as {grid.path}: the voxels are taken one by "
            "one, so check that they belong together."
        )
    if labels.format == grid.format and not turn.is_none:
        return f"{labels.path} is stored in another orientation than {grid.path}: it was turned to lie on it."
    return ""


def direction_of_axis(grid: ImageGeometry, axis: int) -> str:
    """Where an axis of a file lies along in the world: ``"x"``, ``"y"`` or ``"z"`` for its nearest, or its own letter.

    Parameters
    ----------
    grid : ImageGeometry
    axis : int
        Channels not counted.
    """
    return _directions(grid)[axis]


def axis_along(grid: ImageGeometry, direction: str) -> int | None:
    """The axis of a file along a direction of the world, as `direction_of_axis` names it; None if there is none."""
    directions = _directions(grid)
    return directions.index(direction) if direction in directions else None


def _directions(grid: ImageGeometry) -> list[str]:
    letters = [_WORLD_LETTER.get(letter, letter).lower() for letter in grid.stack_axes]
    affine = world_affine(grid)
    if affine is None:
        return letters
    nearest = nibabel.orientations.io_orientation(affine)[:, 0]
    return ["xyz"[int(nearest["xyz".index(letter)])] if letter in "xyz" else letter for letter in letters]


def _turn_in_the_world(grid: ImageGeometry, other: ImageGeometry, ours: np.ndarray, theirs: np.ndarray) -> Turn:
    """The turn that brings the voxels of one file onto those of another, which must meet within half a voxel."""
    theirs = np.diag([*[conversion_factor(other.unit, grid.unit)] * 3, 1.0]) @ theirs
    to_ours = np.linalg.inv(ours) @ theirs
    steps = np.rint(to_ours[:3, :3]).astype(int)
    shape, other_shape = _spatial_shape(grid), _spatial_shape(other)
    is_turn = (np.abs(steps).sum(axis=0) == 1).all() and (np.abs(steps).sum(axis=1) == 1).all()
    if is_turn and not (np.abs(steps) @ other_shape == shape).all():
        raise _of_another_shape(grid, other)
    if not is_turn:
        raise _elsewhere(grid, other, "their voxels differ in size or direction")
    start = np.where(steps.sum(axis=1) < 0, shape - 1, 0)
    corners = np.array(list(product(*((0, n - 1) for n in other_shape))))
    apart = corners @ (to_ours[:3, :3] - steps).T + to_ours[:3, 3] - start
    if (distance := float(np.linalg.norm(apart, axis=1).max())) > _APART:
        raise _elsewhere(grid, other, f"by up to {distance:.3g} voxels")
    along = {"XYZ"[axis]: "XYZ"[int(np.abs(steps[axis]).argmax())] for axis in range(3)}
    backwards = {"XYZ"[axis] for axis in range(3) if steps[axis].sum() < 0 and shape[axis] > 1}
    letters, other_letters = _letters(grid), _letters(other)
    wanted = [along.get(letter, letter) for letter in letters]
    if sorted(wanted) != sorted(other_letters):
        raise _elsewhere(grid, other, "they are planes of different directions")
    axes = tuple(other_letters.index(letter) for letter in wanted)
    return Turn(axes, tuple(axis for axis, letter in enumerate(letters) if letter in backwards))


def _axes_by_name(grid: ImageGeometry, other: ImageGeometry) -> tuple[int, ...]:
    """X to X and Y to Y, and to what else there is what else there is in the other, in its order."""
    letters, other_letters = _letters(grid), _letters(other)
    if len(letters) != len(other_letters):
        raise _of_another_shape(grid, other)
    left = [axis for axis, letter in enumerate(other_letters) if letter not in letters]
    return tuple(other_letters.index(a) if a in other_letters else left.pop(0) for a in letters)


def _sizes_differ(grid: ImageGeometry, other: ImageGeometry, axes: tuple[int, ...]) -> bool:
    """Whether two files tell voxel sizes that are not the same; a file without a unit tells none."""
    both_nifti = grid.format == other.format == "nifti"
    if both_nifti and (world_affine(grid) is None) != (world_affine(other) is None):
        return True
    if "pixel" in (grid.unit, other.unit):
        return False
    factor = conversion_factor(other.unit, grid.unit)
    there = np.array([other.spacing[axis] * factor for axis in axes])
    return bool((np.abs(there / np.array(grid.spacing) - 1) > _SPACING_DIFFERS).any())


def _letters(grid: ImageGeometry) -> str:
    return "".join(_WORLD_LETTER.get(letter, letter) for letter in grid.stack_axes)


def _spatial_shape(grid: ImageGeometry) -> np.ndarray:
    """Lengths along x, y and z of the file's own axes."""
    lengths = dict(zip(_letters(grid), grid.stack_shape, strict=True))
    return np.array([lengths.get(letter, 1) for letter in "XYZ"])


def _lengths(grid: ImageGeometry) -> str:
    return " x ".join(f"{n} ({letter.lower()})" for n, letter in zip(grid.stack_shape, grid.stack_axes, strict=True))


def _of_another_shape(grid: ImageGeometry, other: ImageGeometry) -> ImageFileError:
    return ImageFileError(
        f"{other.path} has {_lengths(other)} voxels but {grid.path} has {_lengths(grid)}: give labels that belong to "
        "this image."
    )


def _elsewhere(grid: ImageGeometry, other: ImageGeometry, how: str) -> ImageFileError:
    return ImageFileError(
        f"{other.path} lies elsewhere in the world than {grid.path} ({how}): resample it to the grid of the image, or "
        "correct its header."
    )
