"""The kinds of result a volume has: what each is called, what it means and how it looks. Written once, here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from napari.utils.colormaps import Colormap

from napari_mlbseg.viewer.layers.arrays import Reader, as_is, highest_foreground, preference

__all__ = ["RESULT_KINDS", "WEIGHT_LIMITS", "ResultKind"]

#: Contrast limits of both weight maps, the same in every round so that they compare. Both maps together average 1 a
#: pixel, and most of it falls on the structure and its edge, which are a small part of a slice.
WEIGHT_LIMITS = (0.0, 6.0)

# Additive layers must be black where they say nothing; blue and orange differ for every kind of colour vision.
_BLUE_OR_ORANGE = Colormap(
    [[0.20, 0.55, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.60, 0.10, 1.0]],
    name="mlbseg preference",
    display_name="preference",  # a long one would widen napari's layer controls, and push the image aside
)

# Brighter is more, whatever the kind of colour vision.
_EMBER = Colormap(
    [[0.0, 0.0, 0.0, 1.0], [0.85, 0.30, 0.0, 1.0], [1.0, 0.95, 0.70, 1.0]], name="mlbseg doubt", display_name="doubt"
)


@dataclass(frozen=True)
class ResultKind:
    """One layer of results.

    Attributes
    ----------
    key : str
        Name in code.
    layer_name : str
        What follows the image's name in the layer list.
    words, help : str
        Checkbox and tooltip.
    arrays : tuple of str
        Result arrays that it is read from.
    reader : callable
        Arrays by name -> reader of its slices.
    options : mapping
        How the layer looks at first; a labels layer has no colormap here, it takes the annotation's.
    is_labels : bool
    at_once : bool
        Whether its layer is made as soon as there is something to show; the others when they are ticked. Making a layer
        takes napari a tenth of a second or more, and many push the image out of the layer list.
    carries_over : bool
        Whether slices that a round has not written yet are shown as the round before left them.
    """

    key: str
    layer_name: str
    words: str
    help: str
    arrays: tuple[str, ...]
    reader: Callable[[Mapping[str, Any]], Reader]
    options: Mapping[str, Any] = field(default_factory=dict)
    is_labels: bool = False
    at_once: bool = False
    carries_over: bool = True


def _map(colormap: Any, limits: tuple[float, float]) -> dict[str, Any]:
    return {"colormap": colormap, "contrast_limits": limits, "blending": "additive", "opacity": 0.6, "visible": False}


RESULT_KINDS = (
    ResultKind(
        key="pseudo_labels",
        layer_name="pseudo-labels",
        words="Pseudo-labels",
        help="The model's segmentation of every slice, in your labels' colours. It never changes what you painted.",
        arrays=("pseudo_labels",),
        reader=lambda arrays: as_is(arrays["pseudo_labels"]),
        options={"opacity": 0.45, "visible": True},
        is_labels=True,
        at_once=True,
    ),
    ResultKind(
        key="initial_labels",
        layer_name="initial labels",
        words="Initial labels",
        help="The first guess for the slices that you did not mark clean; training finds out where it can be trusted.",
        arrays=("initial_labels",),
        reader=lambda arrays: as_is(arrays["initial_labels"]),
        options={"opacity": 0.45, "visible": False},
        is_labels=True,
    ),
    ResultKind(
        key="probability",
        layer_name="probability",
        words="Probability",
        help="How likely the likeliest structure is at each pixel, from 0 to 1: dark is background.",
        arrays=("probability",),
        reader=lambda arrays: highest_foreground(arrays["probability"]),
        options=_map("magma", (0.0, 1.0)),
    ),
    ResultKind(
        key="weight_initial",
        layer_name="weights wⁿ",
        words="Trust in the initial labels (wⁿ)",
        help="Bright where learning the initial label agrees with your clean slices; dark where it does not, or where "
        "nothing is left to learn.",
        arrays=("weight_initial",),
        reader=lambda arrays: as_is(arrays["weight_initial"]),
        options=_map("inferno", WEIGHT_LIMITS),
        at_once=True,
    ),
    ResultKind(
        key="weight_pseudo",
        layer_name="weights wᵖ",
        words="Trust in the pseudo-labels (wᵖ)",
        help="Bright where learning the model's own label agrees with your clean slices; dark where it does not, or "
        "where nothing is left to learn.",
        arrays=("weight_pseudo",),
        reader=lambda arrays: as_is(arrays["weight_pseudo"]),
        options=_map("inferno", WEIGHT_LIMITS),
        at_once=True,
    ),
    ResultKind(
        key="preference",
        layer_name="preference",
        words="Preference: initial or pseudo",
        help="Which label training learnt more from: blue the initial one (-1), orange the pseudo-label (+1), black "
        "neither. It says what training did; where the initial labels are wrong, their doubt says better.",
        arrays=("weight_initial", "weight_pseudo"),
        reader=lambda arrays: preference(arrays["weight_initial"], arrays["weight_pseudo"]),
        options=_map(_BLUE_OR_ORANGE, (-1.0, 1.0)),
    ),
    ResultKind(
        key="initial_doubt",
        layer_name="initial doubt",
        words="Doubt in the initial labels",
        help="Bright where the model, which learnt from your clean slices, holds the initial label to be wrong; dark "
        "where it finds it likelier than not, and on clean slices. It finds more wrong labels than the weights do.",
        arrays=("initial_doubt",),
        carries_over=False,
        reader=lambda arrays: as_is(arrays["initial_doubt"]),
        options=_map(_EMBER, (0.5, 1.0)),
    ),
    ResultKind(
        key="label_doubt",
        layer_name="look again",
        words="Look again",
        help="Bright where your other clean slices contradict what you painted on this one: a part that was missed, a "
        "stroke too many, another structure's label. From 0 (they agree) to 1 (they are certain of another label); "
        "dark on slices that are not clean. It also errs: look, then decide.",
        arrays=("label_doubt",),
        carries_over=False,
        reader=lambda arrays: as_is(arrays["label_doubt"]),
        options=_map(_EMBER, (0.0, 1.0)),
    ),
)
