"""The tie between napari layers and a volume of the session: axes, transforms, the slice in view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import pint
from napari.layers import Image, Labels
from napari.utils.colormaps import label_colormap

from napari_mlbseg._util.zarr_arrays import local_path
from napari_mlbseg.io.image_file import METADATA_KEY as FILE_KEY
from napari_mlbseg.io.image_file import ImageFileError, ImageGeometry, has_clear_slice_axis, layer_axis, split_series
from napari_mlbseg.io.image_file import default_slice_axis as file_slice_axis
from napari_mlbseg.io.read_pixels import READ_KEY, ReadPixels
from napari_mlbseg.session import AnnotatedVolume, SliceMarks
from napari_mlbseg.session.persistence.schema import Geometry
from napari_mlbseg.session.volume import ImageSource, new_uid

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

__all__ = [
    "METADATA_KEY",
    "VolumeBinding",
    "annotates",
    "annotation_name",
    "axis_name",
    "current_slice",
    "default_slice_axis",
    "geometry_of",
    "image_source",
    "is_result",
    "make_result",
    "make_annotation",
    "matching_annotation",
    "matching_pyramid",
    "matching_turned",
    "misplaced",
    "pixels_of",
    "place_layer",
    "show_slice",
    "shows",
    "spatial_shape",
    "to_data",
    "to_world",
    "transform_from",
    "transform_of",
    "turn_view",
    "unit_factors",
    "turned_onto",
    "voxel_spacing",
]

#: Key of a result layer's metadata that holds where it comes from.
METADATA_KEY = "mlbseg"

#: The layers that hold our results. Metadata does not tell: whatever is made of a layer takes them along.
_RESULTS: WeakSet[Layer] = WeakSet()

#: Of napari's own colours for labels. Its default gives label 1 a brown that is hard to see on a dark grey image; here
#: the first labels are crimson, olive, purple and pink.
_COLOUR_SEED = 0.3
_N_COLOURS = 49  # napari's own number; others give other colours


@dataclass(eq=False)
class VolumeBinding:
    """An image layer and the labels layer that a person paints on it.

    Attributes
    ----------
    image : Image
    annotation : Labels, optional
        None: nothing is painted on this image, it is only segmented along with the others.
    initial_labels : Labels, optional
        Labels from elsewhere for the unannotated slices.
    marks : dict of int to SliceMarks
        For each slice axis, what was said of the slices: a mark means nothing along another axis. The session's volume
        holds the same object.
    uid : str
        The session's name for this volume, whatever the layers are called.
    given : array-like, optional
        Labels from elsewhere that have no layer.
    is_hidden : bool
        Another volume is in view: results get no new layers here.
    seen : list of Layer
        Those that are shown again when it comes back into view.
    """

    image: Image
    annotation: Labels | None = None
    initial_labels: Labels | None = None
    marks: dict[int, SliceMarks] = field(default_factory=dict)
    uid: str = field(default_factory=new_uid)
    given: Any | None = None
    is_hidden: bool = False
    seen: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._shape = spatial_shape(self.image)

    @property
    def is_whole(self) -> bool:
        """Whether the image has the shape that it had, and the annotation fits it: layers may be given other pixels."""
        has_shape = spatial_shape(self.image) == self._shape
        return has_shape and (self.annotation is None or annotates(self.annotation, self.image))

    def to_volume(self, slice_axis: int, independent: bool) -> AnnotatedVolume:
        """The session's view of these layers; arrays are shared, not copied."""
        image = self.image
        shape = spatial_shape(image)
        annotation = np.broadcast_to(np.uint8(0), shape) if self.annotation is None else pixels_of(self.annotation)
        # axes that are not there are reported by the session when it freezes the volume, in a sentence
        axis = min(slice_axis, annotation.ndim - 1)
        read = _as_read(image)
        return AnnotatedVolume(
            name=image.name,
            image=pixels_of(image),
            annotation=annotation,
            slice_axis=axis,
            channel_axis=len(shape) if image.rgb else None,
            spacing=_three(voxel_spacing(image)),
            unit=str(image.units[-1]),
            marks=self.marks.setdefault(axis, SliceMarks()),
            initial_labels=self.given if self.initial_labels is None else pixels_of(self.initial_labels),
            independent_slices=independent,
            uid=self.uid,
            source=image_source(image),
            grid=_file_entry(image)["grid"] if read is not None else None,
            is_moved=read is not None and not read.lies_at(geometry_of(image).model_dump()),
            geometry=geometry_of(image),
            is_annotated=self.annotation is not None and annotation.ndim == 3,
        )

    def holds(self, layer: Layer | None) -> bool:
        """Whether `layer` is one of these."""
        return layer is not None and any(layer == mine for mine in (self.image, self.annotation, self.initial_labels))


