"""Images, labels and results by path: the format follows from the suffix."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.spatialimages import HeaderDataError

from napari_mlbseg._util.arrays import MAPPED_BYTES, ArrayView, is_on_disk
from napari_mlbseg.io.disk_buffered_write import write_disk_buffered
from napari_mlbseg.io.image_file import (
    SERIES_MARK,
    ImageFile,
    ImageFileError,
    ImageGeometry,
    compact,
    from_slices,
    split_series,
)
from napari_mlbseg.io.nifti import NIFTI_SUFFIXES, encode_nifti, is_nifti, read_nifti, write_nifti
from napari_mlbseg.io.ome_zarr import ZARR_SUFFIXES, is_zarr, ome_metadata, read_zarr, write_zarr
from napari_mlbseg.io.tiff import TIFF_SUFFIXES, encode_tiff, read_tiff, write_tiff

__all__ = [
    "SUFFIXES",
    "as_labels",
    "check_writable",
    "has_known_suffix",
    "is_image_path",
    "read_image",
    "read_labels",
    "write_array",
    "write_result",
]

SUFFIXES = NIFTI_SUFFIXES + TIFF_SUFFIXES + ZARR_SUFFIXES


def has_known_suffix(path: str | os.PathLike[str], suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether the name ends in one of `suffixes`, whatever the case."""
    return os.fspath(path).rstrip("/\\").lower().endswith(suffixes)


def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Read a NIfTI or TIFF file or a zarr image; what it holds decides, and not its name.

    Of a TIFF file with several images, ``NAME.tif#1`` is the second. An array of more than a quarter of a gigabyte
    stays on the disk, and what is asked for is read: always of zarr, of NIfTI unless it is compressed, of TIFF.

    Raises
    ------
    ImageFileError
        If the file is missing, of another format, truncated or damaged: one sentence that says what to do.
    """
    path, number = split_series(Path(path))
    if not path.exists():
        raise ImageFileError(f"{path} does not exist: check its name.")
    try:
        kind = _format_of(path)
        if kind is None:
            raise ImageFileError(f"{path} is no NIfTI, TIFF or zarr: give a file that ends in {', '.join(SUFFIXES)}.")
        if number is not None and kind != "tiff":
            raise ImageFileError(f"{path} is one image: leave out {SERIES_MARK}{number}.")
        return read_tiff(path, number) if kind == "tiff" else read_zarr(path) if kind == "zarr" else read_nifti(path)
    except OSError as error:
        raise ImageFileError(f"{path} cannot be read ({error.strerror or error}): check the file.") from error


def read_labels(path: str | os.PathLike[str]) -> ImageFile:
    """Read a file of label numbers; whole numbers that the file holds as floats become integers.

    Raises
    ------
    ImageFileError
        As `read_image`, and if the file has channels or values that are not whole numbers.
    """
    return as_labels(read_image(path))


def as_labels(labels: ImageFile) -> ImageFile:
    """An image whose numbers are label numbers; raises as `read_labels`."""
    path = labels.path
    if labels.channel_axis is not None:
        raise ImageFileError(f"{path} has channels: labels are one number a voxel, so give a file without channels.")
    if labels.data.dtype.kind in "iu":
        return labels
    if labels.data.dtype.kind == "f":
        for part in labels.data if is_on_disk(labels.data) else (labels.data,):
            # A scale in the header, such as 1/255, leaves the last digits of whole numbers open.
            whole = np.isfinite(part) & (np.abs(part - np.rint(part)) < 1e-4)
            if not whole.all():
                raise ImageFileError(
                    f"{path} holds values such as {part[~whole].flat[0]:g}, which are no label numbers: give integers "
                    "(0 = background)."
                )
    if is_on_disk(labels.data):
        return replace(labels, data=ArrayView(_WholeNumbers(labels.data)))
    dtype = np.uint8 if labels.data.dtype.kind == "b" else np.int64
    return replace(labels, data=np.rint(labels.data).astype(dtype) if dtype is np.int64 else labels.data.astype(dtype))


class _WholeNumbers:
    """Truth values or reals on the disk, as integers when they are read."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape, self.ndim = array.shape, array.ndim
        self.dtype = np.dtype(np.uint8 if array.dtype.kind == "b" else np.int64)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.rint(np.asarray(self._array[key]).astype(np.float64)).astype(self.dtype)


