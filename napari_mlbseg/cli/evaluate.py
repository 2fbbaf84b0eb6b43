"""``napari-mlbseg evaluate``: how well two segmentations agree."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from typing import Any, get_args

import numpy as np

from napari_mlbseg.cli.exit_code import ExitCode
from napari_mlbseg.cli.options import add_slice_axis_option, slice_axis_option, slice_numbers
from napari_mlbseg.config import LabelKind
from napari_mlbseg.instances import LOOKED_AT, are_instances
from napari_mlbseg.io.files import read_labels
from napari_mlbseg.io.image_file import default_slice_axis, slice_spacing, to_slices
from napari_mlbseg.io.orientation import on_grid_of, turn_note
from napari_mlbseg.method.metrics import compare_instances, compare_labels

__all__ = ["add_evaluate_parser"]


def add_evaluate_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a command line."""
    evaluate = commands.add_parser("evaluate", help="Dice, Jaccard, HD95 and ASD of each class, or of objects, as JSON")
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("prediction", metavar="PREDICTION", help="label file")
    evaluate.add_argument("reference", metavar="REFERENCE", help="label file")
    evaluate.add_argument(
        "--label-kind",
        default="auto",
        choices=get_args(LabelKind),
        help="whether each label number is a class or a single object; auto: as the reference looks",
    )
    evaluate.add_argument("--exclude", default="", help="slices that do not count: 12,24,36")
    add_slice_axis_option(evaluate)


def _evaluate(options: argparse.Namespace, start: float) -> int:
    prediction, reference = read_labels(options.prediction), read_labels(options.reference)
    on_reference, turn = on_grid_of(reference, prediction)
    if note := turn_note(reference, prediction, turn):
        print(f"napari-mlbseg: {note}", file=sys.stderr)
    given = slice_axis_option(options.slice_axis)
    axis = default_slice_axis(reference) if given is None else given
    exclude = slice_numbers(options.exclude, "--exclude")
    found, true, spacing = to_slices(on_reference, axis), to_slices(reference, axis), slice_spacing(reference, axis)
    facts = {"unit": reference.unit, "slice_axis": axis, "exclude": exclude}
    is_instances = options.label_kind == "instances"
    if options.label_kind == "auto":
        is_instances = are_instances([np.asarray(plane) for plane in true[:: max(1, len(true) // LOOKED_AT)]])
    if is_instances:
        objects = asdict(compare_instances(np.asarray(found), np.asarray(true), spacing, exclude=exclude))
        print(json.dumps({"instances": objects | {"foreground": _finite(objects["foreground"])}, **facts}, indent=2))
        return ExitCode.DONE
    scores = compare_labels(found, true, spacing, exclude=exclude)
    classes = {str(value): _finite(asdict(of_class)) for value, of_class in scores.items()}
    print(json.dumps({"classes": classes, **facts}, indent=2))
    return ExitCode.DONE


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no nan."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}
