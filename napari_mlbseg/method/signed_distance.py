"""Signed distances to outlines, and labels from them. Torch-free."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["bounding_box", "per_class_sdf", "labels_from_sdf", "signed_distance"]

#: Signed distances are cut off here: farther away, how far does not matter. In voxels of the slice.
_FAR = 64
#: Depth of a structure that is missing on a slice: about the radius of what its neighbours still show of it, in pixels.
ABSENT_DISTANCE = 8.0


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice] | None:
    """Rows and columns around all that is set in `mask` (Y, X), with a margin; None if nothing is."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    rows, columns = found[0]
    return (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline of `mask` in pixels, positive inside; cut off at +-64. (Y, X) bool -> float32.

    An empty mask is far outside everywhere, a full one far inside.
    """
    if not mask.any():
        return np.full(mask.shape, -_FAR, np.float32)
    if mask.all():
        return np.full(mask.shape, _FAR, np.float32)
    here = bounding_box(mask, margin=_FAR)  # beyond, it is cut off anyway
    assert here is not None  # something is set
    near = mask[here]
    inner = ndimage.distance_transform_edt(near)
    outer = ndimage.distance_transform_edt(~near)
    distance = np.full(mask.shape, -_FAR, np.float32)
    distance[here] = np.clip(np.where(near, inner - 0.5, 0.5 - outer), -_FAR, _FAR)
    return distance


def per_class_sdf(plane: np.ndarray, n_classes: int) -> np.ndarray:
    """Signed distances of the whole foreground (index 0) and of each foreground class (1..K-1), (K, Y, X).

    The foreground as a whole has its own, so that no gap opens between classes that touch. What is missing on a slice
    lies `ABSENT_DISTANCE` pixels outside everywhere, so that it shrinks to its middle on the way there.
    """
    masks = [plane > 0, *(plane == k for k in range(1, n_classes))]
    return np.stack([signed_distance(m) if m.any() else np.full(m.shape, -ABSENT_DISTANCE, np.float32) for m in masks])


def labels_from_sdf(distances: np.ndarray) -> np.ndarray:
    """Class indices (Y, X) of signed distances as `per_class_sdf` gives them."""
    return np.where(distances[0] > 0, 1 + distances[1:].argmax(0), 0)
