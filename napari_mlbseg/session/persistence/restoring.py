"""Annotations that are part of the session no more, deleted or replaced by others: they can be brought back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence.loader import read_annotation, read_marks
from napari_mlbseg.session.persistence.schema import ImageRecord, VolumeRecord
from napari_mlbseg.session.persistence.volume_store import StoredVolume
from napari_mlbseg.session.volume import AnnotatedVolume

if TYPE_CHECKING:
    from napari_mlbseg.session.persistence.autosave import Autosave
    from napari_mlbseg.session.persistence.folder import SessionFolder

__all__ = ["RemovedAnnotation", "RestoredAnnotation", "removed_annotations"]


@dataclass(frozen=True, eq=False)
class RestoredAnnotation:
    """What was painted on an image, and said of its slices.

    Attributes
    ----------
    uid : str
        Of the volume that it makes of its image.
    pixels : array-like of int
    marks : dict of int to SliceMarks
        For each slice axis.
    record : VolumeRecord, optional
        How the session's folder names it, if an earlier process removed it.
    """

    uid: str
    pixels: Any
    marks: dict[int, SliceMarks]
    record: VolumeRecord | None = None


@dataclass(frozen=True, eq=False)
class RemovedAnnotation:
    """An annotation that can be brought back.

    Attributes
    ----------
    uid : str
    n_painted, n_clean : int
        Slices that are painted, and marked clean.
    pixels : array-like of int, optional
        None: they have to be read from the session's folder.
    read : callable
        Gives the `RestoredAnnotation`; may take a while, so it can be called in a thread. Raises SessionError.
    """

    uid: str
    n_painted: int
    n_clean: int
    pixels: Any | None
    read: Callable[[], RestoredAnnotation]


def removed_annotations(
    volume: AnnotatedVolume,
    marks: Mapping[str, Mapping[int, SliceMarks]],
    detached: Iterable[VolumeRecord],
    saver: Autosave,
) -> list[RemovedAnnotation]:
    """Those that were once painted on the image of a volume of the session, the one that went last at the end.

    Parameters
    ----------
    volume : AnnotatedVolume
    marks : mapping of str to mapping of int to SliceMarks
        Uid -> slice axis -> marks, also of volumes that are part of the session no more.
    detached : iterable of VolumeRecord
        Of volumes that an earlier process took out.
    saver : Autosave
    """
    mine = saver.registry.get(volume.uid)
    if mine is None:
        return []
    image = mine.image_record(saver.folder.path)
    left = sorted((kept for kept in saver.registry if kept.left is not None), key=lambda kept: kept.left or 0.0)
    known = {kept.volume.uid for kept in saver.registry}
    shape = tuple(int(n) for n in volume.annotation.shape)
    earlier = [
        _of_record(saver.folder, record)
        for record in detached
        if record.uid not in known and record.shape == shape and _is_same(record.image, image) and _has_content(record)
    ]
    now = [
        _of_kept(kept, marks.get(kept.volume.uid, {}))
        for kept in left
        if kept.annotation
        and (kept.watcher.painted or kept.volume.marks.are_any)
        and kept.volume.annotation.shape == shape
        and (kept.volume.image is volume.image or _is_same(kept.image_record(saver.folder.path), image))
    ]
    return [*earlier, *now]


def _of_kept(kept: StoredVolume, marks: Mapping[int, SliceMarks]) -> RemovedAnnotation:
    volume = kept.volume
    return RemovedAnnotation(
        volume.uid,
        len(kept.watcher.painted),
        len(volume.clean),
        volume.annotation,
        lambda: RestoredAnnotation(volume.uid, volume.annotation, dict(marks)),
    )


def _of_record(folder: SessionFolder, record: VolumeRecord) -> RemovedAnnotation:
    def read() -> RestoredAnnotation:
        return RestoredAnnotation(record.uid, read_annotation(folder, record), read_marks(record), record)

    marks = record.marks.get(record.slice_axis)
    return RemovedAnnotation(record.uid, len(record.provenance), len(marks.clean) if marks else 0, None, read)


def _has_content(record: VolumeRecord) -> bool:
    return bool(record.annotation) and bool(record.provenance or any(marks.clean for marks in record.marks.values()))


def _is_same(one: ImageRecord, other: ImageRecord) -> bool:
    """Whether two records name one image, which may have been moved since."""
    is_there = one.path == other.path or (bool(one.content) and one.content == other.content)
    return is_there and (one.kind, one.channel) == (other.kind, other.channel)
