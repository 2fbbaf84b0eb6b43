"""Zarr through zarr: plain arrays, and OME-Zarr images with scale and smaller copies, read where they lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg._util.arrays import ArrayView, plain_dtype
from napari_mlbseg._util.files import atomic_path
from napari_mlbseg.io.image_file import ImageFile, ImageFileError, ImageGeometry
from napari_mlbseg.io.units import in_one_unit, is_length, word_of

__all__ = [
    "ZARR_SUFFIXES",
    "ZarrMetadata",
    "is_zarr",
    "new_zarr_grid",
    "ome_metadata",
    "read_zarr",
    "write_zarr",
    "zarr_array",
]

ZARR_SUFFIXES = (".ome.zarr", ".zarr")

_LETTERS = "TCZYX"
_CHUNK = 512  # rows and columns of what is written, at most


@dataclass(frozen=True, eq=False)
class ZarrMetadata:
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
        A folder: the array itself, a group that holds one array or image (as bioformats2raw and OME's groups of labels
        do), or an OME-Zarr image.

    Raises
    ------
    ImageFileError
        If it is none of these, has several time points and slices, or holds no real numbers.
    """
    import zarr

    try:
        node, notes = _only_image(zarr.open(path, mode="r"), path)
        described = None if isinstance(node, zarr.Array) else _multiscale(node.attrs)
        opened = _plain(node, path) if described is None else _ome(node, described)
        arrays, axes, scale, translation, unit, note = opened
        notes += [f"{path.name}: {note}"] if note else []
    except ImageFileError:
        raise
    except (OSError, KeyError, ValueError, TypeError, LookupError) as error:
        raise ImageFileError(
            f"{path} cannot be read as zarr ({error}): give the folder of an array or of an OME-Zarr image."
        ) from error
    if np.dtype(arrays[0].dtype).kind not in "biuf":
        raise ImageFileError(f"{path} holds {arrays[0].dtype} numbers: convert it to real ones.")
    fixed = {axis: 0 for axis, n in enumerate(arrays[0].shape) if n == 1 and axes[axis] not in "YX"}
    is_movie = "T" in axes and axes.index("T") not in fixed
    if is_movie and "Z" in axes and axes.index("Z") not in fixed:
        raise ImageFileError(f"{path} has {arrays[0].shape[axes.index('T')]} time points: choose one first.")
    if any(step < 0 for step in scale):
        notes.append(f"{path.name}: A negative spacing is taken as the distance that it is.")
    levels = tuple(ArrayView(array, fixed=fixed) for array in arrays)
    kept = [axis for axis in range(len(axes)) if axis not in fixed]
    in_space = [axis for axis in kept if axes[axis] != "C"]
    return ImageFile(
        path=path,
        format="zarr",
        suffix=next((suffix for suffix in ZARR_SUFFIXES if path.name.lower().endswith(suffix)), ZARR_SUFFIXES[-1]),
        axes="".join(axes[axis] for axis in kept),
        shape=levels[0].shape,
        spacing=tuple(abs(scale[axis]) or 1.0 for axis in in_space),
        unit=unit,
        format_metadata=ZarrMetadata(
            array=os.path.relpath(_place(arrays[0]), path),
            levels=levels,
            translation=tuple(translation[axis] for axis in in_space),
            is_ome=described is not None,
        ),
        data=levels[0],
        notes=tuple(notes),
    )


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group, whatever its name."""
    return path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))


def zarr_array(array: Any) -> tuple[Path, Any] | None:
    """Where the zarr array below an array on this machine lies, and the view of it; None for any other array."""
    import zarr

    view = array if isinstance(array, ArrayView) else None
    base = array.array if view is not None else array
    if not isinstance(base, zarr.Array) or not isinstance(base.store, zarr.storage.LocalStore):
        return None
    return _place(base), ArrayView(base) if view is None else view


def write_zarr(path: Path, array: Any, axes: str, grid: ImageGeometry) -> None:
    """Write an array as an OME-Zarr image (0.5) of one level, slice by slice along its first axis.

    Parameters
    ----------
    path : Path
        What was there is replaced.
    array : array-like
        In the order of the file.
    axes : str
        Letters of its axes: those of `grid`, with or without channels.
    grid : ImageGeometry
        Its spacing and unit are taken over.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """
    import zarr

    with atomic_path(path) as temporary:
        group = zarr.create_group(temporary)
        chunks = [min(_CHUNK, n) if letter in "YX" else 1 for n, letter in zip(array.shape, axes, strict=True)]
        dtype = plain_dtype(array.dtype)
        target = group.create_array("0", shape=array.shape, chunks=tuple(chunks), dtype=dtype, fill_value=0)
        for index in range(array.shape[0]):
            target[index] = np.asarray(array[index])
        group.attrs["ome"] = ome_metadata(path.name, axes, grid)
        shutil.rmtree(path, ignore_errors=True)


def new_zarr_grid(
    path: Path,
    axes: str,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    translation: tuple[float, ...],
    unit: str,
) -> ImageGeometry:
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
    return ImageGeometry(
        path=path,
        format="zarr",
        suffix=next(suffix for suffix in ZARR_SUFFIXES if path.name.lower().endswith(suffix)),
        axes=axes,
        shape=shape,
        spacing=spacing,
        unit=unit,
        format_metadata=ZarrMetadata(array="0", levels=(), translation=translation, is_ome=True),
    )


def _place(array: Any) -> Path:
    return (Path(array.store.root) / array.path).absolute()


# levels, axes, scale, translation, unit, note
_Opened = tuple[Sequence[Any], str, Sequence[float], Sequence[float], str, str]


def _only_image(node: Any, path: Path) -> tuple[Any, list[str]]:
    """The array or image that a folder is, or the first one in a folder of several, and what there is to say of it."""
    import zarr

    if isinstance(node, zarr.Array) or _multiscale(node.attrs) is not None:
        return node, []
    images = sorted(name for name, group in node.groups() if _multiscale(group.attrs) is not None)
    if not images:
        return node, []
    layout = node.attrs.get("ome", node.attrs).get("bioformats2raw.layout")
    if len(images) > 1 and layout is None:
        listed = ", ".join(str(path / name) for name in images)
        raise ImageFileError(f"{path} holds {len(images)} images: give the folder of one, {listed}.")
    others = ", ".join(str(path / name) for name in images[1:])
    said = f"{path} holds {len(images)} images, the first is taken: name another as {others}." if others else ""
    return node[images[0]], [said] if said else []


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
    axes = _checked("".join(name[0].upper() for name in names), n)
    in_space = [axis for axis, letter in enumerate(axes) if letter in "ZYX"]
    written = [axis.get("unit", "") if isinstance(axis, dict) else "" for axis in described]
    factors, unit, note = in_one_unit([str(written[axis]) for axis in in_space])
    scale[in_space] *= factors
    translation[in_space] *= factors
    return arrays, axes, scale.tolist(), translation.tolist(), unit, note


def _plain(node: Any, path: Path) -> _Opened:
    """A zarr array, or the only one of a group."""
    import zarr

    arrays = [node] if isinstance(node, zarr.Array) else [array for _, array in node.arrays()]
    if len(arrays) != 1:
        listed = ", ".join(str(path / array.basename) for array in sorted(arrays, key=lambda array: array.basename))
        advice = f"give the folder of one array, {listed}" if arrays else "give the folder of an array or of an image"
        raise ImageFileError(f"{path} holds {len(arrays)} arrays and no OME-Zarr image: {advice}.")
    n = arrays[0].ndim
    names: Any = arrays[0].metadata.to_dict().get("dimension_names") or arrays[0].attrs.get("_ARRAY_DIMENSIONS")
    letters = "".join(str(name)[:1].upper() for name in names) if names and None not in names else ""
    known = len(set(letters)) == n and set(letters) <= set(_LETTERS)
    axes = letters if known else {4: "ZCYX"}.get(n, _LETTERS[-n:] if n <= len(_LETTERS) else "")
    return arrays, _checked(axes, n), [1.0] * n, [0.0] * n, "pixel", ""


def _checked(axes: str, n: int) -> str:
    if len(axes) != n or len(set(axes)) != n or not {"Y", "X"} <= set(axes) <= set(_LETTERS):
        raise ImageFileError(
            f"The axes of the zarr array are '{axes}' ({n} of them): axes among t, c, z, y, x are read."
        )
    return axes


def ome_metadata(name: str, axes: str, grid: ImageGeometry) -> dict[str, Any]:
    """What describes an array with `axes` in the space of `grid` as an OME-Zarr image of one level."""
    spacing = dict(zip(grid.stack_axes, grid.spacing, strict=True))
    format_metadata = grid.format_metadata
    moved = format_metadata.translation if isinstance(format_metadata, ZarrMetadata) else (0.0,) * len(grid.stack_axes)
    translation = dict(zip(grid.stack_axes, moved, strict=True))
    unit = {"unit": word_of(grid.unit)} if is_length(grid.unit) else {}
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
