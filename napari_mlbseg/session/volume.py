"""A volume as the user sees it: in the axis order of its layer or file, with live annotations."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_mlbseg._util.arrays import ArrayView, moved_axis
from napari_mlbseg._util.zarr_arrays import local_path
from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.io.image_file import ImageGeometry, layer_axis
from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence.schema import Geometry
from napari_mlbseg.task import TaskError, Volume

__all__ = ["AnnotatedVolume", "ImageSource", "free_name", "new_uid"]


@dataclass(frozen=True)
class ImageSource:
    """Where an image can be read again.

    Attributes
    ----------
    kind : {"file", "zarr"}
        A NIfTI or TIFF file, or a zarr array on this machine.
    path : Path
    channel : int, optional
        Of a file with channels, each of which is a layer of its own.
    digest : str
        `pixel_digest` of the image as it was read: in memory, somebody may have written into it since. Empty if it is
        not in memory, or not known.
    """

    kind: Literal["file", "zarr"]
    path: Path
    channel: int | None = None
    digest: str = ""

    def is_same(self, other: ImageSource) -> bool:
        """Whether the other is the same image, by whatever path."""
        same_file = os.path.realpath(self.path) == os.path.realpath(other.path)
        return same_file and (self.kind, self.channel) == (other.kind, other.channel)


def new_uid() -> str:
    """A name for a volume that outlives renaming."""
    return uuid.uuid4().hex[:12]


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or with a number behind it as napari gives one, where it is taken."""
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name} [{number}]"
    return free


