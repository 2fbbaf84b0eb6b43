"""Copies images that have no file into the session's folder, in a thread of their own.

An image may take minutes to compute: what is painted meanwhile must not wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from napari_mlbseg._util.background import Background
from napari_mlbseg.session.persistence.registry import VolumeRegistry
from napari_mlbseg.session.persistence.volume_store import ImageCopy, StoredVolume

__all__ = ["ImageCopier"]

_RETRY_SECONDS = 4.0  # after a failure


class ImageCopier:
    """Copies a few slices at a time.

    Parameters
    ----------
    registry : VolumeRegistry
    copied : callable
        Called after some slices were copied, with whether the record says something else now.
    failed : callable
        Called with the error when some could not be copied; it is tried again later.
    """

    def __init__(
        self, registry: VolumeRegistry, copied: Callable[[bool], None], failed: Callable[[Exception], None]
    ) -> None:
        self._registry = registry
        self._tell_copied, self._tell_failed = copied, failed
        self._background = Background("mlbseg-images")
        self._copying = False
        self._not_before = 0.0
        self._first: list[StoredVolume] = []

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to copy."""
        return all(kept.is_copied for kept in self._registry)

    def prefer(self, images: Iterable[StoredVolume]) -> None:
        """Copy these first, and at once even if that has just failed."""
        self._first, self._not_before = list(images), 0.0
        for kept in self._first:
            kept.copy_error = None

    def poll(self) -> None:
        """Tell what was copied, and begin with what is next."""
        self._background.poll()
        if time.monotonic() >= self._not_before:
            self._begin()

    def flush(self, seconds: float) -> bool:
        """Copy some more and wait for it, at most so long; whether it was done in time."""
        self._begin()
        return self._background.flush(seconds)

    def pause(self, seconds: float) -> bool:
        """Wait for what is being copied, at most so long; whether it was done in time."""
        return self._background.flush(seconds)

    def close(self) -> None:
        """Copy nothing after what is being copied; does not wait."""
        self._background.close()

    def _begin(self) -> None:
        left = [kept for kept in self._registry if not kept.is_copied]
        if self._copying or not left:
            return
        copy = ImageCopy(next((kept for kept in self._first if kept in left), left[0]))
        folder = self._registry.folder
        self._copying = True

        def copied(result: None) -> None:
            self._copying = False
            self._tell_copied(copy.done())

        def failed(error: Exception) -> None:
            self._copying = False
            self._not_before = time.monotonic() + _RETRY_SECONDS
            copy.failed(error)
            self._tell_failed(error)

        self._background.submit(lambda: copy.write(folder), copied, failed)
