"""Reviewing: what is done with the prediction of the slice in view, and which slice comes next."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes
from psygnal import Signal

from napari_mlbseg.session import Provenance
from napari_mlbseg.session.clean_slices import slice_digest
from napari_mlbseg.viewer.controllers.accept_prediction import (
    AcceptedVoxels,
    put_back,
    put_prediction,
    region_mask,
    shapes_on_slice,
)
from napari_mlbseg.viewer.layers.binding import METADATA_KEY, to_world, transform_of
from napari_mlbseg.viewer.widgets.dialogs import Question

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_mlbseg.training.error_regions import ErrorRegion
    from napari_mlbseg.viewer.controllers.workspace import Workspace
    from napari_mlbseg.viewer.layers.binding import VolumeBinding

__all__ = ["Reviewer"]

_REGION = "region to review"


class Reviewer:
    """Accepts and rejects predictions of the slice in view; what it writes is napari's to undo.

    What is clean is a person's word: nothing is written there before they have answered a question with yes.

    Parameters
    ----------
    workspace : Workspace
    """

    region_changed = Signal()  # an area was drawn, changed or used up, or is about to be drawn

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        workspace.slice_changed.connect(self.forget_changed)
        workspace.painted.connect(self.forget_changed)
        self._place = -1  # number of the place that was looked at again last
        self.over_painted = False  # whether accepting also replaces what is painted
        self._accepted: dict[tuple[str, int, int], AcceptedVoxels] = {}  # by volume's uid, slice axis and slice

    # -- the prediction of the slice in view ---------------------------------------------------------------------

    def prediction(self) -> np.ndarray | None:
        """Predicted labels of the slice in view, (Y, X); None where there is no prediction."""
        binding, z = self._workspace.current, self._workspace.current_slice
        if binding is None or z is None:
            return None
        return self._workspace.results.slice_of(binding, "pseudo_labels", z)

    def has_prediction(self) -> bool:
        """Whether there is a prediction of the slice in view."""
        binding, z = self._workspace.current, self._workspace.current_slice
        return binding is not None and z is not None and self._workspace.results.has_slice(binding, "pseudo_labels", z)

    def accept(self) -> None:
        """Take the prediction of the slice in view over into the annotation, in one step of undo."""
        workspace = self._workspace
        target = self._target("accept")
        if target is None:
            return
        binding, annotation, z, prediction = target
        largest = np.iinfo(annotation.data.dtype).max
        if prediction.max() > largest:
            workspace.complained.emit(
                f"The prediction holds label {prediction.max()}, but '{annotation.name}' takes numbers up to {largest} "
                "only: convert it first (right-click the layer, Convert data type)."
            )
            return
        why = "You marked it clean. What the prediction adds would be trained on as if you had painted it."
        self._unless_clean(
            binding, z, Question(f"Accept the prediction of slice {z}?", why, partial(self._accept, *target))
        )

    def _accept(self, binding: VolumeBinding, annotation: Labels, z: int, prediction: np.ndarray) -> None:
        workspace = self._workspace
        before = self._digest(annotation, z)
        region = self._region(annotation, z)
        changed = put_prediction(
            annotation,
            prediction,
            workspace.slice_axis,
            z,
            region=self._writable(binding, annotation, z, region),
            over_painted=self.over_painted,
            noted=self._accepted.setdefault((binding.uid, workspace.slice_axis, z), AcceptedVoxels()),
        )
        if not changed:
            where = "in the region" if region is not None else "on this slice"
            hint = "" if self.over_painted else ", except perhaps where you painted already"
            workspace.complained.emit(f"The prediction adds nothing {where}{hint}.")
            return
        workspace.complained.emit("")
        shown = workspace.results.shown_round
        number = shown.number if shown is not None else 0
        workspace.session.note_accepted(binding.image.name, z, number, before, self._digest(annotation, z))
        self._use_up_region(annotation, z)

    def reject(self) -> None:
        """Say that the prediction of the slice in view is wrong; what was accepted of it unchanged is taken back.

        With an area drawn on the slice, only what was accepted inside it is.
        """
        workspace = self._workspace
        target = self._target("reject")
        if target is None:
            return
        binding, annotation, z, _ = target
        if z in workspace.clean_slices(binding):
            there, _ = self._accepted_on(binding, annotation, z).on(self._painted(annotation, z))
            if not there.any():
                workspace.complained.emit(
                    f"Slice {z} is clean: what you painted counts there, and nothing of the prediction is left to "
                    "reject. Take its mark away first if it is wrong."
                )
                return
        why = (
            "You marked it clean. What you accepted of the prediction and left as it was would be taken back, and the "
            "mark with it."
        )
        self._unless_clean(
            binding, z, Question(f"Reject slice {z}?", why, partial(self._reject, binding, annotation, z))
        )

    def _reject(self, binding: VolumeBinding, annotation: Labels, z: int) -> None:
        workspace = self._workspace
        region = self._region(annotation, z)
        accepted = self._accepted_on(binding, annotation, z)
        where = self._writable(binding, annotation, z, region)
        changed = put_back(annotation, accepted, workspace.slice_axis, z, region=where)
        if region is not None and not changed:
            workspace.complained.emit(
                "Nothing that you accepted lies in the region: accept the slice first, then reject a region of it."
            )
            return
        workspace.session.set_clean(binding.image.name, z, False)
        workspace.session.set_rejected(binding.image.name, z)
        workspace.complained.emit("")
        if region is not None:
            self._use_up_region(annotation, z)

    def forget_changed(self) -> None:
        """Something was painted or undone on the slice in view, or it came into view: see `AcceptedVoxels`."""
        binding, z = self._workspace.current, self._workspace.current_slice
        if binding is None or z is None or binding.annotation is None:
            return
        accepted = self._accepted.get((binding.uid, self._workspace.slice_axis, z))
        if accepted is not None:
            accepted.forget_changed(self._painted(binding.annotation, z))

    # -- regions -------------------------------------------------------------------------------------------------

    def draw_region(self) -> None:
        """Begin to draw an area on the slice in view: the next accept or reject is confined to it."""
        binding = self._workspace.current
        if binding is None:
            self._workspace.complained.emit("There is no image yet: open one, then draw a region on it.")
            return
        layer = self._region_layer()
        if layer is None:
            layer = Shapes(
                ndim=binding.image.ndim,
                name=_REGION,
                face_color="#3fa7ff40",
                edge_color="#3fa7ff",
                metadata={METADATA_KEY: {"result": "region"}},
                **transform_of(binding.image),
            )
            layer.events.data.connect(self._on_drawn)
            self._workspace.viewer.add_layer(layer)
        self._workspace.viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso"
        self.region_changed.emit()

    def drop_region(self) -> None:
        """Forget the areas that were drawn: another volume comes into view, on which they do not lie."""
        layer = self._region_layer()
        if layer is not None:
            self._workspace.viewer.layers.remove(layer)
            self.region_changed.emit()

    def is_drawing(self) -> bool:
        """Whether an area is about to be drawn."""
        layer = self._region_layer()
        return layer is not None and self._workspace.viewer.layers.selection.active == layer

    def _on_drawn(self, event: object = None) -> None:
        self.region_changed.emit()

    def has_region(self) -> bool:
        """Whether an area is drawn on the slice in view."""
        binding, z = self._workspace.current, self._workspace.current_slice
        layer = self._region_layer()
        if layer is None or binding is None or binding.annotation is None or z is None:
            return False
        return bool(shapes_on_slice(layer, binding.annotation, self._workspace.slice_axis, z))

    # -- where next ----------------------------------------------------------------------------------------------

    def go_to_suggestion(self) -> None:
        """Scroll to the slice that is suggested next."""
        suggestion = self._workspace.suggestion()
        if suggestion is None:
            self._workspace.complained.emit("There is no slice to suggest: open an image of several slices first.")
        else:
            self._workspace.go_to(suggestion.slice)

    def skip_suggestion(self) -> None:
        """Suggest another slice."""
        binding, suggestion = self._workspace.current, self._workspace.suggestion()
        if binding is not None and suggestion is not None:
            self._workspace.session.skip(binding.image.name, suggestion.slice)

    # -- look again ----------------------------------------------------------------------------------------------

    def places(self) -> list[tuple[int, ErrorRegion]]:
        """Slices and places of the current volume where the other clean slices contradict what is painted.

        Only of slices that are still clean: what was corrected since is not asked for again after the next training.
        """
        binding, shown = self._workspace.current, self._workspace.session.shown_round
        if binding is None or shown is None or shown.record.slice_axes.get(binding.uid) != self._workspace.slice_axis:
            return []
        clean = self._workspace.clean_slices(binding)
        return [(z, place) for z, place in shown.error_regions.get(binding.uid, []) if z in clean]

    def look_again(self) -> None:
        """Go to the next such place, in the middle of the view, with the map shown."""
        binding, places = self._workspace.current, self.places()
        if binding is None or not places:
            self._workspace.complained.emit("There is no place to look at again.")
            return
        self._place = (self._place + 1) % len(places)
        z, place = places[self._place]
        self._workspace.go_to(z)
        self._workspace.results.set_visible("label_doubt", True)
        position = list(place.centre)
        position.insert(self._workspace.slice_axis, z)
        viewer = self._workspace.viewer
        world = to_world(viewer, binding.image, position)
        viewer.camera.center = tuple(world[axis] for axis in viewer.dims.displayed)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _unless_clean(self, binding: VolumeBinding, z: int, question: Question) -> None:
        """Do at once what would write on slice `z`, but ask first where the slice is clean."""
        if z in self._workspace.clean_slices(binding):
            self._workspace.asked.emit(question)
        else:
            question.then()

    def _writable(
        self, binding: VolumeBinding, annotation: Labels, z: int, region: np.ndarray | None
    ) -> np.ndarray | None:
        """`region` of slice `z` without what lies on slices that are clean along another axis, (Y, X) of bool."""
        axis = self._workspace.slice_axis
        clean = {other: sorted(marks.clean) for other, marks in binding.marks.items() if other != axis and marks.clean}
        if not clean:
            return region
        mask = np.ones(self._painted(annotation, z).shape, bool) if region is None else region.copy()
        in_plane = [other for other in range(3) if other != axis]
        for other, slices in clean.items():
            np.moveaxis(mask, in_plane.index(other), 0)[slices] = False
        return mask

    def _target(self, verb: str) -> tuple[VolumeBinding, Labels, int, np.ndarray] | None:
        """Volume, annotation, slice and prediction in view; None, with a sentence said, where one is missing."""
        workspace = self._workspace
        binding, z = workspace.current, workspace.current_slice
        prediction = self.prediction()
        if binding is None or z is None:
            workspace.complained.emit(f"There is no slice in view to {verb}: scroll to one.")
        elif binding.annotation is None:
            workspace.complained.emit(f"'{binding.image.name}' has no annotation layer: press New to make one.")
        elif prediction is None:
            workspace.complained.emit(f"There is no prediction of slice {z} to {verb} yet: press Train first.")
        elif reason := workspace.editable.reason(binding.annotation):
            workspace.complained.emit(reason)
        else:
            return binding, binding.annotation, z, prediction
        return None

    def _region(self, annotation: Labels, z: int) -> np.ndarray | None:
        layer = self._region_layer()
        return None if layer is None else region_mask(layer, annotation, self._workspace.slice_axis, z)

    def _region_layer(self) -> Shapes | None:
        return next(
            (layer for layer in self._workspace.viewer.layers if isinstance(layer, Shapes) and _is_region(layer)), None
        )

    def _use_up_region(self, annotation: Labels, z: int) -> None:
        """An area serves once; the person goes on painting."""
        layer = self._region_layer()
        if layer is None:
            return
        layer.selected_data = set(shapes_on_slice(layer, annotation, self._workspace.slice_axis, z))
        layer.remove_selected()
        if not len(layer.data):
            self._workspace.viewer.layers.remove(layer)
        self._workspace.viewer.layers.selection.active = annotation
        self.region_changed.emit()

    def _digest(self, annotation: Labels, z: int) -> str:
        return slice_digest(self._painted(annotation, z))

    def _painted(self, annotation: Labels, z: int) -> np.ndarray:
        axis = self._workspace.slice_axis
        return np.asarray(annotation.data[tuple(z if a == axis else slice(None) for a in range(3))])

    def _accepted_on(self, binding: VolumeBinding, annotation: Labels, z: int) -> AcceptedVoxels:
        """What was accepted on a slice.

        Which voxels those are is known for as long as the window is open; later, only where there is nothing else.
        """
        workspace = self._workspace
        known = self._accepted.get((binding.uid, workspace.slice_axis, z))
        if known is not None:
            return known
        acceptances = workspace.marks(binding).accepted.get(z)
        is_all = workspace.session.provenance(binding.image.name, z) is Provenance.ACCEPTED
        if acceptances and not acceptances[0].before and is_all:
            return AcceptedVoxels.all_of(self._painted(annotation, z))
        return AcceptedVoxels()


def _is_region(layer: Shapes) -> bool:
    entry = layer.metadata.get(METADATA_KEY)
    return isinstance(entry, dict) and entry.get("result") == "region"
