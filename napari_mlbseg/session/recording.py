"""The record of a session as it is now: what ``session.json`` will hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_mlbseg import __version__
from napari_mlbseg.session.marks import SliceMarks
from napari_mlbseg.session.records import MarksRecord, SessionRecord, VolumeRecord
from napari_mlbseg.session.volume import AnnotatedVolume

if TYPE_CHECKING:
    from napari_mlbseg.session.autosave import Autosave
    from napari_mlbseg.session.session import SegmentationSession

__all__ = ["make_record"]


def make_record(session: SegmentationSession, autosave: Autosave) -> SessionRecord:
    """What is to be kept of a session."""
    return SessionRecord(
        version=__version__,
        classes=tuple(session.known_classes()),
        config=session.config.model_dump(mode="json"),
        volumes=tuple(_volume(volume, session.marks_of(volume.uid), autosave) for volume in session),
        rounds=tuple(past.to_record() for past in session.rounds),
        restored=session.restored.number if session.restored is not None else None,
        left_out=tuple(session.left_out),
    )


def _volume(volume: AnnotatedVolume, marks: Mapping[int, SliceMarks], autosave: Autosave) -> VolumeRecord:
    watcher = autosave.watcher(volume.uid)
    digests = watcher.digests if watcher is not None else []
    return VolumeRecord(
        uid=volume.uid,
        name=volume.name,
        image=autosave.image_record(volume),
        annotation=autosave.annotation_path(volume.uid),
        shape=tuple(int(n) for n in volume.annotation.shape),
        slice_axis=volume.slice_axis,
        channel_axis=volume.channel_axis,
        spacing=volume.spacing,
        unit=volume.unit,
        geometry=volume.geometry,
        independent_slices=volume.independent_slices,
        marks={axis: _marks(of_axis) for axis, of_axis in sorted(marks.items())},
        provenance={z: volume.marks.provenance(z, digest).value for z, digest in enumerate(digests) if digest},
    )


def _marks(marks: SliceMarks) -> MarksRecord:
    return MarksRecord(
        clean=tuple(sorted(marks.clean)),
        rejected=tuple(sorted(marks.rejected)),
        skipped=tuple(sorted(marks.skipped)),
        accepted={z: tuple(acceptances) for z, acceptances in sorted(marks.accepted.items())},
    )
