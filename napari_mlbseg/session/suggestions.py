"""Which slice to annotate next, and why. Pure: numbers in, an order and a sentence for each slice out.

An annotation repairs its slice and helps the ones around it, as far as the nearest slices that are clean already. So a
slice is worth what is wrong on it and around it: the errors to be expected, each counted less the farther it lies from
the slice, not at all beyond the next clean slices.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from napari_mlbseg.events import Event, Preview

__all__ = ["Suggestion", "latest_statistics", "rank_slices", "take_statistics"]

_BESIDE = 2  # slices before the first and behind the last that shows something, which may show it too
_PLANNED = 16  # suggestions of a kind that take account of those before them; the rest follow by what is left

_NONE_CLEAN = "No slice is clean yet: begin in the middle."
_UNKNOWN = "Nothing is known of it yet."
_NEIGHBOUR = "Beside a clean one."
_REJECTED = "You rejected its prediction."
_PAINTED = "You began to paint it."
#: What may be why a slice comes early, and how to say so: statistics, in the order in which they are taken on a tie.
_DISTANCE = "%d slices from the nearest clean one."
_REASONS = {
    "uncertainty": "About %d of its pixels may be wrong.",
    "initial_disagreement": "The first labels and the model disagree on %d of its pixels.",
    "view_disagreement": "The views of it disagree on about %d pixels.",
}


class Suggestion(NamedTuple):
    """A slice to annotate.

    Attributes
    ----------
    slice : int
    score : float
        What an annotation there would repair; comparable within one ranking only.
    reason : str
        One sentence for the person who annotates.
    """

    slice: int
    score: float
    reason: str


def latest_statistics(events: Iterable[Event], volume: str, n_slices: int) -> dict[str, np.ndarray]:
    """The last value that a job gave for every slice.

    Parameters
    ----------
    events : iterable of Event
        In the order in which they came.
    volume : str
        Name of the volume.
    n_slices : int

    Returns
    -------
    dict of str to ndarray
        Name of a statistic -> (Z,) float, nan where it is not known. Names and units are those of
        `napari_mlbseg.training.slice_statistics`.
    """
    latest: dict[str, np.ndarray] = {}
    for event in events:
        if isinstance(event, Preview) and event.volume == volume:
            take_statistics(latest, event, n_slices)
    return latest


def take_statistics(known: dict[str, np.ndarray], event: Preview, n_slices: int) -> None:
    """Add what a `Preview` tells of its volume to what is known of it, as `latest_statistics` gives it."""
    for name, values in event.statistics.items():
        of_slices = known.setdefault(name, np.full(n_slices, np.nan))
        for z, value in zip(event.slices, values, strict=True):
            if value is not None and 0 <= z < n_slices:
                of_slices[z] = value


def rank_slices(
    n_slices: int,
    clean: Collection[int],
    statistics: Mapping[str, np.ndarray],
    *,
    skipped: Collection[int] = (),
    rejected: Collection[int] = (),
    painted: Collection[int] = (),
    structure: Collection[int] = (),
    independent_slices: bool = False,
) -> list[Suggestion]:
    """Slices that could be annotated next, best first.

    Slices whose prediction was rejected come first, then those on which painting began, then all others that show the
    structure or lie beside it, and last what lies farther outside. Among the first ones, each takes account of the ones
    before it: two neighbours are not both suggested early.

    Parameters
    ----------
    n_slices : int
        Z.
    clean : collection of int
        Slices that are annotated already; they are not suggested.
    statistics : mapping of str to ndarray, (Z,)
        What a training knows about each slice, nan where unknown; see `latest_statistics`. The uncertainty
        decides; what else there is goes into the reasons. Without it, distances to the clean slices decide.
    skipped : collection of int
        Slices that the user does not want to annotate. Their neighbours, which look alike, are not suggested in their
        place either.
    rejected : collection of int
        Slices whose prediction the user found wrong.
    painted : collection of int
        Slices on which the user began to paint but which are not marked clean.
    structure : collection of int
        Slices on which something is painted, clean or not; beside these, what is predicted to show something counts.
        Without any, nothing is known to lie outside.
    independent_slices : bool
        The slices are unrelated images: what is known of one says nothing of its neighbours.

    Returns
    -------
    list of Suggestion

    Raises
    ------
    ValueError
        If a slice lies outside the stack, or a statistic has another length.
    """
    groups = {"clean": clean, "skipped": skipped, "rejected": rejected, "painted": painted, "structure": structure}
    _check(n_slices, groups, statistics)
    uncertainty = _filled(statistics.get("uncertainty"))
    reasons = _Reasons(n_slices, clean, {} if uncertainty is None else statistics, independent_slices)
    plan = _Plan(n_slices, {*clean, *skipped}, uncertainty, independent_slices)
    left = ~_mask(n_slices, {*clean, *skipped})
    ranking: list[Suggestion] = []
    near = range(n_slices) if independent_slices else _near(n_slices, structure, statistics.get("foreground"))
    for kind, because in ((rejected, _REJECTED), (painted, _PAINTED), (near, ""), (range(n_slices), "")):
        wanted = left & _mask(n_slices, kind)
        ranking += [Suggestion(z, score, because or reasons[z]) for z, score in plan.ordered(wanted)]
        left &= ~wanted
    return ranking


def _near(n_slices: int, structure: Collection[int], foreground: np.ndarray | None) -> range:
    """Slices from the first to the last that shows something, and as many beside them as lie between two of those.

    All slices, where it is not known what they show.
    """
    if not structure:
        return range(n_slices)
    predicted = () if foreground is None else np.flatnonzero(np.nan_to_num(foreground) > 0).tolist()
    shown = sorted({*structure, *predicted})
    gaps = np.diff(shown)
    beside = max(_BESIDE, int(np.median(gaps)) // 2) if len(gaps) else max(_BESIDE, n_slices // 20)
    return range(max(0, shown[0] - beside), min(n_slices, shown[-1] + beside + 1))


class _Plan:
    """What an annotation of each slice would repair, given those that are done or planned."""

    def __init__(self, n_slices: int, done: Collection[int], uncertainty: np.ndarray | None, independent: bool) -> None:
        self._ends = sorted({-1, n_slices, *done})
        self._uncertainty = uncertainty
        self._gain: np.ndarray
        if independent and uncertainty is not None:  # an annotation repairs its own slice only
            self._gain, self._alone = uncertainty, True
        else:
            self._gain, self._alone = _gain(n_slices, self._ends, uncertainty), False

    def ordered(self, wanted: np.ndarray) -> Iterator[tuple[int, float]]:
        """The wanted slices, (Z,) bool, best first, with their gains; the first ones as if those before were done."""
        left = wanted.copy()
        for _ in range(min(_PLANNED, int(left.sum()))):
            z = int(np.where(left, self._gain, -np.inf).argmax())
            yield z, float(self._gain[z])
            left[z] = False
            if not self._alone:
                self._add(z)
        rest = np.flatnonzero(left)
        rest = rest[np.argsort(-self._gain[rest], kind="stable")]
        yield from zip(rest.tolist(), self._gain[rest].tolist(), strict=True)

    def _add(self, z: int) -> None:
        """Take slice `z` as done: only the gap in which it lies changes, which is like a stack of its own."""
        place = bisect_left(self._ends, z)
        first, last = self._ends[place - 1] + 1, self._ends[place]
        self._ends.insert(place, z)
        uncertainty = None if self._uncertainty is None else self._uncertainty[first:last]
        self._gain[first:last] = _gain(last - first, [-1, z - first, last - first], uncertainty)


def _gain(n_slices: int, ends: Sequence[int], uncertainty: np.ndarray | None) -> np.ndarray:
    """What an annotation of each slice would repair, (Z,); without uncertainties its distance to what is done.

    Parameters
    ----------
    n_slices : int
    ends : sequence of int
        Of the gaps, ascending: -1, the slices that are done, Z. Beyond the stack counts as done.
    uncertainty : ndarray, (Z,), or None

    Notes
    -----
    Between two clean slices a and b, what is unknown is taken for a Brownian bridge: its variance times the square root
    of the uncertain pixels, a length of doubtful outline, is what is likely to be wrong on a slice. Annotating z takes
    away the share ``(z' - a) (b - z) / ((z - a) (b - z'))`` of it on the slices z' from a to z, and likewise from z to
    b. Power and kernel were chosen among others by simulation (docs/evidence.md).
    """
    z = np.arange(n_slices)
    places = np.asarray(ends)
    right = np.searchsorted(places, z, side="right")
    left_end, right_end = places[right - 1], places[right]
    to_left, to_right = z - left_end, right_end - z  # to_left is 0 on slices that are done
    if uncertainty is None:
        return np.minimum(to_left, to_right).astype(float)
    expected = np.sqrt(uncertainty) * to_left * to_right / (to_left + to_right)
    safe_left = np.maximum(to_left, 1)
    before = np.concatenate([[0.0], np.cumsum(expected * to_left / to_right)])
    after = np.concatenate([[0.0], np.cumsum(expected * to_right / safe_left)])
    up_to = (before[z + 1] - before[left_end + 1]) * to_right / safe_left
    beyond = (after[right_end] - after[z + 1]) * to_left / to_right
    return up_to + beyond


def _filled(values: np.ndarray | None) -> np.ndarray | None:
    """Values with nan replaced from the nearest known ones; None if nothing is known."""
    if values is None:
        return None
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    return np.interp(np.arange(len(values)), known, np.asarray(values, float)[known])


class _Reasons:
    """Why a slice comes early: that of it which stands out most from the slices that could be annotated."""

    def __init__(
        self, n_slices: int, clean: Collection[int], statistics: Mapping[str, np.ndarray], independent: bool
    ) -> None:
        distances = _distances(n_slices, () if independent else clean)
        others = ~_mask(n_slices, clean)
        self._otherwise = _UNKNOWN if independent else _NONE_CLEAN  # where there are no distances to tell of
        names = [name for name in _REASONS if name in statistics]
        values = [distances, *(np.asarray(statistics[name]) for name in names)]
        self._sentences = [_DISTANCE, *(_REASONS[name] for name in names)]
        typical = [float(np.nanmean(v[others])) if np.isfinite(v[others]).any() else 1.0 for v in values]
        prominence = [np.nan_to_num(v) / max(t, 1.0) for v, t in zip(values, typical, strict=True)]
        which = np.argmax(prominence, axis=0)
        self._which, self._numbers = which.tolist(), np.rint(np.choose(which, values)).tolist()

    def __getitem__(self, z: int) -> str:
        which, number = self._which[z], self._numbers[z]
        if which == 0 and number <= 1:
            return _NEIGHBOUR if number else self._otherwise
        return self._sentences[which] % number


def _distances(n_slices: int, clean: Collection[int]) -> np.ndarray:
    """Slices to the nearest clean one, (Z,); 0 everywhere if there is none."""
    z = np.arange(n_slices)
    if not clean:
        return np.zeros(n_slices, int)
    places = np.array(sorted(clean))
    right = np.searchsorted(places, z).clip(max=len(places) - 1)
    return np.minimum(abs(z - places[right]), abs(z - places[np.maximum(right - 1, 0)]))


def _mask(n_slices: int, slices: Collection[int]) -> np.ndarray:
    mask = np.zeros(n_slices, bool)
    mask[list(slices)] = True
    return mask


def _check(n_slices: int, slices: Mapping[str, Collection[int]], statistics: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, one sentence, for what does not fit."""
    for kind, numbers in slices.items():
        outside = [z for z in numbers if not 0 <= z < n_slices]
        if outside:
            raise ValueError(f"There is no slice {outside[0]} to be {kind}: the slices are 0 to {n_slices - 1}.")
    for name, values in statistics.items():
        if np.shape(values) != (n_slices,):
            raise ValueError(
                f"The statistic '{name}' has shape {np.shape(values)}: one number for each of the {n_slices} slices is "
                "needed."
            )
