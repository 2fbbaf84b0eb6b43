"""Segment a volume in napari from a few painted slices: MLB-Seg with a person in the loop.

The names below are loaded when they are first used: importing this package loads neither torch nor Qt nor napari.
`train` and `predict_volume` load torch; the others never do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_mlbseg._version import __version__

if TYPE_CHECKING:
    from napari_mlbseg.config import TrainingConfig
    from napari_mlbseg.session.session import SegmentationSession
    from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
    from napari_mlbseg.training.inference import predict_volume
    from napari_mlbseg.training.trainer import train

__all__ = [
    "SegmentationSession",
    "SegmentationTask",
    "TrainingConfig",
    "Volume",
    "__version__",
    "predict_volume",
    "resolve_task",
    "train",
]

_HOME = {
    "SegmentationSession": "napari_mlbseg.session.session",
    "SegmentationTask": "napari_mlbseg.task",
    "TrainingConfig": "napari_mlbseg.config",
    "Volume": "napari_mlbseg.task",
    "predict_volume": "napari_mlbseg.training.inference",
    "resolve_task": "napari_mlbseg.task",
    "train": "napari_mlbseg.training.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
