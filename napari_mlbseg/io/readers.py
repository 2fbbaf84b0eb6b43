"""The manifest's reader: files as layers with scale, units and axis labels, and all of their header in the metadata."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from napari_mlbseg._util.arrays import MAPPED_BYTES, ArrayView, is_on_disk, moved_axis
from napari_mlbseg.io.files import as_labels, is_image_path, read_image
from napari_mlbseg.io.image_file import METADATA_KEY, ImageFile, ImageFileError, ImageGeometry
from napari_mlbseg.io.nifti import NiftiMetadata
from napari_mlbseg.io.ome_zarr import ZarrMetadata
from napari_mlbseg.io.read_pixels import READ_KEY, ReadPixels

__all__ = ["METADATA_KEY", "LayerData", "get_reader", "image_layers", "layer_geometry", "read_layer", "read_layers"]

#: A napari layer-data tuple: array (or arrays, of an image with smaller copies), keyword arguments of the layer, type.
LayerData = tuple[Any, dict[str, Any], str]

_LABEL_NAME = re.compile(r"(?<![a-z])(labels?|labelmap|seg|segmentation|masks?|gt|annotations?)(?![a-z])")
_FEW_VALUES = 10
_SAMPLED_SLICES = 16  # of a large image, from which its contrast is taken
_NO_INTENSITY = 1e30  # and beyond: such numbers mean that there is no data
_SAMPLE = 1_000_000  # voxels that are looked at to tell labels from an image


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """The reader for `path`, or None if it is none of ours (several files, another suffix)."""
    return None if isinstance(path, list) or not is_image_path(path) else read_layers


def read_layers(path: str) -> list[LayerData]:
    """Read a file as layers, one a channel; integer files that look like labels become a Labels layer.

    Raises
    ------
    ImageFileError
        One sentence that says why the file cannot be read.
    """
    image = read_image(path)
    for note in image.notes:
        warnings.warn(note, stacklevel=2)  # napari shows it
    if _looks_like_labels(image):
        with suppress(ImageFileError):  # reals that are called labels, but are none
            return image_layers(as_labels(image), "labels")
    return image_layers(image, "image")


def read_layer(path: str, channel: int | None = None) -> LayerData:
    """The layer of a channel, or the first one where there is no such channel; raises as `read_layers`."""
    layers = read_layers(path)
    return next((layer for layer in layers if layer[1]["metadata"][METADATA_KEY]["channel"] == channel), layers[0])


def image_layers(image: ImageFile, layer_type: str, name: str | None = None) -> list[LayerData]:
    """Layers of an image file, one a channel; an 8-bit image of three or four channels is shown in colour.

    NIfTI arrays come with their axes reversed, (k, j, i), so that napari shows axial slices. A rotation is not put on
    the layer, because napari cannot paint on slices that are oblique to its axes: layers of one orientation overlay
    each other, and the writers restore the affine from the metadata.
    """
    return [_remembered(layer) for layer in _layers(image, layer_type, name or image.name)]


def _remembered(layer: LayerData) -> LayerData:
    """A layer that knows which pixels it was given, and where they lie; of an image, with its contrast."""
    data, options, layer_type = layer
    pixels = data[0] if isinstance(data, list) else data  # of several levels, labels included
    options["metadata"][METADATA_KEY][READ_KEY] = ReadPixels(pixels, options)
    if layer_type == "image" and not options.get("rgb"):
        options |= _contrast(data)
    return data, options, layer_type


def _layers(image: ImageFile, layer_type: str, name: str) -> list[LayerData]:
    metadata = {METADATA_KEY: {"grid": image.grid, "channel": None}}
    options = {"name": name, "metadata": metadata, **layer_geometry(image)}
    if image.channel_axis is None:
        return [(_pyramid(image, None, layer_type), options | _as_pyramid(image, layer_type), layer_type)]
    channels = moved_axis(image.data, image.channel_axis, image.data.ndim - 1)
    if channels.dtype == np.uint8 and channels.shape[-1] in (3, 4) and image.axes.endswith("C"):
        return [(_colours_in_layer_order(channels, image), {**options, "rgb": True}, "image")]
    return [
        (
            _pyramid(image, c, layer_type),
            {
                **options,
                **_as_pyramid(image, layer_type),
                "name": f"{name} [{c}]",
                "metadata": {METADATA_KEY: {"grid": image.grid, "channel": c}},
                "blending": "additive",
            },
            "image",
        )
        for c in range(channels.shape[-1])
    ]


def _pyramid(image: ImageFile, channel: int | None, layer_type: str) -> Any:
    """A channel of an image in the order of a layer, or, where the file has smaller copies of it, all of them."""
    levels = list(image.format_metadata.levels) if _as_pyramid(image, layer_type) else [image.data]
    arrays = [_to_layer_order(_channel(level, image.channel_axis, channel), image) for level in levels]
    return arrays if len(arrays) > 1 else arrays[0]


def _as_pyramid(image: ImageFile, layer_type: str) -> dict[str, Any]:
    """What tells napari that a layer has several levels; nobody can paint on such labels."""
    has_levels = isinstance(image.format_metadata, ZarrMetadata) and len(image.format_metadata.levels) > 1
    return {"multiscale": True} if has_levels and layer_type == "image" else {}


def _contrast(pixels: Any) -> dict[str, Any]:
    """Contrast limits of an image that napari would judge by its first slice, or by what means no data; else nothing.

    From slices all over the stack, or from the smallest copy of one that has several levels.
    """
    data = pixels[-1] if isinstance(pixels, list) else pixels
    if not is_on_disk(data) and (data.dtype.kind != "f" or not (np.abs(data) >= _NO_INTENSITY).any()):
        return {}
    picked = np.unique(np.linspace(0, len(data) - 1, _SAMPLED_SLICES).astype(int)) if len(data) else ()
    sample = np.concatenate([np.asarray(data[int(z)]).ravel() for z in picked]) if len(picked) else np.empty(0)
    values = sample[np.isfinite(sample) & (np.abs(sample.astype(np.float64)) < _NO_INTENSITY)]
    if not values.size or values.min() == values.max():
        return {}
    return {"contrast_limits": (values.min().item(), values.max().item())}


def _channel(data: Any, axis: int | None, channel: int | None) -> Any:
    if axis is None or channel is None:
        return data
    return data.take(channel, axis) if isinstance(data, ArrayView) else np.moveaxis(data, axis, 0)[channel]


def _to_layer_order(stack: Any, grid: ImageGeometry) -> Any:
    return stack.T if grid.format == "nifti" else stack


def _colours_in_layer_order(channels: Any, grid: ImageGeometry) -> Any:
    return moved_axis(channels.T, 0, channels.ndim - 1) if grid.format == "nifti" else channels


def layer_geometry(grid: ImageGeometry) -> dict[str, Any]:
    """Scale, translation, units and axis labels of the layers, in the layers' axis order."""
    letters = grid.stack_axes
    scale = list(grid.spacing)
    units = [grid.unit if letter in grid.spatial_letters else "pixel" for letter in letters]
    translate = [0.0] * len(letters)
    if isinstance(grid.format_metadata, ZarrMetadata):
        translate = list(grid.format_metadata.translation)
    if grid.format == "nifti":
        for letter, value in zip("IJK", _origin_along_axes(grid.format_metadata), strict=True):
            if letter in letters:
                translate[letters.index(letter)] = value
        letters, scale, units, translate = letters[::-1], scale[::-1], units[::-1], translate[::-1]
    return {"scale": scale, "translate": translate, "units": units, "axis_labels": [a.lower() for a in letters]}


