"""Layers made of volumes that were read, or filled with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_info

from napari_mlbseg.io.image_file import METADATA_KEY as FILE_KEY
from napari_mlbseg.io.read_pixels import READ_KEY, ReadPixels
from napari_mlbseg.session import AnnotatedVolume, SliceMarks
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
    annotation_name,
    is_result,
    make_annotation,
    place_layer,
    shows,
    transform_from,
)
from napari_mlbseg.viewer.layers.paint_listener import paint_on

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["add_layers", "fill_layers", "take_open_layer"]


def add_layers(
    viewer: Viewer,
    volume: AnnotatedVolume,
    marks: dict[int, SliceMarks],
    *,
    image: Image | None = None,
    annotate: bool = False,
) -> VolumeBinding:
    """Layers of a volume that was read, which takes their name.

    Parameters
    ----------
    viewer : Viewer
    volume : AnnotatedVolume
    marks : dict of int to SliceMarks
    image : Image, optional
        A layer that shows its image already.
    annotate : bool
        With a layer to paint on, even if nothing is painted.
    """
    if image is None:
        place = transform_from(volume.geometry) if volume.geometry is not None else {}
        is_colour = volume.channel_axis is not None
        image = Image(volume.image, name=volume.name, rgb=is_colour, metadata=_metadata(volume), **place)
        viewer.add_layer(image)
    volume.name = image.name  # napari renames where the name is taken
    pixels = volume.annotation if volume.is_annotated else None
    annotation = make_annotation(image, pixels) if annotate or pixels is not None else None
    if annotation is not None:
        viewer.add_layer(annotation)
        viewer.layers.selection.active = annotation
    return VolumeBinding(image, annotation, marks=marks, uid=volume.uid, given=volume.initial_labels)


def fill_layers(image: Image, annotation: Labels, volume: AnnotatedVolume) -> None:
    """Show a volume with layers that are there already, as new ones would; it takes their name."""
    empty = np.zeros(volume.annotation.shape, dtype=np.uint8)
    image.data = volume.image
    paint_on(annotation, volume.annotation if volume.is_annotated else empty)
    image.reset_contrast_limits_range()
    image.reset_contrast_limits()
    image.metadata = _metadata(volume)
    for layer in (image, annotation):
        if volume.geometry is not None:
            place_layer(layer, volume.geometry)
    image.name = volume.name
    volume.name = image.name
    annotation.name = annotation_name(image)


def take_open_layer(layers: list[Image], volume: AnnotatedVolume) -> Image | None:
    """Take out of `layers` the one that shows a volume's image already, and place it as the volume says."""
    found = next((layer for layer in layers if not is_result(layer) and shows(layer, volume)), None)
    if found is None:
        return None
    layers.remove(found)
    if volume.geometry is not None:
        place_layer(found, volume.geometry)
    show_info(f"MLB-Seg: The image '{found.name}' was open already: the session goes on with that layer.")
    return found


def _metadata(volume: AnnotatedVolume) -> dict[str, Any]:
    """What an image's layer knows of its file, as our reader leaves it."""
    if volume.grid is None:
        return {}
    entry: dict[str, Any] = {"grid": volume.grid, "channel": None}
    if volume.source is not None and volume.geometry is not None:
        entry["channel"] = volume.source.channel
        place = None if volume.is_moved else volume.geometry.model_dump()
        entry[READ_KEY] = ReadPixels(volume.image, place, volume.source.digest)
    return {FILE_KEY: entry}
