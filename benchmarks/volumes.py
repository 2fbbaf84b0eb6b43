"""Labelled volumes as oracle sessions: k clean slices, evenly from the first to the last that shows the structure."""

from __future__ import annotations

import glob
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_mlbseg.io.files import read_image, read_labels
from napari_mlbseg.io.image_file import default_slice_axis, slice_spacing, to_slices
from napari_mlbseg.task import Volume

__all__ = ["evenly", "find_volumes", "label_path", "load_volume", "read_volume", "shrunk", "with_clean"]


def find_volumes(pattern: str) -> list[Path]:
    """Images that match `pattern` and have a ``NAME_label`` file beside them, sorted."""
    images = [Path(p) for p in sorted(glob.glob(pattern)) if "_label" not in Path(p).name]
    found = [path for path in images if label_path(path).exists()]
    if not found:
        raise SystemExit(f"No image with a label file beside it matches {pattern}: check --volumes.")
    return found


def load_volume(path: Path, n_clean: int) -> Volume:
    """The volume with `n_clean` clean slices. Its `labels` are the whole truth; only the clean ones are learnt."""
    volume = read_volume(path)
    return with_clean(volume, evenly(np.asarray(volume.labels), n_clean))


def read_volume(path: Path) -> Volume:
    """The image at `path` with the whole truth beside it, and no clean slice."""
    image = read_image(path)
    axis = default_slice_axis(image.grid)
    truth = np.ascontiguousarray(to_slices(read_labels(label_path(path)), axis))
    return Volume(
        image.name,
        np.ascontiguousarray(to_slices(image, axis)),
        truth,
        _mask(len(truth), ()),
        spacing=slice_spacing(image.grid, axis),
        unit=image.unit,
    )


def evenly(truth: np.ndarray, n: int) -> list[int]:
    """`n` slices, evenly from the first to the last that shows the structure, of labels (Z, Y, X)."""
    shown = np.flatnonzero(truth.any((1, 2)))
    return np.round(np.linspace(shown[0], shown[-1], n)).astype(int).tolist()


def with_clean(volume: Volume, clean: Collection[int]) -> Volume:
    """The same volume with other clean slices."""
    return replace(volume, clean=_mask(volume.n_slices, clean))


def shrunk(volume: Volume, factor: int) -> Volume:
    """The same slices with `factor` times fewer rows and columns: means of the image, every nth pixel of the labels."""
    if factor == 1:
        return volume
    rows, columns = (side // factor * factor for side in volume.slice_shape)
    image = np.asarray(volume.image)[..., :rows, :columns].astype(np.float32)
    blocks = image.reshape(*image.shape[:-2], rows // factor, factor, columns // factor, factor)
    z, y, x = volume.spacing
    return replace(
        volume,
        image=blocks.mean((-3, -1)),
        labels=np.asarray(volume.labels)[:, factor // 2 : rows : factor, factor // 2 : columns : factor],
        spacing=(z, y * factor, x * factor),
    )


def _mask(n_slices: int, clean: Collection[int]) -> np.ndarray:
    mask = np.zeros(n_slices, bool)
    mask[list(clean)] = True
    return mask


def label_path(path: Path) -> Path:
    """Where the labels of an image are expected: ``NAME_label`` beside it."""
    name, suffix = path.name.split(".", 1)
    return path.with_name(f"{name}_label.{suffix}")
