"""Which slices of an annotation changed: found by their fingerprints, a little at a time.

What napari says of a stroke differs by tool and version, and an undo says nothing of where it was. So an event only
means that something changed; the slices are compared with what they were, the one in view first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

from napari_mlbseg.session.clean_slices import combined_digest, label_values, slice_digest
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["ChangeScanner"]


class ChangeScanner:
    """Fingerprints of a volume's painted slices.

    Parameters
    ----------
    volume : AnnotatedVolume
    known : list of str, optional
        Fingerprints as they were; by default nothing was painted.
    """

    def __init__(self, volume: AnnotatedVolume, known: list[str] | None = None) -> None:
        self.volume = volume
        self.digests = list(known) if known is not None else [""] * volume.n_slices
        self._values: list[frozenset[int]] = [frozenset()] * volume.n_slices
        self._queue: deque[int] = deque()
        self._touched: int | None = 0 if volume.is_annotated else None  # slice around which to begin again

    def mark_dirty(self, z: int | None = None) -> None:
        """Something was painted, probably on slice `z`: look at all slices again, that one and its neighbours first."""
        self._touched = z if z is not None else 0

    def suspect(self, slices: Iterable[int]) -> None:
        """Look at these again before all others: they may have changed without anybody telling."""
        self._queue.extendleft(z for z in slices if 0 <= z < self.volume.n_slices)

    def note(self, z: int, digest: str) -> None:
        """Slice `z` has this fingerprint now."""
        self.digests[z] = digest
        self._values[z] = label_values(self.volume.annotation_slice(z))

    @property
    def is_done(self) -> bool:
        """Whether every slice was looked at since the last touch."""
        return self._touched is None and not self._queue

    @property
    def painted(self) -> set[int]:
        """Slices on which something is painted, as far as they were looked at."""
        return {z for z, digest in enumerate(self.digests) if digest}

    @property
    def values(self) -> set[int]:
        """Label numbers that are painted anywhere, without background, as far as was looked."""
        return set().union(*self._values)

    def values_of(self, z: int) -> frozenset[int]:
        """Label numbers that are painted on slice `z`, without background, as it was looked at last."""
        return self._values[z]

    @property
    def checksum(self) -> str:
        """Fingerprint of the whole annotation."""
        return combined_digest(self.digests)

    def look(self, seconds: float) -> Iterator[tuple[int, str, str]]:
        """Look at slices for about so long; yields those that changed, with their old and new fingerprint."""
        end = time.monotonic() + seconds
        if self._touched is not None:
            middle, self._touched = self._touched, None
            self._queue = deque(sorted(range(self.volume.n_slices), key=lambda z: abs(z - middle)))
        while self._queue:
            z = self._queue.popleft()
            plane = self.volume.annotation_slice(z)
            old, new = self.digests[z], slice_digest(plane)
            if old != new or bool(new) != bool(self._values[z]):
                self._values[z] = label_values(plane)
            if old != new:
                self.digests[z] = new
                yield z, old, new
            if time.monotonic() > end:
                return
