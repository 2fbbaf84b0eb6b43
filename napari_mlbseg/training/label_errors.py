r"""Look again: where the other clean slices contradict what was painted on a clean slice.

The weights of MLB-Seg, asked of the person's own labels. With v the gradient of the loss on all *other* clean slices,

.. math:: \langle \nabla l_i, v \rangle = \sum_c (p_c - y_c) \, \dot z_c, \qquad \dot z = J_z v

is negative where learning from the others speaks against the label y painted on pixel i. At the end of a training this
product alone finds little (docs/evidence.md): the network has learnt the slice's labels too. What the same pass says
better is where the step *leads*: the probabilities that the virtual model, one step along the other clean slices, gives
to everything but the painted label.

The network must not be shown what it should judge: its shape prior on a clean slice is the painted outline. So the
virtual model sees the outline that the slice would have were it not clean, drawn from the other clean slices. That
outline errs too, and the network may follow it. Two more opinions guard against it: what the network says without any
outline, and what it says of the painted one, which it has learnt to correct. A stroke is perturbed as far as all three
doubt it, by their geometric mean.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from napari_mlbseg.training.augmentation import Batch
from napari_mlbseg.training.dataset import Key, SliceSampler
from napari_mlbseg.training.inference import Predictor
from napari_mlbseg.training.networks import size_divisor
from napari_mlbseg.training.slices import pad_to, round_up
from napari_mlbseg.training.step import Gradients, Learner

__all__ = ["BLUR", "LabelErrorFinder", "label_error_probability"]


#: Pixels, standard deviation: a rim one pixel wide is no error of a stroke.
BLUR = 1.5
_MOST = 8  # clean slices whose gradients are summed


def label_error_probability(probability: Tensor, painted: Tensor) -> Tensor:
    """Probability of everything but the painted label, (B, K, Y, X) and (B, Y, X) of class indices -> (B, Y, X)."""
    return (1 - probability.gather(1, painted[:, None])[:, 0]).clamp(min=0)  # a mean of views may exceed 1 by a bit


class LabelErrorFinder:
    """Looks at clean slices with the eyes of the others.

    Parameters
    ----------
    sampler : SliceSampler
    learner : Learner
        After its training.
    """

    def __init__(self, sampler: SliceSampler, learner: Learner) -> None:
        self._sampler, self._learner = sampler, learner
        self._predictor = Predictor(learner.teacher.network, sampler.task.config, n_views=1)
        # what is shown of a slice stays the same, so that its gradient can be taken out of the sum again
        self._shown = {key: self._show(key) for key in sampler.pick_clean(_MOST)}
        self._sum = self._gradient_of_all()

    def doubt(self, key: Key) -> np.ndarray:
        """How far the other clean slices contradict what is painted on a clean slice, (Y, X) float32 in [0, 1].

        0 where they agree; 1 where the network is certain of another label, with the outline that the others give,
        without any, and with the painted one.
        """
        painted = torch.from_numpy(self._sampler.clean_labels(key)).to(self._learner.device)[None]
        seen = [self._sampler.seen_with(key, None), self._sampler.network_input(key)]
        opinions = torch.cat([self.after_step(key), self._predictor(seen)[0]])
        doubts = label_error_probability(opinions, painted.expand(len(opinions), -1, -1))
        return ndimage.gaussian_filter(doubts.log().mean(0).exp().cpu().numpy(), BLUR)

    def after_step(self, key: Key) -> Tensor:
        """What the network says of a clean slice after a virtual step along the other clean slices, (1, K, Y, X)."""
        rows, columns = self._sampler.task.volumes[key[0]].slice_shape
        x = self.padded(self._sampler.seen_with(key, self.outline(key)))
        return self._learner.after_step(x[None], self.direction(key))[..., :rows, :columns]

    def direction(self, key: Key) -> Gradients:
        """Gradient of the loss on the other clean slices."""
        if key not in self._shown:
            return self._sum
        own = self._gradient(key)
        return {name: value - own[name] for name, value in self._sum.items()}

    def _gradient_of_all(self) -> Gradients:
        """Sum over the slices that are shown, one at a time: a network may be large."""
        total: Gradients = {}
        for key in self._shown:
            for name, value in self._gradient(key).items():
                total[name] = total[name] + value if name in total else value
        return total

    def _gradient(self, key: Key) -> Gradients:
        return self._learner.clean_gradient(self._shown[key], perturbed=True)

    def _show(self, key: Key) -> Batch:
        """A patch of a clean slice as the network sees it in training, its outline bent."""
        batch = self._sampler.clean_patch(key)
        return replace(batch, prior=self._sampler.deform_prior(batch.prior))

    def outline(self, key: Key) -> np.ndarray | None:
        """Initial labels (Y, X) that the slice would have were it not clean; None where nothing is known."""
        return self._sampler.blind_labels(key)

    def padded(self, x: Tensor) -> Tensor:
        """A slice (C, Y, X), padded to what the network takes."""
        divisor = size_divisor(self._sampler.task.config)
        rows, columns = (max(round_up(side, divisor), 2 * divisor) for side in x.shape[-2:])
        return pad_to(x, rows, columns)
