"""What a session folder holds of one volume, and what of it is still to be written."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg._util.zarr_arrays import open_array
from napari_mlbseg.session.persistence.change_scanner import ChangeScanner
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.schema import ImageRecord, SessionError
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["Change", "Demand", "ImageCopy", "StoredVolume", "Layout", "layout_of"]

_ONE_BY_ONE = 64  # slices up to which each is synchronised with the disk by itself
_BATCH_SECONDS = 0.5  # after which the copying of an image tells how far it is

#: Shape, type and slice axis of an annotation.
Layout = tuple[tuple[int, ...], np.dtype, int]


@dataclass(eq=False)
class StoredVolume:
    """What the folder holds, or is to hold, of a volume; it stays when the volume leaves the session."""

    watcher: ChangeScanner
    annotation: str  # path of its array within the folder; empty where nobody paints
    layout: Layout
    dirty: set[int] = field(default_factory=set)
    touched: float | None = None
    is_new: bool = True  # whether its slices were not all looked at yet
    is_written: bool = False  # whether the folder holds its array
    before: str = ""  # path of its array in an earlier form, until the present one is complete
    left: float | None = None  # when it left the session
    embedded: str = ""  # path of the copied image
    copied: int = 0  # slices of it that are copied
    copied_from: Any = None  # the array that they were copied from
    copy_error: Exception | None = None  # why some could not be copied
    digest: str = ""  # `pixel_digest` of the image that is copied
    is_altered: bool = False  # whether somebody wrote into the image, so that its file is another one
    is_unchecked: bool = True  # whether that is to be found out
    content: str = ""  # fingerprint of its file
    asked: bool = False  # whether that is being computed

    @property
    def volume(self) -> AnnotatedVolume:
        """The volume as it is now."""
        return self.watcher.volume

    @property
    def is_copied(self) -> bool:
        """Whether nothing of an image without a file is left to copy."""
        return not self.embedded or self.copied >= self.volume.n_slices

    def copy_of(self, volume: AnnotatedVolume, folder: SessionFolder) -> Any | None:
        """The copy of a lazy image with its axes as a task takes them; None if it is not complete.

        None as well if it is one of another image, or not in slices along this axis, which would be slow to read.
        """
        if not self.embedded or not self.is_copied or self.copied_from is not volume.image:
            return None
        array = folder.array(self.embedded, volume.image_slice_axis)
        fits = array.fits(volume.image.shape, volume.image.dtype)
        return volume.slices_first(open_array(array.path)) if fits else None

    @property
    def is_unwritten(self) -> bool:
        """Whether something is to be written into its array, or the array is still to be made."""
        is_missing = self.left is None and not self.is_written
        return bool(self.annotation) and (bool(self.dirty) or bool(self.before) or is_missing)

    def image_record(self, folder: Path) -> ImageRecord:
        """Where the image is, as seen from a session folder."""
        source = self.volume.source
        if source is None:
            return ImageRecord(kind="embedded", path=self.embedded, complete=self.is_copied)
        return ImageRecord(
            kind=source.kind,
            path=str(source.path),
            relative=_relative(source.path, folder),
            channel=source.channel,
            content=self.content,
        )


class Change:
    """Slices of a volume as they are now, to be written into its array as it is now."""

    def __init__(self, kept: StoredVolume) -> None:
        self._kept = kept
        self._annotation, self._layout = kept.annotation, kept.layout
        self._slices = sorted(kept.dirty)
        self._planes = [np.array(kept.volume.annotation_slice(z)) for z in self._slices]
        kept.dirty.clear()

    def write(self, folder: SessionFolder) -> None:
        """Write them; raises OSError."""
        shape, dtype, axis = self._layout
        array = folder.array(self._annotation, axis)
        if not array.exists():
            array.create(shape, dtype)
        elif not array.fits(shape, dtype):
            raise FileExistsError(17, "an array of another form is there already", str(array.path))
        one_by_one = len(self._slices) <= _ONE_BY_ONE
        for z, plane in zip(self._slices, self._planes, strict=True):
            array.write(z, plane, at_once=one_by_one)
        if not one_by_one and hasattr(os, "sync"):
            os.sync()  # of many, all at once is faster than one after the other

    def done(self) -> bool:
        """They are written; whether the record says something else now."""
        kept = self._kept
        if kept.annotation != self._annotation:
            return False  # it took another form meanwhile
        kept.is_written = True
        is_complete = bool(kept.before) and kept.watcher.is_done and not kept.dirty
        if is_complete:
            kept.before = ""
        return is_complete

    def put_back(self) -> None:
        """They were not written: they are still to be, unless the volume has another form by now."""
        if self._kept.annotation == self._annotation:
            self._kept.dirty.update(self._slices)


class ImageCopy:
    """Some more slices of an image that has no file, to be copied: as many as a moment allows, but one in any case."""

    def __init__(self, kept: StoredVolume) -> None:
        self._kept, self._path = kept, kept.embedded
        self._volume, self._first = kept.volume, kept.copied
        self._next = self._first

    def write(self, folder: SessionFolder) -> None:
        """Copy them.

        Raises
        ------
        SessionError
            If a slice cannot be read or computed.
        OSError
            If it cannot be written.
        """
        end = time.monotonic() + _BATCH_SECONDS
        volume = self._volume
        array = folder.array(self._path, volume.image_slice_axis)
        if not array.exists():
            array.create(volume.image.shape, volume.image.dtype)
        while self._next < volume.n_slices:
            array.write(self._next, self._read(self._next), at_once=False)  # it can be copied again
            self._next += 1
            if time.monotonic() > end:
                return

    def _read(self, z: int) -> np.ndarray:
        try:
            return self._volume.image_slice(z)
        except Exception as error:  # it may come out of any library
            raise SessionError(
                f"Slice {z} of the image '{self._volume.name}' cannot be read "
                f"({str(error) or type(error).__name__}): mend the image or choose another."
            ) from error

    def done(self) -> bool:
        """They are copied; whether the record says something else now."""
        kept = self._kept
        if kept.embedded == self._path and kept.copied == self._first:  # else it begins anew
            kept.copied, kept.copied_from, kept.copy_error = self._next, self._volume.image, None
        return kept.is_copied

    def failed(self, error: Exception) -> None:
        """They were not copied, and will be copied again."""
        if self._kept.embedded == self._path:
            self._kept.copy_error = error


@dataclass(eq=False)
class Demand:
    """That all be written that had changed at one moment, and some images be copied.

    Attributes
    ----------
    images : list of StoredVolume
    is_written : bool
    """

    images: list[StoredVolume]
    is_written: bool = False
    _error: Exception | None = None

    @property
    def is_met(self) -> bool:
        """Whether it was done."""
        return self.is_written and all(kept.is_copied for kept in self.images)

    @property
    def error(self) -> Exception | None:
        """What prevented it."""
        return self._error or next((kept.copy_error for kept in self.images if kept.copy_error is not None), None)

    @error.setter
    def error(self, error: Exception) -> None:
        self._error = error


def layout_of(volume: AnnotatedVolume) -> Layout:
    """Form of a volume's annotation; the byte order does not count."""
    dtype = np.dtype(volume.annotation.dtype).newbyteorder("=")
    return tuple(int(n) for n in volume.annotation.shape), dtype, volume.slice_axis


def _relative(path: Path, folder: Path) -> str:
    """`path` as seen from the session folder; empty where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return ""
