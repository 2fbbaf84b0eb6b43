"""The records of a session's volumes as they are now: what ``session.json`` will hold of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence.schema import MarksRecord, VolumeRecord
from napari_mlbseg.session.volume import AnnotatedVolume

if TYPE_CHECKING:
    from napari_mlbseg.session.persistence.autosave import Autosave

__all__ = ["volume_records"]


def volume_records(
    volumes: Iterable[AnnotatedVolume],
    marks: Mapping[str, Mapping[int, SliceMarks]],
    detached: Iterable[VolumeRecord],
    autosave: Autosave,
) -> tuple[VolumeRecord, ...]:
    """Records of a session's volumes, and of those that left it with something painted on them.

    Parameters
    ----------
    volumes : iterable of AnnotatedVolume
    marks : mapping of str to mapping of int to SliceMarks
        Uid -> slice axis -> marks.
    detached : iterable of VolumeRecord
        Of volumes that an earlier process took out.
    autosave : Autosave
        Knows where they are kept.
    """
    listed = [(volume, True) for volume in volumes if volume.annotation.ndim == 3]
    records = [
        _volume(volume, marks.get(volume.uid, {}), autosave).model_copy(update={"attached": attached})
        for volume, attached in (*listed, *autosave.registry.left_volumes())
    ]
    known = {record.uid for record in records}
    return (*records, *(record for record in detached if record.uid not in known))


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
