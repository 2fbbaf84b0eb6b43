"""The weights against plain autograd: eps at 0, a virtual step of SGD, the clean loss there, its gradient to eps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.losses import pixel_cross_entropy, supervised_loss
from napari_mlbseg.method.pixel_weights import (
    directional_loss_derivative,
    logit_difference,
    logit_tangent,
    normalised_weights,
    virtual_parameters,
)
from napari_mlbseg.training.networks import build_network

RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
SIZE = 7  # rows and columns


class Case:
    """A tiny network and batches, all in float64, in the middle of a training with momentum."""

    def __init__(self, classes: int, soft: bool = False) -> None:
        torch.manual_seed(classes)
        self.network = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.GroupNorm(2, 6),
            nn.SiLU(),
            nn.Conv2d(6, classes, 3, padding=1),
        ).double()
        self.parameters = dict(self.network.named_parameters())
        self.buffers = {name: torch.randn_like(value) for name, value in self.parameters.items()}
        self.x, self.clean = torch.randn(2, 3, 2, SIZE, SIZE, dtype=torch.float64)
        self.y_n, self.y_p, self.y_clean = (self.labels(classes, soft) for _ in range(3))
        self.mask = (torch.rand(3, SIZE, SIZE) > 0.1).double()

    @staticmethod
    def labels(classes: int, soft: bool) -> torch.Tensor:
        scores = torch.randn(3, classes, SIZE, SIZE, dtype=torch.float64)
        if soft:
            return scores.softmax(1)
        return nn.functional.one_hot(scores.argmax(1), classes).movedim(-1, 1).double()

    def consistency(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits.softmax(1)[:1] - logits.softmax(1)[1:]).square().mean()

    def clean_loss(self, logits: torch.Tensor) -> torch.Tensor:
        return supervised_loss(logits, self.y_clean, torch.ones(3, 1, SIZE, SIZE, dtype=torch.float64), "dice_ce")

    def unrolled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights by double backward through the virtual step."""
        eps_n, eps_p = (torch.zeros(3, SIZE, SIZE, dtype=torch.float64, requires_grad=True) for _ in range(2))
        logits = self.network(self.x)
        pixels = eps_n * pixel_cross_entropy(logits, self.y_n) + eps_p * pixel_cross_entropy(logits, self.y_p)
        values = list(self.parameters.values())
        gradients = torch.autograd.grad(pixels.sum() + self.consistency(logits), values, create_graph=True)
        virtual = {
            name: value - RATE * (gradient + DECAY * value + MOMENTUM * self.buffers[name])
            for (name, value), gradient in zip(self.parameters.items(), gradients, strict=True)
        }
        meta = self.clean_loss(functional_call(self.network, virtual, (self.clean,)))
        w_n, w_p = (-g.clamp(max=0) * self.mask for g in torch.autograd.grad(meta, (eps_n, eps_p)))
        total = w_n.sum() + w_p.sum()
        return w_n / total, w_p / total

    def direction(self) -> dict[str, torch.Tensor]:
        """Gradient of the clean loss at theta'."""
        gradients = torch.autograd.grad(self.consistency(self.network(self.x)), list(self.parameters.values()))
        virtual = virtual_parameters(
            self.parameters,
            dict(zip(self.parameters, gradients, strict=True)),
            learning_rate=RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            momentum_buffers=self.buffers,
        )
        for value in virtual.values():
            value.requires_grad_()
        meta = self.clean_loss(functional_call(self.network, virtual, (self.clean,)))
        return dict(zip(virtual, torch.autograd.grad(meta, list(virtual.values())), strict=True))

    def tangent(self) -> tuple[torch.Tensor, torch.Tensor]:
        return logit_tangent(self.network, self.parameters, self.x, self.direction())

    def alignments(self) -> tuple[torch.Tensor, torch.Tensor]:
        logits, tangent = self.tangent()
        return directional_loss_derivative(logits, tangent, self.y_n), directional_loss_derivative(
            logits, tangent, self.y_p
        )


@pytest.mark.parametrize("soft", [False, True], ids=["one-hot", "soft"])
@pytest.mark.parametrize("foreground", [1, 4])
def test_one_jvp_gives_the_weights_of_unrolled_double_backward(foreground, soft):
    case = Case(1 + foreground, soft)
    found = normalised_weights(*case.alignments(), case.mask)
    for ours, reference in zip((found.initial, found.pseudo), case.unrolled(), strict=True):
        assert reference.count_nonzero() > 20, "a comparison of zeros would prove nothing"
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


def test_momentum_matters():
    """Otherwise the comparison above would not show that it is taken into account."""
    case = Case(2)
    with_momentum = normalised_weights(*case.alignments(), case.mask).initial
    case.buffers = {name: torch.zeros_like(value) for name, value in case.buffers.items()}
    assert (with_momentum - normalised_weights(*case.alignments(), case.mask).initial).abs().max() > 1e-4


@pytest.mark.parametrize("classes", [2, 5])
def test_where_both_labels_are_the_same_both_weights_are(classes):
    case = Case(classes)
    initial, pseudo = case.alignments()
    same = (case.y_n == case.y_p).all(1)
    assert same.any()
    assert torch.equal(initial[same], pseudo[same])


def test_where_two_labels_differ_only_one_can_help():
    case = Case(2)
    initial, pseudo = case.alignments()
    differ = (case.y_n != case.y_p).any(1)
    assert differ.any()
    assert not ((initial > 0) & (pseudo > 0))[differ].any()
    assert ((initial > 0) | (pseudo > 0))[differ].any()


