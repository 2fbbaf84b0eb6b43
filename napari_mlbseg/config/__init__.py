"""Every parameter of a training, and the presets. Needs pydantic alone."""

from napari_mlbseg.config.execution import Device, ExecutionConfig, field_group, field_unit
from napari_mlbseg.config.presets import PRESETS, PresetName
from napari_mlbseg.config.training import (
    NETWORK_FIELDS,
    InitialLabelSource,
    LabelKind,
    TrainingConfig,
)

__all__ = [
    "NETWORK_FIELDS",
    "PRESETS",
    "Device",
    "ExecutionConfig",
    "InitialLabelSource",
    "LabelKind",
    "PresetName",
    "TrainingConfig",
    "field_group",
    "field_unit",
]
