"""Taking a prediction over into the annotation, as one step of napari's undo; and regions drawn for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from skimage.draw import polygon2mask

from napari_mlbseg.viewer.layers.binding import unit_factors

if TYPE_CHECKING:
    from napari.layers import Labels, Shapes

__all__ = ["AcceptedVoxels", "put_back", "put_prediction", "region_mask", "shapes_on_slice"]

_CORNERS = 72  # of the polygon that stands for an ellipse


def put_prediction(
    annotation: Labels,
    prediction: np.ndarray,
    slice_axis: int,
    z: int,
    *,
    region: np.ndarray | None = None,
    over_painted: bool = False,
    noted: AcceptedVoxels | None = None,
) -> int:
    """Write a predicted slice into the annotation, so that one undo takes it back.

    Parameters
    ----------
    annotation : Labels
    prediction : ndarray of int, (Y, X)
        Label numbers.
    slice_axis, z : int
        The slice.
    region : ndarray of bool, (Y, X), optional
        Only there; by default the whole slice.
    over_painted : bool
        Also where something is painted; otherwise that stays.
    noted : AcceptedVoxels, optional
        Is told what was written.

    Returns
    -------
    int
        Number of voxels that changed.
    """
    painted = np.array(annotation.data[_slice_index(slice_axis, z)])
    there = prediction != painted
    if not over_painted:
        there &= painted == 0
    if region is not None:
        there &= region
    _set(annotation, there, prediction[there], slice_axis, z)
    if noted is not None:  # not earlier: napari tells of a change before it makes it
        noted.note(there, painted, prediction)
    return int(np.count_nonzero(there))


def put_back(
    annotation: Labels, accepted: AcceptedVoxels, slice_axis: int, z: int, *, region: np.ndarray | None = None
) -> int:
    """Give voxels that hold what was accepted the value that they had before, so that one undo takes it back.

    Parameters
    ----------
    annotation : Labels
    accepted : AcceptedVoxels
        Of this slice. What was painted since is left as it is.
    slice_axis, z : int
        The slice.
    region : ndarray of bool, (Y, X), optional
        Only there; by default the whole slice.

    Returns
    -------
    int
        Number of voxels that changed.
    """
    painted = np.asarray(annotation.data[_slice_index(slice_axis, z)])
    there, before = accepted.on(painted)
    if region is not None:
        there &= region
    _set(annotation, there, before[there], slice_axis, z)
    return int(np.count_nonzero(there))


@dataclass(eq=False)
class AcceptedVoxels:
    """What accepting wrote on a slice, and what was there before; only as many numbers as voxels that it changed.

    Attributes
    ----------
    places : ndarray of int, (n,)
        Flat indices into the slice.
    before, after : ndarray of int, (n,)
        Labels at these places before they were first accepted, and as they were accepted last.
    """

    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.intp))
    before: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    after: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def all_of(cls, painted: np.ndarray) -> AcceptedVoxels:
        """Of a slice on which nothing was painted before: all that is there now."""
        accepted = cls()
        accepted.note(painted != 0, np.zeros_like(painted), painted)
        return accepted

    def note(self, there: np.ndarray, painted: np.ndarray, prediction: np.ndarray) -> None:
        """At the places `there`, `painted` became `prediction`; all (Y, X)."""
        self.forget_changed(painted)
        before = painted.astype(np.int64)
        before.ravel()[self.places] = self.before  # accepted twice: its origin is what was there at first
        stays = ~there.ravel()[self.places]
        places = np.flatnonzero(there)
        self.places = np.concatenate([self.places[stays], places])
        self.before = np.concatenate([self.before[stays], before.ravel()[places]])
        self.after = np.concatenate([self.after[stays], prediction.ravel()[places].astype(np.int64)])

    def forget_changed(self, painted: np.ndarray) -> None:
        """What was painted on, or undone, is the person's: whatever is there later was not accepted."""
        still = painted[np.unravel_index(self.places, painted.shape)] == self.after
        if not still.all():
            self.places, self.before, self.after = self.places[still], self.before[still], self.after[still]

    def on(self, painted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where a slice holds what was accepted, (Y, X) of bool, and the labels from before, (Y, X)."""
        self.forget_changed(painted)
        there, before = np.zeros(painted.shape, bool), np.zeros(painted.shape, np.int64)
        there.ravel()[self.places] = True
        before.ravel()[self.places] = self.before
        return there, before


def region_mask(shapes: Shapes, annotation: Labels, slice_axis: int, z: int) -> np.ndarray | None:
    """Pixels of slice `z` inside the areas drawn on it, (Y, X); None if there are none.

    Lines and open paths have no inside and do not count.
    """
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    shape = tuple(int(annotation.data.shape[axis]) for axis in in_plane)
    mask = np.zeros(shape, bool)
    numbers = shapes_on_slice(shapes, annotation, slice_axis, z)
    for number in numbers:
        corners = _in_data(shapes, annotation, shapes.data[number])[:, in_plane]
        mask |= polygon2mask(shape, _ellipse(corners) if shapes.shape_type[number] == "ellipse" else corners)
    return mask if numbers else None


def shapes_on_slice(shapes: Shapes, annotation: Labels, slice_axis: int, z: int) -> list[int]:
    """Numbers of the areas that were drawn on slice `z`."""
    found = []
    for number, (corners, kind) in enumerate(zip(shapes.data, shapes.shape_type, strict=True)):
        if kind not in ("line", "path"):
            positions = _in_data(shapes, annotation, corners)[:, slice_axis]
            if np.all(np.abs(positions - z) < 0.75):
                found.append(number)
    return found


def _set(annotation: Labels, there: np.ndarray, values: np.ndarray, slice_axis: int, z: int) -> None:
    """Set voxels of a slice through napari's history."""
    if not there.any():
        return
    rows, columns = np.nonzero(there)
    indices = [rows, columns]
    indices.insert(slice_axis, np.full(len(rows), z))
    annotation.data_setitem(tuple(indices), values.astype(annotation.data.dtype))


def _slice_index(slice_axis: int, z: int) -> tuple[object, ...]:
    return tuple(z if axis == slice_axis else slice(None) for axis in range(3))


def _in_data(shapes: Shapes, annotation: Labels, corners: np.ndarray) -> np.ndarray:
    """Corners of a shape in the voxels of the annotation, (n, 3)."""
    factors = unit_factors(shapes.units[-3:], annotation.units[-3:])
    world = [np.asarray(shapes.data_to_world(corner))[-3:] * factors for corner in corners]
    return np.array([annotation.world_to_data(point)[-3:] for point in world])


def _ellipse(corners: np.ndarray) -> np.ndarray:
    """Polygon of the ellipse in a box with four corners, (n, 2)."""
    centre = corners.mean(0)
    across, down = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)[:, None]
    return centre + np.cos(angle) * across + np.sin(angle) * down
