"""Sample data of the manifest: image and ground truth, the latter hidden, so that one can paint and then compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_mlbseg.io.image_file import ImageFileError
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.io.readers import LayerData

__all__ = ["mni152", "phantom"]

#: Of the phantom: slices are thicker than their pixels are wide, so that there is no doubt along which axis they lie.
_SHAPE = (44, 112, 128)

#: In a layer's metadata: a reference to compare with, which nobody paints on or trains on.
REFERENCE: dict[str, Any] = {"napari_mlbseg": {"reference": True}}

_PRESENT = 0.5  # share of a tissue in a voxel from which on the voxel counts as that tissue


def phantom() -> list[LayerData]:
    """The left-atrium phantom: an image, and the true left atrium as a hidden Labels layer."""
    made = make_phantom(_SHAPE)
    geometry: dict[str, Any] = {"scale": made.spacing, "units": ["mm"] * 3, "axis_labels": ["z", "y", "x"]}
    return [
        (made.image, {"name": "phantom", "colormap": "gray", **geometry}, "image"),
        (made.labels, {"name": "phantom truth", "visible": False, "metadata": dict(REFERENCE), **geometry}, "labels"),
    ]


def mni152() -> list[LayerData]:
    """The MNI152 brain (T1, 1 mm), and its grey (1) and white (2) matter as a hidden Labels layer.

    Raises
    ------
    ImageFileError
        If nilearn, in whose package the templates come, is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise ImageFileError(
            "The MNI152 brain comes with nilearn, which is not installed: run 'pip install napari-mlbseg[samples]'."
        ) from error
    template = datasets.load_mni152_template(resolution=1)
    grey = np.asarray(datasets.load_mni152_gm_template(resolution=1).dataobj, dtype=np.float32)
    white = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, dtype=np.float32)
    labels = np.argmax([np.full_like(grey, _PRESENT), grey, white], axis=0).astype(np.uint8)
    affine = template.affine
    geometry: dict[str, Any] = {
        "scale": [float(abs(affine[axis, axis])) for axis in (2, 1, 0)],
        "translate": [float(affine[axis, 3]) for axis in (2, 1, 0)],
        "units": ["mm"] * 3,
        "axis_labels": ["k", "j", "i"],
    }
    image = np.asarray(template.dataobj, dtype=np.float32)
    return [
        (image.T, {"name": "MNI152", "colormap": "gray", **geometry}, "image"),
        (labels.T, {"name": "MNI152 tissues", "visible": False, "metadata": dict(REFERENCE), **geometry}, "labels"),
    ]
