"""NIfTI through nibabel: the header of an image is carried over to its results byte by byte."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError as NibabelError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from napari_mlbseg._util.arrays import MAPPED_BYTES, ArrayView, native_byte_order
from napari_mlbseg._util.files import atomic_path
from napari_mlbseg.io.image_file import ImageFile, ImageFileError, ImageGeometry
from napari_mlbseg.io.units import conversion_factor, is_length

__all__ = [
    "NIFTI_SUFFIXES",
    "MAX_CHANNELS",
    "NiftiMetadata",
    "encode_nifti",
    "has_nifti_name",
    "is_nifti",
    "nifti_grid_with_affine",
    "read_nifti",
    "write_nifti",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
#: A fourth axis of at most this length is taken for channels, a longer one for time.
MAX_CHANNELS = 16

_GZIP = b"\x1f\x8b"
_GZIP_LEVEL = 1  # noise hardly shrinks further, and level 6 takes five times as long
_UNITS = {"mm": "mm", "micron": "um", "meter": "m", "unknown": "mm"}  # nobody stores metres without saying so
_UNIT_CODES = {"mm": "mm", "um": "micron", "m": "meter"}


@dataclass(frozen=True, eq=False)
class NiftiMetadata:
    """What only NIfTI knows.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        Voxel indices to world coordinates.
    header : nibabel.Nifti1Header
        With sform, qform, their codes, zooms and units.
    """

    affine: np.ndarray
    header: Any


def read_nifti(path: Path) -> ImageFile:
    """Read a NIfTI file.

    Axes are ``IJK`` and, for a short fourth axis, ``C``; a 2D image over time is ``IJT``. Intensities are scaled as the
    header says; without a scale they keep their number type. A large array that is not compressed stays on the disk.

    Raises
    ------
    ImageFileError
        If the file is damaged, no NIfTI, or a 4D time series.
    """
    try:
        image, is_compressed = _open(path, mmap=False)
        stays = _bytes(image) > MAPPED_BYTES and not is_compressed
        data = native_byte_order(_lazy_voxels(path) if stays else _voxels(image))
    except (NibabelError, HeaderDataError, WrapStructError, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
            raise
        raise ImageFileError(
            f"{path} cannot be read as NIfTI, it is truncated or damaged: copy or export it again."
        ) from error
    if data.dtype.kind not in "biuf":
        raise ImageFileError(f"{path} holds colours or complex numbers: convert it to one number a voxel.")
    data, axes = _name_axes(data, path)
    zooms = [abs(float(zoom)) or 1.0 for zoom in image.header.get_zooms()[:3]]
    zooms += [1.0] * (3 - len(zooms))
    return ImageFile(
        path=path,
        format="nifti",
        suffix=next((suffix for suffix in NIFTI_SUFFIXES if path.name.lower().endswith(suffix)), NIFTI_SUFFIXES[0]),
        axes=axes,
        shape=data.shape,
        spacing=tuple(zooms["IJK".index(letter)] if letter in "IJK" else 1.0 for letter in axes if letter != "C"),
        unit=_UNITS.get(image.header.get_xyzt_units()[0], "mm"),
        format_metadata=NiftiMetadata(affine=image.affine, header=image.header.copy()),
        data=data,
    )


def write_nifti(path: Path, array: np.ndarray, axes: str, grid: ImageGeometry) -> None:
    """Write `array` into the space of `grid`: same affine, qform, sform, their codes, zooms and units.

    Parameters
    ----------
    path : Path
        Compressed if it ends in ``.gz``.
    array : ndarray
        In the file's order, of a type that NIfTI knows (see `compact`).
    axes : str
        Letters of its axes: those of `grid`, channels last or none.
    grid : ImageGeometry
        Of a NIfTI file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w+b") as file:
        encode_nifti(file, array, axes, grid, path.name.endswith(".gz"))


def encode_nifti(file: BinaryIO, array: np.ndarray, axes: str, grid: ImageGeometry, compress: bool) -> None:
    """Write to an open file what `write_nifti` writes."""
    format_metadata: NiftiMetadata = grid.format_metadata
    if "T" in axes:  # a 2D image over time: its third axis is stored with length 1
        array = np.expand_dims(array, 2)
    header = format_metadata.header.copy()  # sform, qform and their codes stay as they are
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header["pixdim"][1:4] = format_metadata.header["pixdim"][1:4]  # of fewer axes, the shape forgets the thickness
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the display range was that of the image
    header.set_intent("none")
    if not compress:
        _write_parts(file, array, header)
        return
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, filename="", mtime=0) as compressed:
        _write_parts(compressed, array, header)


