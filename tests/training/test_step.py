"""Steps of the student, in whatever precision a device computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.pixel_weights import logit_tangent
from napari_mlbseg.training.augmentation import Batch
from napari_mlbseg.training.networks import build_network
from napari_mlbseg.training.step import Learner


class RoundedWhileLearning(nn.Module):
    """Has its logits rounded as TF32 does in the passes from which it learns, and not in others."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        if not torch.is_grad_enabled():
            return logits
        mantissa, exponent = torch.frexp(logits)
        return logits + (torch.ldexp((mantissa * 2**11).round() / 2**11, exponent) - logits).detach()


def discs(seed: int, device: str) -> Batch:
    """Four noisy discs with their labels, and no prior."""
    random = torch.Generator().manual_seed(seed)
    side = torch.linspace(-1, 1, 32)
    middles = torch.rand(4, 2, 1, 1, generator=random) - 0.5
    disc = ((side[:, None] - middles[:, 0]) ** 2 + (side - middles[:, 1]) ** 2 < 0.2).float()[:, None]
    image = disc + 0.5 * torch.randn(disc.shape, generator=random)
    parts = image, disc[:, :0], torch.cat([1 - disc, disc], 1), torch.ones_like(disc)
    names = "image", "prior", "labels", "mask"
    return Batch(**{n: p.to(device) for n, p in zip(names, parts, strict=True)}, corners=[(0, 0)] * 4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_difference_is_taken_between_passes_of_the_same_rounding_only(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    config = TrainingConfig(features="8,16,32", shape_prior=False, mixed_precision=False)
    network = build_network(config, 1, 2)
    student = RoundedWhileLearning(network) if device == "cpu" else network  # CUDA rounds by itself
    learner = Learner(student, config, torch.device(device), lambda batch: batch.image)
    for seed in range(15):
        learner.supervised_step(discs(seed, device))
    direction, x = learner.clean_gradient(discs(20, device)), discs(21, device).image
    _, found = learner.tangent(x, direction, student(x).detach())
    along = learner._as_step(direction)
    double = {name: value.double() for name, value in learner.parameters.items()}
    _, truth = logit_tangent(student.double(), double, x.double(), {n: v.double() for n, v in along.items()})
    assert float((found - truth).norm() / truth.norm()) < 0.02
