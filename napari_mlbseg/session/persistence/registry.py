"""Which volumes a session folder keeps, under which paths, and what becomes of one that changes or leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from napari_mlbseg._util.arrays import is_lazy
from napari_mlbseg._util.files import safe_name
from napari_mlbseg.session.persistence.change_scanner import ChangeScanner
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.schema import ImageRecord
from napari_mlbseg.session.persistence.volume_store import StoredVolume, layout_of
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["VolumeRegistry"]


class VolumeRegistry:
    """What is kept of each volume, also of those that left.

    Attributes
    ----------
    folder : SessionFolder
        Nothing in it is written over: every array gets a path that is free.
    """

    def __init__(self, folder: SessionFolder) -> None:
        self.folder = folder
        self._kept: dict[str, StoredVolume] = {}

    def __iter__(self) -> Iterator[StoredVolume]:
        return iter(self._kept.values())

    def get(self, uid: str) -> StoredVolume | None:
        """What is kept of a volume; None if it is not known."""
        return self._kept.get(uid)

    def leaving(self, volumes: Sequence[AnnotatedVolume]) -> list[StoredVolume]:
        """What is kept of volumes that are none of these any more."""
        staying = {volume.uid for volume in volumes}
        return [kept for uid, kept in self._kept.items() if uid not in staying and kept.left is None]

    def set_volumes(self, volumes: Sequence[AnnotatedVolume]) -> None:
        """Keep these from now on; what is known of one that was kept before goes on, and of one that leaves stays."""
        now = time.monotonic()
        for kept in self.leaving(volumes):
            kept.left = now
        for volume in volumes:
            known = self._kept.get(volume.uid)
            if known is None:
                self._kept[volume.uid] = self._new(volume)
                continue
            self._go_on(known, volume)
            if known.left is not None:  # somebody may have painted on it meanwhile
                known.left = None
                known.watcher.mark_dirty()

    def adopt(self, volume: AnnotatedVolume, annotation: str, image: ImageRecord) -> None:
        """Keep a volume that was just read from the folder: nothing of it needs to be written."""
        watcher = ChangeScanner(volume)
        for _ in watcher.look(float("inf")):
            pass  # it learns what is there; nothing changed
        kept = StoredVolume(
            watcher, annotation, layout_of(volume), content=image.content, is_new=False, is_written=True
        )
        if image.kind == "embedded":
            kept.embedded, kept.copied = image.path, volume.n_slices if image.complete else 0
            kept.copied_from = volume.image
        self._kept[volume.uid] = kept

    def left_volumes(self) -> list[tuple[AnnotatedVolume, bool]]:
        """Volumes that left, painted or marked, and those that left last of all, which is told of each.

        A window that is closed may take all its layers away first: those are the session's all the same.
        """
        left = [(kept, kept.left) for kept in self if kept.left is not None]
        last = max((when for _, when in left), default=0.0)
        is_deserted = all(kept.left is not None for kept in self)
        together = [(kept, is_deserted and last == when) for kept, when in left]
        return [
            (kept.volume, was_last)
            for kept, was_last in together
            if was_last or kept.watcher.painted or kept.volume.marks.are_any
        ]

    def _new(self, volume: AnnotatedVolume) -> StoredVolume:
        annotation = self._free_path("annotations", volume.name) if volume.is_annotated else ""
        kept = StoredVolume(ChangeScanner(volume), annotation, layout_of(volume))
        if volume.source is None:
            self._embed(kept)
        return kept

    def _embed(self, kept: StoredVolume) -> None:
        """Keep a copy of an image that has no file; one that was made for another annotation of it serves both."""
        volume = kept.volume
        copies = (k for k in self if k.embedded and k.volume.image is volume.image)
        twin = next((k for k in copies if k.volume.slice_axis == volume.slice_axis), None)
        if twin is None:
            kept.embedded = self._free_path("images", volume.name)
        else:
            kept.embedded, kept.copied, kept.copied_from = twin.embedded, twin.copied, twin.copied_from
            kept.digest = twin.digest

    def take_digest(self, kept: StoredVolume, digest: str) -> bool:
        """The image of a volume, which is in memory, has this fingerprint; whether it is another one than was kept.

        Then its file is its source no more, and it is copied anew.
        """
        source = kept.volume.source
        before = kept.digest if source is None else source.digest
        if before in ("", digest):
            kept.digest = digest
            return False
        kept.volume.source, kept.is_altered = None, True
        kept.embedded, kept.copied, kept.digest = self._free_path("images", kept.volume.name), 0, digest
        return True

    def _go_on(self, kept: StoredVolume, volume: AnnotatedVolume) -> None:
        """The same volume, perhaps with other pixels, another type or another slice axis."""
        earlier = kept.volume
        is_another = volume.image is not earlier.image
        if is_another:
            kept.is_altered, kept.is_unchecked = False, True
        elif kept.is_altered:
            volume.source = None
        elif volume.source is None and earlier.source is not None:
            volume.source = earlier.source  # its disk is away: it may come back
        # a lazy image is the same for as long as it is the same object; one in memory may have been read anew
        if volume.source is None and (not kept.embedded or (is_another and is_lazy(volume.image))):
            kept.embedded, kept.copied = self._free_path("images", volume.name), 0
        if volume.is_annotated and not kept.annotation:  # somebody may paint on it from now on
            kept.annotation = self._free_path("annotations", volume.name)
        if layout_of(volume) == kept.layout:
            kept.watcher.volume = volume
            if earlier.annotation is not volume.annotation:
                kept.watcher.mark_dirty()
            return
        # never over what was kept: an array of another form gets a new name, and the old one stays
        kept.before = kept.before or (kept.annotation if kept.is_written else "")
        kept.annotation = self._free_path("annotations", volume.name)
        kept.watcher, kept.layout, kept.dirty = ChangeScanner(volume), layout_of(volume), set()
        kept.is_new, kept.is_written = True, False
        if kept.embedded and kept.copied < volume.n_slices:
            kept.embedded, kept.copied = self._free_path("images", volume.name), 0

    def _free_path(self, room: str, name: str) -> str:
        """A path within the folder that nothing has: what is there is never written over."""
        paths = (path for kept in self for path in (kept.annotation, kept.embedded, kept.before))
        taken = {path.casefold() for path in paths}  # some disks do not tell Scan from scan
        stem, number = safe_name(name), 1
        while True:
            path = f"{room}/{stem}{'' if number == 1 else f'-{number}'}.zarr"
            if path.casefold() not in taken and not (self.folder.path / path).exists():
                return path
            number += 1
