"""A made-up volume that is larger than memory should ever have to hold, written slice by slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr
from scipy import ndimage

from napari_mlbseg.io.phantom import make_phantom

__all__ = ["make_huge_volume"]

_COARSE = 256  # rows and columns of the phantom that is enlarged
_CHUNK = 512


def make_huge_volume(folder: Path, shape: tuple[int, int, int], seed: int = 0) -> tuple[zarr.Array, zarr.Array]:
    """The phantom, enlarged, with noise of its own; what is there already is opened.

    Parameters
    ----------
    folder : Path
        Gets ``image.zarr`` (uint16) and ``truth.zarr`` (uint8).
    shape : tuple of int
        (Z, Y, X).
    """
    done = folder / "done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        chunks = (1, min(_CHUNK, shape[1]), min(_CHUNK, shape[2]))
        image = zarr.create_array(folder / "image.zarr", shape=shape, chunks=chunks, dtype=np.uint16, overwrite=True)
        truth = zarr.create_array(folder / "truth.zarr", shape=shape, chunks=chunks, dtype=np.uint8, overwrite=True)
        phantom = make_phantom((shape[0], _COARSE, _COARSE), seed=seed, noise=0)
        random = np.random.default_rng(seed)
        noise = random.normal(scale=170, size=shape[1:]).astype(np.float32)
        zoom = shape[1] / _COARSE, shape[2] / _COARSE
        for z in range(shape[0]):
            fine = ndimage.zoom(phantom.image[z].astype(np.float32), zoom, order=1)
            shifted = np.roll(noise, tuple(random.integers(0, 512, 2)), (0, 1))
            image[z] = np.clip(fine + shifted, 0, 4095).astype(np.uint16)
            truth[z] = ndimage.zoom(phantom.labels[z].astype(np.float32), zoom, order=1) > 0.5
        done.touch()
    return zarr.open_array(folder / "image.zarr", mode="r"), zarr.open_array(folder / "truth.zarr", mode="r")
