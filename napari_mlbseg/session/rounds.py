"""A round: one training, what was given to it, what it said, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from napari_mlbseg.events import Event, Finished, HeldOut, Preview, is_terminal
from napari_mlbseg.jobs.backend import Job
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session.persistence.folder import folder_bytes
from napari_mlbseg.session.persistence.schema import RoundRecord, SliceScore
from napari_mlbseg.session.scores import mean_dice, mean_hd95
from napari_mlbseg.session.suggestions import take_statistics
from napari_mlbseg.task import SegmentationTask

if TYPE_CHECKING:
    from napari_mlbseg.training.error_regions import ErrorRegion

__all__ = ["Check", "Round", "Run"]


@dataclass(eq=False, kw_only=True)
class Run:
    """A job of the session's and what it said.

    Attributes
    ----------
    job : Job
    events : list of Event
    """

    job: Job
    events: list[Event] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Note what the job said."""
        self.events.append(event)

    @property
    def outcome(self) -> Event | None:
        """The terminal event, once there is one."""
        return self.events[-1] if self.events and is_terminal(self.events[-1]) else None


@dataclass(eq=False, kw_only=True)
class Round(Run):
    """One training: a frozen task, the job that ran it and what it said.

    Attributes
    ----------
    number : int
    task : SegmentationTask
        Its arrays may be lazy.
    record : RoundRecord
        What is known of it since it began.
    scores : dict of (str, int) to SliceScore
        (Volume uid, slice) -> how well the slice was predicted before anybody had painted it.
    statistics : dict of str to dict of str to ndarray, (Z,)
        Volume name -> statistic -> value of each slice, nan where unknown.
    predicted : dict of str to set of int
        Volume name -> slices of which there is a prediction.
    places : dict of str to list of (int, ErrorRegion)
        Volume uid -> slice and place where the other clean slices contradict what was painted, the worst first.
    bytes_used : int, optional
        Size of its files; None until somebody has measured it.
    revision : int
        Grows with every change of the statistics.
    """

    number: int
    task: SegmentationTask
    record: RoundRecord
    scores: dict[tuple[str, int], SliceScore] = field(default_factory=dict)
    statistics: dict[str, dict[str, np.ndarray]] = field(default_factory=lambda: defaultdict(dict))
    error_regions: dict[str, list[tuple[int, ErrorRegion]]] = field(default_factory=dict)
    predicted: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    bytes_used: int | None = None
    revision: int = 0

    @classmethod
    def reopen(cls, folder: JobFolder, record: RoundRecord, *, observe: bool = False) -> Round:
        """A round of an earlier process; raises OSError or ValueError if its request cannot be read.

        `observe` one that another process looks after.
        """
        task = folder.open_task(folder.read_request())
        job = LocalJob.attach(folder.path, observe=observe)
        reopened = cls(number=record.number, job=job, task=task, record=record)
        reopened.scores = {(score.volume, score.slice): score for score in record.scores}
        for event in reopened.job.poll():
            reopened.take(event)
        return reopened

    def take(self, event: Event) -> None:
        """Note what the job said."""
        super().take(event)
        if isinstance(event, Preview):
            n_slices = next((v.n_slices for v in self.task.volumes if v.name == event.volume), 0)
            take_statistics(self.statistics[event.volume], event, n_slices)
            self.revision += bool(event.statistics)
            if "pseudo_labels" in event.arrays:
                self.predicted[event.volume].update(event.slices)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it runs, or if it died."""
        return getattr(self.outcome, "seconds", None)

    @property
    def n_clean(self) -> int:
        """Clean slices that it learnt from."""
        return sum(len(slices) for slices in self.record.clean.values())

    @property
    def has_results(self) -> bool:
        """Whether it has written anything to look at."""
        return any(isinstance(event, Preview) for event in self.events)

    @property
    def n_unreached(self) -> int:
        """Slices that it had no time to predict: they show an earlier guess. 0 if it had no time to learn, either."""
        return self.outcome.unreached if isinstance(self.outcome, Finished) and self.outcome.steps else 0

    @property
    def held_out_dice(self) -> float | None:
        """Mean Dice over the slices that it predicted and a person painted later; None without any."""
        return mean_dice(list(self.scores.values()))

    @property
    def held_out_hd95(self) -> float | None:
        """Mean 95 % Hausdorff distance over the same slices."""
        return mean_hd95(list(self.scores.values()))

    @property
    def started(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.record.started)

    def name_of(self, uid: str) -> str | None:
        """Name that a volume had in this round; None if it was not part of it."""
        return self.record.names.get(uid)

    def saw(self, uid: str, z: int) -> bool:
        """Whether a slice was clean in this round."""
        return z in self.record.clean.get(uid, ())

    def doubt(self, name: str) -> np.ndarray | None:
        """How wrong the model expects to be on each slice, (Z,): 1 - the Dice that it expects; nan where unknown.

        On slices that show next to nothing, the doubt is measured against a tenth of what slices usually show.
        """
        known = self.statistics.get(name, {})
        if "uncertainty" not in known or "foreground" not in known:
            return None
        wrong, shown = known["uncertainty"], known["foreground"]
        usual = np.median(shown[shown > 0]) if (shown > 0).any() else 1.0
        return wrong / (2 * np.fmax(shown, 0.1 * usual) + wrong)

    def find_error_regions(self) -> dict[str, list[tuple[int, ErrorRegion]]]:
        """Read where to look again, as `error_regions`; takes time."""
        from napari_mlbseg.training.error_regions import (
            find_error_regions,  # brings scipy, which the window need not wait for
        )

        found: dict[str, list[tuple[int, ErrorRegion]]] = {}
        labels = {volume.name: volume.labels for volume in self.task.volumes}
        for uid, name in self.record.names.items():
            doubt = self.job.folder.results(name).get("label_doubt")
            if doubt is None:
                continue
            places = [
                (z, place)
                for z in self.record.clean.get(uid, ())
                for place in find_error_regions(np.asarray(doubt[z]), np.asarray(labels[name][z]))
            ]
            found[uid] = sorted(places, key=lambda pair: -pair[1].strength)
        return found

    def measure(self) -> int:
        """Bytes of its files on the disk."""
        return folder_bytes(self.job.folder.path)

    def to_record(self) -> RoundRecord:
        """The record as it is now."""
        outcome = self.outcome
        return self.record.model_copy(
            update={
                "outcome": outcome.type if outcome is not None else None,
                "seconds": self.seconds,
                "scores": tuple(score for _, score in sorted(self.scores.items())),
            }
        )

    def move(self, folder: JobFolder) -> None:
        """Its files lie elsewhere now."""
        self.job = LocalJob.attach(folder.path)
        self.job.poll()
        self.task = folder.open_task(folder.read_request())


@dataclass(eq=False, kw_only=True)
class Check(Run):
    """A leave-one-clean-slice-out: short trainings that each predict one clean slice which they have not seen.

    Attributes
    ----------
    volumes : dict of str to (str, str)
        Name of each volume -> its uid, and the unit of its spacing.
    scores : list of SliceScore
    """

    volumes: dict[str, tuple[str, str]]
    scores: list[SliceScore] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Note what the job said."""
        super().take(event)
        if isinstance(event, HeldOut) and event.volume in self.volumes:
            uid, unit = self.volumes[event.volume]
            self.scores.append(SliceScore(volume=uid, slice=event.slice, dice=event.dice, hd95=event.hd95, unit=unit))