def pixels_of(layer: Layer) -> Any:
    """Data of a layer at full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def spatial_shape(image: Image) -> tuple[int, ...]:
    """Shape of an image layer at full resolution, without an RGB axis."""
    shape = tuple(int(n) for n in pixels_of(image).shape)
    return shape[:-1] if image.rgb else shape


def transform_of(layer: Layer) -> dict[str, Any]:
    """What places a layer in the world: results and annotations take it from their image."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def geometry_of(layer: Layer) -> Geometry:
    """`transform_of` in numbers and words, for a file."""
    return Geometry(
        scale=tuple(map(float, layer.scale)),
        translate=tuple(map(float, layer.translate)),
        rotate=tuple(tuple(map(float, row)) for row in np.atleast_2d(layer.rotate)),
        shear=tuple(map(float, layer.shear)),
        affine=tuple(tuple(map(float, row)) for row in layer.affine.affine_matrix),
        units=tuple(map(str, layer.units)),
        axis_labels=tuple(map(str, layer.axis_labels)),
    )


def transform_from(geometry: Geometry) -> dict[str, Any]:
    """What places a layer as `geometry` says: the inverse of `geometry_of`."""
    return {
        "scale": geometry.scale,
        "translate": geometry.translate,
        "rotate": np.asarray(geometry.rotate),
        "shear": np.asarray(geometry.shear),
        "affine": np.asarray(geometry.affine),
        "units": geometry.units,
        "axis_labels": geometry.axis_labels,
    }


def place_layer(layer: Layer, geometry: Geometry) -> None:
    """Put a layer where `geometry` says; napari takes a while for each part of it, even if nothing changes."""
    before = geometry_of(layer)
    for name, value in transform_from(geometry).items():
        if getattr(before, name) != getattr(geometry, name):
            setattr(layer, name, value)


def image_source(image: Image) -> ImageSource | None:
    """Where the image of a layer can be read again; None if nowhere, or not as this layer shows it."""
    data = pixels_of(image)
    if (path := local_path(data)) is not None:
        return ImageSource("zarr", path)
    entry = _file_entry(image)
    read = _as_read(image)
    if read is not None and split_series(Path(entry["grid"].path))[0].exists():
        return ImageSource("file", Path(entry["grid"].path).absolute(), entry.get("channel"), read.digest)
    return None


def _as_read(image: Image) -> ReadPixels | None:
    """How our reader gave out the pixels that a layer shows; None if they came from elsewhere."""
    read = _file_entry(image).get(READ_KEY)
    return read if isinstance(read, ReadPixels) and read.is_same(pixels_of(image)) else None


def shows(layer: Image, volume: AnnotatedVolume) -> bool:
    """Whether a layer shows the image of a volume: the same file, or the same pixels."""
    pixels, wanted = pixels_of(layer), volume.image
    if layer.rgb is not (volume.channel_axis is not None) or pixels.shape != wanted.shape:
        return False
    source = image_source(layer)
    if source is not None or volume.source is not None:
        return source is not None and volume.source is not None and source.is_same(volume.source)
    in_memory = isinstance(pixels, np.ndarray) and isinstance(wanted, np.ndarray)
    return in_memory and pixels.dtype == wanted.dtype and np.array_equal(pixels, wanted)


def _file_entry(layer: Layer) -> dict[str, Any]:
    """What our reader left in the layer; empty if the layer came from elsewhere or was changed since."""
    entry = layer.metadata.get(FILE_KEY)
    fits = isinstance(entry, dict) and isinstance(entry.get("grid"), ImageGeometry)
    if not fits:
        return {}
    stored = entry["grid"].stack_shape
    return entry if tuple(layer.data.shape[:3]) in (stored, stored[::-1]) else {}


def make_annotation(image: Image, pixels: np.ndarray | None = None) -> Labels:
    """A labels layer that lies exactly on `image`, empty unless there are `pixels` for it."""
    grid = _file_entry(image).get("grid")
    return Labels(
        np.zeros(spatial_shape(image), dtype=np.uint8) if pixels is None else pixels,
        name=annotation_name(image),
        colormap=label_colormap(_N_COLOURS, seed=_COLOUR_SEED),
        metadata={} if grid is None else {FILE_KEY: {"grid": grid, "channel": None}},  # where it is saved in the world
        **transform_of(image),
    )


