r"""The meta step: how far each pixel's initial label and pseudo-label are trusted, from one derivative of the logits.

A virtual step of gradient descent in which every pixel's loss has a coefficient :math:`\epsilon_i` is linear in them,

.. math:: \theta'(\epsilon) = \theta - \eta \, (m + \textstyle\sum_i \epsilon_i \nabla l_i(\theta)),

with momentum, decay and consistency in :math:`m`. So with :math:`v = \nabla L_{meta}(\theta'(0))`, the gradient on
clean slices,

.. math:: -\partial L_{meta} / \partial \epsilon_i = \eta \, \langle \nabla l_i(\theta), v \rangle,

the derivative of pixel i's loss along v: one Jacobian-vector product gives it for all pixels at once, exactly and
with no graph of a graph. For the cross-entropy of logits z with labels y it is
:math:`\sum_c (\mathrm{softmax}(z)_c - y_c) \, \dot z_c`, where :math:`\dot z = J_z v` serves both y^n and y^p.

Forward mode costs about three passes. The difference of two, :math:`(z(\theta) - z(\theta - h v)) / h`, costs one where
z is known already, and the memory of a prediction. The weights differ by a few thousandths.

Source: Wei et al., MICCAI 2023 (MLB-Seg), section 2.2; Ren et al., ICML 2018, for the virtual step; Liu et al., ICLR
2019 (DARTS), section 2.3, for a derivative along a gradient by differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from napari_mlbseg.method.memory_layout import usual_layout

__all__ = [
    "PixelWeights",
    "directional_loss_derivative",
    "logit_difference",
    "logit_tangent",
    "normalised_weights",
    "same_rounding",
    "virtual_parameters",
]

#: Length of the step of a difference, in lengths of the parameters: longer ones bend, shorter ones drown in rounding.
_STEP = 1e-5
#: Largest difference of two passes in full precision, in sizes of the logits. Those of TF32 differ by 1e-4 and more.
_ROUNDING = 1e-6


class PixelWeights(NamedTuple):
    """Weights of the pixels of a batch; both maps together sum to 1, or are 0 if no pixel agrees with the clean data.

    Attributes
    ----------
    initial, pseudo : Tensor, (B, H, W)
        w^n and w^p.
    share_positive : float
        Share of the pixels in which at least one of them is positive.
    """

    initial: Tensor
    pseudo: Tensor
    share_positive: float


def virtual_parameters(
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    momentum_buffers: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The virtual model theta' at eps = 0: one step of SGD by `gradients` (of the consistency), as torch's SGD does it.

    Parameters
    ----------
    parameters, gradients : mapping of str to Tensor
    learning_rate, momentum, weight_decay : float
    momentum_buffers : mapping of str to Tensor, optional
        SGD's running gradient; a parameter without one starts with its gradient.
    """
    virtual = {}
    for name, value in parameters.items():
        step = gradients[name] + weight_decay * value
        if momentum and momentum_buffers is not None and name in momentum_buffers:
            step = step + momentum * momentum_buffers[name]
        virtual[name] = (value - learning_rate * step).detach()
    return virtual


def logit_tangent(
    network: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits at `parameters` and their derivative along `direction`, both (B, K, H, W).

    One forward-mode pass in full precision. Running statistics of the network are left as they are, and no graph is
    kept.
    """
    plain = {name: value.detach() for name, value in parameters.items()}
    along = {name: direction[name].detach() for name in plain}
    with _in_full_precision(x.device), usual_layout():
        outputs = jvp(lambda p: _logits_at(network, p, x), (plain,), (along,))
    return outputs[0], outputs[1]


def logit_difference(
    network: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    direction: Mapping[str, Tensor],
    logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `logit_tangent`, by the difference of two passes: quicker, and right to about half a percent.

    Parameters
    ----------
    network, parameters, x, direction
        As in `logit_tangent`.
    logits : Tensor, (B, K, H, W), optional
        The network's, where they are known in full precision (see `same_rounding`): a pass less.
    """
    with _in_full_precision(x.device):
        if logits is None:
            logits = _logits_at(network, {name: value.detach() for name, value in parameters.items()}, x)
        length = _length(direction)
        if not (math.isfinite(length) and length > 0):
            return logits, torch.zeros_like(logits)
        step = _STEP * _length(parameters) / length
        moved = {name: value.detach() - step * direction[name] for name, value in parameters.items()}
        return logits, (logits - _logits_at(network, moved, x)) / step


def same_rounding(network: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, logits: Tensor) -> bool:
    """Whether `logits` of `x` are those of a pass in full precision: differences are taken between such only."""
    with _in_full_precision(x.device):
        exact = _logits_at(network, {name: value.detach() for name, value in parameters.items()}, x)
    return bool((exact - logits).abs().max() <= _ROUNDING * exact.abs().max())


def _logits_at(network: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    # copied in here: what is changed in place (running statistics) must have been made under forward mode's transform
    buffers = {name: value.detach().clone() for name, value in network.named_buffers()}
    return functional_call(network, (parameters, buffers), (x,))


@contextmanager
def _in_full_precision(device: torch.device) -> Iterator[None]:
    """Neither half precision nor CUDA's TF32, in whose rounding a difference would drown, and no graph is kept.

    `torch.no_grad` stops the reverse mode's activations from being kept; it does not stop tangents.
    """
    cudnn = torch.backends.cudnn
    flags = cudnn.flags(True, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)
    with torch.no_grad(), torch.autocast(device.type, enabled=False), flags:
        yield


def _length(values: Mapping[str, Tensor]) -> float:
    """Euclidean length of all values together."""
    return float(torch.stack([value.detach().square().sum() for value in values.values()]).sum().sqrt())


def directional_loss_derivative(logits: Tensor, tangent: Tensor, labels: Tensor) -> Tensor:
    """Derivative of each pixel's cross-entropy along the clean gradient, (B, H, W).

    Positive where learning the pixel's label helps on clean data. `labels` are class probabilities (B, K, H, W),
    one-hot or soft.
    """
    return ((logits.softmax(1) - labels) * tangent).sum(1)


def normalised_weights(initial: Tensor, pseudo: Tensor, mask: Tensor) -> PixelWeights:
    """Weights from the alignments of both labels: negative ones count nothing, the sum over both maps is 1.

    Parameters
    ----------
    initial, pseudo : Tensor, (B, H, W)
        Alignments with y^n and y^p.
    mask : Tensor, (B, H, W)
        0 where a pixel does not count (outside the slice).
    """
    w_n = initial.clamp(min=0) * mask
    w_p = pseudo.clamp(min=0) * mask
    total = w_n.sum() + w_p.sum()
    positive = float(((w_n > 0) | (w_p > 0)).sum() / mask.sum().clamp(min=1))
    if not torch.isfinite(total) or total <= 0:
        return PixelWeights(torch.zeros_like(w_n), torch.zeros_like(w_p), 0.0)
    return PixelWeights(w_n / total, w_p / total, positive)
