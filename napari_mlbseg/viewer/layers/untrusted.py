"""The labels layer that marks the pixels which neither weight trusts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from psygnal import Signal

from napari_mlbseg.viewer.layers.arrays import Reader, SliceReader
from napari_mlbseg.viewer.layers.binding import METADATA_KEY, VolumeBinding, make_result, spatial_shape, transform_of
from napari_mlbseg.viewer.layers.map_values import VolumeMaps
from napari_mlbseg.viewer.layers.paint_listener import lock

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["UntrustedLayer", "untrusted"]

_COLOUR = "#00e5ff"  # the colours of the weight maps go from black over red to yellow


def untrusted(maps: VolumeMaps, threshold: float) -> Reader:
    """Reader of 1 where both weights together are below `threshold`; slices that were not weighed have none."""
    initial, pseudo = maps.readers["weight_initial"], maps.readers["weight_pseudo"]

    def read(slices: slice) -> np.ndarray:
        marked = (initial.read(slices) + pseudo.read(slices) < threshold).astype(np.uint8)
        for z in range(slices.start, slices.stop):
            if not maps.has(z):
                marked[z - slices.start] = 0
        return marked

    return read


class UntrustedLayer:
    """Made when it is first wanted, then updated in place.

    Parameters
    ----------
    viewer : Viewer
    """

    removed = Signal()  # by the user, in the layer list

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.layer: Labels | None = None

    def show(self, maps: VolumeMaps, binding: VolumeBinding, threshold: float) -> None:
        """Mark the pixels of a volume whose weights together are below `threshold`."""
        shape = spatial_shape(binding.image)
        layer = self.layer
        if layer is not None and not (
            layer.data.shape == shape
            and layer.data.slice_axis == maps.slice_axis
            and layer.metadata[METADATA_KEY]["image"] == binding.image.name
        ):
            self.remove()
            layer = None
        if layer is None:
            layer = self._insert(SliceReader(untrusted(maps, threshold), shape, np.uint8, maps.slice_axis), binding)
        layer.data.read_from(untrusted(maps, threshold))
        layer.metadata[METADATA_KEY]["threshold"] = threshold
        layer.refresh(extent=False)

    def remove(self) -> None:
        """Take the layer out of the viewer, if it is there."""
        layer, self.layer = self.layer, None
        if layer is None:
            return
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _insert(self, reader: SliceReader, binding: VolumeBinding) -> Labels:
        """Put the layer beneath the annotation, and leave the user's layer selected."""
        image, layers = binding.image, self._viewer.layers
        layer = Labels(
            reader,
            name=f"{image.name} trusted by neither",
            colormap=DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: _COLOUR}),
            opacity=0.5,
            **transform_of(image),
        )
        make_result(layer, image=image.name, result="untrusted")
        lock(layer)
        active = layers.selection.active
        annotation = binding.annotation
        layers.insert(layers.index(annotation) if annotation in layers else len(layers), layer)
        if active is not None:
            layers.selection.active = active
        layers.events.removed.connect(self._on_removed)
        self.layer = layer
        return layer

    def _on_removed(self, event: Any) -> None:
        if event.value == self.layer:
            self.remove()
            self.removed.emit()
