"""TIFF through tifffile: ImageJ's, OME's and plain files with their axes, resolution and units."""

from __future__ import annotations

import math
import struct
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_mlbseg._util.arrays import MAPPED_BYTES, ArrayView, native_byte_order
from napari_mlbseg._util.files import atomic_path
from napari_mlbseg.io.image_file import SERIES_MARK, ImageFile, ImageFileError, ImageGeometry
from napari_mlbseg.io.units import in_one_unit, unit_name

__all__ = ["TIFF_SUFFIXES", "TiffMetadata", "encode_tiff", "new_tiff_grid", "read_tiff", "write_tiff"]

TIFF_SUFFIXES = (".tif", ".tiff")

_IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
_IMAGEJ_BYTES = 2**32 - 2**25  # beyond, its files have places for no page but the first
#: What tifffile raises on files that are cut or overwritten.
_DAMAGE = (
    tifffile.TiffFileError,
    ElementTree.ParseError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_MOST_CHANNELS_OF_A_PLANE = 4
_CENTIMETRE = 3  # of the tag ResolutionUnit; inches are what printers and cameras write by habit


@dataclass(frozen=True, eq=False)
class TiffMetadata:
    """What only TIFF knows.

    Attributes
    ----------
    flavour : {"imagej", "ome", "plain"}
    resolution : tuple of (int, int), optional
        The tags XResolution and YResolution, as the fractions that the file holds.
    resolution_unit : int
        The tag ResolutionUnit.
    imagej : dict
        ``unit``, ``yunit``, ``zunit`` and ``spacing`` as ImageJ wrote them.
    ome : dict
        ``PhysicalSizeX``, ``PhysicalSizeXUnit`` and so on, as the file holds them.
    """

    flavour: Literal["imagej", "ome", "plain"]
    resolution: tuple[tuple[int, int], tuple[int, int]] | None
    resolution_unit: int
    imagej: dict[str, Any]
    ome: dict[str, Any]


def read_tiff(path: Path, number: int | None = None) -> ImageFile:
    """Read an image of a TIFF file.

    Axes of length 1 are dropped, but Y and X; samples (colours) count as channels. A large array stays on the disk.
    Pages that were written one by one, all alike, are a stack.

    Parameters
    ----------
    path : Path
    number : int, optional
        Of the file's images (tifffile calls them series); by default the largest.

    Raises
    ------
    ImageFileError
        If the file is damaged or no TIFF, it has no such image, or it is one of several files and another is missing.
    """
    notes: list[str] = []
    try:
        with tifffile.TiffFile(path) as file:
            _check_parts(file, path)
            if _is_paged(file) and number is None:
                pages = [series.asarray() for series in file.series]
                data, axes = np.stack(pages), f"Z{file.series[0].axes}"
            else:
                index, note = _chosen(file, path, number)
                series = file.series[index]
                notes += [note] if note else []
                data = _lazy(path, series, index) if series.nbytes > MAPPED_BYTES else series.asarray()
                axes = series.axes
                if data.shape != series.shape:
                    raise ValueError("pages are missing")
            format_metadata = _native(file)
    except ImageFileError:
        raise
    except _DAMAGE as error:
        if "imagecodecs" in str(error):
            raise ImageFileError(
                f"{path} is compressed in a way that needs another package: run 'pip install imagecodecs'."
            ) from error
        raise ImageFileError(
            f"{path} cannot be read as TIFF, it is truncated or damaged: copy or export it again."
        ) from error
    if data.dtype.kind not in "biuf":
        raise ImageFileError(f"{path} holds {data.dtype} numbers: convert it to real ones.")
    data, axes = _name_axes(native_byte_order(data), axes, path)
    sizes, unit, note = _spacing(format_metadata)
    notes += [f"{path.name}: {note}"] if note else []
    return ImageFile(
        path=path if number is None else path.with_name(f"{path.name}{SERIES_MARK}{number}"),
        format="tiff",
        suffix=next((suffix for suffix in TIFF_SUFFIXES if path.name.lower().endswith(suffix)), TIFF_SUFFIXES[0]),
        axes=axes,
        shape=data.shape,
        spacing=tuple(sizes.get(letter, 1.0) for letter in axes if letter != "C"),
        unit=unit,
        format_metadata=format_metadata,
        data=data,
        notes=tuple(notes),
    )


def write_tiff(path: Path, array: np.ndarray, axes: str, grid: ImageGeometry) -> None:
    """Write `array` with the resolution, units and flavour (ImageJ, OME, plain) of `grid`.

    ImageJ's flavour knows three number types and 4 GB; other arrays are written as OME with the same sizes.

    Parameters
    ----------
    path : Path
    array : ndarray
        In the file's order.
    axes : str
        Letters of its axes.
    grid : ImageGeometry
        Of a TIFF file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w+b") as file:
        encode_tiff(file, array, axes, grid)


def encode_tiff(file: BinaryIO, array: np.ndarray, axes: str, grid: ImageGeometry) -> None:
    """Write to an open file what `write_tiff` writes."""
    format_metadata: TiffMetadata = grid.format_metadata
    if format_metadata.flavour == "imagej" and array.dtype == np.int16 and array.min() >= 0:
        array = array.view(np.uint16)
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": axes}}
    if format_metadata.resolution is not None:
        options |= {"resolution": format_metadata.resolution, "resolutionunit": format_metadata.resolution_unit}
    is_imagej = (
        format_metadata.flavour == "imagej" and array.dtype.name in _IMAGEJ_DTYPES and array.nbytes < _IMAGEJ_BYTES
    )
    if is_imagej and set(axes) <= set("TZCYX"):
        options["imagej"] = True
        options["metadata"] |= {key: _in_ascii(value) for key, value in format_metadata.imagej.items()}
    elif format_metadata.flavour in ("ome", "imagej") and set(axes) <= set("TZCYX"):
        options["ome"] = True
        if array.dtype.kind in "iu" and array.dtype.itemsize == 8:  # OME has no such integers; doubles are as exact
            array = array.astype(np.float64)
        options["metadata"] |= format_metadata.ome or _ome_sizes(grid)
    tifffile.imwrite(file, np.ascontiguousarray(array), **options)


def _in_ascii(value: Any) -> Any:
    """A value as ImageJ's description holds it: a micro sign, which others write as it is, becomes an escape."""
    if not isinstance(value, str):
        return value
    return "".join(letter if letter.isascii() else f"\\u{ord(letter):04X}" for letter in value)


def new_tiff_grid(
    path: Path, axes: str, shape: tuple[int, ...], spacing: tuple[float, ...], unit: str
) -> ImageGeometry:
    """A grid for an array that comes from no TIFF file, to be written as ImageJ writes it.

    Parameters
    ----------
    path : Path
        Where it will be written.
    axes : str
        Letters among ``TZYX``.
    shape, spacing : tuples
        One value for each of `axes`, in `unit`.
    unit : str
    """
    sizes = dict(zip(axes, spacing, strict=True))
    imagej: dict[str, Any] = {"unit": unit}
    if "Z" in sizes:
        imagej["spacing"] = sizes["Z"]
    format_metadata = TiffMetadata(
        flavour="imagej",
        resolution=(_fraction(1 / sizes["X"]), _fraction(1 / sizes["Y"])),
        resolution_unit=1,
        imagej=imagej,
        ome={},
    )
    suffix = next(suffix for suffix in TIFF_SUFFIXES if path.name.lower().endswith(suffix))
    return ImageGeometry(
        path=path,
        format="tiff",
        suffix=suffix,
        axes=axes,
        shape=shape,
        spacing=spacing,
        unit=unit,
        format_metadata=format_metadata,
    )


def _native(file: tifffile.TiffFile) -> TiffMetadata:
    tags = file.pages.first.tags
    x, y = tags.get("XResolution"), tags.get("YResolution")
    resolution = None if x is None or y is None else (tuple(x.value), tuple(y.value))
    unit = tags.get("ResolutionUnit")
    kept = ("unit", "yunit", "zunit", "spacing")
    imagej = {key: value for key, value in (file.imagej_metadata or {}).items() if key in kept}
    ome: dict[str, Any] = {}
    if file.is_ome and file.ome_metadata:
        pixels = ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
        if pixels is not None:
            ome = {key: value for key, value in pixels.attrib.items() if key.startswith("PhysicalSize")}
            ome |= {key: float(value) for key, value in ome.items() if not key.endswith("Unit")}
    return TiffMetadata(
        flavour="ome" if file.is_ome else "imagej" if file.is_imagej else "plain",
        resolution=resolution,
        resolution_unit=1 if unit is None else int(unit.value),
        imagej=imagej,
        ome=ome,
    )


def _spacing(format_metadata: TiffMetadata) -> tuple[dict[str, float], str, str]:
    """Spacing by axis letter, its unit, and what a person should know of both."""
    if format_metadata.ome:
        sizes = {
            axis: format_metadata.ome[f"PhysicalSize{axis}"]
            for axis in "ZYX"
            if f"PhysicalSize{axis}" in format_metadata.ome
        }
        return _in_one_unit(
            sizes, {axis: str(format_metadata.ome.get(f"PhysicalSize{axis}Unit", "um")) for axis in sizes}
        )
    sizes = {}
    if format_metadata.resolution is not None:
        for axis, (numerator, denominator) in zip("XY", format_metadata.resolution, strict=True):
            sizes[axis] = denominator / numerator if numerator else 0.0
    if format_metadata.flavour == "imagej":
        unit = str(format_metadata.imagej.get("unit", ""))
        units = {
            "Z": str(format_metadata.imagej.get("zunit", unit)),
            "Y": str(format_metadata.imagej.get("yunit", unit)),
            "X": unit,
        }
        between = {"Z": float(format_metadata.imagej.get("spacing", 1.0))}
        if unit_name(unit) == "pixel":  # its resolution is what a printer would need
            return _in_one_unit(between, {"Z": "pixel"})
        sizes = between | {axis: sizes[axis] for axis in "YX" if axis in sizes}
        return _in_one_unit(sizes, {axis: units[axis] for axis in sizes})
    if format_metadata.flavour == "plain" and format_metadata.resolution_unit == _CENTIMETRE:
        return _in_one_unit({axis: 10 * size for axis, size in sizes.items()}, dict.fromkeys(sizes, "mm"))
    return {}, "pixel", ""


def _in_one_unit(sizes: dict[str, float], units: dict[str, str]) -> tuple[dict[str, float], str, str]:
    """Sizes in the unit of the last axis, that unit, and what a person should know of it."""
    factors, unit, note = in_one_unit(list(units.values()))
    notes = [note] if note else []
    if any(size < 0 for size in sizes.values()):
        notes.append("A negative spacing is taken as the distance that it is.")
    found = {axis: abs(size) * factor for (axis, size), factor in zip(sizes.items(), factors, strict=True)}
    usable = {axis: size for axis, size in found.items() if math.isfinite(size) and size > 0}
    return usable, unit, " ".join(notes)


def _check_parts(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse an OME image whose other files are missing: tifffile gives their slices as zeros."""
    if not (file.is_ome and file.ome_metadata):
        return
    nodes = ElementTree.fromstring(file.ome_metadata).iterfind(".//{*}UUID[@FileName]")
    named = {str(node.get("FileName")) for node in nodes}
    missing = sorted(name for name in named if name != path.name and not (path.parent / name).exists())
    renamed = path.name not in named and len(named) == 1  # a file that lies alone under another name is whole
    if missing and not renamed:
        raise ImageFileError(
            f"{path} is one of {len(named)} files of an image, and {missing[0]} is missing beside it: copy all of them."
        )


def _is_paged(file: tifffile.TiffFile) -> bool:
    """Whether a file's images are pages of one stack that was written page by page."""
    first = file.series[0]
    alike = all(series.shape == first.shape and series.dtype == first.dtype for series in file.series)
    return len(file.series) > 1 and alike and first.axes in ("YX", "YXS") and not (file.is_ome or file.is_imagej)


def _chosen(file: tifffile.TiffFile, path: Path, number: int | None) -> tuple[int, str]:
    """Which image of the file is read, and what there is to say of the others."""
    images = file.series
    if number is not None:
        if not 0 <= number < len(images):
            raise ImageFileError(f"{path} holds images 0 to {len(images) - 1}: there is no image {number}.")
        return number, ""
    largest = max(range(len(images)), key=lambda i: images[i].size)
    if len(images) == 1:
        return largest, ""
    others = ", ".join(f"{path.name}{SERIES_MARK}{i}" for i in range(len(images)) if i != largest)
    shape = " x ".join(map(str, images[largest].shape))
    return largest, f"{path} holds {len(images)} images, the largest ({shape}) is taken: name another as {others}."


def _lazy(path: Path, series: tifffile.TiffPageSeries, index: int) -> Any:
    """The array on the disk: mapped into memory where its bytes lie there as they are, else decoded page by page."""
    if series.dataoffset is not None:
        return tifffile.memmap(path, series=index, mode="r")
    import zarr

    store = tifffile.imread(path, aszarr=True, series=index)
    array = zarr.open(store, mode="r")
    if isinstance(array, zarr.Group):  # the first of several levels is the whole image
        array = array["0"]
    weakref.finalize(array, store.close)
    return ArrayView(array)


def _name_axes(data: Any, axes: str, path: Path) -> tuple[Any, str]:
    """Drop axes of length 1 but Y and X; call samples channels."""
    keep = [axis for axis, letter in enumerate(axes) if data.shape[axis] > 1 or letter in "YX"]
    if isinstance(data, ArrayView):
        data = ArrayView(data.array, keep, {axis: 0 for axis in range(data.ndim) if axis not in keep})
    else:
        data = data.reshape([data.shape[axis] for axis in keep])
    axes = "".join(axes[axis] for axis in keep)
    if "S" in axes and "C" in axes:
        raise ImageFileError(f"{path} has colours and channels: choose one channel first.")
    axes = axes.replace("S", "C")
    unnamed = [letter for letter in axes if letter not in "TZCYX"]
    if len(unnamed) == 1 and not {"T", "Z"} & set(axes):  # pages of a stack that nobody named, I or Q of tifffile
        axes = axes.replace(unnamed[0], "Z")
    if sorted(axes) == ["C", "X", "Y"] and data.shape[axes.index("C")] > _MOST_CHANNELS_OF_A_PLANE:
        axes = axes.replace("C", "Z")  # many programs write the slices of a stack as if they were channels
    return data, axes


def _ome_sizes(grid: ImageGeometry) -> dict[str, Any]:
    """OME's physical sizes for a grid that came without them."""
    if grid.unit == "pixel":
        return {}
    unit = {"um": "µm", "angstrom": "Å", "inch": "in"}.get(grid.unit, grid.unit)
    sizes = dict(zip(grid.stack_axes, grid.spacing, strict=True))
    metadata: dict[str, Any] = {f"PhysicalSize{axis}": sizes[axis] for axis in "XYZ" if axis in sizes}
    return metadata | {f"{key}Unit": unit for key in metadata}


def _fraction(value: float) -> tuple[int, int]:
    """A fraction of two 32-bit numbers, as TIFF stores resolutions, right to nine digits."""
    if value < 1:
        denominator, numerator = _fraction(1 / value)
        return numerator, denominator
    scale = 10 ** max(0, 9 - math.ceil(math.log10(value)))
    return round(value * scale), scale
