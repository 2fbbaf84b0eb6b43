"""One training iteration as the reference implementation of MLB-Seg computes it, to measure ours against.

Written from a description of the algorithm, not from its code. It is the method of the ``paper`` preset by other means:
views are made by OpenCV on the CPU, the weights come from double backward through an unrolled virtual step (a graph of
a graph, as the library ``higher`` builds it), the student and the teacher see the batch twice at the same parameters,
and the clean batch, in views as well, is passed through the virtual model and through the real one.

Two things are as there and differ from ours on purpose: the consistency's gradient is cut where predictions go through
NumPy, so that only one side of a pair of views learns, and the teacher computes in training mode. What does not touch
speed is done right here too: labels do not dilate, what a view did not see is masked, losses are computed on logits.

Shapes: B slices, V views, C channels, K classes; views of a batch are stacked view after view, (V * B, C, H, W).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.ensemble import teacher_loss
from napari_mlbseg.method.losses import pixel_cross_entropy, supervised_loss
from napari_mlbseg.method.views import View, inside, seen
from napari_mlbseg.training.augmentation import Batch

__all__ = ["Reference", "Viewed", "opencv", "unwarp_by_opencv", "warp_by_opencv"]

Weights = tuple[Tensor, Tensor]  # w^n and w^p, (V * B, H, W) each


@dataclass(frozen=True)
class Viewed:
    """A batch in all views."""

    image: Tensor  # (V * B, C, H, W)
    labels: Tensor  # (V * B, K, H, W)
    mask: Tensor  # (V * B, 1, H, W)


class Reference:
    """Student, teacher and SGD, and the reference's iteration.

    Parameters
    ----------
    network : torch.nn.Module
        (B, C, H, W) -> logits (B, K, H, W).
    config : TrainingConfig
        Rates, decays and weights of the losses; ``paper`` has the reference's.
    device : torch.device
    """

    def __init__(self, network: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.student = network.to(device).train()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self._noise = torch.Generator(device).manual_seed(config.seed)
        self._optimiser = torch.optim.SGD(
            self.student.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def iteration(self, unlabelled: Batch, clean: Batch, views: Sequence[View]) -> Weights:
        """Learn from unlabelled slices by the weights of their pixels, then from clean ones; the weights."""
        batch, meta = self.in_views(unlabelled, views), self.in_views(clean, views)
        weights, y_p = self.weights(batch, meta, views)

        logits = self.student(batch.image)  # the second time at the same parameters
        pixels = weights[0] * pixel_cross_entropy(logits, batch.labels) + weights[1] * pixel_cross_entropy(logits, y_p)
        self._step(self.config.weighted_weight * pixels.sum() + self._steadying(logits, batch, views))

        self._step(self.config.supervised_weight * self._supervised(self.student(meta.image), meta))
        self._update_teacher()
        return weights

    def weights(self, batch: Viewed, meta: Viewed, views: Sequence[View]) -> tuple[Weights, Tensor]:
        """The weights by double backward through a virtual step, and the pseudo-labels y^p (V * B, K, H, W)."""
        # the virtual model: copies of the student's parameters, which a step of SGD replaces within the graph
        start = {name: value.detach().clone().requires_grad_() for name, value in self.student.named_parameters()}
        buffers = {name: value.clone() for name, value in self.student.named_buffers()}
        logits = functional_call(self.student, (start, buffers), (batch.image,))
        y_p = self.pseudo_labels(logits, views)

        eps_n, eps_p = (torch.zeros_like(logits[:, 0]).requires_grad_() for _ in range(2))
        pixels = eps_n * pixel_cross_entropy(logits, batch.labels) + eps_p * pixel_cross_entropy(logits, y_p)
        loss = pixels.sum() + self._steadying(logits, batch, views)
        gradients = torch.autograd.grad(
            loss, list(start.values()), create_graph=True, allow_unused=True, materialize_grads=True
        )
        virtual = self._virtual_step(start, gradients)

        clean_loss = self._supervised(functional_call(self.student, (virtual, buffers), (meta.image,)), meta)
        w_n, w_p = (
            -gradient.clamp(max=0) * batch.mask[:, 0] for gradient in torch.autograd.grad(clean_loss, (eps_n, eps_p))
        )
        total = w_n.sum() + w_p.sum()
        total = torch.where(total > 0, total, torch.ones_like(total))
        return (w_n / total, w_p / total), y_p

    def in_views(self, batch: Batch, views: Sequence[View]) -> Viewed:
        """What the views show of a batch; through the CPU, wherever it lies."""
        masks = [warp_by_opencv(batch.mask, view, nearest=True) * inside(view, batch.mask) for view in views]
        return Viewed(
            torch.cat([warp_by_opencv(batch.image, view) for view in views]),
            torch.cat([warp_by_opencv(batch.labels, view) for view in views]),
            torch.cat(masks),
        )

    def pseudo_labels(self, logits: Tensor, views: Sequence[View]) -> Tensor:
        """y^p of PLE in every view, (V * B, K, H, W): mean over the views, hardened on the slice, projected back."""
        on_slice = self._on_slice(logits.softmax(1), views)
        saw = [seen(view, logits).to(logits.dtype) for view in views]
        total = torch.stack([p * mask for p, mask in zip(on_slice, saw, strict=True)]).sum(0)
        best = (total / torch.stack(saw).sum(0).clamp(min=1)).argmax(1)  # (B, H, W)
        hard = nn.functional.one_hot(best, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        return torch.cat([warp_by_opencv(hard, view) for view in views])

    # -- parts -------------------------------------------------------------------------------------------------------

    def _virtual_step(self, start: dict[str, Tensor], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
        """A step of SGD with momentum and weight decay, differentiable in the gradients."""
        rate, state = self._optimiser.param_groups[0]["lr"], self._optimiser.state
        virtual = {}
        for (name, value), gradient, parameter in zip(start.items(), gradients, self.student.parameters(), strict=True):
            step = gradient + self.config.weight_decay * value
            if "momentum_buffer" in state[parameter]:
                step = step + self.config.momentum * state[parameter]["momentum_buffer"]
            virtual[name] = value - rate * step
        return virtual

    def _steadying(self, logits: Tensor, batch: Viewed, views: Sequence[View]) -> Tensor:
        """Consistency of the views, and of the student with the teacher, which sees the batch anew for it."""
        probability = logits.softmax(1)
        consistency = self.config.consistency_weight * self._consistency(probability, batch.mask, views)
        noise = torch.randn(batch.image.shape, generator=self._noise, device=self.device, dtype=batch.image.dtype)
        with torch.no_grad():
            taught = self.teacher(batch.image + self.config.teacher_noise * noise).softmax(1)
        return consistency + self.config.teacher_weight * teacher_loss(probability, taught, batch.mask)

    def _consistency(self, probability: Tensor, mask: Tensor, views: Sequence[View]) -> Tensor:
        """Mean squared difference over all pairs of views; the later of a pair comes through OpenCV, as a constant."""
        each, masks = probability.chunk(len(views)), mask.chunk(len(views))
        on_slice = self._on_slice(probability, views)
        total = probability.new_zeros(())
        for i, view in enumerate(views):
            for j in range(i + 1, len(views)):
                saw = seen(views[j], mask).to(mask.dtype).expand_as(masks[i])
                both = warp_by_opencv(saw, view, nearest=True) * masks[i]
                squared = (each[i] - warp_by_opencv(on_slice[j], view)).square().mean(1, keepdim=True)
                total = total + (squared * both).sum() / both.sum().clamp(min=1)
        return total / max(1, len(views) * (len(views) - 1) // 2)

    def _on_slice(self, probability: Tensor, views: Sequence[View]) -> list[Tensor]:
        """Predictions of each view, mapped back to the slice by OpenCV: constants."""
        return [unwarp_by_opencv(p, view) for p, view in zip(probability.chunk(len(views)), views, strict=True)]

    def _supervised(self, logits: Tensor, clean: Viewed) -> Tensor:
        return supervised_loss(logits, clean.labels, clean.mask, self.config.supervised_loss)

    def _step(self, loss: Tensor) -> None:
        self._optimiser.zero_grad()
        loss.backward()
        if self.config.gradient_clip:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.config.gradient_clip)
        self._optimiser.step()

    @torch.no_grad()
    def _update_teacher(self) -> None:
        for average, value in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            average.mul_(self.config.ema_decay).add_(value, alpha=1 - self.config.ema_decay)


def opencv() -> ModuleType:
    """The module ``cv2``; SystemExit with advice where it is missing."""
    try:
        import cv2
    except ImportError:
        raise SystemExit(
            "The reference makes its views with OpenCV: install it with 'pip install napari-mlbseg[bench]'."
        ) from None
    return cv2


def warp_by_opencv(x: Tensor, view: View, *, nearest: bool = False) -> Tensor:
    """What `view` shows of `x` (B, C, H, W), as `napari_mlbseg.method.views.warp` does it; no gradient passes."""
    return _by_opencv(x, 1 / view.zoom, view.centre, flip_first=view.flip, nearest=nearest)


def unwarp_by_opencv(y: Tensor, view: View, *, nearest: bool = False) -> Tensor:
    """Map what was seen in `view` back to the slice, as `napari_mlbseg.method.views.unwarp` does it; no gradient."""
    offset = [-view.zoom * c for c in view.centre]
    return _by_opencv(y, view.zoom, offset, flip_last=view.flip, nearest=nearest)


def _by_opencv(
    x: Tensor,
    scale: float,
    offset: Sequence[float],
    *,
    nearest: bool,
    flip_first: Sequence[int] = (),
    flip_last: Sequence[int] = (),
) -> Tensor:
    """Sample `x` at the points scale * p + offset, p = (x, y) in [-1, 1], between two flips of rows (-2), columns (-1).

    OpenCV samples exactly in float32 alone, so other types are sampled in it.
    """
    cv2 = opencv()
    height, width = x.shape[-2:]
    is_resampled = scale != 1 or any(offset)
    # the same map for numbers of columns and rows
    matrix = np.array(
        [
            [scale, 0, ((width - 1) * (1 - scale) + offset[0] * width) / 2],
            [0, scale, ((height - 1) * (1 - scale) + offset[1] * height) / 2],
        ]
    )
    flags = (cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    planes = x.detach().cpu().numpy().reshape(-1, height, width)
    sampled = np.empty_like(planes)
    for source, target in zip(planes, sampled, strict=True):
        if flip_first:
            source = cv2.flip(source, _FLIPS[tuple(sorted(flip_first))])
        if is_resampled:
            source = cv2.warpAffine(
                source.astype(np.float32), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
            )
        target[:] = cv2.flip(source, _FLIPS[tuple(sorted(flip_last))]) if flip_last else source
    return torch.from_numpy(sampled.reshape(x.shape)).to(x.device)


_FLIPS = {(-1,): 1, (-2,): 0, (-2, -1): -1}  # OpenCV's codes
