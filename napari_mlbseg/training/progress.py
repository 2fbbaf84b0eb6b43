"""How often a training speaks, and which slices it shows. Torch-free."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator

from napari_mlbseg.events import Event, Losses, Progress, Stage
from napari_mlbseg.task import SegmentationTask
from napari_mlbseg.training.schedule import Schedule

__all__ = ["Focus", "ProgressReporter", "PreviewOrder", "bit_reversed_order"]

Focus = tuple[str, int]  # name of a volume, and the slice of it that the user looks at

_SPEAK_SECONDS = 0.4
_PREVIEW_SHARE = 0.06  # of the time since the last preview
_DEAREST_SHARE = 0.15  # where a single slice takes longer than that


class ProgressReporter:
    """Turns every step's losses into an event now and then, and says when a preview is due."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._sums: dict[str, float] = {}
        self._count = 0
        self._spoke = 0.0
        self._previewed = time.monotonic()
        self._interval = schedule.config.preview_interval

    def update(self, stage: Stage, bootstrap_step: int, step: int, losses: dict[str, float]) -> Iterator[Event]:
        """Take in a step; yields `Losses` and `Progress` if the last ones are old enough."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if time.monotonic() - self._spoke >= _SPEAK_SECONDS:
            yield from self.flush(stage, bootstrap_step, step)

    def flush(self, stage: Stage, bootstrap_step: int, step: int) -> Iterator[Event]:
        """Say what was taken in since the last `Losses`: at the end of a stage, so that no step is left out."""
        if not self._count:
            return
        self._spoke = time.monotonic()
        total = bootstrap_step + step
        means: dict[str, float | None] = {name: value / self._count for name, value in self._sums.items()}
        yield Losses(stage=stage, step=total, values=means)
        message = "No pixel agrees with the clean slices yet" if means.get("share_positive") == 0 else ""
        yield self.progress(stage, bootstrap_step, step, message)
        self._sums, self._count = {}, 0

    def progress(self, stage: Stage, bootstrap_step: int, step: int, message: str = "") -> Progress:
        """How far the job has come after so many steps of each kind."""
        return Progress(
            stage=stage,
            fraction=self._schedule.job_fraction(bootstrap_step, step),
            step=bootstrap_step + step,
            seconds=self._schedule.seconds,
            seconds_left=self._schedule.seconds_left(bootstrap_step, step),
            message=message,
        )

    def preview_is_due(self) -> bool:
        """Whether the last preview is old enough."""
        return time.monotonic() - self._previewed >= self._interval

    def preview_seconds(self) -> float:
        """Seconds that a preview may take."""
        return _PREVIEW_SHARE * self._schedule.config.preview_interval

    def previewed(self, seconds: float) -> None:
        """A preview was just made, and took so long: the next one waits accordingly."""
        self._previewed = time.monotonic()
        self._interval = max(self._schedule.config.preview_interval, seconds / _DEAREST_SHARE)


class PreviewOrder:
    """Which slices are predicted first: the one in view, then others bit_reversed_order over the stack.

    Parameters
    ----------
    task : SegmentationTask
    focus : callable
        The slice in view now, as (name of the volume, slice), or None.
    """

    def __init__(self, task: SegmentationTask, focus: Callable[[], tuple[str, int] | None]) -> None:
        self._focus = focus
        self._numbers = {volume.name: number for number, volume in enumerate(task.volumes)}
        self._sizes = [volume.n_slices for volume in task.volumes]
        self._first = next(((i, v.focus) for i, v in enumerate(task.volumes) if v.focus is not None), None)
        self._ring = deque(key for number, size in enumerate(self._sizes) for key in bit_reversed_order(number, size))

    def in_view(self) -> tuple[int, int] | None:
        """Volume and slice that the user looks at, as far as they are part of the task."""
        focus = self._focus()
        if focus is None or focus[0] not in self._numbers:
            return self._first
        number = self._numbers[focus[0]]
        return (number, focus[1]) if 0 <= focus[1] < self._sizes[number] else self._first

    def previews(self) -> Iterator[tuple[int, int]]:
        """The slice in view, then all slices once, going on where the last call was left."""
        seen = self.in_view()
        if seen is not None:
            yield seen
        for _ in range(len(self._ring)):
            self._ring.rotate(-1)
            if self._ring[-1] != seen:
                yield self._ring[-1]

    def outwards(self, number: int) -> list[int]:
        """All slices of a volume, from the one in view outwards."""
        seen = self.in_view()
        middle = seen[1] if seen is not None and seen[0] == number else 0
        return sorted(range(self._sizes[number]), key=lambda z: abs(z - middle))


def bit_reversed_order(number: int, size: int) -> list[tuple[int, int]]:
    """All slices of a volume in an order in which any beginning is bit_reversed_order evenly (bit-reversed)."""
    bits = max(1, (size - 1).bit_length())
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return [(number, z) for z in order if z < size]
