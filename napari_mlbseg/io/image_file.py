"""What is known of an image file, whatever its format, and how its array becomes a stack of slices and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = [
    "METADATA_KEY",
    "SERIES_MARK",
    "ImageGeometry",
    "ImageFile",
    "ImageFileError",
    "axis_words",
    "compact",
    "minimal_dtype",
    "default_slice_axis",
    "from_slices",
    "has_clear_slice_axis",
    "layer_axis",
    "slice_spacing",
    "split_series",
    "to_slices",
]


#: Key of `ImageGeometry` and channel in a layer's metadata; the writers and the session look there.
METADATA_KEY = "napari_mlbseg"

#: Between a file's name and the number of one of its images: ``stack.ome.tif#1``.
SERIES_MARK = "#"

_CLEARLY_COARSER = 1.01  # times; headers are rounded


class ImageFileError(ValueError):
    """A file cannot be read or written; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageGeometry:
    """The grid of an image file: all that is needed to write another array into the same space.

    Attributes
    ----------
    path : Path
        The file.
    format : {"nifti", "tiff", "zarr"}
    suffix : str
        ``".nii"``, ``".nii.gz"``, ``".tif"``, ``".tiff"``, ``".zarr"`` or ``".ome.zarr"``, as in `path`.
    axes : str
        One letter for each axis of the array in the order of the file. ``C`` holds channels. NIfTI: ``I``, ``J``, ``K``
        and ``T``; TIFF and zarr: the letters of tifffile, among them ``Z``, ``Y`` and ``X``.
    shape : tuple of int
        Length of each of `axes`.
    spacing : tuple of float
        Distance of voxels along each axis but ``C``, in `unit`; 1 for axes that are not of space.
    unit : str
        Unit of length: ``"mm"``, ``"um"``, ..., or ``"pixel"`` where the file tells none.
    format_metadata : object
        What else the file's format needs to write the same geometry.
    """

    path: Path
    format: Literal["nifti", "tiff", "zarr"]
    suffix: str
    axes: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    format_metadata: Any

    @property
    def channel_axis(self) -> int | None:
        """Index of the axis that holds channels."""
        return self.axes.index("C") if "C" in self.axes else None

    @property
    def stack_axes(self) -> str:
        """Letters of all axes but the channels'."""
        return self.axes.replace("C", "")

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Lengths of all axes but the channels'."""
        return tuple(n for n, letter in zip(self.shape, self.axes, strict=True) if letter != "C")

    @property
    def spatial_letters(self) -> str:
        """Letters that stand for axes of space in this format."""
        return "IJK" if self.format == "nifti" else "ZYX"

    @property
    def name(self) -> str:
        """Name of the file without its suffix."""
        name, _, series = self.path.name.partition(SERIES_MARK)
        stem = name[: len(name) - len(self.suffix)] if name.lower().endswith(self.suffix) else name
        return f"{stem}-{series}" if series else stem


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageFile(ImageGeometry):
    """An image file with its array.

    Attributes
    ----------
    data : ndarray, ArrayView or FileArray
        The array in the order of the file: shape `shape`, axes `axes`. Of a large one, only what is asked for is read.
    notes : tuple of str
        What of the file was left out, converted or not understood, a sentence each.
    """

    data: Any
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> ImageGeometry:
        """All but the array."""
        return ImageGeometry(**{field.name: getattr(self, field.name) for field in fields(ImageGeometry)})


def split_series(path: Path) -> tuple[Path, int | None]:
    """A file, and which of its images is meant: ``stack.tif#1`` is image 1 of stack.tif, unless a file is called so."""
    name, mark, number = path.name.rpartition(SERIES_MARK)
    return (path.with_name(name), int(number)) if mark and number.isdigit() and not path.exists() else (path, None)


def default_slice_axis(grid: ImageGeometry) -> int:
    """Axis along which a person most likely outlines slices, counted in the file's order without the channel axis.

    An axis of time or of unrelated images where there is one, else the axis of clearly coarsest spacing; where there
    is none, the last of a NIfTI file (k, axial) and the first of any other. The command line, the window, predictions
    and scores all go by this rule.
    """
    order = range(len(grid.stack_axes) - 1, -1, -1) if grid.format == "nifti" else range(len(grid.stack_axes))
    for axis in order:
        if grid.stack_axes[axis] not in grid.spatial_letters:
            return axis
    coarse = [axis for axis in order if grid.spacing[axis] * _CLEARLY_COARSER >= max(grid.spacing)]
    return coarse[0] if len(coarse) == 1 else order[0]


