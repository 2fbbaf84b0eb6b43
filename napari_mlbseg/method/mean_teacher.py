"""The mean teacher: an exponential moving average of the student, buffers included."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["MeanTeacher"]


class MeanTeacher:
    """Averages a student's parameters and buffers over the steps of a training.

    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.

    Parameters
    ----------
    student : torch.nn.Module
    decay : float
        Of the average, in [0, 1). Early on it is smaller, (1 + step) / (10 + step), so that the random start is
        forgotten; the step counts over the whole training and never restarts.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        # in evaluation mode: its running statistics are averages of the student's, not of its own batches
        self.network = copy.deepcopy(student).requires_grad_(False).eval()
        self.decay = decay
        self.step = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take one step of the student into the average; call it once a training step."""
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - keep)
        for average, value in zip(self.network.buffers(), student.buffers(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:  # counters
                average.copy_(value)
