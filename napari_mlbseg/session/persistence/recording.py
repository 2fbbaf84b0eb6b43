"""The record of a session as it is now: what ``session.json`` will hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_mlbseg import __version__
from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence.schema import MarksRecord, RoundRecord, SessionRecord, VolumeRecord
from napari_mlbseg.session.volume import AnnotatedVolume

if TYPE_CHECKING:
    from napari_mlbseg.session.persistence.autosave import Autosave
    from napari_mlbseg.session.session import SegmentationSession

__all__ = ["make_record"]


def make_record(session: SegmentationSession, autosave: Autosave) -> SessionRecord:
    """What is to be kept of a session."""
    return SessionRecord(
        version=__version__,
        classes=tuple(session.known_classes()),
        config=session.config.model_dump(mode="json"),
        volumes=_volumes(session, autosave),
        rounds=tuple(sorted((*(past.to_record() for past in session.rounds), *session.lost_rounds), key=_number)),
        restored=session.restored.number if session.restored is not None else None,
        left_out=tuple(session.left_out),
    )


def _number(record: RoundRecord) -> int:
    return record.number


def _volumes(session: SegmentationSession, autosave: Autosave) -> tuple[VolumeRecord, ...]:
    """The session's volumes, and those that left it with something painted on them."""
    listed = [(volume, True) for volume in session if volume.annotation.ndim == 3]
    records = [
        _volume(volume, session.marks_of(volume.uid), autosave).model_copy(update={"attached": attached})
        for volume, attached in (*listed, *autosave.registry.left_volumes())
    ]
    known = {record.uid for record in records}
    return (*records, *(record for record in session.detached if record.uid not in known))


def _volume(volume: AnnotatedVolume, marks: Mapping[int, SliceMarks], autosave: Autosave) -> VolumeRecord:
    kept = autosave.registry.get(volume.uid)
    assert kept is not None  # every stack of the session is kept
    return VolumeRecord(
        uid=volume.uid,
        name=volume.name,
        image=kept.image_record(autosave.folder.path),
        annotation=kept.before or kept.annotation,
        shape=tuple(int(n) for n in volume.annotation.shape),
        slice_axis=volume.slice_axis,
        channel_axis=volume.channel_axis,
        spacing=volume.spacing,
        unit=volume.unit,
        geometry=volume.geometry,
        independent_slices=volume.independent_slices,
        marks={axis: _marks(of_axis) for axis, of_axis in sorted(marks.items())},
        provenance={
            z: volume.marks.provenance(z, digest).value for z, digest in enumerate(kept.watcher.digests) if digest
        },
    )


def _marks(marks: SliceMarks) -> MarksRecord:
    return MarksRecord(
        clean=tuple(sorted(marks.clean)),
        rejected=tuple(sorted(marks.rejected)),
        skipped=tuple(sorted(marks.skipped)),
        accepted={z: tuple(acceptances) for z, acceptances in sorted(marks.accepted.items())},
    )
