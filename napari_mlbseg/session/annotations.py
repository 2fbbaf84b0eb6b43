"""The volumes of a session, what a person says of their slices, and the folder that keeps both."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from psygnal import Signal

from napari_mlbseg.session.clean_slices import Acceptance, Provenance, SliceMarks, slice_digest
from napari_mlbseg.session.persistence import session_paths
from napari_mlbseg.session.persistence.autosave import Autosave
from napari_mlbseg.session.persistence.change_scanner import ChangeScanner
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.schema import SessionError, SessionRecord
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["SessionVolumes"]


class SessionVolumes(ABC):
    """Volumes with their marks, saved seconds after every change. `SegmentationSession` trains on them.

    Parameters
    ----------
    folder : path, optional
        See `SegmentationSession`.
    """

    volumes_changed = Signal()
    clean_changed = Signal(str)  # name of a volume: what was said of its slices (clean, rejected, skipped, accepted)
    painted_changed = Signal(str)  # name of a volume: other slices are painted now, or differently
    folder_changed = Signal()
    saving_changed = Signal(str)  # a sentence while nothing can be saved; empty: all is well again

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._autosave: Autosave | None = None
        self._volumes: dict[str, AnnotatedVolume] = {}
        self._marks: dict[str, dict[int, SliceMarks]] = {}  # uid -> slice axis -> marks
        if folder is not None:
            self._use(SessionFolder(folder))

    # -- volumes -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[AnnotatedVolume]:
        return iter(self._volumes.values())

    def __len__(self) -> int:
        return len(self._volumes)

    def __contains__(self, name: str) -> bool:
        return name in self._volumes

    def volume(self, name: str) -> AnnotatedVolume:
        """The volume of that name; raises KeyError."""
        return self._volumes[name]

    def volume_of(self, uid: str) -> AnnotatedVolume | None:
        """The volume of that uid, if it is part of the session."""
        return next((volume for volume in self if volume.uid == uid), None)

    def set_volume(self, volume: AnnotatedVolume) -> None:
        """Add `volume`, or replace the one of its name."""
        self.set_volumes([*(v for v in self if v.name != volume.name), volume])
        self.clean_changed.emit(volume.name)

    def set_volumes(self, volumes: Iterable[AnnotatedVolume]) -> None:
        """Have exactly these volumes."""
        self._volumes = {volume.name: volume for volume in volumes}
        for volume in self:
            self._marks.setdefault(volume.uid, {})[volume.slice_axis] = volume.marks
        if self._volumes or self._autosave is not None:
            self._saver().set_volumes(self)
        self.volumes_changed.emit()

    def remove_volume(self, name: str) -> None:
        """Forget the volume of that name, if there is one. What was painted on it stays in the folder."""
        if name in self._volumes:
            self.set_volumes([volume for volume in self if volume.name != name])

    def known_classes(self) -> list[int]:
        """Label numbers painted anywhere, ascending, without background, as far as the slices were looked at."""
        watchers = [self._watcher(volume.name) for volume in self]
        return sorted(set().union(*(watcher.values for watcher in watchers if watcher is not None)))

    def label_places(self) -> dict[int, str]:
        """Label numbers painted anywhere, and the first slice that shows each, in words; as `known_classes`."""
        found: dict[int, str] = {}
        for volume in self:
            if (watcher := self._watcher(volume.name)) is None:
                continue
            for z in sorted(watcher.painted):
                for value in watcher.values_of(z):
                    found.setdefault(value, f"slice {z} of '{volume.name}'")
        return found

    # -- marks on slices -----------------------------------------------------------------------------------------

    def marks_of(self, uid: str) -> Mapping[int, SliceMarks]:
        """Marks of a volume by slice axis."""
        return self._marks.get(uid, {})

    def set_clean(self, name: str, z: int, clean: bool) -> None:
        """Mark slice `z` of a volume clean or not.

        Raises
        ------
        IndexError
            If there is no such slice.
        """
        volume = self._slice_of(name, z)
        if clean == (z in volume.clean):
            return
        _put(volume.clean, z, clean)
        if clean:
            volume.marks.rejected.discard(z)
        self._slice_settled(volume, z)
        self._marked(volume)

    def set_rejected(self, name: str, z: int, rejected: bool = True) -> None:
        """Say that the prediction of slice `z` is wrong: it is suggested first. Raises IndexError as `set_clean`."""
        volume = self._slice_of(name, z)
        _put(volume.marks.rejected, z, rejected)
        volume.marks.skipped.discard(z)
        self._marked(volume)

    def skip(self, name: str, z: int, skipped: bool = True) -> None:
        """Do not suggest slice `z` any more, or again. Raises IndexError as `set_clean`."""
        volume = self._slice_of(name, z)
        _put(volume.marks.skipped, z, skipped)
        self._marked(volume)

    def note_accepted(self, name: str, z: int, round_number: int, before: str, after: str) -> None:
        """A prediction was taken over into slice `z`, whose fingerprint changed from `before` to `after`."""
        volume = self._slice_of(name, z)
        acceptances = volume.marks.accepted.setdefault(z, [])
        acceptances.append(Acceptance(round=round_number, before=before, after=after))
        volume.marks.rejected.discard(z)
        self._saver().note(volume.uid, z, after)
        self._marked(volume)
        self.mark_dirty(name, z)
        self.painted_changed.emit(name)

    def provenance(self, name: str, z: int) -> Provenance:
        """Where what is painted on slice `z` came from."""
        volume = self._slice_of(name, z)
        return volume.marks.provenance(z, slice_digest(volume.annotation_slice(z)))

    def painted_slices(self, name: str) -> set[int]:
        """Slices on which something is painted, as far as they were looked at since the last change."""
        watcher = self._watcher(name)
        return watcher.painted if watcher is not None else set()

    def checksum(self, name: str) -> str:
        """Fingerprint of all that is painted on a volume, as far as it was looked at since the last change."""
        watcher = self._watcher(name)
        return watcher.checksum if watcher is not None else ""

    def accepted_slices(self, name: str) -> set[int]:
        """Slices that hold a prediction as it was accepted."""
        watcher, marks = self._watcher(name), self._volumes[name].marks
        if watcher is None:
            return set()
        return {z for z in marks.accepted if marks.provenance(z, watcher.digests[z]) is Provenance.ACCEPTED}

    def mark_dirty(self, name: str, z: int | None = None) -> None:
        """Something may have been painted, probably on slice `z`: it is compared and saved soon."""
        if name in self._volumes:
            self._saver().mark_dirty(self._volumes[name].uid, z)

    # -- the folder ----------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The session's folder; it need not be there yet."""
        return self._saver().folder.path

    @property
    def is_unsaved(self) -> bool:
        """Whether nobody has chosen a place for it."""
        return self._autosave is None or session_paths.is_unsaved(self._autosave.folder.path)

    @property
    def read_only(self) -> str:
        """Why nothing is saved: who has the session open elsewhere, and what to do; empty if all is saved."""
        return "" if self._autosave is None else self._autosave.read_only

    def save(self) -> None:
        """Write everything now; raises OSError or SessionError as `Autosave.flush`."""
        saver = self._saver()
        saver.scan_all()
        saver.flush()

    # -- what a session adds -------------------------------------------------------------------------------------

    @abstractmethod
    def _make_record(self, saver: Autosave) -> SessionRecord:
        """What the folder is to say of the session."""

    @abstractmethod
    def _slice_settled(self, volume: AnnotatedVolume, z: int) -> None:
        """A slice was marked clean or not, or changed while it is clean."""

    # -- parts ---------------------------------------------------------------------------------------------------

    def _saver(self) -> Autosave:
        """What keeps the folder; the first thing to keep decides its name."""
        if self._autosave is None:
            self._use(SessionFolder(session_paths.unsaved_path(next(iter(self._volumes), "session"))))
        assert self._autosave is not None  # it was just made
        return self._autosave

    def _use(self, folder: SessionFolder) -> None:
        saver = Autosave(folder, lambda: self._make_record(saver))
        saver.slice_changed.connect(self._on_slice_changed)
        saver.problem_changed.connect(self._on_problem)
        saver.set_volumes(self)
        self._autosave = saver

    def _let_go(self, *, save: bool = True) -> None:
        """Leave the folder and its volumes; save first, or leave it as it is. An unsaved, empty one is deleted."""
        if self._autosave is None:
            return
        if save:
            self._rescue(self._autosave)
        saver, self._autosave = self._autosave, None
        if save:
            saver.close()
        else:
            saver.abandon()
        saver.slice_changed.disconnect(self._on_slice_changed)
        saver.problem_changed.disconnect(self._on_problem)
        is_ours = save and not saver.read_only
        if is_ours and session_paths.is_unsaved(saver.folder.path) and not self._is_worth_keeping(saver):
            saver.folder.remove()
        self._volumes, self._marks = {}, {}

    def _rescue(self, saver: Autosave) -> None:
        """What was painted on a session that another program has open gets a session of its own, without rounds."""
        if saver.read_only and saver.has_user_changes:
            with suppress(OSError, SessionError):
                saver.scan_all()
                path = session_paths.unsaved_path(saver.folder.path.stem)
                path.parent.mkdir(parents=True, exist_ok=True)
                saver.move(SessionFolder(path), keep=True, rounds=False)

    def _is_worth_keeping(self, saver: Autosave) -> bool:
        """Whether anything was painted or marked."""
        is_marked = any(m.clean or m.accepted for marks in self._marks.values() for m in marks.values())
        return is_marked or saver.has_content or saver.folder.has_strokes()

    def _slice_of(self, name: str, z: int) -> AnnotatedVolume:
        volume = self._volumes[name]
        if not 0 <= z < volume.n_slices:
            raise IndexError(f"There is no slice {z} in '{name}': it has slices 0 to {volume.n_slices - 1}.")
        return volume

    def _watcher(self, name: str) -> ChangeScanner | None:
        return self._autosave.watcher(self._volumes[name].uid) if self._autosave is not None else None

    def _marked(self, volume: AnnotatedVolume) -> None:
        self._saver().mark_record_dirty(wake=True)
        self.clean_changed.emit(volume.name)

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise SessionError(self.read_only)

    def _mark_record_dirty(self) -> None:
        if self._autosave is not None:
            self._autosave.mark_record_dirty()

    def _on_problem(self, sentence: str) -> None:
        self.saving_changed.emit(sentence)

    def _on_slice_changed(self, uid: str, z: int, old: str, new: str) -> None:
        volume = self.volume_of(uid)
        if volume is None:
            return
        volume.marks.note_change(z, old, new)
        if z in volume.clean:
            self._slice_settled(volume, z)
        self.painted_changed.emit(volume.name)


def _put(marks: set[int], z: int, there: bool) -> None:
    if there:
        marks.add(z)
    else:
        marks.discard(z)