def is_image_path(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an image that may be read: of a file by its suffix, of a folder by what it holds."""
    file, _ = split_series(Path(path))
    return is_zarr(file) or (file.is_file() and has_known_suffix(file))


def _format_of(path: Path) -> Literal["nifti", "tiff", "zarr"] | None:
    """The format of what a path holds; where that tells nothing (a damaged file), of its name."""
    if is_zarr(path) or (path.is_dir() and has_known_suffix(path, ZARR_SUFFIXES)):
        return "zarr"
    if path.is_dir():
        return None
    with path.open("rb") as file:
        first = file.read(4)
    if first[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if is_nifti(first):
        return "nifti"
    formats: dict[Literal["nifti", "tiff", "zarr"], tuple[str, ...]]
    formats = {"nifti": NIFTI_SUFFIXES, "tiff": TIFF_SUFFIXES, "zarr": ZARR_SUFFIXES}  # compressed, or damaged
    return next((kind for kind, suffixes in formats.items() if has_known_suffix(path, suffixes)), None)


def write_result(
    stem: str | os.PathLike[str], array: Any, like: ImageGeometry, slice_axis: int, *, suffix: str | None = None
) -> Path:
    """Write a result beside others, in the format and the space of the image that it belongs to.

    Parameters
    ----------
    stem : path
        Without suffix; that of `like` is added.
    array : array-like, (Z, Y, X) or (Z, C, Y, X)
        Zarr is written slice by slice as it is; for other formats label numbers get the smallest integer type that
        holds them, and real numbers become float32. Of more than a quarter of a gigabyte, a slice at a time is in
        memory, and beside the file there is a temporary one of the same size.
    like : ImageGeometry
        The image.
    slice_axis : int
        The image's axis along which Z lies (see `default_slice_axis`).
    suffix : str, optional
        Another suffix of the same format.

    Returns
    -------
    Path
        The file that was written; it appears as a whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    ImageFileError
        If a label number is too large.
    """
    stem = Path(stem)
    path = stem.with_name(stem.name + (suffix or like.suffix))
    stored, axes = from_slices(array, like, slice_axis)
    write_array(path, stored, axes, like)
    return path


def check_writable(like: ImageGeometry, slice_axis: int) -> None:
    """Try, before anything long begins, what results need: an empty one is encoded in memory.

    Parameters are those of `write_result`.

    Raises
    ------
    ImageFileError
        If the file's header cannot be repeated.
    """
    for empty in (np.zeros((1, 1, 1), np.uint8), np.zeros((1, 2, 1, 1), np.float32)):
        stored, axes = from_slices(empty, like, slice_axis)
        try:
            if like.format == "zarr":
                json.dumps(ome_metadata(like.name, axes, like), allow_nan=False)
            elif like.format == "nifti":
                encode_nifti(BytesIO(), stored, axes, like, compress=False)
            else:
                encode_tiff(BytesIO(), stored, axes, like)
        except (ValueError, TypeError, ArithmeticError, LookupError, struct.error, HeaderDataError) as error:
            raise ImageFileError(
                f"The header of {like.path} cannot be repeated in results ({error}): export the image again, with "
                "another program or format."
            ) from error


def write_array(path: Path, array: Any, axes: str, like: ImageGeometry) -> None:
    """Write an array that is in the order of the file `like` already; raises as `write_result`."""
    if like.format == "zarr":
        write_zarr(path, array, axes, like)
        return
    write = write_nifti if like.format == "nifti" else write_tiff
    if array.nbytes > MAPPED_BYTES:
        order: Literal["C", "F"] = "F" if like.format == "nifti" else "C"
        write_disk_buffered(array, path, order, lambda stored: write(path, stored, axes, like))
    else:
        write(path, compact(np.asarray(array)), axes, like)
