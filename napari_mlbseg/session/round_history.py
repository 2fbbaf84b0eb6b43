"""The rounds of a session: which one is shown, which one the next starts from, and what takes time to know of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from psygnal import Signal

from napari_mlbseg._util.background import Background
from napari_mlbseg.config import NETWORK_FIELDS
from napari_mlbseg.events import Finished
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.session.clean_slices import Provenance, slice_digest
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.schema import RoundRecord, SliceScore
from napari_mlbseg.session.rounds import Round
from napari_mlbseg.session.scores import score_slice
from napari_mlbseg.session.suggestions import Suggestion, rank_slices
from napari_mlbseg.session.volume import AnnotatedVolume
from napari_mlbseg.task import SegmentationTask

if TYPE_CHECKING:
    from napari_mlbseg.training.error_regions import ErrorRegion

__all__ = ["RoundHistory"]


class RoundHistory:
    """Rounds, oldest first.

    Attributes
    ----------
    rounds : list of Round
    restored : Round, optional
        The one that a person went back to; None: the latest is the one to go on from.
    """

    measured = Signal()  # it is known how much room a round takes
    scored = Signal()  # a held-out score came or went
    error_regions_found = Signal()  # it is known where to look again in a round

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.restored: Round | None = None
        self.lost: list[RoundRecord] = []  # of rounds whose files cannot be read: they may come back
        self._ranked: tuple[tuple[object, ...], list[Suggestion]] | None = None

    @property
    def latest(self) -> Round | None:
        """The latest round."""
        return self.rounds[-1] if self.rounds else None

    @property
    def shown(self) -> Round | None:
        """The round whose results are to be seen: the restored one, else the latest that has any."""
        if self.restored is not None:
            return self.restored
        return next((past for past in reversed(self.rounds) if past.has_results), self.latest)

    def get(self, number: int) -> Round:
        """The round of that number; raises KeyError."""
        for past in self.rounds:
            if past.number == number:
                return past
        raise KeyError(f"There is no round {number}.")

    def statistics_of(self, volume: AnnotatedVolume) -> tuple[Round | None, dict[str, np.ndarray]]:
        """What is known of a volume's slices, and from which round: a round that has just begun knows nothing yet."""
        candidates = [self.restored] if self.restored is not None else list(reversed(self.rounds))
        for past in candidates:
            name = past.name_of(volume.uid)
            known = past.statistics.get(name, {}) if name is not None else {}
            if known and past.record.slice_axes[volume.uid] == volume.slice_axis:
                return past, known
        return None, {}

    def suggestions(
        self, volume: AnnotatedVolume, begun: Collection[int], painted: Collection[int]
    ) -> Sequence[Suggestion]:
        """Which slices of a volume to annotate next, best first.

        On those `begun`, somebody began to paint; on all those `painted`, something is painted, clean or accepted too.
        """
        past, known = self.statistics_of(volume)
        marks = volume.marks
        sets = [frozenset(slices) for slices in (marks.clean, marks.skipped, marks.rejected, begun, painted)]
        revision = (past.number, past.revision) if past is not None else ()
        asked = (volume.uid, volume.n_slices, volume.independent_slices, *sets, revision)
        if self._ranked is None or self._ranked[0] != asked:  # several panels ask, and more often than it changes
            clean, skipped, rejected, started, structure = sets
            ranked = rank_slices(
                volume.n_slices,
                clean,
                known,
                skipped=skipped,
                rejected=rejected,
                painted=started,
                structure=structure,
                independent_slices=volume.independent_slices,
            )
            self._ranked = asked, ranked
        return self._ranked[1]

    def clear(self) -> None:
        """Forget all rounds; their files stay."""
        self.rounds, self.lost, self.restored, self._ranked = [], [], None, None

    def remove(self, past: Round) -> None:
        """Take a round off the history."""
        self.rounds.remove(past)
        if self.restored is past:
            self.restored = None

    def reopen(
        self,
        folder: SessionFolder,
        records: Collection[RoundRecord],
        restored: int | None,
        *,
        observe: bool = False,
    ) -> None:
        """Take in the rounds of a session folder; records of those whose files cannot be read are kept.

        `observe` if another program looks after them.
        """
        self.clear()
        for record in records:
            try:
                job_folder = JobFolder(folder.round_path(record.number))
                self.rounds.append(Round.reopen(job_folder, record, observe=observe))
            except (OSError, ValueError, KeyError):  # never written, deleted, or its image lies elsewhere now
                self.lost.append(record)
        self.restored = next((past for past in self.rounds if past.number == restored), None)

    @property
    def numbers(self) -> list[int]:
        """Numbers of all rounds, also of those that were lost."""
        return [*(past.number for past in self.rounds), *(record.number for record in self.lost)]

    def next_number(self, folder: SessionFolder) -> int:
        """A number that no round has, and no folder of one that was lost."""
        on_disk = [int(path.name) for path in folder.rounds_path.glob("*") if path.name.isdigit()]
        return max([*self.numbers, *on_disk], default=0) + 1

    def warm_for(self, task: SegmentationTask) -> Round | None:
        """The restored round, else the latest, that left a model for the same classes and network."""
        candidates = [self.restored] if self.restored is not None else list(reversed(self.rounds))
        for past in candidates:
            fits = (
                past.job.state is JobState.FINISHED
                and isinstance(past.outcome, Finished)
                and past.task.class_values == task.class_values
                and (past.task.last_instance is None) == (task.last_instance is None)
                and past.task.n_channels == task.n_channels
                and all(getattr(past.task.config, name) == getattr(task.config, name) for name in NETWORK_FIELDS)
            )
            if fits and past.job.folder.model_file.exists():
                return past
        return None

    # -- what takes time -----------------------------------------------------------------------------------------

    def score(self, volume: AnnotatedVolume, z: int, background: Background) -> None:
        """Compare what the last round predicted for a slice that is clean now with what a person made of it."""
        last = next((past for past in reversed(self.rounds) if past.job.state.is_final and past.has_results), None)
        if last is None or last.saw(volume.uid, z) or last.record.slice_axes.get(volume.uid) != volume.slice_axis:
            return
        if z not in volume.clean:
            if last.scores.pop((volume.uid, z), None) is not None:
                self.scored.emit()
            return
        name, spacing = last.record.names[volume.uid], volume.in_plane_spacing
        painted = np.array(volume.annotation_slice(z))
        unchanged = volume.marks.provenance(z, slice_digest(painted)) is Provenance.ACCEPTED

        def compare() -> SliceScore:
            prediction = np.asarray(last.job.folder.results(name)["pseudo_labels"][z])
            return score_slice(
                prediction,
                painted,
                spacing,
                volume=volume.uid,
                z=z,
                unit=volume.unit,
                unchanged=unchanged,
                instances=last.task.last_instance is not None,
            )

        def keep(score: SliceScore) -> None:
            if z in volume.clean and last in self.rounds:
                last.scores[volume.uid, z] = score
                self.scored.emit()

        background.submit(compare, keep)

    def measure(self, background: Background) -> None:
        """Ask how much room the rounds take that have ended."""
        for past in self.rounds:

            def known(size: int, past: Round = past) -> None:
                past.bytes_used = size
                self.measured.emit()

            if past.bytes_used is None and past.job.state.is_final:
                background.submit(past.measure, known)

    def find_error_regions(self, past: Round | None, background: Background) -> None:
        """Ask where to look again in a round, if that was not asked yet."""
        if past is None or past.error_regions or not past.job.state.is_final or not past.has_results:
            return

        def known(places: dict[str, list[tuple[int, ErrorRegion]]]) -> None:
            past.error_regions = places
            self.error_regions_found.emit()

        background.submit(past.find_error_regions, known)
