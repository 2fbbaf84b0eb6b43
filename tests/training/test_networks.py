"""Networks: their output fits their input, their start is the seed's, and forward mode goes through them."""

from __future__ import annotations

import pytest
import torch

from napari_mlbseg.config import PRESETS, TrainingConfig
from napari_mlbseg.method.pixel_weights import logit_tangent
from napari_mlbseg.training.networks import build_network, input_channels, size_divisor

ARCHITECTURES, NORMS = ("light", "unet", "unet++"), ("instance", "group", "batch")


def config_of(architecture: str, norm: str = "instance", **fields: object) -> TrainingConfig:
    return TrainingConfig(architecture=architecture, norm=norm, features=(4, 6), **fields)


@pytest.fixture(params=[(a, n) for a in ARCHITECTURES for n in NORMS], ids="-".join)
def config(request) -> TrainingConfig:
    return config_of(*request.param)


def test_logits_have_the_sides_of_the_slice(config):
    divisor = size_divisor(config)
    network = build_network(config, 2, 4)
    for sides in ((2 * divisor, 3 * divisor), (3 * divisor, 2 * divisor)):
        x = torch.randn(1, input_channels(config, 2, 4), *sides)
        assert network(x).shape == (1, 4, *sides)


def test_the_seed_decides_the_start_and_torchs_own_state_is_left_alone(config):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build_network(config, 1, 2).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = build_network(config, 1, 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = build_network(config.updated(seed=1), 1, 2).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_forward_mode_goes_through(config):
    network = build_network(config, 1, 2)
    parameters = dict(network.named_parameters())
    side = 2 * size_divisor(config)
    x = torch.randn(1, input_channels(config, 1, 2), side, side)
    _, tangent = logit_tangent(network, parameters, x, {n: torch.randn_like(p) for n, p in parameters.items()})
    assert torch.isfinite(tangent).all()
    assert tangent.abs().max() > 0


def test_neighbours_and_priors_are_channels():
    assert input_channels(TrainingConfig(shape_prior=False), 3, 2) == 3
    assert input_channels(TrainingConfig(shape_prior=False, context=2), 3, 2) == 15
    assert input_channels(TrainingConfig(shape_prior=True, context=1), 2, 4) == 9


@pytest.mark.parametrize("features", [(4, 8), (4, 6, 8, 10, 12), (4, 5, 6, 7, 8, 9, 10)], ids=len)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_number_of_levels_will_do(architecture, features):
    config = TrainingConfig(architecture=architecture, features=features)
    side = 2 * size_divisor(config)
    network = build_network(config, 1, 2)
    assert network(torch.zeros(1, input_channels(config, 1, 2), side, side)).shape[-2:] == (side, side)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_network(preset):
    config = TrainingConfig.from_preset(preset)
    with torch.device("meta"):
        network = build_network(config, 1, 2)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1e5


def test_the_layout_in_memory_changes_no_value(config):
    network, usual = build_network(config, 1, 2).double(), build_network(config, 1, 2, channels_last=False).double()
    side = 2 * size_divisor(config)
    x = torch.randn(2, input_channels(config, 1, 2), side, side, dtype=torch.double)
    logits, expected = network(x), usual(x)
    assert logits.is_contiguous()
    torch.testing.assert_close(logits, expected)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for (name, parameter), other in zip(network.named_parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=name)
