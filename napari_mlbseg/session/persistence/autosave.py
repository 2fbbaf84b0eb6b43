"""Keeps a session folder up to date with what is painted, seconds after a stroke, without the window waiting for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from psygnal import Signal

from napari_mlbseg._util.background import Background
from napari_mlbseg.io.read_pixels import is_in_memory, pixel_digest
from napari_mlbseg.session.persistence.change_scanner import ChangeScanner
from napari_mlbseg.session.persistence.folder import SessionFolder, content_hash
from napari_mlbseg.session.persistence.image_copier import ImageCopier
from napari_mlbseg.session.persistence.lock import SessionBusyError
from napari_mlbseg.session.persistence.registry import VolumeRegistry
from napari_mlbseg.session.persistence.schema import SessionError, SessionRecord
from napari_mlbseg.session.persistence.volume_store import Change, Demand, StoredVolume
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["Autosave"]

_LOG = logging.getLogger(__name__)

_SETTLE_SECONDS = 0.3  # after the last stroke, before slices are compared
_LOOK_SECONDS = 0.010  # that a poll may compare slices
_RETRY_SECONDS = 4.0  # after a failure
_DOUBT_SECONDS = 30.0  # of painting, after which the image is compared with its file
#: Annotations up to this size are compared once more before something relies on them; of larger ones, the clean slices.
_SWEPT_BYTES = 2**28


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
    All methods belong to one thread; files are written in another, images are copied in a third. `poll` takes a
    hundredth of a second at most.
    """

    slice_changed = Signal(str, int, str, str)  # uid, slice, old and new fingerprint
    problem_changed = Signal(str)  # a sentence while nothing can be saved; empty: all is well again

    def __init__(self, folder: SessionFolder, record: Callable[[], SessionRecord]) -> None:
        self.registry = VolumeRegistry(folder)
        self._make_record = record
        self._record_is_stale = False
        self._not_before = 0.0
        self._writing = False
        self._locked = False
        self.read_only = ""  # why nothing is written: another program has the folder open
        self.has_user_changes = False  # whether a person did anything that is worth a folder
        self.problem = ""
        self._problems = {"lock": "", "changes": "", "images": ""}
        self._error: Exception | None = None
        self._demands: list[Demand] = []
        self.background = Background()
        self._doubted = 0.0  # when images were compared last
        self._images = ImageCopier(self.registry, self._on_copied, self._on_not_copied)

    @property
    def folder(self) -> SessionFolder:
        """Where everything is written."""
        return self.registry.folder

    # -- volumes -------------------------------------------------------------------------------------------------

    def set_volumes(self, volumes: Iterable[AnnotatedVolume]) -> None:
        """Watch exactly these volumes; one that was watched before goes on from what is known of it.

        What was painted on a volume that leaves stays: it is looked at once more, written, and named in the record.
        """
        stacks = [volume for volume in volumes if volume.annotation.ndim == 3]
        for kept in self.registry.leaving(stacks):
            kept.watcher.mark_dirty()
            self._look(kept, float("inf"))
        self.registry.set_volumes(stacks)
        self._record_is_stale = True

    def mark_dirty(self, uid: str, z: int | None = None) -> None:
        """Something may have been painted on a volume, probably on slice `z`."""
        kept = self.registry.get(uid)
        if kept is not None:
            self.has_user_changes = True
            kept.touched = time.monotonic()
            if kept.touched - self._doubted > _DOUBT_SECONDS:
                self._doubt_images()
            kept.watcher.mark_dirty(z)

    def note(self, uid: str, z: int, digest: str) -> None:
        """Slice `z` has this fingerprint now: known at once, so that what is painted next is told apart from it."""
        kept = self.registry.get(uid)
        if kept is not None and kept.watcher.digests[z] != digest:
            kept.watcher.note(z, digest)
            kept.dirty.add(z)

    def mark_record_dirty(self, wake: bool = False) -> None:
        """Something else changed that the record holds; `wake` if it is worth a folder by itself."""
        self._record_is_stale = True
        self.has_user_changes = self.has_user_changes or wake

    def watcher(self, uid: str) -> ChangeScanner | None:
        """What is known of a volume's painted slices; None of one that is not watched."""
        kept = self.registry.get(uid)
        return None if kept is None else kept.watcher

    # -- saving --------------------------------------------------------------------------------------------------

    @property
    def is_saved(self) -> bool:
        """Whether the folder holds all that is known to have changed."""
        if not self.has_user_changes:
            return True
        is_known = not self._record_is_stale and all(kept.watcher.is_done and not kept.dirty for kept in self.registry)
        return is_known and not self._writing

    @property
    def has_content(self) -> bool:
        """Whether anything is painted."""
        return any(kept.watcher.painted for kept in self.registry)

    def poll(self) -> None:
        """Compare some slices and begin to write what changed."""
        now = time.monotonic()
        settled = [kept for kept in self.registry if kept.touched is None or now - kept.touched >= _SETTLE_SECONDS]
        for kept in sorted(settled, key=lambda kept: kept.touched is None):  # what somebody paints on comes first
            if not kept.watcher.is_done or kept.touched is not None:
                self._look(kept, now + _LOOK_SECONDS - time.monotonic())
            if time.monotonic() - now > _LOOK_SECONDS:
                break
        self.background.poll()
        if self.has_user_changes and not self._writing and not self.read_only and now >= self._not_before:
            self._begin_writing()
        if self.has_user_changes and self._locked:  # else nothing was ever worth a folder
            self._images.poll()

    def scan_all(self) -> None:
        """Compare all slices now, also with changes of which no event told."""
        for kept in self.registry:
            if kept.volume.annotation.nbytes <= _SWEPT_BYTES:
                kept.watcher.mark_dirty()
            else:
                kept.watcher.suspect(kept.volume.clean)
            self._look(kept, float("inf"))

    def demand(self, images: Iterable[str] = ()) -> Demand:
        """Begin to write everything that is known to have changed; returns at once.

        Parameters
        ----------
        images : iterable of str
            Uids of volumes whose images, which have no file, are to be copied before others.
        """
        wanted = [kept for kept in map(self.registry.get, images) if kept is not None]
        demand = Demand(wanted)
        if self.read_only:
            demand.error = SessionError(self.read_only)
            return demand
        self._demands.append(demand)
        self._images.prefer(wanted)
        self._doubt_images()
        self._not_before, self.has_user_changes, self._record_is_stale = 0.0, True, True
        if not self._writing:
            self._begin_writing()
        return demand

    def flush(self, seconds: float = 20.0, *, images: bool = False) -> None:
        """Write everything that is known to have changed, and wait for it.

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
        if self.read_only:
            raise SessionError(self.read_only)
        self._not_before, self.has_user_changes = 0.0, True
        self._doubt_images()
        end = time.monotonic() + seconds
        self._record_is_stale = True
        while not self.is_saved or (images and not self._images.is_done):
            if not self._writing:
                self._begin_writing()
            if not self.background.flush(end - time.monotonic()) or time.monotonic() > end:
                raise TimeoutError(0, "the disk does not answer")
            if self._error is not None:
                raise self._error
            if images and not self._images.flush(end - time.monotonic()):
                raise TimeoutError(0, "the image cannot be copied in time")
            if images and self._problems["images"]:
                raise OSError(self._problems["images"])

    def close(self, seconds: float = 5.0) -> None:
        """Write what is left, as far as that can be done, if a person did anything; and let go of the folder."""
        if self.has_user_changes:
            # what cannot be written was said already, and there is nobody left to tell
            with suppress(Exception):  # a program that is ending must not stumble
                self.scan_all()
                self.flush(seconds, images=True)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the folder as it is."""
        self.background.close()
        self._images.close()
        if self._locked:
            self.folder.unlock()

    def holds_lock(self) -> None:
        """The folder was locked for this process already."""
        self._locked = True

    def only_read(self, busy: SessionBusyError) -> None:
        """Write nothing, since another program has the folder open: what is painted stays in memory."""
        self._locked = False
        self.read_only = (
            f"{busy} Until then you can look at it, but nothing is saved in it and nothing can be trained. What you "
            "paint all the same is kept in a copy, see Recent."
        )
        self._say("lock", self.read_only)

    def move(self, folder: SessionFolder, keep: bool, *, rounds: bool = True) -> None:
        """Go on in another folder, which must not be there yet.

        Parameters
        ----------
        folder : SessionFolder
        keep : bool
            Whether what was written so far also stays where it is.
        rounds : bool
            Whether what was trained goes along.

        Raises
        ------
        OSError
            If the new folder cannot be written, or the disk does not answer; all is as it was.
        """
        if not (self.background.flush(20.0) and self._images.pause(20.0)):
            raise TimeoutError(0, "the disk does not answer")
        old, is_ours, keep = self.folder, self._locked, keep or bool(self.read_only)
        if is_ours and not keep:
            old.unlock()
            self._locked = False  # it is taken again with the next change, if this fails
        if old.path.exists() and (is_ours or self.read_only):  # another folder holds nothing of this session
            old.transfer(folder, keep, rounds=rounds)
        try:
            folder.lock()
        except OSError:
            if keep:
                folder.remove()
            raise
        if is_ours:
            old.unlock()
        elif self.read_only:  # who has the other folder open goes on painting there
            for kept in self.registry:
                kept.dirty.update(range(kept.volume.n_slices) if kept.annotation else ())
        self.registry.folder, self._locked, self._record_is_stale, self.read_only = folder, True, True, ""
        self._say("lock", "")

    def _look(self, kept: StoredVolume, seconds: float) -> None:
        for z, old, new in kept.watcher.look(seconds):
            if kept.annotation:
                kept.dirty.add(z)
            self._record_is_stale = True  # it holds the provenance of slices
            self.slice_changed.emit(kept.volume.uid, z, new if kept.is_new else old, new)
        if kept.watcher.is_done:
            kept.touched, kept.is_new = None, False

    def _doubt_images(self) -> None:
        """Somebody may have written into images without anybody being told: compare them with what is kept of them."""
        self._doubted = time.monotonic()
        for kept in self.registry:
            kept.is_unchecked = True

    def _check_images(self) -> None:
        for kept in self.registry:
            image = kept.volume.image
            if not kept.is_unchecked or kept.left is not None or not is_in_memory(image):
                continue

            def known(digest: str, kept: StoredVolume = kept, image: Any = image) -> None:
                if kept.volume.image is image:
                    self._record_is_stale = self.registry.take_digest(kept, digest) or self._record_is_stale

            kept.is_unchecked = False
            self.background.submit(lambda image=image: pixel_digest(image), known)  # type: ignore[misc]

    def _begin_writing(self) -> None:
        """Hand what changed to the background, if anything did."""
        self._check_images()
        if self._has_dirty() or self._record_is_stale:
            self._notice_what_was_deleted()
            changes = [Change(kept) for kept in self.registry if kept.is_unwritten]
            self._record_is_stale = False
            self._write(changes, self._make_record())
        elif self._locked:
            self._ask_contents()

    def _notice_what_was_deleted(self) -> None:
        """Write everything again of a folder that somebody deleted."""
        for kept in self.registry:
            if kept.is_written and not (self.folder.path / kept.annotation).exists():
                kept.dirty |= kept.watcher.painted
                kept.copied, kept.is_written = 0, False

    def _ask_contents(self) -> None:
        """Find out the fingerprints of images that have files."""
        for kept in self.registry:
            source = kept.volume.source
            if source is None or kept.content or kept.asked:
                continue

            def known(content: str, kept: StoredVolume = kept) -> None:
                kept.content, self._record_is_stale = content, True

            kept.asked = True  # once: a file that cannot be read is found when it is opened
            self.background.submit(lambda path=source.path: content_hash(path), known)  # type: ignore[misc]

    def _write(self, changes: Sequence[Change], record: SessionRecord) -> None:
        """Write changes, then the record that names them, in the background."""
        folder = self.folder
        self._writing = True
        demands, self._demands = self._demands, []

        def write() -> None:
            if not (self._locked and folder.is_locked):
                folder.lock()
                self._locked = True
            for change in changes:
                change.write(folder)
            folder.write(record)

        def written(result: None) -> None:
            self._writing, self._error = False, None
            _LOG.debug("saved %d changes and the record", len(changes))
            for change in changes:
                self._record_is_stale = change.done() or self._record_is_stale
            for demand in demands:
                demand.is_written = True
            self._say("changes", "")

        def failed(error: Exception) -> None:
            self._writing = False
            for change in changes:
                change.put_back()
            for demand in demands:
                demand.error = error
            self._record_is_stale, self._error = True, error
            if isinstance(error, SessionBusyError):
                self.only_read(error)
                return
            self._not_before = time.monotonic() + _RETRY_SECONDS
            self._say("changes", self._sentence(error))

        self.background.submit(write, written, failed)

    def _on_copied(self, is_news: bool) -> None:
        self._record_is_stale = is_news or self._record_is_stale
        self._say("images", "")

    def _on_not_copied(self, error: Exception) -> None:
        self._say("images", self._sentence(error))

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, SessionError):
            return str(error)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return (
            f"What you paint cannot be saved to {self.folder.path} ({reason}): make room there, or save the session "
            "elsewhere. Go on painting: it is kept in memory, and saving is tried again every few seconds."
        )

    def _say(self, what: str, problem: str) -> None:
        self._problems[what] = problem
        problem = next(filter(None, self._problems.values()), "")
        if problem != self.problem:
            self.problem = problem
            if problem:
                _LOG.warning("%s", problem)
            self.problem_changed.emit(problem)

    def _has_dirty(self) -> bool:
        return any(kept.dirty for kept in self.registry)
