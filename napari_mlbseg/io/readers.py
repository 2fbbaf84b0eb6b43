"""The manifest's reader: files as layers with scale, units and axis labels, and all of their header in the metadata."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from napari_mlbseg.io.files import has_known_suffix, read_image
from napari_mlbseg.io.image_file import METADATA_KEY, FileGrid, ImageFile
from napari_mlbseg.io.nifti import NiftiNative

__all__ = ["METADATA_KEY", "LayerData", "get_reader", "image_layers", "read_layer", "read_layers"]

#: A napari layer-data tuple: array, keyword arguments of the layer, its type.
LayerData = tuple[np.ndarray, dict[str, Any], str]

_LABEL_NAME = re.compile(r"(?<![a-z])(labels?|labelmap|seg|segmentation|masks?|gt|annotations?)(?![a-z])")
_FEW_VALUES = 10
_SAMPLE = 1_000_000  # voxels that are looked at to tell labels from an image


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """The reader for `path`, or None if it is none of ours (several files, another suffix)."""
    if isinstance(path, list) or not has_known_suffix(path) or not os.path.isfile(path):
        return None
    return read_layers


def read_layers(path: str) -> list[LayerData]:
    """Read a file as layers, one a channel; integer files that look like labels become a Labels layer.

    Raises
    ------
    ImageFileError
        One sentence that says why the file cannot be read.
    """
    image = read_image(path)
    return image_layers(image, "labels" if _looks_like_labels(image) else "image")


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
    name = name or image.name
    metadata = {METADATA_KEY: {"grid": image.grid, "channel": None}}
    options = {"name": name, "metadata": metadata, **_geometry(image)}
    if image.channel_axis is None:
        return [(_to_layer_order(image.data, image), options, layer_type)]
    channels = np.moveaxis(image.data, image.channel_axis, -1)
    if channels.dtype == np.uint8 and channels.shape[-1] in (3, 4) and image.axes.endswith("C"):
        return [(_colours_in_layer_order(channels, image), {**options, "rgb": True}, "image")]
    return [
        (
            _to_layer_order(channels[..., c], image),
            {
                **options,
                "name": f"{name} [{c}]",
                "metadata": {METADATA_KEY: {"grid": image.grid, "channel": c}},
                "blending": "additive",
            },
            "image",
        )
        for c in range(channels.shape[-1])
    ]


def _to_layer_order(stack: np.ndarray, grid: FileGrid) -> np.ndarray:
    return stack.T if grid.format == "nifti" else stack


def _colours_in_layer_order(channels: np.ndarray, grid: FileGrid) -> np.ndarray:
    return np.moveaxis(channels.T, 0, -1) if grid.format == "nifti" else channels


def _geometry(grid: FileGrid) -> dict[str, Any]:
    """Scale, translation, units and axis labels of the layers, in the layers' axis order."""
    letters = grid.stack_axes
    scale = list(grid.spacing)
    units = [grid.unit if letter in grid.spatial_letters else "pixel" for letter in letters]
    translate = [0.0] * len(letters)
    if grid.format == "nifti":
        for letter, value in zip("IJK", _origin_along_axes(grid.native), strict=True):
            if letter in letters:
                translate[letters.index(letter)] = value
        letters, scale, units, translate = letters[::-1], scale[::-1], units[::-1], translate[::-1]
    return {"scale": scale, "translate": translate, "units": units, "axis_labels": [a.lower() for a in letters]}


def _origin_along_axes(native: NiftiNative) -> np.ndarray:
    """World position of the first voxel, measured along the image's own axes (i, j, k)."""
    directions = native.affine[:3, :3] / np.linalg.norm(native.affine[:3, :3], axis=0)
    return directions.T @ native.affine[:3, 3]


def _looks_like_labels(image: ImageFile) -> bool:
    """Whole numbers, and either named like labels or of few values, the smallest 0."""
    if image.channel_axis is not None or image.data.dtype.kind not in "iu" or image.data.size == 0:
        return False
    if _LABEL_NAME.search(image.name.lower()):
        return int(image.data.min()) >= 0
    values = np.unique(image.data.reshape(-1, order="A")[:: max(1, image.data.size // _SAMPLE)])
    return values[0] == 0 and len(values) <= _FEW_VALUES