def annotation_name(image: Image) -> str:
    """What a layer to paint on an image is called at first."""
    return f"{image.name} annotation"


def annotates(labels: Labels, image: Image) -> bool:
    """Whether a labels layer has the shape of an image, lies on it in the world and can be painted on."""
    if labels.multiscale or tuple(labels.data.shape) != spatial_shape(image):
        return False
    return not misplaced(labels, image) and turned_onto(labels, image) is None


def misplaced(labels: Labels, image: Image) -> str:
    """Why labels of a file lie elsewhere than the file of an image; empty if they do not, or nobody knows."""
    try:
        _turn(labels, image)
    except ImageFileError as error:
        return str(error)
    return ""


def turned_onto(labels: Labels, image: Image) -> Any | None:
    """A view of labels that are stored in another orientation, as they lie on an image; None if there is no need."""
    try:
        turn = _turn(labels, image)
    except ImageFileError:
        return None
    if turn is None or turn.is_none:
        return None
    pixels = pixels_of(labels)
    return turn.apply(pixels.T).T if _file_entry(image)["grid"].format == "nifti" else turn.apply(pixels)


def _turn(labels: Labels, image: Image) -> Any | None:
    """How the file of labels is turned onto that of an image; None where one has no file of that format."""
    grid, other = _file_entry(image).get("grid"), _file_entry(labels).get("grid")
    if grid is None or other is None or grid.format != other.format or image.rgb or labels.multiscale:
        return None
    from napari_mlbseg.io.orientation import turn_between  # brings nibabel, which a window need not wait for

    return turn_between(grid, other)


def matching_turned(image: Image, viewer: Viewer) -> Labels | None:
    """The topmost labels that would fit `image` if they were turned."""
    candidates = [layer for layer in reversed(list(viewer.layers)) if isinstance(layer, Labels)]
    return next((layer for layer in candidates if turned_onto(layer, image) is not None), None)


def matching_annotation(image: Image, viewer: Viewer) -> Labels | None:
    """The topmost labels layer of the viewer that fits `image` and is a person's, not a result."""
    candidates = [layer for layer in reversed(list(viewer.layers)) if isinstance(layer, Labels)]
    return next((layer for layer in candidates if not is_result(layer) and annotates(layer, image)), None)


def matching_pyramid(image: Image, viewer: Viewer) -> Labels | None:
    """The topmost labels of several resolutions that fit `image`: napari can show them, but not paint on them."""
    candidates = [layer for layer in reversed(list(viewer.layers)) if isinstance(layer, Labels) and layer.multiscale]
    return next((layer for layer in candidates if tuple(pixels_of(layer).shape) == spatial_shape(image)), None)


def is_result(layer: Layer) -> bool:
    """Whether a layer holds our results, or a sample's truth: it is never offered as an image or annotation.

    A copy of a result is a person's.
    """
    entry = layer.metadata.get(FILE_KEY)
    return layer in _RESULTS or (isinstance(entry, dict) and "reference" in entry)


def make_result(layer: Layer, **origin: Any) -> None:
    """Have a layer be one of our results, and say in it where it comes from."""
    layer.metadata[METADATA_KEY] = origin
    _RESULTS.add(layer)


def voxel_spacing(layer: Layer) -> tuple[float, ...]:
    """Distance in the world of neighbouring voxels along each axis, with every transform of the layer in it.

    In the unit of the layer's last axis, where the others' are lengths too.
    """
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)))
    factors = unit_factors(layer.units, (layer.units[-1],) * layer.ndim)
    steps = [np.asarray(layer.data_to_world(step)) - origin for step in np.eye(layer.ndim)]
    return tuple(float(np.linalg.norm(step * factors)) for step in steps)


def default_slice_axis(image: Image, viewer: Viewer) -> int:
    """The axis that the image's file suggests; without a file by the same rule, first the one that the user scrolls."""
    if image.ndim != 3:
        return 0
    grid = _file_entry(image).get("grid")
    if grid is not None and has_clear_slice_axis(grid):
        return layer_axis(grid, file_slice_axis(grid))
    spacing = np.asarray(voxel_spacing(image))
    coarsest = int(spacing.argmax())
    if spacing[coarsest] > 1.01 * np.delete(spacing, coarsest).max():
        return coarsest
    scrolled = [axis - (viewer.dims.ndim - 3) for axis in viewer.dims.not_displayed]
    return next((axis for axis in reversed(scrolled) if 0 <= axis < 3), 0)


