"""What the words on the command line mean: files become volumes, options a config.

What does not fit is an `InputError` of one sentence that says what to do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from napari_mlbseg.config import NETWORK_FIELDS, Device, InitialLabelSource, TrainingConfig
from napari_mlbseg.config.cluster_address import WHY_EXPOSED, checked_address, is_exposed
from napari_mlbseg.jobs.devices import check_device
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.task import SegmentationTask

if TYPE_CHECKING:
    from napari_mlbseg.jobs.dask.connection import ClusterFacts

__all__ = [
    "InputError",
    "SOURCES",
    "add_cluster_options",
    "add_device_option",
    "add_slice_axis_option",
    "check_resumed",
    "cluster_facts",
    "cluster_option",
    "device_option",
    "slice_axis_option",
    "slice_numbers",
    "trained_round",
    "trained_slice_axis",
    "training_config",
    "writable_folder",
]

#: Sources of the initial labels that have a name.
SOURCES = tuple(source for source in get_args(InitialLabelSource) if source != "given")


class InputError(ValueError):
    """The input does not fit; the message is one sentence that says what to do."""


def training_config(
    options: argparse.Namespace, source: str | None, cluster: str = "", cluster_has_gpu: bool | None = None
) -> TrainingConfig:
    """The config that the options describe.

    Parameters
    ----------
    options : argparse.Namespace
    source : str, optional
        Of the initial labels; None: as the preset says.
    cluster : str
        Address of the cluster that is to compute; empty: this machine does.
    cluster_has_gpu : bool, optional
    """
    overrides: dict[str, Any] = {}
    if source is not None:
        overrides["initial_labels"] = source
    for name in ("time_budget", "steps", "seed"):
        if getattr(options, name) is not None:
            overrides[name] = getattr(options, name)
    overrides["device"] = options.device
    for assignment in options.set:
        field, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment} lacks a value: write --set FIELD=VALUE, such as --set n_views=3.")
        if field == "preset":
            raise InputError("The preset cannot be set with --set: choose it with --preset.")
        if field == "cluster":
            raise InputError("The cluster cannot be set with --set: choose it with --cluster.")
        overrides[field] = value
    device = str(overrides["device"])
    if cluster:  # which devices are there is known over there
        device = _choice("device", device, get_args(Device))
        has_gpu = bool(cluster_has_gpu) and device != "cpu"
    else:
        device = device_option(device)
        has_gpu = device != "cpu"
    overrides |= {"device": device, "cluster": cluster}
    preset = options.preset or ("standard" if has_gpu else "quick")
    return TrainingConfig.from_preset(preset, **overrides)


def check_resumed(folder: Path, task: SegmentationTask) -> None:
    """Refuse a model that a training cannot start from: one of other classes, other images or another network."""
    info = json.loads(JobFolder(folder).model_info_file.read_text(encoding="utf-8"))
    then, now = TrainingConfig.parse(info["config"]), task.config
    objects = {True: "single objects", False: "classes"}
    facts = {
        "label numbers": (tuple(info["class_values"]), task.class_values),
        "label numbers of": (objects[bool(info.get("instances"))], objects[task.last_instance is not None]),
        "channels": (info["image_channels"], task.n_channels),
        # whether there is a shape prior follows from the volumes, too
        **{name: (getattr(then, name), getattr(now, name)) for name in NETWORK_FIELDS if name != "shape_prior"},
    }
    for what, (before, wanted) in facts.items():
        if before != wanted:
            raise InputError(
                f"The model in {folder} does not fit this training ({what}: {before} there, {wanted} here): give the "
                "same images, labels and parameters as then, or leave out --resume."
            )


def trained_slice_axis(round_path: Path) -> int | None:
    """The slice axis of a training as its report tells; None where it tells none or ``auto``."""
    try:
        axis = json.loads((round_path / "report.json").read_text(encoding="utf-8")).get("slice_axis")
        return None if axis in (None, "auto") else int(axis)
    except (OSError, ValueError):
        return None


def device_option(text: str) -> str:
    """The device that is there, ``auto`` resolved."""
    return check_device(_choice("device", text, get_args(Device)))


def _choice(what: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InputError(f"There is no {what} '{value}': choose one of {', '.join(choices)}.")
    return value


def slice_axis_option(text: str) -> int | None:
    """The axis, or None for ``auto``."""
    _choice("slice axis", text, ("auto", "0", "1", "2"))
    return None if text == "auto" else int(text)


def slice_numbers(text: str, option: str) -> list[int]:
    """Slices from ``12,24,36``; `option` is named in the complaint."""
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise InputError(f"{option} {text} is no list of slice numbers: write them as 12,24,36.") from None


def writable_folder(text: str) -> Path:
    """The output folder, checked without making it."""
    out = Path(text).absolute()
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file, so {out} cannot be a folder: choose another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"The folder {existing} cannot be written: choose another --out.")
    return out


def trained_round(text: str, out: Path) -> Path:
    """The folder of a finished training."""
    folder = JobFolder(text)
    if not (folder.model_file.exists() and folder.model_info_file.exists()):
        raise InputError(f"{text} holds no trained model: give the --out folder of a training that had time to learn.")
    if folder.path.resolve() == out.resolve():
        raise InputError(f"The results would overwrite the training in {text}: choose another --out.")
    return folder.path


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cluster`` and what belongs to it."""
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="run on a worker of the Dask scheduler there, such as tls://server:8786"
    )
    parser.add_argument(
        "--unencrypted", action="store_true", help="for --cluster: send images to another machine without TLS"
    )


def cluster_option(options: argparse.Namespace) -> str:
    """The address, or an empty text for this machine.

    Asks once, where there is somebody to ask, whether images may be sent unencrypted.

    Raises
    ------
    InputError
        If that is not wanted.
    ValueError
        If it is no address.
    """
    if not options.cluster:
        return ""
    address = checked_address(options.cluster)
    if is_exposed(address) and not options.unencrypted:
        why = WHY_EXPOSED.format(address=address)
        if not sys.stdin.isatty():
            raise InputError(f"{why} Use a tls:// address or an SSH tunnel (docs/cluster.md), or add --unencrypted.")
        print(f"napari-mlbseg: {why} Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if input().strip().lower() not in ("y", "yes"):
            raise InputError("Nothing was sent: use a tls:// address or an SSH tunnel (docs/cluster.md).")
    return address


def cluster_facts(address: str) -> ClusterFacts:
    """What the cluster has; raises ValueError (a sentence) if no scheduler answers there."""
    try:
        from napari_mlbseg.jobs.dask.connection import look_at
    except ImportError:
        raise InputError("For --cluster, install the extra of that name: pip install napari-mlbseg[cluster].") from None
    return look_at(address)


def add_slice_axis_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--slice-axis``."""
    parser.add_argument(
        "--slice-axis",
        default="auto",
        metavar="AXIS",
        help="axis of the file's array along which the slices lie, channels not counted: auto, 0, 1 or 2",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="auto", metavar="DEVICE", help=f"one of {', '.join(get_args(Device))}")
