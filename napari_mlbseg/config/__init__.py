"""Every parameter of a training, and the presets. Needs pydantic alone."""

from napari_mlbseg.config.presets import PRESETS, PresetName
from napari_mlbseg.config.training import (
    NETWORK_FIELDS,
    Device,
    InitialLabelSource,
    LabelKind,
    TrainingConfig,
    field_group,
    field_unit,
)

__all__ = [
    "NETWORK_FIELDS",
    "PRESETS",
    "Device",
    "InitialLabelSource",
    "LabelKind",
    "PresetName",
    "TrainingConfig",
    "field_group",
    "field_unit",
]
