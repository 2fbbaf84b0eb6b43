"""Where two rounds differ, as one layer that is updated in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_mlbseg.viewer.layers.arrays import Reader, SliceReader
from napari_mlbseg.viewer.layers.binding import METADATA_KEY, VolumeBinding, make_result, spatial_shape, transform_of
from napari_mlbseg.viewer.layers.paint_listener import lock

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_mlbseg.session import Round

__all__ = ["GONE", "NEW", "OTHER", "Comparison", "difference"]

#: Values of the difference layer: labelled in the first round only, in the second only, in both as different classes.
GONE, NEW, OTHER = 1, 2, 3

# blue, orange and white differ for every kind of colour vision
_COLOURS: dict[int | None, Any] = {
    None: [0, 0, 0, 0],
    0: [0, 0, 0, 0],
    GONE: [0.20, 0.55, 1.0, 1.0],
    NEW: [1.0, 0.60, 0.10, 1.0],
    OTHER: [1.0, 1.0, 1.0, 1.0],
}


def difference(first: Any, second: Any, *, instances: bool = False) -> Reader:
    """Reader of where two (Z, Y, X) arrays of labels differ, as `GONE`, `NEW` and `OTHER`.

    Of `instances`, whose numbers may be others in each round, the foreground is compared.
    """

    def read(slices: slice) -> np.ndarray:
        before, after = np.asarray(first[slices]), np.asarray(second[slices])
        if instances:
            before, after = before != 0, after != 0
        differs = before != after
        kind = np.where(after == 0, GONE, np.where(before == 0, NEW, OTHER))
        return np.where(differs, kind, 0).astype(np.uint8)

    return read


class Comparison:
    """The difference layer of a viewer.

    Parameters
    ----------
    viewer : Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self) -> None:
        """Stop listening; the layer stays."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._layer = None

    def show(self, first: Round, second: Round, binding: VolumeBinding) -> None:
        """Show where the pseudo-labels of two rounds differ on a volume.

        Raises
        ------
        ValueError
            If the volume was not part of both, or along another axis.
        """
        arrays = [_pseudo_labels(of, binding) for of in (first, second)]
        axes = {of.record.slice_axes[binding.uid] for of in (first, second)}
        if len(axes) > 1:
            raise ValueError("The two rounds lie along different axes of the image: compare rounds of one slice axis.")
        axis = axes.pop()
        instances = any(of.task.last_instance is not None for of in (first, second))
        read, shape = difference(*arrays, instances=instances), spatial_shape(binding.image)
        self._remove()
        layer = Labels(
            SliceReader(read, shape, np.uint8, axis),
            name=f"{binding.image.name} round {first.number} against {second.number}",
            colormap=DirectLabelColormap(color_dict=_COLOURS),
            opacity=0.8,
            **transform_of(binding.image),
        )
        make_result(layer, result="difference", rounds=(first.number, second.number))
        lock(layer)
        active = self._viewer.layers.selection.active
        self._layer = layer
        self._viewer.layers.append(layer)
        if active is not None:
            self._viewer.layers.selection.active = active

    def forget_all_but(self, rounds: set[int]) -> None:
        """Take the layer away where one of its rounds is none of these: it was deleted."""
        if self._layer is not None and not set(self._layer.metadata[METADATA_KEY]["rounds"]) <= rounds:
            self._remove()

    def _remove(self) -> None:
        if self._layer is not None and self._layer in self._viewer.layers:
            self._viewer.layers.remove(self._layer)
        self._layer = None

    def _on_removed(self, event: Any) -> None:
        if self._layer is not None and event.value == self._layer:
            self._layer = None


def _pseudo_labels(of: Round, binding: VolumeBinding) -> Any:
    name = of.name_of(binding.uid)
    results = of.job.folder.results(name) if name is not None else {}
    if "pseudo_labels" not in results:
        raise ValueError(f"Round {of.number} has no segmentation of '{binding.image.name}': choose another.")
    return results["pseudo_labels"]