def has_clear_slice_axis(grid: ImageGeometry) -> bool:
    """Whether `default_slice_axis` follows from the file: from an axis that is not of space or one coarsest spacing."""
    is_coarse = [step * _CLEARLY_COARSER >= max(grid.spacing) for step in grid.spacing]
    return sum(is_coarse) == 1 or any(letter not in grid.spatial_letters for letter in grid.stack_axes)


def layer_axis(grid: ImageGeometry, axis: int) -> int:
    """The axis of a napari layer that lies along an axis of its file, and the other way round: NIfTI's are reversed."""
    return len(grid.stack_axes) - 1 - axis if grid.format == "nifti" else axis


def axis_words(grid: ImageGeometry, axis: int) -> str:
    """An axis of a file for people, such as ``axis 2 (k)``."""
    return f"axis {axis} ({grid.stack_axes[axis].lower()})"


def slice_spacing(grid: ImageGeometry, slice_axis: int) -> tuple[float, float, float]:
    """Spacing along (z, y, x) of the stack that `to_slices` makes."""
    order = _slice_order(grid, slice_axis)
    z, y, x = (grid.spacing[axis] for axis in order)
    return z, y, x


def to_slices(image: ImageFile, slice_axis: int) -> Any:
    """A view of the image with its slices first: (Z, Y, X), or (Z, C, Y, X) where there are channels.

    Parameters
    ----------
    image : ImageFile
    slice_axis : int
        As `default_slice_axis` counts.

    Raises
    ------
    ImageFileError
        If the image is no stack or has no such axis.
    """
    order = _slice_order(image, slice_axis)
    if image.channel_axis is None:
        return image.data.transpose(order)
    channels_first = np.moveaxis(image.data, image.channel_axis, 0)
    z, y, x = (axis + 1 for axis in order)
    return channels_first.transpose(z, 0, y, x)


def from_slices(array: Any, grid: ImageGeometry, slice_axis: int) -> tuple[Any, str]:
    """The inverse of `to_slices` for a result: the array in the file's order, and its axes.

    Parameters
    ----------
    array : ndarray or ArrayView, (Z, Y, X) or (Z, C, Y, X)
    grid : ImageGeometry
        Grid of the image that the result belongs to.
    slice_axis : int
        As it was given to `to_slices`.

    Returns
    -------
    array : ndarray
        A view. Channels come last for NIfTI and before the last two axes for TIFF, where each format expects them.
    axes : str
        Letters of its axes.
    """
    back = tuple(int(axis) for axis in np.argsort(_slice_order(grid, slice_axis)))
    if array.ndim == 3:
        return array.transpose(back), grid.stack_axes
    channels_first = np.moveaxis(array, 1, 0).transpose(0, *(axis + 1 for axis in back))
    target = len(grid.stack_axes) if grid.format == "nifti" else 1
    axes = grid.stack_axes[:target] + "C" + grid.stack_axes[target:]
    return np.moveaxis(channels_first, 0, target), axes


def compact(array: np.ndarray) -> np.ndarray:
    """`array` in the type that `minimal_dtype` finds for it; raises as that."""
    return array.astype(minimal_dtype(array.dtype, [array]), copy=False)


def minimal_dtype(dtype: np.dtype, parts: Iterable[np.ndarray]) -> np.dtype:
    """The smallest number type that image viewers read: uint8, int16, int32, uint32 or int64, or float32.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the array.
    parts : iterable of ndarray
        All of the array, a part at a time; looked at only where its values decide.

    Raises
    ------
    ImageFileError
        If a label number does not fit into 64 bits with a sign.
    """
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind == "b" or dtype == np.uint8:
        return np.dtype(np.uint8)
    ranges = [(int(part.min()), int(part.max())) for part in parts if part.size]
    low, high = min((low for low, _ in ranges), default=0), max((high for _, high in ranges), default=0)
    for smallest in (np.uint8, np.int16, np.int32, np.uint32, np.int64):
        if np.iinfo(smallest).min <= low and high <= np.iinfo(smallest).max:
            return np.dtype(smallest)
    raise ImageFileError(f"The label numbers reach from {low} to {high}: renumber them so that they fit into 63 bits.")


def _slice_order(grid: ImageGeometry, slice_axis: int) -> tuple[int, int, int]:
    """Axes of the stack with `slice_axis` first, the others in the file's order."""
    n_axes = len(grid.stack_axes)
    if n_axes != 3:
        shape = " x ".join(map(str, grid.stack_shape))
        what = "stack its 2D images first" if n_axes < 3 else "choose one time point or position first"
        raise ImageFileError(f"{grid.path} holds {shape} pixels: a stack of slices has three axes, so {what}.")
    if not 0 <= slice_axis < 3:
        raise ImageFileError(f"There is no slice axis {slice_axis}: choose 0, 1 or 2.")
    first, second = (axis for axis in range(3) if axis != slice_axis)
    return slice_axis, first, second
