"""How long a training lasts: by time, by steps, or both. Torch-free."""

from __future__ import annotations

import math
import time

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import FinishReason

__all__ = ["Schedule"]

_PAPER_EPOCHS = 120
_SAFETY = 1.15  # on the measured cost of the final pass
_MOST = 0.4  # of the time budget that is kept for the final pass
_CARRYING = 0.6  # of the time budget, after which initial labels are carried no further
_LEAST = 0.1  # of the time budget, with less of which no training is begun


class Schedule:
    """Tells which stage a step belongs to, and how far the whole job has come.

    Parameters
    ----------
    config : TrainingConfig
    steps_per_epoch : int
        Steps in which every unlabelled slice is seen once. Without any budget, training lasts 120 epochs as in the
        paper.
    start : float
        `time.monotonic` at the start of the job.
    not_counted : float
        Seconds since then that are no part of the time budget: those in which libraries were imported.

    Notes
    -----
    Step s of the bootstrap and step s of the weighted training are counted apart. With a time budget the training
    ends so early that the final pass, whose cost is measured on the first predictions, still fits in.
    """

    def __init__(self, config: TrainingConfig, steps_per_epoch: int, start: float, not_counted: float = 0.0) -> None:
        self.config = config
        self._budget = None if config.time_budget is None else config.time_budget + not_counted
        self.steps_per_epoch = max(1, steps_per_epoch)
        self._start = start
        self._training_start = 0.0
        self._reserve = 0.0
        self._too_late = False  # to begin a training
        steps = config.steps
        if steps is None and config.time_budget is None:
            steps = _PAPER_EPOCHS * self.steps_per_epoch
        self.steps = steps
        self.bootstrap_steps = config.bootstrap_steps
        if self.bootstrap_steps is None and steps is not None and config.time_budget is None:
            share = min(config.bootstrap_share, 0.99)
            self.bootstrap_steps = round(steps * share / (1 - share))

    @property
    def seconds(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self._start

    def begin_training(self) -> None:
        """The first training step follows."""
        self._training_start = self.seconds
        self._too_late = not self.has_time_to_learn

    def reserve(self, seconds: float) -> None:
        """Keep `seconds` (measured) free for the final pass, but never most of the time: then it does with less."""
        budget = self._budget
        self._reserve = _SAFETY * seconds if budget is None else min(_SAFETY * seconds, _MOST * budget)

    @property
    def remaining(self) -> float:
        """Seconds until the time budget is used up; infinite without one."""
        return math.inf if self._budget is None else self._budget - self.seconds

    @property
    def carrying_ends(self) -> float:
        """`time.monotonic` from which on no more labels are carried along the image; infinite without a budget."""
        return math.inf if self._budget is None else self._start + _CARRYING * self._budget

    @property
    def has_time_to_learn(self) -> bool:
        """Whether so much time is left that a training may be begun: to measure what it takes is a part of it."""
        return self._budget is None or self.remaining > _LEAST * self._budget

    def bootstrap_is_over(self, step: int) -> bool:
        """Whether no bootstrap step follows after `step` of them."""
        return self.bootstrap_fraction(step) >= 1 or self._time_fraction() >= 1

    def training_is_over(self, step: int) -> bool:
        """Whether no weighted step follows after `step` of them."""
        return self.finish_reason(step) is not None

    def finish_reason(self, step: int) -> FinishReason | None:
        """Why the training ends after `step` weighted steps, or None if it goes on."""
        if self.steps is not None and step >= self.steps:
            return FinishReason.STEPS if self.steps else FinishReason.NOTHING_TO_TRAIN
        return FinishReason.TIME if self._time_fraction() >= 1 else None

    def fraction(self, bootstrap_step: int, step: int) -> float:
        """Share of the training that is done, 0 to 1: drives the learning rate and the progress bar."""
        by_steps = 0.0
        if self.steps is not None:
            total = (self.bootstrap_steps or 0) + self.steps
            by_steps = (bootstrap_step + step) / total if total and self.bootstrap_steps is not None else 0.0
        return min(1.0, max(by_steps, self._time_fraction()))

    def learning_rate(self, bootstrap_step: int, step: int) -> float:
        """Learning rate of the next step."""
        base = self.config.learning_rate
        if self.config.learning_rate_schedule == "cosine":
            return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.fraction(bootstrap_step, step))))
        if self.config.learning_rate_schedule == "paper":
            return base * 20 / (step / self.steps_per_epoch + 20)
        return base

    def job_fraction(self, bootstrap_step: int, step: int) -> float:
        """Share of the whole job that is done while it trains; the final pass has the rest."""
        return self._learning_share * self.fraction(bootstrap_step, step)

    def final_fraction(self, predicted: float) -> float:
        """Share of the whole job that is done once so many of the slices are predicted, 0 to 1."""
        return self._learning_share + (1 - self._learning_share) * predicted

    @property
    def _learning_share(self) -> float:
        return 0.95 if self.config.learns else 0.0

    def seconds_left(self, bootstrap_step: int, step: int) -> float | None:
        """Estimated seconds to the end of the job, None while nothing is known."""
        if self._budget is not None and self.steps is None:
            return max(0.0, self._budget - self.seconds)
        done = self.fraction(bootstrap_step, step)
        trained = self.seconds - self._training_start
        if done <= 0:
            return None
        return trained * (1 - done) / done + self._reserve

    def bootstrap_fraction(self, step: int) -> float:
        """Share of the bootstrap that is done after `step` of its steps, 0 to 1 and beyond."""
        if self.bootstrap_steps is not None:
            return step / self.bootstrap_steps if self.bootstrap_steps else 1.0
        share = self.config.bootstrap_share
        return self._time_fraction() / share if share else 1.0

    def _time_fraction(self) -> float:
        """Share of the time for training that is used up; 0 without a time budget."""
        if self._budget is None:
            return 0.0
        available = self._budget - self._reserve - self._training_start
        if available <= 0 or self._too_late:
            return 1.0
        return (self.seconds - self._training_start) / available
