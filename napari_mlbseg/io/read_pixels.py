"""What a reader gave out: whether a layer shows it still, or was given other pixels or another place since."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["READ_KEY", "ReadPixels", "is_in_memory", "pixel_digest"]

#: Key of `ReadPixels` beside the `ImageGeometry` in a layer's metadata.
READ_KEY = "read"


class ReadPixels:
    """An image as it was read from a file.

    Parameters
    ----------
    pixels : array-like
        Remembered weakly.
    place : mapping, optional
        Where the file says that it lies: ``scale``, ``translate`` and ``units`` of its layer. None: not known, or
        elsewhere than the layer.
    digest : str, optional
        `pixel_digest` as it was read; by default that of the pixels now.
    """

    def __init__(self, pixels: Any, place: Mapping[str, Any] | None, digest: str | None = None) -> None:
        self._pixels = weakref.ref(pixels)
        self._place = place
        self.digest = pixel_digest(pixels) if digest is None else digest

    def is_same(self, pixels: Any) -> bool:
        """Whether it is this array, whatever was written into it."""
        return self._pixels() is pixels

    def lies_at(self, place: Mapping[str, Any]) -> bool:
        """Whether a layer with this ``scale``, ``translate``, ``units`` and so on lies where the file says."""
        if self._place is None:
            return False
        return all(np.allclose(self._place[name], place[name]) for name in ("scale", "translate")) and (
            _units(self._place) == _units(place)
            and all(_is_nothing(place[name]) for name in ("rotate", "affine", "shear"))
        )


def is_in_memory(pixels: Any) -> bool:
    """Whether somebody can write into an image: not into one that stays in its file."""
    return isinstance(pixels, np.ndarray) and not isinstance(_owner(pixels), np.memmap)


def pixel_digest(pixels: Any) -> str:
    """Fingerprint of an image in memory, however it lies there; empty for one that stays in its file."""
    if not is_in_memory(pixels) or pixels.ndim == 0:
        return ""
    digest = hashlib.sha1(usedforsecurity=False)  # twice as fast as others
    digest.update(f"{pixels.shape} {pixels.dtype.newbyteorder('=')}".encode())
    for part in pixels:
        digest.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("=")).data)
    return digest.hexdigest()


def _owner(pixels: np.ndarray) -> Any:
    while isinstance(pixels.base, np.ndarray) and not isinstance(pixels, np.memmap):
        pixels = pixels.base
    return pixels


def _units(place: Mapping[str, Any]) -> list[str]:
    """Units by their full names."""
    import pint  # napari brings it; it takes a while

    unit = pint.get_application_registry().Unit
    return [str(unit(str(name))) for name in place["units"]]


def _is_nothing(transform: Any) -> bool:
    """Whether a rotation, a shear or an affine matrix moves nothing."""
    matrix = np.asarray(transform, float)
    return np.allclose(matrix, np.eye(len(matrix)) if matrix.ndim == 2 else 0.0)
