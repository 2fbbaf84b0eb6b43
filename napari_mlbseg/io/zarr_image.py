"""Zarr through zarr: plain arrays, and OME-Zarr images with scale and smaller copies, read where they lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg.io.array_view import ArrayView, plain_dtype
from napari_mlbseg.io.image_file import FileGrid, ImageFile, ImageFileError

__all__ = ["ZARR_SUFFIXES", "ZarrNative", "new_zarr_grid", "ome_metadata", "read_zarr", "write_zarr", "zarr_array"]

ZARR_SUFFIXES = (".ome.zarr", ".zarr")

_UNITS = {"nanometer": "nm", "micrometer": "um", "millimeter": "mm", "centimeter": "cm", "meter": "m", "inch": "inch"}
_LETTERS = "TCZYX"
_CHUNK = 512  # rows and columns of what is written, at most


@dataclass(frozen=True, eq=False)
class ZarrNative:
    """What only zarr knows.

    Attributes
    ----------
    array : str
        Path of the array at full resolution, relative to the image's.
    levels : tuple of ArrayView
        The image at full resolution and its smaller copies, as `ImageFile.data` has it.
    translation : tuple of float
        Of the first voxel, along the image's axes without channels, in the unit of the spacing.
    is_ome : bool
        Whether it is an OME-Zarr image.
    """

    array: str
    levels: tuple[ArrayView, ...]
    translation: tuple[float, ...]
    is_ome: bool


def read_zarr(path: Path) -> ImageFile:
    """Open a zarr array or an OME-Zarr image (0.4 or 0.5); nothing but its metadata is read.

    Parameters
    ----------
    path : Path
        A folder: the array itself, a group that holds one array, or an OME-Zarr image.

    Raises
    ------
    ImageFileError
        If it is none of these, has several time points, or holds no real numbers.
    """
    import zarr

    try:
        node = zarr.open(path, mode="r")
        described = None if isinstance(node, zarr.Array) else _multiscale(node.attrs)
        arrays, axes, scale, translation, unit = _plain(node) if described is None else _ome(node, described)
    except ImageFileError:
        raise
    except (OSError, KeyError, ValueError, TypeError, LookupError) as error:
        raise ImageFileError(
            f"{path} cannot be read as zarr ({error}): give the folder of an array or of an OME-Zarr image."
        ) from error
    if np.dtype(arrays[0].dtype).kind not in "biuf":
        raise ImageFileError(f"{path} holds {arrays[0].dtype} numbers: convert it to real ones.")
    fixed = {axis: 0 for axis, n in enumerate(arrays[0].shape) if n == 1 and axes[axis] not in "YX"}
    if "T" in axes and axes.index("T") not in fixed:
        raise ImageFileError(f"{path} has {arrays[0].shape[axes.index('T')]} time points: choose one first.")
    levels = tuple(ArrayView(array, fixed=fixed) for array in arrays)
    kept = [axis for axis in range(len(axes)) if axis not in fixed]
    in_space = [axis for axis in kept if axes[axis] != "C"]
    return ImageFile(
        path=path,
        format="zarr",
        suffix=next(suffix for suffix in (*ZARR_SUFFIXES, "") if path.name.lower().endswith(suffix)),
        axes="".join(axes[axis] for axis in kept),
        shape=levels[0].shape,
        spacing=tuple(scale[axis] for axis in in_space),
        unit=unit,
        native=ZarrNative(
            array=os.path.relpath(_place(arrays[0]), path),
            levels=levels,
            translation=tuple(translation[axis] for axis in in_space),
            is_ome=described is not None,
        ),
        data=levels[0],
    )


def zarr_array(array: Any) -> tuple[Path, Any] | None:
    """Where the zarr array below an array on this machine lies, and the view of it; None for any other array."""
    import zarr

    view = array if isinstance(array, ArrayView) else None
    base = array.array if view is not None else array
    if not isinstance(base, zarr.Array) or not isinstance(base.store, zarr.storage.LocalStore):
        return None
    return _place(base), ArrayView(base) if view is None else view


def write_zarr(path: Path, array: Any, axes: str, grid: FileGrid) -> None:
    """Write an array as an OME-Zarr image (0.5) of one level, slice by slice along its first axis.

    Parameters
    ----------
    path : Path
        What was there is replaced.
    array : array-like
        In the order of the file.
    axes : str
        Letters of its axes: those of `grid`, with or without channels.
    grid : FileGrid
        Its spacing and unit are taken over.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """
    import zarr

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        group = zarr.create_group(temporary)
        chunks = [min(_CHUNK, n) if letter in "YX" else 1 for n, letter in zip(array.shape, axes, strict=True)]
        dtype = plain_dtype(array.dtype)
        target = group.create_array("0", shape=array.shape, chunks=tuple(chunks), dtype=dtype, fill_value=0)
        for index in range(array.shape[0]):
            target[index] = np.asarray(array[index])
        group.attrs["ome"] = ome_metadata(path.name, axes, grid)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def new_zarr_grid(
    path: Path,
    axes: str,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    translation: tuple[float, ...],
    unit: str,
) -> FileGrid:
    """A grid for an array that comes from no zarr image.

    Parameters
    ----------
    path : Path
        Where it will be written.
    axes : str
        Letters among ``TZYX``.
    shape, spacing, translation : tuples
        One value for each of `axes`, in `unit`.
    unit : str
    """
    return FileGrid(
        path=path,
        format="zarr",
        suffix=next(suffix for suffix in ZARR_SUFFIXES if path.name.lower().endswith(suffix)),
        axes=axes,
        shape=shape,
        spacing=spacing,
        unit=unit,
        native=ZarrNative(array="0", levels=(), translation=translation, is_ome=True),
    )


def _place(array: Any) -> Path:
    return (Path(array.store.root) / array.path).absolute()


_Opened = tuple[Sequence[Any], str, Sequence[float], Sequence[float], str]  # levels, axes, scale, translation, unit


def _multiscale(attributes: Mapping[str, Any]) -> Any | None:
    """The first image that OME's metadata describe; None where there are none."""
    images = attributes.get("ome", attributes).get("multiscales")
    return images[0] if images else None