def _origin_along_axes(format_metadata: NiftiMetadata) -> np.ndarray:
    """World position of the first voxel, measured along the image's own axes (i, j, k)."""
    directions = format_metadata.affine[:3, :3] / np.linalg.norm(format_metadata.affine[:3, :3], axis=0)
    return directions.T @ format_metadata.affine[:3, 3]


def _looks_like_labels(image: ImageFile) -> bool:
    """Truth values; or whole numbers, and either named like labels or of few values, the smallest 0."""
    if image.channel_axis is not None or image.data.size == 0:
        return False
    if image.data.dtype.kind == "b":
        return True
    if image.data.dtype.kind == "f":
        return bool(_LABEL_NAME.search(image.name.lower()))
    if image.data.nbytes > MAPPED_BYTES:
        sample = _sampled(image.data)
        return bool(_LABEL_NAME.search(image.name.lower())) and int(sample.min()) >= 0
    if _LABEL_NAME.search(image.name.lower()):
        return int(np.asarray(image.data).min()) >= 0
    values = np.unique(np.asarray(image.data).reshape(-1, order="A")[:: max(1, image.data.size // _SAMPLE)])
    return values[0] == 0 and len(values) <= _FEW_VALUES


def _sampled(data: Any) -> np.ndarray:
    """A few planes of a large array."""
    return np.stack([np.asarray(data[int(z)]) for z in np.linspace(0, data.shape[0] - 1, 3)])
