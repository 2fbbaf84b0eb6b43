"""A model on disk: weights as safetensors, everything else as JSON beside it. Nothing is pickled."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from napari_mlbseg._util.files import atomic_path, write_atomically
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.task import TaskError
from napari_mlbseg.training.networks import build_network

__all__ = ["LearntFrom", "Model", "learnt_from", "load_model", "save_model", "warm_start"]

_FORMAT = 1


@dataclass(frozen=True)
class LearntFrom:
    """What a model has learnt from, and where it is better than initial labels.

    Attributes
    ----------
    slices : mapping of str to sequence of int, optional
        Clean slices, by the name of their volume; None if they are not known.
    better : sequence of int
        Label numbers of the classes for which it was measured to be better.
    """

    slices: Mapping[str, Sequence[int]] | None
    better: Sequence[int]


@dataclass(frozen=True)
class Model:
    """A trained network and what is needed to use it."""

    network: nn.Module
    config: TrainingConfig
    class_values: tuple[int, ...]
    image_channels: int
    prior_reach: float = 1.0  # see `shape_prior.typical_label_error_px`
    slice_direction: str = ""  # see `Volume`; empty where the volumes differ
    instances: bool = False  # whether its classes are those of `napari_mlbseg.instances`
    learnt: LearntFrom | None = None


def save_model(path: Path, model: Model) -> None:
    """Write ``path`` (safetensors) and ``path`` with suffix ``.json``, each whole or not at all."""
    information = {
        "format": _FORMAT,
        "class_values": model.class_values,
        "image_channels": model.image_channels,
        "prior_reach": model.prior_reach,
        "slice_direction": model.slice_direction,
        "instances": model.instances,
        "config": model.config.model_dump(mode="json"),
        "learnt": None if model.learnt is None else asdict(model.learnt),
    }
    state = {name: value.contiguous().cpu() for name, value in model.network.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:  # it keeps the number of an error of the system in its words only
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    write_atomically(path.with_suffix(".json"), json.dumps(information, indent=1))


def load_model(path: Path) -> Model:
    """The model that `save_model` wrote.

    Raises
    ------
    TaskError
        If there is no model, or a newer version of this package wrote it.
    """
    try:
        information = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        state = load_file(path)
    except (OSError, ValueError) as error:
        raise TaskError(f"There is no model in {path.parent}: choose the folder of a finished training.") from error
    if information["format"] > _FORMAT:
        raise TaskError(f"The model in {path.parent} was written by a newer napari-mlbseg: update napari-mlbseg.")
    config = TrainingConfig.parse(information["config"])
    classes, channels = tuple(information["class_values"]), int(information["image_channels"])
    network = build_network(config, channels, len(classes))
    network.load_state_dict(state)
    return Model(
        network=network,
        config=config,
        class_values=classes,
        image_channels=channels,
        prior_reach=float(information["prior_reach"]),
        slice_direction=str(information.get("slice_direction", "")),
        instances=bool(information.get("instances", False)),
    )


def warm_start(network: nn.Module, path: Path) -> bool:
    """Load the weights of an earlier model into `network` where all of them fit; whether they did."""
    try:
        state: dict[str, Tensor] = load_file(path)
        network.load_state_dict(state)
    except (OSError, RuntimeError):  # no such file, or another architecture or number of classes
        return False
    return True


def learnt_from(path: Path) -> LearntFrom:
    """What the model at `path` has learnt from; of one that does not tell, it is taken to be better everywhere."""
    try:
        information = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return LearntFrom(None, ())
    learnt = information.get("learnt")
    return LearntFrom(None, information["class_values"]) if learnt is None else LearntFrom(**learnt)