def _ome(group: Any, image: Mapping[str, Any]) -> _Opened:
    """Levels and geometry of an OME-Zarr image."""
    arrays = [group[dataset["path"]] for dataset in image["datasets"]]
    n = arrays[0].ndim
    described = image.get("axes") or [letter.lower() for letter in _LETTERS[-n:]]  # before 0.3 there were no names
    names = [axis if isinstance(axis, str) else axis["name"] for axis in described]
    scale, translation = np.ones(n), np.zeros(n)
    for step in (
        *image["datasets"][0].get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        if step["type"] == "scale":
            scale, translation = scale * step["scale"], translation * step["scale"]
        elif step["type"] == "translation":
            translation = translation + step["translation"]
    units = [_UNITS.get(axis.get("unit", ""), "pixel") for axis in described if isinstance(axis, dict)]
    in_space = [unit for unit, name in zip(units, names, strict=False) if name.upper() in "ZYX"]
    unit = in_space[-1] if in_space and len(set(in_space)) == 1 else "pixel"
    return arrays, _checked("".join(name[0].upper() for name in names), n), scale.tolist(), translation.tolist(), unit


def _plain(node: Any) -> _Opened:
    """A zarr array, or the only one of a group."""
    import zarr

    arrays = [node] if isinstance(node, zarr.Array) else [array for _, array in node.arrays()]
    if len(arrays) != 1:
        raise ImageFileError(
            f"{node.store_path} holds {len(arrays)} arrays and no OME-Zarr image: give the folder of one array."
        )
    n = arrays[0].ndim
    names: Any = arrays[0].metadata.to_dict().get("dimension_names") or arrays[0].attrs.get("_ARRAY_DIMENSIONS")
    letters = "".join(str(name)[:1].upper() for name in names) if names and None not in names else ""
    known = len(set(letters)) == n and set(letters) <= set(_LETTERS)
    axes = letters if known else {4: "ZCYX"}.get(n, _LETTERS[-n:] if n <= len(_LETTERS) else "")
    return arrays, _checked(axes, n), [1.0] * n, [0.0] * n, "pixel"


def _checked(axes: str, n: int) -> str:
    if len(axes) != n or len(set(axes)) != n or not {"Y", "X"} <= set(axes) <= set(_LETTERS):
        raise ImageFileError(
            f"The axes of the zarr array are '{axes}' ({n} of them): axes among t, c, z, y, x are read."
        )
    return axes


def ome_metadata(name: str, axes: str, grid: FileGrid) -> dict[str, Any]:
    """What describes an array with `axes` in the space of `grid` as an OME-Zarr image of one level."""
    words = {short: long for long, short in _UNITS.items()}
    spacing = dict(zip(grid.stack_axes, grid.spacing, strict=True))
    native = grid.native
    moved = native.translation if isinstance(native, ZarrNative) else (0.0,) * len(grid.stack_axes)
    translation = dict(zip(grid.stack_axes, moved, strict=True))
    unit = {"unit": words[grid.unit]} if grid.unit in words else {}
    kinds = {"C": {"type": "channel"}, "T": {"type": "time"}}
    steps = [
        {"type": "scale", "scale": [spacing.get(letter, 1.0) for letter in axes]},
        {"type": "translation", "translation": [translation.get(letter, 0.0) for letter in axes]},
    ]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": letter.lower(), **kinds.get(letter, {"type": "space", **unit})} for letter in axes],
                "datasets": [{"path": "0", "coordinateTransformations": steps}],
            }
        ],
    }
