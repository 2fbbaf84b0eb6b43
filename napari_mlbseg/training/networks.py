"""Segmentation networks, all from MONAI, behind one builder."""

from __future__ import annotations

import math

import torch
from monai.networks.nets import BasicUNet, BasicUNetPlusPlus, UNet
from torch import Tensor, nn

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.memory_layout import _USUAL_LAYOUT

__all__ = ["build_network", "input_channels", "size_divisor"]

_ACTIVATION = ("LeakyReLU", {"negative_slope": 0.01, "inplace": False})  # in place would break forward-mode AD


class _FirstOutput(nn.Module):
    """A network that returns a list (UNet++ has one output for each depth), reduced to its first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


def input_channels(config: TrainingConfig, image_channels: int, classes: int) -> int:
    """Channels that the network sees: the slice and its neighbours on both sides, and the shape prior of each class."""
    return image_channels * (2 * config.context + 1) + (classes - 1 if config.shape_prior else 0)


def size_divisor(config: TrainingConfig) -> int:
    """Sides of the network's input must be multiples of this, or its up-sampling would not meet its skips."""
    halvings = {"light": len(config.features) - 1, "unet": 4, "unet++": 4}[config.architecture]
    return 2**halvings


def build_network(
    config: TrainingConfig, image_channels: int, classes: int, *, channels_last: bool = True
) -> nn.Module:
    """The network of `config`, initialised by ``config.seed`` without touching torch's global random state.

    Parameters
    ----------
    config : TrainingConfig
    image_channels : int
        Channels of the image; the context's slices and the shape prior come on top.
    classes : int
        Number of classes, background included: channels of the output's logits.
    channels_last : bool
        On a CPU, keep the channels of a pixel side by side: a step of UNet++ takes a quarter less time so.

    Returns
    -------
    torch.nn.Module
        (B, C, H, W) -> (B, K, H, W) logits; H and W multiples of `size_divisor`.

    Notes
    -----
    ``unet++`` is Zhou et al., "UNet++", 2018, which MLB-Seg uses. ``light`` is MONAI's strided U-Net without residual
    units: its first convolution halves the resolution, which makes it several times faster on a CPU.
    """
    network = _network(config, image_channels, classes)
    if channels_last:
        network.register_forward_pre_hook(_to_channels_last)
        network.register_forward_hook(_from_channels_last)
    return network


def _network(config: TrainingConfig, image_channels: int, classes: int) -> nn.Module:
    channels = input_channels(config, image_channels, classes)
    features = config.features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.architecture == "light":
            return UNet(
                spatial_dims=2,
                in_channels=channels,
                out_channels=classes,
                channels=features,
                strides=(2,) * (len(features) - 1),
                act=_ACTIVATION,
                norm=_norm(config, features),
            )
        kind = BasicUNet if config.architecture == "unet" else BasicUNetPlusPlus
        levels = _five_levels(features)
        network = kind(
            spatial_dims=2,
            in_channels=channels,
            out_channels=classes,
            features=(*levels, levels[0]),
            act=_ACTIVATION,
            norm=_norm(config, levels),
        )
        return _FirstOutput(network) if config.architecture == "unet++" else network


def _to_channels_last(network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    if x.device.type != "cpu" or _USUAL_LAYOUT.get():
        return inputs
    return (x.contiguous(memory_format=torch.channels_last),)


def _from_channels_last(network: nn.Module, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
    return logits.contiguous()


def _five_levels(features: tuple[int, ...]) -> tuple[int, ...]:
    """MONAI's U-Nets have five levels: the last is repeated or those beyond are left out."""
    return (*features, *([features[-1]] * 5))[:5]


def _norm(config: TrainingConfig, features: tuple[int, ...]) -> tuple[str, dict[str, object]]:
    if config.norm == "group":
        return "group", {"num_groups": math.gcd(8, *features)}
    return config.norm, {"affine": True}
