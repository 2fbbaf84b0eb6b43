"""The last pass over all slices by two ranks: real processes; what one shows, in its order, and no hang."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_mlbseg.engine.place import Place
from napari_mlbseg.engine.ranks import ALONE, Ranks, has_lost_another, join
from napari_mlbseg.engine.shared_final import rounds, seeded

from . import ranked_final
from .ranked_final import ALIKE, Last, last_of

COMPLETE = [name for name in ranked_final.SCENARIOS if name != "failing"]


@contextmanager
def other_rank(folder: Path, scenarios: list[str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, Path]]]:
    """Rank 1 of 2, which runs the scenarios, and the meeting of each."""
    meetings = {name: folder / name.replace(" ", "-") for name in scenarios}
    words = [str(word) for pair in meetings.items() for word in pair]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen(
        [sys.executable, ranked_final.__file__, *words], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield other, meetings
    finally:
        other.kill()
        sys.stderr.write(other.communicate()[1])  # why, if it has failed


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Last]:
    """What this process, as rank 0, and another one did together."""
    with other_rank(tmp_path_factory.mktemp("ranks"), COMPLETE) as (other, meetings):
        found = {name: last_of(name, join(Place(0, 2, 0, 2, meetings[name]))) for name in COMPLETE}
        assert other.wait(60) == 0
    return found


def shown(last: Last) -> list[int]:
    return [z for event in last.events if isinstance(event, tuple) and isinstance(event[0], tuple) for z in event[0]]


@pytest.mark.parametrize("scenario", ALIKE)
def test_two_ranks_show_what_one_shows(scenario: str, by_two: Mapping[str, Last]) -> None:
    alone, together = last_of(scenario, ALONE), by_two[scenario]
    assert together.events == alone.events
    for of_two, of_one in zip(together.statistics, alone.statistics, strict=True):
        assert of_two.keys() == of_one.keys()
        for name, values in of_one.items():  # they are rounded: sums of pixels to 0.1, mean weights to 0.0001
            assert of_two[name] == pytest.approx(values, abs=2e-4 if name == "weight" else 0.11), name
    assert together.arrays.keys() == alone.arrays.keys()
    for name, array in alone.arrays.items():
        # both have computed with the same parameters: what differs is rounding, and float16 has steps of 1/2048
        step = 5e-4 if array.dtype == np.float16 else 1e-5 * max(1, float(array.max()))
        np.testing.assert_allclose(together.arrays[name].astype(float), array.astype(float), atol=step, rtol=0)


def test_the_slice_in_view_comes_first_and_every_slice_is_predicted_and_weighed(by_two: Mapping[str, Last]) -> None:
    last = by_two["all slices"]
    assert shown(last)[:3] == [8, 7, 9]
    assert set(shown(last)) == set(range(ranked_final.N_SLICES))
    assert (last.arrays["probability"].max((1, 2, 3)) > 0).all()
    assert ((last.arrays["weight_initial"] + last.arrays["weight_pseudo"]).max((1, 2)) > 0).all()
    assert by_two["short of time"].arrays["weight_initial"].max((1, 2)).min() == 0
    assert (by_two["short of time"].arrays["view_agreement"] == 1).all()


def test_where_the_time_is_up_both_leave_the_rest(by_two: Mapping[str, Last]) -> None:
    last = by_two["too late"]
    first_round = 2 * ranked_final.SLICES_A_BATCH
    n_left = ranked_final.N_SLICES - first_round
    assert len(last.unreached) == n_left
    assert last.events[-1][2] == n_left
    assert not set(shown(last)[:first_round]) & set(last.unreached)


def test_asked_to_stop_both_end_and_what_was_shown_stays(by_two: Mapping[str, Last]) -> None:
    last = by_two["stopped"]
    assert last.events[-1] == "Cancelled"
    assert shown(last) == [8, 7, 9, 6][: len(shown(last))]
    assert last.arrays["probability"].max((1, 2, 3)).astype(bool).sum() == len(shown(last))


def test_an_error_of_one_rank_ends_the_other_at_once(tmp_path: Path) -> None:
    with other_rank(tmp_path, ["failing"]) as (other, meetings):
        ranks = join(Place(0, 2, 0, 2, meetings["failing"]))
        with pytest.raises(RuntimeError) as caught:
            last_of("failing", ranks)
        began = time.monotonic()
        assert has_lost_another(caught.value)
        assert "Something broke." in other.communicate(timeout=10)[1]
        assert time.monotonic() - began < 5
        ranks.leave()


def test_no_rank_is_left_without_a_batch_where_there_are_slices_for_all() -> None:
    class OfThree(Ranks):
        size = 3  # type: ignore[assignment]

        def list_of_first(self, numbers):
            return list(numbers)

    assert list(rounds(OfThree(), [5, 4, 6, 3], 8)) == [[[5, 4], [6, 3]]]
    assert list(rounds(OfThree(), [5, 4, 6, 3, 7, 2, 8], 1)) == [[[5], [4], [6]], [[3], [7], [2]], [[8]]]
    assert list(rounds(ALONE, [5, 4, 6], 2)) == [[[5, 4]], [[6]]]
    assert list(rounds(ALONE, [], 2)) == []


def test_drawing_by_a_seed_of_ones_own_leaves_the_generator_as_it_was() -> None:
    generator = torch.Generator().manual_seed(4)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(4))
    drawn = []
    for _ in range(2):
        with seeded([generator], 0, 7):
            drawn.append(torch.rand(3, generator=generator))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(3, generator=generator), expected)