def _three(spacing: tuple[float, ...]) -> tuple[float, float, float]:
    """The spacing of a stack; of what is none, anything: the session refuses it when it freezes the volume."""
    z, y, x = spacing if len(spacing) == 3 else (1.0, 1.0, 1.0)
    return z, y, x


def axis_name(layer: Layer, axis: int) -> str:
    """Name of an axis for people: its label, or 'axis 0' where nobody named it."""
    label = str(layer.axis_labels[axis])
    return f"axis {axis}" if label.lstrip("-").isdigit() or label.startswith("axis ") else f"{label} (axis {axis})"


def to_data(viewer: Viewer, layer: Layer, point: Sequence[float]) -> np.ndarray:
    """Voxel of a layer at a point of the viewer's world, such as that of the sliders or the cursor, (layer.ndim,).

    The viewer counts in the smallest unit of all layers (napari 0.9); a layer's own transform, in that of the layer.
    """
    here = np.zeros(layer.ndim)  # a viewer that loses its layers has fewer axes for a moment
    known = np.asarray(point, dtype=float)[-layer.ndim :]
    here[layer.ndim - len(known) :] = known
    return np.asarray(layer.world_to_data(here * _factors(viewer, layer)), dtype=float)


def to_world(viewer: Viewer, layer: Layer, position: Sequence[float] | np.ndarray) -> np.ndarray:
    """Point of the viewer's world at a voxel of a layer, (layer.ndim,): the inverse of `to_data`."""
    return np.asarray(layer.data_to_world(position), dtype=float) / _factors(viewer, layer)


def _factors(viewer: Viewer, layer: Layer) -> np.ndarray:
    """How many of a layer's units one of the viewer's is, along each of the layer's axes."""
    units = getattr(viewer.dims, "units", None)  # napari 0.8 does not convert, nor 0.9 what is no length beside one
    if units is None or len(units) < layer.ndim:
        return np.ones(layer.ndim)
    return unit_factors(units[-layer.ndim :], layer.units)


def unit_factors(units: Sequence[pint.Unit], to: Sequence[pint.Unit]) -> np.ndarray:
    """How many of `to` one of `units` is, for each axis; 1 where they cannot be compared."""
    return np.array([_factor(a, b) for a, b in zip(units, to, strict=True)])


def _factor(unit: pint.Unit, to: pint.Unit) -> float:
    quantity = pint.get_application_registry().Quantity
    return float(quantity(1, unit).to(to).magnitude) if unit.dimensionality == to.dimensionality else 1.0


def current_slice(viewer: Viewer, layer: Layer, slice_axis: int) -> int | None:
    """Slice of `layer` that is in view, or None if the view is along another axis or outside the stack."""
    world_axis = viewer.dims.ndim - layer.ndim + slice_axis
    if slice_axis >= layer.ndim or world_axis < 0 or world_axis in viewer.dims.displayed:
        return None
    position = to_data(viewer, layer, viewer.dims.point)
    z = int(np.round(position[slice_axis]))
    return z if 0 <= z < spatial_shape(layer)[slice_axis] else None


def show_slice(viewer: Viewer, layer: Layer, slice_axis: int, z: int) -> None:
    """Scroll the viewer to slice `z` of `layer`, turning the view if it lies along another axis."""
    turn_view(viewer, layer, slice_axis)
    position = to_data(viewer, layer, viewer.dims.point)
    position[slice_axis] = z
    world_axis = viewer.dims.ndim - layer.ndim + slice_axis
    viewer.dims.set_point(world_axis, float(to_world(viewer, layer, position)[slice_axis]))


def turn_view(viewer: Viewer, layer: Layer, slice_axis: int) -> None:
    """Show slices along `slice_axis` in 2D, the other two axes in their order."""
    world_axis = viewer.dims.ndim - layer.ndim + slice_axis
    if viewer.dims.ndisplay != 2:
        viewer.dims.ndisplay = 2
    if world_axis in viewer.dims.displayed:
        viewer.dims.order = (world_axis, *(axis for axis in range(viewer.dims.ndim) if axis != world_axis))
