"""Budgets: steps, seconds, both; a clock that the test turns."""

from __future__ import annotations

import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import FinishReason
from napari_mlbseg.training.schedule import Schedule


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr("napari_mlbseg.training.schedule.time", turned)
    return turned


def make(clock: Clock, steps_per_epoch: int = 10, **fields: object) -> Schedule:
    return Schedule(TrainingConfig(**fields), steps_per_epoch, clock.now)


def test_steps_end_a_training_whatever_the_time(clock):
    schedule = make(clock, steps=7, time_budget=None)
    schedule.begin_training()
    clock.now += 1e6
    assert not schedule.training_is_over(6)
    assert schedule.finish_reason(7) is FinishReason.STEPS


def test_no_steps_is_nothing_to_train(clock):
    assert make(clock, steps=0, time_budget=None).finish_reason(0) is FinishReason.NOTHING_TO_TRAIN


def test_time_ends_a_training_whatever_the_steps(clock):
    schedule = make(clock, time_budget=60)
    schedule.begin_training()
    clock.now += 59
    assert not schedule.training_is_over(10**9)
    clock.now += 2
    assert schedule.finish_reason(0) is FinishReason.TIME


def test_whichever_budget_is_used_up_first_ends_it(clock):
    schedule = make(clock, time_budget=60, steps=5)
    schedule.begin_training()
    assert schedule.finish_reason(5) is FinishReason.STEPS
    clock.now += 61
    assert schedule.finish_reason(1) is FinishReason.TIME


def test_imports_are_no_part_of_the_budget(clock):
    schedule = Schedule(TrainingConfig(time_budget=60), 10, clock.now, not_counted=17)
    clock.now += 17 + 20
    assert schedule.remaining == pytest.approx(40)
    schedule.begin_training()
    clock.now += 39
    assert schedule.finish_reason(0) is None
    clock.now += 2
    assert schedule.finish_reason(0) is FinishReason.TIME
    assert schedule.seconds == pytest.approx(17 + 20 + 41), "what is told is what a clock says"


def test_time_before_the_training_counts_against_the_budget(clock):
    schedule = make(clock, time_budget=60)
    clock.now += 50
    schedule.begin_training()
    clock.now += 5
    assert not schedule.training_is_over(0)
    clock.now += 6
    assert schedule.training_is_over(0)


def test_the_final_pass_has_its_time_and_some_more(clock):
    schedule = make(clock, time_budget=60)
    schedule.begin_training()
    schedule.reserve(20)
    clock.now += 35
    assert not schedule.training_is_over(0)
    clock.now += 4
    assert schedule.training_is_over(0), "20 s would be too late"


def test_a_budget_that_is_gone_before_the_training_ends_it(clock):
    schedule = make(clock, time_budget=60)
    clock.now += 61
    schedule.begin_training()
    assert schedule.remaining < 0
    assert schedule.bootstrap_is_over(0)
    assert schedule.finish_reason(0) is FinishReason.TIME


def test_a_final_pass_that_takes_longer_than_all_leaves_time_to_train(clock):
    schedule = make(clock, time_budget=60)
    schedule.begin_training()
    schedule.reserve(100)
    clock.now += 30
    assert not schedule.training_is_over(0)
    clock.now += 15
    assert schedule.training_is_over(0)


def test_without_any_budget_it_lasts_as_in_the_paper(clock):
    schedule = make(clock, steps_per_epoch=37, time_budget=None, steps=None)
    assert not schedule.training_is_over(120 * 37 - 1)
    assert schedule.training_is_over(120 * 37)


def test_the_bootstrap_has_its_share_of_the_steps(clock):
    schedule = make(clock, time_budget=None, steps=60, bootstrap_share=0.25)
    assert not schedule.bootstrap_is_over(19)
    assert schedule.bootstrap_is_over(20)


def test_the_bootstrap_has_its_share_of_the_time(clock):
    schedule = make(clock, time_budget=100, bootstrap_share=0.25)
    schedule.begin_training()
    clock.now += 24
    assert not schedule.bootstrap_is_over(10**6)
    clock.now += 2
    assert schedule.bootstrap_is_over(0)


def test_given_bootstrap_steps_are_kept(clock):
    schedule = make(clock, time_budget=100, bootstrap_steps=3)
    schedule.begin_training()
    assert not schedule.bootstrap_is_over(2)
    assert schedule.bootstrap_is_over(3)
    assert make(clock, time_budget=None, steps=5, bootstrap_steps=0).bootstrap_is_over(0)


def test_the_papers_learning_rate(clock):
    schedule = make(
        clock, learning_rate=0.005, learning_rate_schedule="paper", time_budget=None, steps=10**6, steps_per_epoch=10
    )
    for epoch in (0, 1, 20, 119):
        assert schedule.learning_rate(50, 10 * epoch) == pytest.approx(0.005 * 20 / (epoch + 20))


def test_cosine_goes_down_to_a_hundredth(clock):
    schedule = make(
        clock,
        learning_rate=1.0,
        learning_rate_schedule="cosine",
        time_budget=None,
        steps=75,
        bootstrap_steps=25,
    )
    rates = [schedule.learning_rate(min(s, 25), max(0, s - 25)) for s in range(101)]
    assert rates[0] == pytest.approx(1)
    assert rates[50] == pytest.approx(0.505)
    assert rates[-1] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)


def test_a_constant_rate_is_constant(clock):
    schedule = make(clock, learning_rate=0.1, learning_rate_schedule="constant", time_budget=None, steps=10)
    assert {schedule.learning_rate(3, s) for s in range(10)} == {0.1}


@pytest.mark.parametrize("budget", [{"steps": 40, "time_budget": None}, {"time_budget": 60}], ids=["steps", "time"])
def test_the_bar_never_goes_back_and_leaves_room_for_the_final_pass(clock, budget):
    schedule = make(clock, bootstrap_steps=10, **budget)
    schedule.begin_training()
    fractions = []
    for step in range(50):
        clock.now += 60 / 50
        fractions.append(schedule.job_fraction(min(step, 10), max(0, step - 10)))
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.1
    assert 0.9 < fractions[-1] <= 0.95


def test_time_left(clock):
    schedule = make(clock, steps=80, bootstrap_steps=20, time_budget=None)
    schedule.begin_training()
    assert schedule.seconds_left(0, 0) is None, "nothing is known yet"
    clock.now += 30
    assert schedule.seconds_left(20, 30) == pytest.approx(30)
    timed = make(clock, time_budget=60)
    clock.now += 10
    assert timed.seconds_left(3, 4) == pytest.approx(50)
    clock.now += 100
    assert timed.seconds_left(3, 4) == 0


def test_the_bar_of_a_prediction_alone_begins_at_nothing():
    trains = Schedule(TrainingConfig(bootstrap_steps=5, steps=10, time_budget=None), 5, 0.0)
    assert trains.final_fraction(0.0) == trains.job_fraction(5, 10) == 0.95
    predicts = Schedule(TrainingConfig(bootstrap_steps=0, steps=0, time_budget=None), 5, 0.0)
    assert [predicts.final_fraction(share) for share in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]
