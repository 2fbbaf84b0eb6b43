"""Every parameter of a training, declared once.

The default, the bounds, the unit and the help text of a parameter stand here and nowhere else: the widget's
advanced form, the command line's ``--set`` and the documentation are generated from :class:`TrainingConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError, field_validator, model_validator

from napari_mlbseg.config.execution import ExecutionConfig, declared, empty_is_none
from napari_mlbseg.config.presets import PRESETS, PresetName

__all__ = [
    "NETWORK_FIELDS",
    "InitialLabelSource",
    "LabelKind",
    "TrainingConfig",
]

#: Parameters that decide the form of a network: a training starts from an earlier model only where they are the same.
NETWORK_FIELDS = ("architecture", "features", "norm", "context", "shape_prior")

#: Parameters that were, and may stand in stored files.
_RETIRED = frozenset({"nproc"})
#: Parameters that have another name now, as stored files may have them.
_RENAMED = {"look_again": "find_label_errors"}

InitialLabelSource = Literal["auto", "network", "interpolation", "propagation", "given"]
LabelKind = Literal["auto", "classes", "instances"]


class TrainingConfig(ExecutionConfig):
    """Parameters of one training; frozen. The defaults are those of the ``standard`` preset.

    Raises
    ------
    pydantic.ValidationError
        For an unknown field, a value of the wrong type or one outside its bounds.

    Notes
    -----
    Symbols follow Wei et al., "Consistency-guided Meta-Learning for Bootstrapping Semi-Supervised Medical Image
    Segmentation", MICCAI 2023 (MLB-Seg): y^n initial labels, y^p pseudo-labels, w^n and w^p their pixel weights.
    """

    # -- run -----------------------------------------------------------------------------------------------------
    preset: PresetName = declared("standard", "Run", "Preset that the other values started from; kept as provenance.")
    steps: int | None = declared(
        None, "Run", "Largest number of meta-weighted training steps. Empty: until the time is used up.", ge=0
    )
    label_kind: LabelKind = declared(
        "auto",
        "Run",
        "What a label number stands for: a class, or one object such as a cell ('instances': foreground and borders "
        "are learnt, and objects are given back). 'auto' takes many small, similar pieces for objects.",
    )

    # -- network -------------------------------------------------------------------------------------------------
    architecture: Literal["light", "unet", "unet++"] = declared(
        "unet",
        "Network",
        "'light': strided U-Net that computes at half resolution, for CPUs; 'unet'; 'unet++' as in the paper.",
    )
    features: tuple[int, ...] = declared(
        (32, 64, 128, 256), "Network", "Channels of the network's levels, from full resolution down.", min_length=2
    )
    norm: Literal["instance", "group", "batch"] = declared(
        "instance", "Network", "Normalisation layer; 'batch' as in the paper's code, the others keep no running state."
    )
    context: int = declared(
        0, "Network", "Neighbouring slices on each side that the network also sees (2.5D).", unit="slices", ge=0, le=4
    )
    patch_size: int = declared(
        256,
        "Network",
        "Largest side of the region of a slice that one training sample shows.",
        unit="px",
        ge=32,
        le=2048,
    )

    shape_prior: bool = declared(
        True,
        "Network",
        "The network also sees the initial labels' outline, bent at random in training, and learns to correct it.",
    )
    prior_doubt: float = declared(
        1.8,
        "Network",
        "How far the outline that the network sees is bent at most, in fifths of the structure's radius.",
        ge=0,
        le=5,
    )
    prior_dropout: float = declared(
        0.1, "Network", "Share of training samples in which the outline is withheld from the network.", ge=0, le=1
    )

    # -- initial labels ------------------------------------------------------------------------------------------
    initial_labels: InitialLabelSource = declared(
        "auto",
        "Initial labels",
        "Where the labels of unannotated slices come from at first: 'network' (bootstrapped on the clean slices, the "
        "paper), 'interpolation' of shapes between clean slices, 'propagation' of the clean slices by registration, "
        "'given' (a layer or file), or 'auto'.",
    )
    bootstrap_share: float = declared(
        0.35,
        "Initial labels",
        "Share of the training time spent on the clean slices alone, before the weights.",
        ge=0,
        le=1,
    )
    bootstrap_prior: float = declared(
        0.0,
        "Initial labels",
        "Weight of initial labels that are known beforehand during the bootstrap; 0: clean slices alone.",
        ge=0,
        le=100,
    )
    initial_share: float = declared(
        1.0,
        "Initial labels",
        "Share that interpolated or propagated labels keep in what is shown right beside a clean slice; it falls with "
        "the distance to the nearest one, to half at a fifth of the structure's radius. 0: none.",
        ge=0,
        le=1,
    )
    bootstrap_steps: int | None = declared(
        None, "Initial labels", "Steps of the bootstrap on clean slices. Empty: by its share of the time.", ge=0
    )

    # -- views (PLE) ---------------------------------------------------------------------------------------------
    n_views: int = declared(
        5,
        "Views",
        "Views of a slice that PLE averages: identity, zoom-in, two zoom-outs, flip, then further ones.",
        ge=1,
        le=16,
    )
    n_views_predict: int = declared(5, "Views", "Views that the final prediction averages.", ge=1, le=16)
    zoom_in: tuple[float, float] = declared((1.1, 1.4), "Views", "Range of the zoom-in factor.")
    zoom_out: tuple[float, float] = declared((0.7, 0.95), "Views", "Range of the zoom-out factor.")

    # -- weights -------------------------------------------------------------------------------------------------
    weighting: Literal["meta", "uniform"] = declared(
        "meta", "Weights", "'meta': pixel weights from clean data (MLB-Seg); 'uniform': every pixel counts alike."
    )
    meta_gradient: Literal["virtual", "shared"] = declared(
        "shared",
        "Weights",
        "Where the clean gradient is taken: at the 'virtual' step theta' (the paper), or at theta, 'shared' with the "
        "supervised step (one backward pass less; an approximation).",
    )
    tangent: Literal["exact", "difference"] = declared(
        "difference",
        "Weights",
        "How every pixel's derivative along the clean gradient is found: 'exact', in forward mode, or by the "
        "'difference' of two passes, which takes a third of the time and differs by a few thousandths.",
    )

    pseudo_labels_from: Literal["student", "teacher"] = declared(
        "teacher",
        "Weights",
        "Whose views PLE averages into pseudo-labels: the 'student' (the paper) or its mean 'teacher'.",
    )
    find_label_errors: bool = declared(
        True,
        "Weights",
        "At the end, show where the other clean slices contradict what was painted on a clean slice, if there are at "
        "least three and time is left.",
    )

    # -- losses --------------------------------------------------------------------------------------------------
    supervised_loss: Literal["ce", "dice_ce"] = declared("dice_ce", "Losses", "Loss on clean slices.")
    supervised_weight: float = declared(1.0, "Losses", "Weight of the clean slices' loss.", ge=0, le=100)
    weighted_weight: float = declared(1.0, "Losses", "Weight of the meta-weighted loss.", ge=0, le=100)
    consistency_weight: float = declared(1.0, "Losses", "Weight of the consistency between views.", ge=0, le=100)
    teacher_weight: float = declared(1.0, "Losses", "Weight of the consistency with the mean teacher.", ge=0, le=100)
    ema_decay: float = declared(0.99, "Losses", "Decay of the mean teacher's moving average.", ge=0, lt=1)
    teacher_noise: float = declared(
        0.02, "Losses", "Standard deviation of the noise that the teacher's input gets.", ge=0, le=1
    )

    # -- optimiser -----------------------------------------------------------------------------------------------
    optimiser: Literal["sgd", "adamw"] = declared("adamw", "Optimiser", "SGD with momentum (the paper) or AdamW.")
    learning_rate: float = declared(2e-3, "Optimiser", "Learning rate at the start.", gt=0, le=1)
    learning_rate_schedule: Literal["paper", "cosine", "constant"] = declared(
        "cosine", "Optimiser", "'paper': times 20 / (epoch + 20); 'cosine': down to a hundredth at the end."
    )
    momentum: float = declared(0.9, "Optimiser", "Momentum of SGD; beta1 of AdamW.", ge=0, lt=1)
    weight_decay: float = declared(5e-4, "Optimiser", "Weight decay.", ge=0, le=1)
    gradient_clip: float = declared(1.0, "Optimiser", "Largest norm of a gradient; 0: no clipping.", ge=0, le=1000)
    batch_size: int = declared(4, "Optimiser", "Unlabelled slices in a batch.", ge=1, le=256)
    clean_batch_size: int = declared(4, "Optimiser", "Clean slices in a batch.", ge=1, le=256)
    augment: bool = declared(True, "Optimiser", "Strong augmentation of clean slices (affine, elastic, intensity).")
    mixed_precision: bool = declared(
        True,
        "Optimiser",
        "Half precision (bfloat16) outside the weight step: on CUDA, and for predictions on CPUs that compute in it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, values: Any) -> Any:
        """Sessions, jobs and models that an earlier version wrote have parameters that are gone, or have another name.

        Text was typed by somebody, who is told what there is.
        """
        if not isinstance(values, Mapping):
            return values
        stored = {k: v for k, v in values.items() if not isinstance(v, str)}
        now = {_RENAMED.get(k, k): v for k, v in stored.items() if k not in _RETIRED}
        return {k: v for k, v in values.items() if isinstance(v, str)} | now

    @field_validator("features", "zoom_in", "zoom_out", mode="before")
    @classmethod
    def _split_text(cls, value: Any) -> Any:
        """Lists may be given as text, '16,32,64': the command line and the form do so."""
        return tuple(value.strip("[]() ").split(",")) if isinstance(value, str) else value

    @field_validator("steps", "bootstrap_steps", mode="before")
    @classmethod
    def _empty_steps(cls, value: Any) -> Any:
        return empty_is_none(value)

    @model_validator(mode="after")
    def _ordered_ranges(self) -> TrainingConfig:
        for name in ("zoom_in", "zoom_out"):
            low, high = getattr(self, name)
            if not 0.25 <= low <= high <= 4:
                raise ValueError(f"{name} must be a range (low, high) within 0.25 to 4, not ({low:g}, {high:g})")
        if any(width < 1 for width in self.features):
            raise ValueError("features must be positive numbers of channels, such as 16,32,64")
        return self

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> TrainingConfig:
        """Config of a named preset, with some fields changed.

        Parameters
        ----------
        preset : {"quick", "standard", "paper"}
            ``quick`` for a CPU and a person who waits, ``standard`` for a GPU, ``paper`` for the published method.
        **overrides
            Fields of `TrainingConfig`; strings are parsed.

        Raises
        ------
        ValueError
            If the preset or a field is unknown or a value is out of bounds; one sentence that says what to do.
        """
        if preset not in PRESETS:
            raise ValueError(f"There is no preset '{preset}': choose one of {', '.join(PRESETS)}.")
        return cls.parse({**PRESETS[preset], "preset": preset, **overrides})

    @property
    def learns(self) -> bool:
        """Whether anything is to be learnt, and not only to be predicted with the model of an earlier training."""
        return self.bootstrap_steps != 0 or self.steps != 0

    def updated(self, **changes: Any) -> TrainingConfig:
        """A validated copy with `changes`; raises ValueError (one sentence) for what does not fit."""
        return self.parse({**self.model_dump(), **changes})

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Validate `values` and say in one sentence what does not fit (ValueError)."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ValueError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """The first complaint of a validation, as a sentence that says what to do."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"There is no parameter '{name}': the parameters are {', '.join(TrainingConfig.model_fields)}."
    if not name:
        return f"{first['msg'].removeprefix('Value error, ')}."
    return f"The parameter '{name}' cannot be {first['input']!r}: {first['msg'].lower()}."
