"""Which device computes, and in which precision."""

from __future__ import annotations

import pytest
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.training import devices
from napari_mlbseg.training.devices import computes_in_half
from napari_mlbseg.training.inference import Predictor
from napari_mlbseg.training.networks import build_network, input_channels

CPU = torch.device("cpu")


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch):
    """Have torch say this of the CPU."""

    def pretend(**values: bool) -> None:
        devices._cpu_computes_in_half.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: values, raising=False)

    yield pretend
    devices._cpu_computes_in_half.cache_clear()


@pytest.mark.parametrize(
    ("values", "computes"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
    ids=["avx512_bf16", "amx_bf16", "avx512 without it", "another architecture"],
)
def test_a_cpu_computes_in_half_if_it_says_so(capabilities, values, computes):
    capabilities(**values)
    assert computes_in_half(CPU) is computes


def test_a_torch_that_does_not_tell_computes_in_full(capabilities, monkeypatch):
    capabilities()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not computes_in_half(CPU)


@pytest.mark.parametrize("architecture", ["light", "unet++"])
def test_half_precision_changes_a_prediction_by_little(capabilities, architecture):
    config = TrainingConfig(architecture=architecture, features=(8, 16))
    network = build_network(config, 1, 3)
    rng = torch.Generator().manual_seed(0)
    images = [torch.randn(input_channels(config, 1, 3), 64, 64, generator=rng) for _ in range(2)]
    capabilities(avx512_bf16=True)  # any other CPU imitates it
    half, _ = Predictor(network, config, n_views=2)(images)
    full, _ = Predictor(network, config.updated(mixed_precision=False), n_views=2)(images)
    capabilities()
    without, _ = Predictor(network, config, n_views=2)(images)
    assert torch.equal(full, without)
    assert half.dtype == torch.float32
    differences = (half - full).abs()  # the largest is one pixel's, of noise
    assert 0 < differences.mean() < 0.005  # bfloat16 has 8 bits
    assert differences.max() < 0.1
    torch.testing.assert_close(half.sum(1), torch.ones(2, 64, 64))
