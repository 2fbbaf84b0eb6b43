"""Keeps a session folder up to date with what is painted, seconds after a stroke, without the window waiting for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from psygnal import Signal

from napari_mlbseg.jobs.folder import safe_name
from napari_mlbseg.session.background import Background
from napari_mlbseg.session.kept import Change, Kept, layout_of
from napari_mlbseg.session.records import ImageRecord, SessionError, SessionRecord
from napari_mlbseg.session.storage import SessionFolder, content_hash
from napari_mlbseg.session.volume import AnnotatedVolume
from napari_mlbseg.session.watcher import SliceWatcher

__all__ = ["Autosave"]

_SETTLE_SECONDS = 0.3  # after the last stroke, before slices are compared
_LOOK_SECONDS = 0.010  # that a poll may compare slices
_RETRY_SECONDS = 4.0  # after a failure
_BATCH_BYTES = 2**25  # of an image that is copied into the folder, at a time
_SWEPT_BYTES = 2**28  # annotations up to this size are compared once more before something relies on them
_TOGETHER_SECONDS = 5.0  # within which a window that is closed takes its layers away


class Autosave:
    """Watches annotations and writes what changed, with the session's record, into the session folder.

    Parameters
    ----------
    folder : SessionFolder
        Made when something is written for the first time.
    record : callable
        Gives the record to write.

    Notes
    -----
    All methods belong to one thread; files are written in another. `poll` takes a hundredth of a second at most.
    """

    slice_changed = Signal(str, int, str, str)  # uid, slice, old and new fingerprint
    problem_changed = Signal(str)  # a sentence while nothing can be saved; empty: all is well again
    saved = Signal()

    def __init__(self, folder: SessionFolder, record: Callable[[], SessionRecord]) -> None:
        self.folder = folder
        self._make_record = record
        self._kept: dict[str, Kept] = {}
        self._record_is_stale = False
        self._not_before = 0.0
        self._writing = False
        self._locked = False
        self.is_awake = False  # whether a person did anything that is worth a folder
        self.problem = ""
        self._error: Exception | None = None
        self.background = Background()

    # -- volumes -------------------------------------------------------------------------------------------------

    def set_volumes(self, volumes: Iterable[AnnotatedVolume]) -> None:
        """Watch exactly these volumes; one that was watched before goes on from what is known of it.

        What was painted on a volume that leaves stays: it is looked at once more, written, and named in the record.
        """
        wanted = {volume.uid: volume for volume in volumes if volume.annotation.ndim == 3}
        for uid, kept in self._kept.items():
            if uid not in wanted and kept.left is None:
                kept.watcher.touch()
                self._look(kept, float("inf"))
                kept.left = time.monotonic()
                self._record_is_stale = True
        for uid, volume in wanted.items():
            known = self._kept.get(uid)
            if known is None:
                self._kept[uid] = self._new(volume)
                continue
            self._go_on(known, volume)
            if known.left is not None:  # somebody may have painted on it meanwhile
                known.left = None
                known.watcher.touch()

    def adopt(self, volume: AnnotatedVolume, annotation: str, image: ImageRecord) -> None:
        """Watch a volume that was just read from the folder: nothing of it needs to be written."""
        watcher = SliceWatcher(volume)
        for _ in watcher.look(float("inf")):
            pass
        kept = Kept(watcher, annotation, layout_of(volume), content=image.content, is_new=False, is_written=True)
        if image.kind == "embedded":
            kept.embedded, kept.copied = image.path, volume.n_slices if image.complete else 0
        self._kept[volume.uid] = kept

    def touch(self, uid: str, z: int | None = None) -> None:
        """Something may have been painted on a volume, probably on slice `z`."""
        kept = self._kept.get(uid)
        if kept is not None:
            self.is_awake = True
            kept.touched = time.monotonic()
            kept.watcher.touch(z)

    def note(self, uid: str, z: int, digest: str) -> None:
        """Slice `z` has this fingerprint now: known at once, so that what is painted next is told apart from it."""
        kept = self._kept.get(uid)
        if kept is not None and kept.watcher.digests[z] != digest:
            kept.watcher.note(z, digest)
            kept.dirty.add(z)

    def touch_record(self, wake: bool = False) -> None:
        """Something else changed that the record holds; `wake` if it is worth a folder by itself."""
        self._record_is_stale = True
        self.is_awake = self.is_awake or wake

    def watcher(self, uid: str) -> SliceWatcher | None:
        """What is known of a volume's painted slices; None for one without an annotation."""
        kept = self._kept.get(uid)
        return None if kept is None else kept.watcher

    def annotation_path(self, uid: str) -> str:
        """Path of a volume's painted voxels within the folder."""
        kept = self._kept.get(uid)
        return "" if kept is None else kept.before or kept.annotation

    def left_volumes(self) -> list[tuple[AnnotatedVolume, bool]]:
        """Volumes that left, painted or marked, and those that left last of all, which is told of each.

        A window that is closed takes all its layers away first: those are the session's all the same.
        """
        left = [(kept, kept.left) for kept in self._all() if kept.left is not None]
        last = max((when for _, when in left), default=0.0)
        is_deserted = all(kept.left is not None for kept in self._all())
        together = [(kept, is_deserted and last - when < _TOGETHER_SECONDS) for kept, when in left]
        return [
            (kept.volume, was_last)
            for kept, was_last in together
            if was_last or kept.watcher.painted or kept.volume.marks.are_any
        ]

    def image_record(self, volume: AnnotatedVolume) -> ImageRecord:
        """Where the image of a volume is, as the record says it."""
        kept = self._kept.get(volume.uid)
        source = volume.source
        if source is None:
            path = kept.embedded if kept is not None else ""
            complete = kept is not None and kept.copied >= volume.n_slices
            return ImageRecord(kind="embedded", path=path, complete=complete)
        return ImageRecord(
            kind=source.kind,
            path=str(source.path),
            relative=_relative(source.path, self.folder.path),
            channel=source.channel,
            content=kept.content if kept is not None else "",
        )

    # -- saving --------------------------------------------------------------------------------------------------

    @property
    def is_saved(self) -> bool:
        """Whether the folder holds all that is known to have changed."""
        if not self.is_awake:
            return True
        is_known = not self._record_is_stale and all(kept.watcher.is_done and not kept.dirty for kept in self._all())
        return is_known and not self._writing

    @property
    def has_content(self) -> bool:
        """Whether anything is painted."""
        return any(kept.watcher.painted for kept in self._all())

    def poll(self) -> None:
        """Compare some slices and begin to write what changed."""
        now = time.monotonic()
        for kept in self._kept.values():
            if kept.touched is None or now - kept.touched >= _SETTLE_SECONDS:
                self._look(kept, _LOOK_SECONDS)
        self.background.poll()
        if self.is_awake and not self._writing and now >= self._not_before:
            self._begin_writing()

    def flush(self, seconds: float = 20.0, *, images: bool = False) -> None:
        """Write everything now and wait for it.

        Parameters
        ----------
        seconds : float
            To wait at most.
        images : bool
            Also copy what is left of images that have no file.

        Raises
        ------
        OSError
            If it cannot be written, or not in time.
        SessionError
            If another window has the folder open.
        """
        for kept in self._kept.values():
            if kept.volume.annotation.nbytes <= _SWEPT_BYTES:  # whatever no event told of
                kept.watcher.touch()
        self.look()
        self._not_before, self.is_awake = 0.0, True
        end = time.monotonic() + seconds
        self._record_is_stale = True
        while not self.is_saved or (images and self._has_images_to_copy()):
            if not self._writing:
                self._begin_writing()
            if not self.background.flush(end - time.monotonic()):
                raise TimeoutError(0, "the disk does not answer")
            if self.problem:
                raise self._error or OSError(self.problem)

    def look(self) -> None:
        """Compare all slices now."""
        for kept in self._kept.values():
            self._look(kept, float("inf"))

    def close(self, seconds: float = 5.0) -> None:
        """Write what is left, as far as that can be done, if a person did anything; and let go of the folder."""
        if self.is_awake:
            # what cannot be written was said already, and there is nobody left to tell
            with suppress(Exception):  # a program that is ending must not stumble
                self.flush(seconds, images=True)
        self.background.close()
        if self._locked:
            self.folder.unlock()

    def holds_lock(self) -> None:
        """The folder was locked for this process already."""
        self._locked = True

    def move(self, folder: SessionFolder, keep: bool) -> None:
        """Go on in another folder, which must not be there yet.

        Parameters
        ----------
        folder : SessionFolder
        keep : bool
            Whether what was written so far also stays where it is.

        Raises
        ------
        OSError
            If the new folder cannot be written, or the disk does not answer; all is as it was.
        """
        if not self.background.flush(20.0):
            raise TimeoutError(0, "the disk does not answer")
        old = self.folder
        if old.path.exists() and self._locked:  # a folder that was never ours holds nothing of this session
            old.transfer(folder, keep)
        try:
            folder.lock()
        except OSError:
            if keep:
                folder.remove()
            raise
        if keep:
            old.unlock()
        self.folder, self._locked, self._record_is_stale = folder, True, True

    def _look(self, kept: Kept, seconds: float) -> None:
        for z, old, new in kept.watcher.look(seconds):
            if kept.annotation:
                kept.dirty.add(z)
            self._record_is_stale = True  # it holds the provenance of slices
            self.slice_changed.emit(kept.volume.uid, z, new if kept.is_new else old, new)
        if kept.watcher.is_done:
            kept.touched, kept.is_new = None, False

    def _begin_writing(self) -> None:
        """Hand what changed to the background, if anything did: strokes first, then images."""
        if self._has_dirty() or self._record_is_stale:
            self._write(*self._take_changes())
            return
        if not self._locked:
            return  # nothing was ever worth a folder
        for kept in self._kept.values():
            if kept.volume.source is not None and not kept.content and not kept.asked:
                self._ask_content(kept)
            elif kept.embedded and kept.copied < kept.volume.n_slices:
                self._write(*self._copy_some(kept))
                return

    def _take_changes(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """What writes the painted slices and the record as they are now, and what to do if that fails."""
        self._notice_what_was_deleted()
        changes = [Change(kept) for kept in self._all() if kept.annotation and (kept.dirty or kept.left is None)]
        record, folder = self._make_record(), self.folder
        self._record_is_stale = False

        def put_back() -> None:
            for change in changes:
                change.put_back()
            self._record_is_stale = True

        def write() -> None:
            if not self._locked:
                folder.lock()
                self._locked = True
            for change in changes:
                change.write(folder)
            folder.write(record)

        return write, put_back

    def _notice_what_was_deleted(self) -> None:
        """Write everything again of a folder that somebody deleted."""
        for kept in self._all():
            if kept.is_written and not (self.folder.path / kept.annotation).exists():
                kept.dirty |= kept.watcher.painted
                kept.copied, kept.is_written = 0, False

    def _copy_some(self, kept: Kept) -> tuple[Callable[[], None], Callable[[], None]]:
        """What copies some more slices of an image that has no file, and what to do if that fails."""
        volume, first = kept.volume, kept.copied
        array = self.folder.array(kept.embedded, volume.image_slice_axis)
        slice_bytes = max(1, volume.image_bytes // volume.n_slices)
        last = min(volume.n_slices, first + max(1, _BATCH_BYTES // slice_bytes))
        kept.copied = last

        def put_back() -> None:
            kept.copied = first

        def write() -> None:
            if not array.exists():
                array.create(volume.image.shape, volume.image.dtype)
            for z in range(first, last):
                array.write(z, volume.image_slice(z), at_once=False)  # it can be copied again

        if last == volume.n_slices:
            self._record_is_stale = True  # it is complete now
        return write, put_back

    def _ask_content(self, kept: Kept) -> None:
        assert kept.volume.source is not None  # the caller saw to it
        path = kept.volume.source.path
        kept.asked = True

        def known(content: str) -> None:
            kept.content = content
            self._record_is_stale = True

        self.background.submit(lambda: content_hash(path), known)  # one that cannot be read is found when it is opened

    def _write(self, action: Callable[[], None], put_back: Callable[[], None]) -> None:
        self._writing = True
        self.background.submit(action, self._on_written, lambda error: self._on_failed(error, put_back))

    def _on_written(self, result: Any) -> None:
        self._writing = False
        self._error = None
        self._say("")
        for kept in self._all():
            kept.is_written = kept.is_written or bool(kept.annotation)
            if kept.before and kept.watcher.is_done and not kept.dirty:
                kept.before, self._record_is_stale = "", True
        if not self._has_dirty() and not self._record_is_stale:
            self.saved.emit()

    def _on_failed(self, error: Exception, put_back: Callable[[], None]) -> None:
        self._writing = False
        put_back()
        self._error = error
        self._not_before = time.monotonic() + _RETRY_SECONDS
        if isinstance(error, SessionError):
            self._say(str(error))
            return
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self._say(
            f"What you paint cannot be saved to {self.folder.path} ({reason}): make room there, or save the session "
            "elsewhere. Go on painting: it is kept in memory, and saving is tried again every few seconds."
        )

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self.problem_changed.emit(problem)

    def _new(self, volume: AnnotatedVolume) -> Kept:
        annotation = self._free_path("annotations", volume.name) if volume.is_annotated else ""
        kept = Kept(SliceWatcher(volume), annotation, layout_of(volume))
        if volume.source is None:
            kept.embedded = self._free_path("images", volume.name)
        return kept

    def _go_on(self, kept: Kept, volume: AnnotatedVolume) -> None:
        """The same volume, perhaps with other pixels, another type or another slice axis."""
        earlier = kept.volume
        if volume.source is None and earlier.source is not None and volume.image.shape == earlier.image.shape:
            volume.source = earlier.source  # its disk is away: it may come back
        if volume.source is None and not kept.embedded:
            kept.embedded, kept.copied = self._free_path("images", volume.name), 0
        if layout_of(volume) == kept.layout:
            kept.watcher.volume = volume
            if earlier.annotation is not volume.annotation:
                kept.watcher.touch()
            return
        # never over what was kept: an array of another form gets a new name, and the old one stays
        kept.before = kept.before or (kept.annotation if kept.is_written else "")
        kept.annotation = self._free_path("annotations", volume.name)
        kept.watcher, kept.layout, kept.dirty = SliceWatcher(volume), layout_of(volume), set()
        kept.is_new, kept.is_written = True, False
        self._record_is_stale = True
        if kept.embedded and kept.copied < volume.n_slices:
            kept.embedded, kept.copied = self._free_path("images", volume.name), 0

    def _free_path(self, room: str, name: str) -> str:
        """A path within the folder that nothing has: what is there is never written over."""
        paths = (path for kept in self._all() for path in (kept.annotation, kept.embedded, kept.before))
        taken = {path.casefold() for path in paths}  # some disks do not tell Scan from scan
        stem, number = safe_name(name), 1
        while True:
            path = f"{room}/{stem}{'' if number == 1 else f'-{number}'}.zarr"
            if path.casefold() not in taken and not (self.folder.path / path).exists():
                return path
            number += 1

    def _all(self) -> Iterable[Kept]:
        return self._kept.values()

    def _has_images_to_copy(self) -> bool:
        return any(kept.embedded and kept.copied < kept.volume.n_slices for kept in self._all())

    def _has_dirty(self) -> bool:
        return any(kept.dirty for kept in self._all())


def _relative(path: Path, folder: Path) -> str:
    """`path` as seen from the session folder; empty where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        return ""
