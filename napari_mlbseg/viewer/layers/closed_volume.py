"""A volume of the session that has no layers now."""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_mlbseg.io.file_array import FileArray
from napari_mlbseg.session import AnnotatedVolume, SliceMarks

__all__ = ["ClosedVolume"]


@dataclass(eq=False)
class ClosedVolume:
    """What is kept of a volume without layers: what was painted in memory, the image where it can be read again.

    Attributes
    ----------
    volume : AnnotatedVolume
    marks : dict of int to SliceMarks
        For each slice axis.
    """

    volume: AnnotatedVolume
    marks: dict[int, SliceMarks]

    def to_volume(self, slice_axis: int, independent: bool) -> AnnotatedVolume:
        """The session's view of it, along the slice axis that all volumes share; arrays are shared, not copied."""
        return replace(
            self.volume,
            slice_axis=slice_axis,
            marks=self.marks.setdefault(slice_axis, SliceMarks()),
            independent_slices=independent,
        )

    @property
    def is_read(self) -> bool:
        """Whether its image is in memory."""
        return not isinstance(self.volume.image, FileArray)