@dataclass(eq=False)
class AnnotatedVolume:
    """An image, the labels that a person paints on it, and the slices that they vouch for.

    Attributes
    ----------
    name : str
        Unique within a session.
    image : array-like
        Three spatial axes in the user's order and, at `channel_axis`, channels.
    annotation : array-like of int
        The three spatial axes; the painted layer's own array, read and never written here.
    slice_axis : int
        Spatial axis along which the slices lie, 0 to 2 in the user's order.
    channel_axis : int, optional
        Axis of `image` that holds channels.
    spacing : tuple of float
        Distance of voxels along the three spatial axes in the user's order, in `unit`.
    marks : SliceMarks
        What the person said of the slices, counted along `slice_axis`.
    initial_labels : array-like of int, optional
        Labels from elsewhere for the unannotated slices, axes as in `annotation`.
    independent_slices : bool
        The slices are unrelated images.
    uid : str
        The same for as long as a session knows this volume, whatever its name.
    source : ImageSource, optional
        None: the image has no file of its own, so a session keeps a copy.
    grid : ImageGeometry, optional
        Of the image's file: what is exported is written into its space.
    is_moved : bool
        The image lies elsewhere than its file says: what is exported goes there.
    geometry : Geometry, optional
        How the image's layer lies in the world.
    is_annotated : bool
        False: nobody paints on it (`annotation` is all zero), it is only segmented along with the others.
    """

    name: str
    image: Any
    annotation: Any
    slice_axis: int = 0
    channel_axis: int | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    marks: SliceMarks = field(default_factory=SliceMarks)
    initial_labels: Any | None = None
    independent_slices: bool = False
    uid: str = field(default_factory=new_uid)
    source: ImageSource | None = None
    grid: ImageGeometry | None = None
    is_moved: bool = False
    geometry: Geometry | None = None
    is_annotated: bool = True

    @property
    def clean(self) -> set[int]:
        """Slices marked clean."""
        return self.marks.clean

    @property
    def n_slices(self) -> int:
        """Number of slices along `slice_axis`."""
        return int(self.annotation.shape[self.slice_axis])

    def slice_index(self, z: int) -> tuple[Any, ...]:
        """Index of slice `z` in an array with the user's three spatial axes."""
        return tuple(z if axis == self.slice_axis else slice(None) for axis in range(3))

    @property
    def slice_direction(self) -> str:
        """Where `slice_axis` lies along in the world (see `Volume`); empty for an image without a file."""
        if self.grid is None or len(self.grid.stack_axes) != 3:
            return ""
        from napari_mlbseg.io.orientation import direction_of_axis  # brings nibabel, which a window need not wait for

        return direction_of_axis(self.grid, layer_axis(self.grid, self.slice_axis))

    @property
    def in_plane_spacing(self) -> tuple[float, float]:
        """Distance of pixels along the other two axes."""
        rows, columns = (self.spacing[axis] for axis in range(3) if axis != self.slice_axis)
        return float(rows), float(columns)

    def image_slice(self, z: int) -> np.ndarray:
        """Slice `z` of the image, its other axes in the user's order."""
        along = self.image_slice_axis
        return np.asarray(self.image[tuple(z if axis == along else slice(None) for axis in range(self.image.ndim))])

    @property
    def image_slice_axis(self) -> int:
        """Axis of `image`, channels counted, along which the slices lie."""
        return [axis for axis in range(self.image.ndim) if axis != self.channel_axis][self.slice_axis]

    def annotation_slice(self, z: int) -> np.ndarray:
        """What is painted on slice `z`, its other two axes in the user's order; a view where that is possible."""
        return np.asarray(self.annotation[self.slice_index(z)])

    def is_painted(self, z: int) -> bool:
        """Whether anything is painted on slice `z`."""
        return bool(np.any(self.annotation_slice(z)))

    def freeze(self, focus: int | None = None) -> Volume:
        """The volume with its slice axis first, as a task takes it. Arrays are views, not copies.

        Raises
        ------
        TaskError
            If the image is not a stack, the annotation does not fit it, or a clean slice lies outside it.
        """
        image = self.slices_first(self._by_path())
        if self.annotation.ndim != 3:
            raise TaskError(
                f"The labels of '{self.name}' have {self.annotation.ndim} axes: labels of a stack have three."
            )
        outside = sorted(z for z in self.clean if not 0 <= z < self.n_slices)
        if outside:
            raise TaskError(
                f"Slice {outside[0]} of '{self.name}' is marked clean but the stack has slices 0 to "
                f"{self.n_slices - 1}: unmark it."
            )
        clean = np.zeros(self.n_slices, dtype=bool)
        clean[sorted(self.clean)] = True
        given = self.initial_labels
        order = (self.slice_axis, *(axis for axis in range(3) if axis != self.slice_axis))
        z, y, x = (float(self.spacing[axis]) for axis in order)
        return Volume(
            name=self.name,
            image=image,
            labels=moved_axis(self.annotation, self.slice_axis, 0),
            clean=clean,
            initial_labels=None if given is None else moved_axis(given, self.slice_axis, 0),
            spacing=(z, y, x),
            unit=self.unit,
            independent_slices=self.independent_slices,
            focus=focus,
            slice_direction=self.slice_direction,
        )

    def _by_path(self) -> Any:
        """The image, or, where it is large and its file can be read in parts, a name for it by which a worker can."""
        is_mapped = isinstance(self.image, ArrayView | np.memmap)
        if self.source is None or self.source.kind != "file" or not is_mapped:
            return self.image
        if isinstance(self.image, ArrayView) and local_path(self.image.array) is not None:
            return self.image
        return FileArray(FileSource.of(self.source.path, "layer", self.image, self.source.channel))

    def slices_first(self, image: Any) -> Any:
        """An array with the axes of the image as a task takes it: (Z, Y, X) or (Z, C, Y, X).

        Raises
        ------
        TaskError
            If the image is not a stack.
        """
        spatial = image.ndim - (self.channel_axis is not None)
        if spatial != 3:
            raise TaskError(
                f"The image '{self.name}' has {spatial} spatial axes: a stack of slices has three. "
                + ("Stack several 2D images first." if spatial < 3 else "Choose one time point or position first.")
            )
        if self.channel_axis is None:
            return moved_axis(image, self.slice_axis, 0)
        channels_first = moved_axis(image, self.channel_axis, 0)
        return moved_axis(channels_first, self.slice_axis + 1, 0)
