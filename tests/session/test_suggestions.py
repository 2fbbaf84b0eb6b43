"""Which slice comes next, and why: order, sentences, and what is refused."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from napari_mlbseg.events import Preview, Progress, Stage
from napari_mlbseg.session.suggestions import Suggestion, latest_statistics, rank_slices


def first(*arguments, **options) -> Suggestion:
    return rank_slices(*arguments, **options)[0]


def preview(slices, volume="heart", **statistics):
    return Preview(volume=volume, slices=slices, arrays=(), stage=Stage.TRAIN, statistics=statistics)


def test_without_a_clean_slice_it_begins_in_the_middle():
    suggestion = first(41, (), {})
    assert suggestion.slice == 20
    assert "begin in the middle" in suggestion.reason


def test_without_a_clean_slice_but_with_predictions_these_decide():
    uncertainty = np.ones(41)
    uncertainty[5:9] = 100
    suggestion = first(41, (), {"uncertainty": uncertainty})
    assert 5 <= suggestion.slice < 12
    assert "may be wrong" in suggestion.reason


def test_without_statistics_the_widest_gap_is_halved():
    suggestion = first(50, {5, 17, 45}, {})
    assert suggestion.slice == 31
    assert suggestion.reason == "14 slices from the nearest clean one."


def test_an_end_beyond_the_clean_slices_is_a_gap_too():
    assert first(60, {2, 10}, {}).slice in (34, 35)


def test_neither_clean_nor_skipped_slices_are_suggested_and_all_others_once():
    ranked = rank_slices(30, {3, 20}, {"uncertainty": np.arange(30.0)}, skipped={11})
    assert sorted(s.slice for s in ranked) == [z for z in range(30) if z not in (3, 11, 20)]


def test_the_first_suggestions_are_not_neighbours():
    uncertainty = np.exp(-((np.arange(80) - 30.0) ** 2) / 50) + 0.05
    ranked = [s.slice for s in rank_slices(80, {0, 60}, {"uncertainty": uncertainty})]
    assert abs(ranked[0] - 30) <= 3
    assert min(abs(a - b) for a in ranked[:4] for b in ranked[:4] if a != b) >= 3


def test_scores_fall():
    uncertainty = np.random.default_rng(0).random(300)
    scores = [s.score for s in rank_slices(300, {0, 150}, {"uncertainty": uncertainty})]
    assert all(a >= b - 1e-9 for a, b in pairwise(scores))


def test_uncertain_slices_draw_the_suggestion_out_of_the_widest_gap():
    uncertainty = np.zeros(100)
    uncertainty[70:80] = 50
    assert 70 <= first(100, {0, 60, 90}, {"uncertainty": uncertainty}).slice < 80
    assert first(100, {0, 60, 90}, {}).slice == 30


def test_uncertainty_beside_a_clean_slice_counts_less():
    uncertainty = np.zeros(41)
    uncertainty[[1, 20]] = 100, 40
    assert first(41, {0, 40}, {"uncertainty": uncertainty}).slice == 20


def test_gain_is_the_sum_over_the_slices_around():
    """The vectorised sums against their definition, slice by slice."""
    n, clean = 37, (4, 11, 29)
    uncertainty = np.random.default_rng(1).random(n)
    scores = {s.slice: s.score for s in rank_slices(n, clean, {"uncertainty": uncertainty})}
    best = max(scores, key=scores.get)
    assert scores[best] == pytest.approx(max(_plain_gain(z, clean, uncertainty) for z in scores))
    assert scores[best] == pytest.approx(_plain_gain(best, clean, uncertainty))


def _plain_gain(z, clean, uncertainty):
    ends = [-1, *clean, len(uncertainty)]
    a, b = max(e for e in ends if e < z), min(e for e in ends if e > z)
    total = 0.0
    for other in range(a + 1, b):
        low, high = sorted((z, other))
        share = (low - a) * (b - high) / ((high - a) * (b - low))  # squared correlation of a Brownian bridge
        total += share * uncertainty[other] ** 0.5 * (other - a) * (b - other) / (b - a)
    return total


def test_neighbours_of_a_skipped_slice_are_not_suggested_in_its_place():
    before = first(100, {0, 50, 99}, {}).slice
    after = first(100, {0, 50, 99}, {}, skipped={before}).slice
    assert abs(after - before) > 10


def test_of_unrelated_slices_the_most_uncertain_come_first():
    uncertainty = np.full(40, 10.0)
    uncertainty[[1, 2, 30]] = 90, 80, 70
    ranked = rank_slices(40, {0, 39}, {"uncertainty": uncertainty}, independent_slices=True)
    assert [s.slice for s in ranked[:3]] == [1, 2, 30]
    assert ranked[0].reason == "About 90 of its pixels may be wrong."
    unknown = rank_slices(40, {0, 39}, {}, independent_slices=True)
    assert unknown[0].reason == "Nothing is known of it yet."


def test_a_slice_beside_a_clean_one_is_not_said_to_be_slices_away():
    assert first(3, {0, 2}, {}).reason == "Beside a clean one."


def test_rejected_slices_come_first_then_painted_ones():
    ranked = rank_slices(60, {0, 59}, {"uncertainty": np.ones(60)}, rejected={2, 57}, painted={5})
    assert {s.slice for s in ranked[:2]} == {2, 57}
    assert ranked[0].reason == "You rejected its prediction."
    assert ranked[2].slice == 5
    assert ranked[2].reason == "You began to paint it."


def test_a_rejected_slice_that_is_clean_by_now_is_not_suggested():
    assert first(60, {0, 20, 59}, {}, rejected={20}).slice != 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uncertainty", "About 90 of its pixels may be wrong."),
        ("initial_disagreement", "The first labels and the model disagree on 90 of its pixels."),
        ("view_disagreement", "The views of it disagree on about 90 pixels."),
    ],
)
def test_the_reason_is_what_stands_out(name, words):
    statistics = {each: np.full(40, 10.0) for each in ("uncertainty", "initial_disagreement", "view_disagreement")}
    statistics[name][14] = 90
    ranked = rank_slices(40, {5, 30}, statistics)
    assert next(s for s in ranked if s.slice == 14).reason == words


def test_unknown_values_are_taken_from_the_nearest_known_ones():
    uncertainty = np.full(60, np.nan)
    uncertainty[[5, 40]] = 1, 100
    assert first(60, {0, 30, 59}, {"uncertainty": uncertainty}).slice > 30
    nothing = np.full(60, np.nan)
    assert first(60, {0, 40, 59}, {"uncertainty": nothing}).slice == 20


def test_a_stack_all_clean_has_no_suggestion():
    assert rank_slices(3, range(3), {"uncertainty": np.ones(3)}) == []


def test_no_uncertainty_at_all_still_gives_an_order():
    ranked = rank_slices(20, {0, 19}, {"uncertainty": np.zeros(20)})
    assert len(ranked) == 18
    assert all(np.isfinite(s.score) for s in ranked)


@pytest.mark.parametrize("kind", ["clean", "skipped", "rejected", "painted"])
def test_a_slice_outside_the_stack_is_refused(kind):
    options = {"clean": (1,), kind: (7,)}
    with pytest.raises(ValueError, match=r"no slice 7 .* slices are 0 to 6"):
        rank_slices(7, options.pop("clean"), {}, **options)


def test_a_statistic_of_another_length_is_refused():
    with pytest.raises(ValueError, match="'uncertainty' has shape"):
        rank_slices(7, {1}, {"uncertainty": np.ones(8)})


def test_five_thousand_slices_take_no_time():
    rng = np.random.default_rng(0)
    statistics = {
        name: rng.random(5000) for name in ("uncertainty", "initial_disagreement", "view_disagreement", "weight")
    }
    took = []
    for _ in range(9):
        began = time.process_time()
        rank_slices(5000, range(0, 5000, 500), statistics, rejected=range(7, 5000, 900), painted=(11, 13))
        took.append(time.process_time() - began)
    assert min(took) < 0.020


def test_the_latest_value_of_a_slice_counts_and_what_is_unknown_does_not():
    events = [
        preview((1, 2), uncertainty=(10, 20), weight=(None, 0.5)),
        Progress(stage=Stage.TRAIN, fraction=0.5),
        preview((2, 3), uncertainty=(30, None)),
        preview((1,), volume="other", uncertainty=(99,)),
    ]
    latest = latest_statistics(events, "heart", 4)
    np.testing.assert_array_equal(latest["uncertainty"], [np.nan, 10, 30, np.nan])
    np.testing.assert_array_equal(latest["weight"], [np.nan, np.nan, 0.5, np.nan])


def test_what_lies_far_outside_the_structure_comes_last():
    ranked = [s.slice for s in rank_slices(88, {20, 30, 40}, {}, structure={20, 30, 40})]
    near = set(range(15, 46)) - {20, 30, 40}
    assert set(ranked[: len(near)]) == near
    assert len(ranked) == 85
    foreground = np.zeros(88)
    foreground[18:61] = 50
    predicted = [s.slice for s in rank_slices(88, {20, 30, 40}, {"foreground": foreground}, structure={20, 30, 40})]
    assert set(predicted[:43]) == set(range(16, 63)) - {20, 30, 40} - set(predicted[43:])
    assert max(predicted[:40]) <= 62
    assert min(predicted[:40]) >= 16
    assert rank_slices(88, {20}, {}, structure={20}, independent_slices=True)[0].slice not in range(15, 26)