def test_both_maps_together_sum_to_one_and_padding_counts_nothing():
    case = Case(5)
    weights = normalised_weights(*case.alignments(), case.mask)
    assert float(weights.initial.sum() + weights.pseudo.sum()) == pytest.approx(1, abs=1e-12)
    assert not weights.initial[case.mask == 0].any()
    assert not weights.pseudo[case.mask == 0].any()


def test_all_weights_are_zero_where_nothing_agrees():
    against = -torch.rand(2, 4, 4)
    weights = normalised_weights(against, against, torch.ones(2, 4, 4))
    assert not weights.initial.any()
    assert not weights.pseudo.any()
    assert weights.share_positive == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_never_reaches_the_loss(value):
    broken = torch.rand(2, 4, 4)
    broken[0, 1, 2] = value
    weights = normalised_weights(broken, torch.rand(2, 4, 4), torch.ones(2, 4, 4))
    assert torch.isfinite(weights.initial).all()
    assert torch.isfinite(weights.pseudo).all()


def test_share_of_pixels_with_a_positive_weight():
    initial = torch.tensor([[[1.0, -1.0], [-1.0, 5.0]]])
    pseudo = torch.tensor([[[-1.0, -1.0], [1.0, 5.0]]])
    mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    assert normalised_weights(initial, pseudo, mask).share_positive == pytest.approx(2 / 3)


def test_the_tangent_is_the_directional_derivative():
    case = Case(3)
    direction, step = case.direction(), 1e-5
    logits, tangent = logit_tangent(case.network, case.parameters, case.x, direction)
    ahead, behind = (
        functional_call(case.network, {n: p + s * direction[n] for n, p in case.parameters.items()}, (case.x,))
        for s in (step, -step)
    )
    assert torch.equal(logits, case.network(case.x))
    assert tangent.abs().max() > 1e-3
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.fixture
def batch_norm() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1)
    return nn.Sequential(*layers).double().train()


@pytest.mark.parametrize("find", [logit_tangent, logit_difference])
def test_running_statistics_are_left_as_they_are(batch_norm, find):
    before = copy.deepcopy(dict(batch_norm.named_buffers()))
    parameters = dict(batch_norm.named_parameters())
    find(batch_norm, parameters, torch.randn(2, 1, 8, 8, dtype=torch.float64), parameters)
    for name, value in batch_norm.named_buffers():
        assert torch.equal(value, before[name]), name


def test_the_tangent_goes_through_the_statistics_of_the_batch(batch_norm):
    x, step = torch.randn(2, 1, 8, 8, dtype=torch.float64), 1e-5
    parameters = dict(batch_norm.named_parameters())
    direction = {name: torch.randn_like(value) for name, value in parameters.items()}
    _, tangent = logit_tangent(batch_norm, parameters, x, direction)
    ahead, behind = (
        functional_call(batch_norm, {n: p + s * direction[n] for n, p in parameters.items()}, (x,))
        for s in (step, -step)
    )
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("find", [logit_tangent, logit_difference])
def test_no_graph_is_kept(find):
    case = Case(2)
    logits, tangent = find(case.network, case.parameters, case.x, case.direction())
    assert not logits.requires_grad
    assert not tangent.requires_grad


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6], ids="direction x {:g}".format)
@pytest.mark.parametrize("preset", ["quick", "standard", "paper"])
def test_a_difference_is_close_to_the_derivative_in_single_precision(preset, scale):
    config = TrainingConfig.from_preset(preset, features="4,8,16", shape_prior=False)
    network = build_network(config, 1, 2).train()
    parameters = dict(network.named_parameters())
    side = torch.linspace(-1, 1, 32)
    disc = ((side[:, None] ** 2 + side**2) < 0.3).float().expand(4, 1, 32, 32)
    x, clean = disc + 0.5 * torch.randn(2, 4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.cat([1 - disc, disc], 1)
    optimiser = torch.optim.AdamW(parameters.values(), 2e-3)
    for _ in range(15):  # a network that has learnt nothing yet is so steep that differences bend
        loss = supervised_loss(network(clean), labels, torch.ones_like(disc), "dice_ce")
        values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for parameter, value in zip(parameters.values(), values, strict=True):
            parameter.grad = value
        optimiser.step()
    direction = {name: scale * value for name, value in zip(parameters, values, strict=True)}
    logits, exact = logit_tangent(network, parameters, x, direction)
    assert exact.abs().max() > 0
    for known in (None, logits):
        _, found = logit_difference(network, parameters, x, direction, known)
        assert (found - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_without_a_direction_nothing_moves(value):
    case = Case(2)
    nowhere = {name: torch.full_like(p, value) for name, p in case.parameters.items()}
    assert not logit_difference(case.network, case.parameters, case.x, nowhere)[1].any()


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01), (0.0, 0.01)])
def test_the_virtual_step_is_the_one_that_sgd_would_take(momentum, decay):
    torch.manual_seed(0)
    network = nn.Linear(5, 3).double()
    optimiser = torch.optim.SGD(network.parameters(), RATE, momentum=momentum, weight_decay=decay)
    parameters = dict(network.named_parameters())
    for step in range(3):  # the first has no momentum buffers yet
        gradients = {name: torch.randn_like(value) for name, value in parameters.items()}
        state = optimiser.state
        buffers = {n: state[p]["momentum_buffer"].clone() for n, p in parameters.items() if momentum and step}
        virtual = virtual_parameters(
            parameters,
            gradients,
            learning_rate=RATE,
            momentum=momentum,
            weight_decay=decay,
            momentum_buffers=buffers,
        )
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimiser.step()
        for name, parameter in parameters.items():
            torch.testing.assert_close(virtual[name], parameter.detach(), rtol=0, atol=1e-15)
