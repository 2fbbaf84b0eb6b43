"""The presets: what each of them changes in the defaults of `TrainingConfig`."""

from __future__ import annotations

from typing import Any, Literal, get_args

__all__ = ["PRESETS", "PresetName"]

PresetName = Literal["quick", "standard", "paper"]

#: What each preset changes in the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "architecture": "light",
        "features": (16, 32, 64, 128),
        "norm": "group",
        "time_budget": 60.0,
        "n_views": 3,
        "bootstrap_share": 0.65,
        "patch_size": 224,
    },
    "standard": {},
    "paper": {
        "architecture": "unet++",
        "features": (64, 128, 256, 512, 1024),
        "norm": "batch",
        "time_budget": None,
        "patch_size": 144,
        "initial_labels": "network",
        "shape_prior": False,
        "initial_share": 0.0,
        "meta_gradient": "virtual",
        "tangent": "exact",
        "pseudo_labels_from": "student",
        "supervised_loss": "ce",
        "optimiser": "sgd",
        "learning_rate": 0.005,
        "learning_rate_schedule": "paper",
        "gradient_clip": 0.2,
        "batch_size": 1,
        "clean_batch_size": 2,
    },
}
assert tuple(PRESETS) == get_args(PresetName)
