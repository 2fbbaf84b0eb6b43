"""One training step of each kind: the state of the student, its teacher and its optimiser, and nothing else.

Shapes: B slices, V views, C channels, K classes; views of a batch are stacked view after view, (V * B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.ensemble import consistency_loss, ensemble, hard_labels, project_labels, teacher_loss
from napari_mlbseg.method.losses import pixel_cross_entropy, supervised_loss
from napari_mlbseg.method.mean_teacher import MeanTeacher
from napari_mlbseg.method.pixel_weights import (
    PixelWeights,
    directional_loss_derivative,
    logit_difference,
    logit_tangent,
    normalised_weights,
    same_rounding,
    virtual_parameters,
)
from napari_mlbseg.method.views import View, inside, warp
from napari_mlbseg.training.augmentation import Batch

__all__ = ["Gradients", "Learner", "StepReport"]

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class StepReport:
    """What a weighted step found: its losses as numbers, and the weights of its pixels."""

    losses: dict[str, float]
    weights: PixelWeights


@dataclass(frozen=True)
class _ViewBatch:
    """A batch of unlabelled slices, seen in all views."""

    student: Tensor  # what the student sees, its shape prior perturbed, (V * B, C, H, W)
    teacher: Tensor  # what the teacher sees, the prior as it is, with noise
    initial: Tensor  # y^n, (V * B, K, H, W)
    mask: Tensor  # (V * B, H, W)
    on_slice: Tensor  # the mask on the slices, (B, 1, H, W)


class Learner:
    """Student, mean teacher and optimiser.

    Parameters
    ----------
    network : torch.nn.Module
        The student; (B, C, H, W) -> logits (B, K, H, W).
    config : TrainingConfig
    device : torch.device
    perturbed : callable
        What the student sees of a batch, (B, C, H, W): its image, and its shape prior bent at random.
    """

    def __init__(
        self,
        network: nn.Module,
        config: TrainingConfig,
        device: torch.device,
        perturbed: Callable[[Batch], Tensor],
    ) -> None:
        self.config = config
        self._perturbed = perturbed
        self.device = device
        self.student = network.to(device).train()
        self.teacher = MeanTeacher(self.student, config.ema_decay)
        self.parameters = dict(self.student.named_parameters())
        self.generator = torch.Generator(device).manual_seed(config.seed)  # of the noise that the teacher sees
        self._optimiser = _build_optimiser(config, self.student)
        self._is_in_full_precision: bool | None = None  # the student's own pass: measured once

    def set_learning_rate(self, rate: float) -> None:
        """Learning rate of the steps that follow."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate

    # -- steps ---------------------------------------------------------------------------------------------------

    def supervised_step(self, clean: Batch, prior: Batch | None = None) -> dict[str, float]:
        """Learn from clean slices, and by ``bootstrap_prior`` from initial labels known beforehand."""
        loss, gradients = self._clean_gradient(clean)
        losses = {"clean": loss}
        if prior is not None:
            with self._autocast():
                logits = self.student(self._perturbed(prior))
            prior_loss = self.config.bootstrap_prior * self._supervised_loss(logits, prior)
            gradients = _sum(gradients, self._gradients(prior_loss))
            losses["prior"] = float(prior_loss.detach())
        self._step(gradients)
        self.teacher.update(self.student)
        return losses

    def meta_step(self, unlabelled: Batch, clean: Batch, views: Sequence[View]) -> StepReport:
        """Learn from unlabelled slices by the weights of their pixels, from their views, and from clean slices."""
        config = self.config
        is_virtual = config.meta_gradient == "virtual"
        batch = self._in_views(unlabelled, views)
        teacher_probability = self._teacher_probability(batch.teacher)
        if not is_virtual:
            # before the student sees the batch, so that one graph of a backward pass is kept at a time and not two
            clean_loss, direction = self._clean_gradient(clean)
        logits, probability = self._student_probability(batch.student)
        y_p = self._pseudo_labels(probability.detach(), teacher_probability, views)
        consistency = self._view_consistency(probability, teacher_probability, batch, views)
        if is_virtual:
            consistency_gradient = self._gradients(consistency, retain=True)
            _, direction = self._gradient_at_virtual(consistency_gradient, clean)
        weights = self._weights(self._tangent(batch, direction, logits.detach()), batch, y_p)
        weighted = config.weighted_weight * _weighted_loss(logits, batch.initial, y_p, weights)
        if is_virtual:
            self._step(_sum(consistency_gradient, self._gradients(weighted)))
            clean_loss, clean_gradient = self._clean_gradient(clean)
            self._step(clean_gradient)
        else:
            self._step(_sum(direction, self._gradients(weighted + consistency)))
        self.teacher.update(self.student)
        losses = {
            "clean": clean_loss,
            "weighted": float(weighted.detach()),
            "consistency": float(consistency.detach()),
            "share_positive": weights.share_positive,
            "share_pseudo": float(weights.pseudo.sum()),
        }
        return StepReport(losses, weights)

    def clean_gradient(self, clean: Batch, *, perturbed: bool = False) -> Gradients:
        """Gradient on clean slices, without a step: the direction for `weights` and `after_step`.

        Parameters
        ----------
        clean : Batch
        perturbed : bool
            Whether its shape prior has been bent already.
        """
        seen = torch.cat([clean.image, clean.prior], 1) if perturbed else self._perturbed(clean)
        return self._clean_gradient(clean, seen)[1]

    def weights(self, unlabelled: Batch, direction: Gradients) -> PixelWeights:
        """Weights of slices as they are, without learning from them: for maps of slices that no step visited."""
        batch = self._in_views(unlabelled, [View()])
        y_p = hard_labels(self._teacher_probability(batch.teacher))
        return self._weights(self._tangent(batch, direction), batch, y_p)

    def tangent(self, x: Tensor, direction: Gradients, logits: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of what the network sees, `x`, and their derivative along a step in `direction`, (B, K, H, W) each.

        `logits` are the student's, where they are known: they save a pass if that one was in full precision. Half
        precision and TF32, which CUDA takes unasked, would drown the difference in their rounding.
        """
        along = self._as_step(direction)
        if self.config.tangent == "exact":
            return logit_tangent(self.student, self.parameters, x, along)
        if logits is not None and self._is_in_full_precision is None:
            self._is_in_full_precision = same_rounding(self.student, self.parameters, x, logits)
        known = logits if self._is_in_full_precision else None
        return logit_difference(self.student, self.parameters, x, along, known)

    def after_step(self, x: Tensor, direction: Gradients) -> Tensor:
        """Probabilities (B, K, H, W) of what the network sees, `x`, after a virtual step along `direction`.

        The step, to first order, is so long that it changes the logits of each sample by 1 on average (the root of the
        mean square): alike for a network that has much to learn and for one that has hardly any gradient left.
        """
        logits, tangent = self.tangent(x, direction)
        size = tangent.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        return (logits - tangent / size).softmax(1)

    # -- parts of a step -----------------------------------------------------------------------------------------

    def _clean_gradient(self, clean: Batch, seen: Tensor | None = None) -> tuple[float, Gradients]:
        """Loss on clean slices and its gradient at the student, which sees `seen`: by default the prior bent."""
        seen = self._perturbed(clean) if seen is None else seen
        with self._autocast():
            logits = self.student(seen)
        loss = self.config.supervised_weight * self._supervised_loss(logits, clean)
        return float(loss.detach()), self._gradients(loss)

    def _gradient_at_virtual(self, gradients: Gradients, clean: Batch) -> tuple[float, Gradients]:
        """Loss on clean slices and its gradient at theta', where a step by `gradients` alone would lead.

        The step is SGD's, with its momentum. AdamW has no such buffer: there it is a plain step of gradient descent.
        """
        group = self._optimiser.param_groups[0]
        state = self._optimiser.state
        virtual = virtual_parameters(
            self.parameters,
            gradients,
            learning_rate=group["lr"],
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            momentum_buffers={
                name: state[p]["momentum_buffer"]
                for name, p in self.parameters.items()
                if "momentum_buffer" in state[p]
            },
        )
        for value in virtual.values():
            value.requires_grad_()
        buffers = {name: value.clone() for name, value in self.student.named_buffers()}
        with self._autocast():
            logits = torch.func.functional_call(self.student, (virtual, buffers), (self._perturbed(clean),))
        loss = self._supervised_loss(logits, clean)
        return float(loss.detach()), self._gradients(loss, virtual)

    def _supervised_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return supervised_loss(logits.float(), batch.labels, batch.mask, self.config.supervised_loss)

    def _tangent(
        self, batch: _ViewBatch, direction: Gradients, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Logits of all views and their derivative along a step in `direction`; None where no weights need them.

        `logits` are the student's, where they are known.
        """
        return None if self.config.weighting == "uniform" else self.tangent(batch.student, direction, logits)

    def _weights(self, tangent: tuple[Tensor, Tensor] | None, batch: _ViewBatch, y_p: Tensor) -> PixelWeights:
        """w^n and w^p of all views, (V * B, H, W), from what `_tangent` found; uniform ones without."""
        if tangent is None:
            half = batch.mask / (2 * batch.mask.sum()).clamp(min=1)
            return PixelWeights(half, half, 1.0)
        return normalised_weights(
            directional_loss_derivative(*tangent, batch.initial), directional_loss_derivative(*tangent, y_p), batch.mask
        )

    def _in_views(self, batch: Batch, views: Sequence[View]) -> _ViewBatch:
        student = self._perturbed(batch)
        teacher = torch.cat([batch.image, batch.prior], 1)
        masks = [warp(batch.mask, view, "nearest") * inside(view, batch.mask) for view in views]
        shape = (len(views) * len(batch.labels), *teacher.shape[1:])
        noise = torch.randn(shape, generator=self.generator, device=teacher.device) * self.config.teacher_noise
        return _ViewBatch(
            student=torch.cat([warp(student, view) for view in views]),
            teacher=torch.cat([warp(teacher, view) for view in views]) + noise,
            initial=torch.cat(project_labels(batch.labels, views)),
            mask=torch.cat(masks)[:, 0],
            on_slice=batch.mask,
        )

    def _pseudo_labels(self, student: Tensor, teacher: Tensor, views: Sequence[View]) -> Tensor:
        """y^p of PLE in every view, (V * B, K, H, W): mean over the views, hardened on the slice, projected back."""
        source = student if self.config.pseudo_labels_from == "student" else teacher
        mean = ensemble(source.chunk(len(views)), views).mean()
        return torch.cat(project_labels(hard_labels(mean), views))

    def _view_consistency(
        self, probability: Tensor, teacher_probability: Tensor, batch: _ViewBatch, views: Sequence[View]
    ) -> Tensor:
        """Loss of what the student says, by the other views on the slice, and by the teacher."""
        on_slice = ensemble(probability.chunk(len(views)), views)
        loss = self.config.consistency_weight * consistency_loss(on_slice, batch.on_slice)
        return loss + self.config.teacher_weight * teacher_loss(probability, teacher_probability, batch.mask[:, None])

    def _student_probability(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The student's logits and probabilities, (V * B, K, H, W) each."""
        with self._autocast():
            logits = self.student(x).float()
        return logits, logits.softmax(1)

    @torch.no_grad()
    def _teacher_probability(self, x: Tensor) -> Tensor:
        with self._autocast():
            logits = self.teacher.network(x)
        return logits.float().softmax(1)

    def _as_step(self, direction: Gradients) -> Gradients:
        """`direction` as the optimiser would step along it: AdamW scales every parameter by its gradients' size."""
        if not isinstance(self._optimiser, torch.optim.AdamW):
            return direction
        state, epsilon = self._optimiser.state, self._optimiser.param_groups[0]["eps"]
        return {
            name: value / (state[self.parameters[name]]["exp_avg_sq"].sqrt() + epsilon)
            if "exp_avg_sq" in state[self.parameters[name]]
            else value
            for name, value in direction.items()
        }

    def _gradients(self, loss: Tensor, at: Gradients | None = None, retain: bool = False) -> Gradients:
        """Gradient of a loss of the whole batch, `at` the student's parameters by default."""
        where: Mapping[str, Tensor] = self.parameters if at is None else at
        values = torch.autograd.grad(
            loss, list(where.values()), retain_graph=retain, allow_unused=True, materialize_grads=True
        )
        return dict(zip(where, values, strict=True))

    def _step(self, gradients: Gradients) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        if self.config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.gradient_clip)
        self._optimiser.step()
        self._optimiser.zero_grad()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._is_half_precision)

    @property
    def _is_half_precision(self) -> bool:
        return self.config.mixed_precision and self.device.type == "cuda"


def _build_optimiser(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(), config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(config.momentum, 0.999), weight_decay=config.weight_decay
    )


def _weighted_loss(logits: Tensor, y_n: Tensor, y_p: Tensor, weights: PixelWeights) -> Tensor:
    """Sum over all pixels of w^n l^n + w^p l^p."""
    loss = weights.initial * pixel_cross_entropy(logits, y_n) + weights.pseudo * pixel_cross_entropy(logits, y_p)
    return loss.sum()


def _sum(a: Gradients, b: Gradients) -> Gradients:
    return {name: value + b[name] for name, value in a.items()}
