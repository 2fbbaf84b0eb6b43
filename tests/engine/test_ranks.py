"""Two ranks against one: real processes, the same whole batch, the same training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from napari_mlbseg.engine.place import MEETING, Place
from napari_mlbseg.engine.ranks import ALONE, Ranks, join
from napari_mlbseg.task import TaskError

from . import ranked


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, np.ndarray]]:
    """What this process, as rank 0, and another one found together, in all cases."""
    meeting = tmp_path_factory.mktemp("ranks") / "meeting"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **Place(1, 2, 1, 2, meeting).environment()}
    other = subprocess.Popen([sys.executable, ranked.__file__], env=environment)
    try:
        ranks = join(Place(0, 2, 0, 2, meeting))
        found = {case: ranked.found_by(case, ranks) for case in ranked.CASES}
        ranks.leave()
        assert other.wait(60) == 0
    finally:
        other.kill()
    return found


@pytest.mark.parametrize("case", ranked.CASES)
def test_two_ranks_learn_what_one_learns(case: str, by_two: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    _, tolerance, is_double = ranked.CASES[case]
    for name, alone in ranked.found_by(case, ALONE).items():
        together = by_two[case][name]
        assert together.shape == alone.shape, name
        if name == "parameters" and not is_double:  # some of them are moved by AdamW along rounding errors
            continue
        far = max(tolerance, 1e-6 if name == "weight maps" else 0) * np.abs(alone).max(initial=0)  # kept as float32
        np.testing.assert_allclose(together, alone, rtol=0, atol=far, err_msg=name)


def test_the_cases_have_something_to_compare(by_two: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    assert all(by_two[case]["parameters"].size > 1000 for case in ranked.CASES)
    assert all(np.ptp(by_two[case]["weights"]) > 0 for case in ranked.CASES if "bootstrap" not in case)
    assert all((by_two[case]["weight maps"] > 0).any() for case in ranked.CASES if "bootstrap" not in case)


@pytest.mark.parametrize(("n", "size"), [(4, 2), (3, 2), (7, 3), (5, 5)])
def test_shares_are_the_whole_batch(n: int, size: int) -> None:
    shares = [Ranks(Place(rank, size, rank, size)).share(n) for rank in range(size)]
    assert [row for share in shares for row in range(n)[share.rows]] == list(range(n))
    assert all(share.counts for share in shares)


def test_a_rank_without_a_share_takes_part_with_a_slice_that_does_not_count() -> None:
    shares = [Ranks(Place(rank, 3, rank, 3)).share(1) for rank in range(3)]
    assert [share.counts for share in shares] == [False, False, True]
    assert all(share.rows == slice(0, 1) for share in shares)


def test_apart_a_rank_has_the_whole_batch() -> None:
    ranks = Ranks(Place(1, 2, 1, 2))
    with ranks.apart():
        assert ranks.share(4).rows == slice(0, 4)
        assert ranks.of_first(3.0) == (3.0,)
    assert ranks.share(4).rows == slice(2, 4)


def test_batch_norm_is_refused_in_a_sentence() -> None:
    with pytest.raises(TaskError, match="choose the norm group or instance, or one process"):
        ranked.training_of({"norm": "batch"}, Ranks(Place(0, 2, 0, 2)))


def test_a_place_is_what_the_environment_says(tmp_path: Path) -> None:
    assert Place.of_this_process({}) == Place()
    place = Place(3, 8, 1, 2, tmp_path / "meeting")
    assert Place.of_this_process(place.environment()) == place
    environment = place.environment()
    del environment[MEETING]
    assert Place.of_this_process(environment).meeting is None
    with pytest.raises(ValueError, match="contradict each other"):
        Place.of_this_process({"RANK": "2", "WORLD_SIZE": "2"})