def _write_parts(file: Any, array: np.ndarray, header: Any) -> None:
    """Write header and array, a slice at a time: nibabel itself has a whole channel in memory."""
    header.write_to(file)
    file.write(bytes(header.get_data_offset() - file.tell()))
    stored = header.get_data_dtype()
    for index in np.ndindex(array.shape[:1:-1]):
        plane = array[(..., *index[::-1])]
        file.write(plane.astype(stored, copy=False).tobytes(order="F"))


def nifti_grid_with_affine(path: Path, shape: tuple[int, ...], affine: np.ndarray, unit: str) -> ImageGeometry:
    """A grid for an array that comes from no NIfTI file: axes ``IJK``.

    Parameters
    ----------
    path : Path
        Where it will be written.
    shape : tuple of length 3
        Along (i, j, k).
    affine : ndarray, (4, 4)
        Indices along (i, j, k) to the world (x, y, z), in `unit`.
    unit : str
        Lengths that NIfTI has no unit for are converted to millimetres.
    """
    if unit not in _UNIT_CODES:
        affine, unit = np.diag([*[conversion_factor(unit, "mm")] * 3, 1.0]) @ affine, "mm" if is_length(unit) else unit
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code="aligned")
    header.set_qform(affine, code="aligned", strip_shears=True)  # which has no place for a shear
    header.set_xyzt_units(_UNIT_CODES.get(unit, "unknown"))
    return ImageGeometry(
        path=path,
        format="nifti",
        suffix=next(suffix for suffix in NIFTI_SUFFIXES if path.name.lower().endswith(suffix)),
        axes="IJK",
        shape=shape,
        spacing=tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0)),
        unit=unit,
        format_metadata=NiftiMetadata(affine=header.get_best_affine(), header=header),
    )


def _open(path: Path, mmap: bool) -> tuple[Any, bool]:
    """An image of nibabel's, and whether all of it has to be read; what the file holds decides, and not its name."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == _GZIP
    if is_compressed == path.name.lower().endswith(".gz") and has_nifti_name(path):
        return nibabel.load(path, mmap=mmap), is_compressed
    content = gzip.decompress(path.read_bytes()) if is_compressed else path.read_bytes()
    kind = nibabel.Nifti2Image if 540 in _first_number(content[:4]) else nibabel.Nifti1Image
    return kind.from_bytes(content), True


def has_nifti_name(path: Path) -> bool:
    """Whether a file is called as NIfTI files are."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def is_nifti(first: bytes) -> bool:
    """Whether the first four bytes of a file, not compressed, are those of a NIfTI header (348 or 540)."""
    return not {348, 540}.isdisjoint(_first_number(first))


def _first_number(first: bytes) -> set[int]:
    return {int.from_bytes(first, "little"), int.from_bytes(first, "big")}


def _bytes(image: Any) -> int:
    return math.prod(image.shape) * int(image.get_data_dtype().itemsize)


def _lazy_voxels(path: Path) -> Any:
    """The array on the disk: mapped into memory, or, where the header has a scale, read part by part."""
    proxy = _open(path, mmap=True)[0].dataobj
    if (proxy.slope, proxy.inter) != (1.0, 0.0):
        return ArrayView(_Scaled(proxy))
    return np.asanyarray(proxy)


class _Scaled:
    """An array whose numbers are scaled when they are read."""

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy
        self.shape, self.ndim, self.dtype = proxy.shape, proxy.ndim, np.dtype(np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._proxy[key]).astype(self.dtype)


def _voxels(image: Any) -> np.ndarray:
    """The scaled array; nibabel scales to float64, of which short integers do not need the half."""
    data = np.asanyarray(image.dataobj)
    stored = image.get_data_dtype()
    return data.astype(np.float32) if data.dtype != stored and stored.itemsize <= 2 else data


def _name_axes(data: Any, path: Path) -> tuple[Any, str]:
    """Drop axes of length 1 beyond the third, and name the rest."""
    if isinstance(data, ArrayView):
        data = ArrayView(data.array, fixed={axis: 0 for axis in range(3, data.ndim) if data.shape[axis] == 1})
    else:
        data = data.reshape(*data.shape[:3], *(n for n in data.shape[3:] if n > 1))
    if data.ndim <= 3:
        return data, "IJK"[: data.ndim]
    if data.ndim == 4 and data.shape[2] == 1:
        return (data.take(0, 2) if isinstance(data, ArrayView) else data[:, :, 0]), "IJT"
    if data.ndim == 4 and data.shape[3] <= MAX_CHANNELS:
        return data, "IJKC"
    shape = " x ".join(map(str, data.shape))
    raise ImageFileError(f"{path} is a series of volumes ({shape}): choose one volume first.")
