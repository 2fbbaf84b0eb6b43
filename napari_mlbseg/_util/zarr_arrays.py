"""Zarr arrays on this machine. zarr takes a quarter of a second to import: it is loaded when an array is needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_mlbseg._util.arrays import plain_dtype

if TYPE_CHECKING:
    import zarr

__all__ = ["chunk_file", "create_array", "local_path", "open_array"]


def create_array(path: Path, shape: Sequence[int], chunks: Sequence[int], dtype: Any) -> zarr.Array[Any]:
    """Make an array, all zero; replaces what was there."""
    import zarr

    return zarr.create_array(
        path, shape=tuple(shape), chunks=tuple(chunks), dtype=plain_dtype(dtype), fill_value=0, overwrite=True
    )


def open_array(path: Path, mode: Literal["r", "r+"] = "r") -> zarr.Array[Any]:
    """Open an array that is there; raises FileNotFoundError."""
    import zarr

    return zarr.open_array(path, mode=mode)


def local_path(array: Any) -> Path | None:
    """Where a zarr array lies on this machine; None for any other array."""
    zarr = sys.modules.get("zarr")  # another thread may be importing it, and it may have no Array yet
    kind = getattr(zarr, "Array", None)
    if zarr is None or kind is None or not isinstance(array, kind):
        return None
    if not isinstance(array.store, zarr.storage.LocalStore):
        return None
    return (Path(array.store.root) / array.path).absolute()


def chunk_file(array: Path, z: int, n_axes: int) -> Path:
    """File of slice `z` of an array that has one chunk a slice; there is none if the slice is all zero."""
    return array.joinpath("c", str(z), *["0"] * (n_axes - 1))
