"""The mean teacher: its formula, its buffers, its step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_mlbseg.method.mean_teacher import MeanTeacher


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).double()


def set_all(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(value)


@pytest.mark.parametrize("decay", [0.99, 0.5, 0.0])
def test_parameters_are_an_exponential_moving_average(decay):
    student = network()
    set_all(student, 0.0)
    teacher = MeanTeacher(student, decay)
    expected = 0.0
    for step in range(1, 30):
        set_all(student, float(step))
        teacher.update(student)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
        weight = next(teacher.network.parameters())
        torch.testing.assert_close(weight, torch.full_like(weight, expected), rtol=1e-12, atol=0)


def test_running_statistics_are_averaged_and_counters_copied():
    student = network()
    set_all(student, 0.0)
    teacher = MeanTeacher(student, 0.99)
    set_all(student, 11.0)
    teacher.update(student)
    norm = teacher.network[1]
    keep = 2 / 11
    torch.testing.assert_close(norm.running_mean, torch.full_like(norm.running_mean, (1 - keep) * 11))
    torch.testing.assert_close(norm.running_var, torch.full_like(norm.running_var, (1 - keep) * 11))
    assert int(norm.num_batches_tracked) == 11


def test_the_step_counts_over_the_whole_training():
    """Late in training the student hardly moves the teacher: its step never starts over."""
    student = network()
    set_all(student, 0.0)
    teacher = MeanTeacher(student, 0.99)
    for _ in range(2000):
        teacher.update(student)
    set_all(student, 1.0)
    teacher.update(student)
    assert teacher.step == 2001
    assert float(next(teacher.network.parameters()).mean()) == pytest.approx(0.01)


def test_the_student_is_left_alone_and_the_teacher_has_no_gradient():
    student = network()
    before = [tensor.clone() for tensor in student.state_dict().values()]
    teacher = MeanTeacher(student, 0.9)
    set_all(teacher.network, 5.0)
    teacher.update(student)
    assert all(torch.equal(a, b) for a, b in zip(before, student.state_dict().values(), strict=True))
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
