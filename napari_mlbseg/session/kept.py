"""What a session folder holds of one volume, and what of it is still to be written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from napari_mlbseg.session.storage import SessionFolder
from napari_mlbseg.session.volume import AnnotatedVolume
from napari_mlbseg.session.watcher import SliceWatcher

__all__ = ["Change", "Kept", "Layout", "layout_of"]

_ONE_BY_ONE = 64  # slices up to which each is synchronised with the disk by itself

#: Shape, type and slice axis of an annotation.
Layout = tuple[tuple[int, ...], np.dtype, int]


@dataclass(eq=False)
class Kept:
    """What the folder holds, or is to hold, of a volume; it stays when the volume leaves the session."""

    watcher: SliceWatcher
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
    content: str = ""  # fingerprint of its file
    asked: bool = False  # whether that is being computed

    @property
    def volume(self) -> AnnotatedVolume:
        """The volume as it is now."""
        return self.watcher.volume


class Change:
    """Slices of a volume as they are now, to be written into its array as it is now."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._annotation, self._layout = kept.annotation, kept.layout
        self._slices = sorted(kept.dirty)
        self._planes = [np.array(kept.volume.annotation_slice(z)) for z in self._slices]
        kept.dirty.clear()

    def put_back(self) -> None:
        """They were not written: they are still to be, unless the volume has another form by now."""
        if self._kept.annotation == self._annotation:
            self._kept.dirty.update(self._slices)

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


def layout_of(volume: AnnotatedVolume) -> Layout:
    """Form of a volume's annotation; the byte order does not count."""
    dtype = np.dtype(volume.annotation.dtype).newbyteorder("=")
    return tuple(int(n) for n in volume.annotation.shape), dtype, volume.slice_axis
