"""What the words on the command line mean: files become volumes, options a config.

What does not fit is an `InputError` of one sentence that says what to do.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from napari_mlbseg.config import NETWORK_FIELDS, Device, InitialLabelSource, TrainingConfig
from napari_mlbseg.jobs.devices import check_device
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.task import SegmentationTask

__all__ = [
    "SOURCES",
    "InputError",
    "check_resumed",
    "device_option",
    "interrupt_on_signals",
    "signals_noted",
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


def interrupt_on_signals() -> None:
    """Take the end of a batch job (SIGTERM) or of the terminal (SIGHUP) for Ctrl+C: what there is has to be written.

    A process that was started to outlive its terminal (nohup) goes on.
    """

    def hang_up(number: int, frame: object) -> None:
        _leave_terminal()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)


@contextmanager
def signals_noted() -> Iterator[threading.Event]:
    """Until the end of the block, signals to stop are noted in the event that is yielded, and interrupt nothing.

    An exception could come where Python drops it, within a finaliser: then nobody would be asked to stop.
    """
    asked = threading.Event()

    def note(number: int, frame: object) -> None:
        if number == getattr(signal, "SIGHUP", None):
            _leave_terminal()
        asked.set()

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    handled = [number for number, handler in before.items() if callable(handler)]
    for number in handled:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in handled:
            if signal.getsignal(number) is note:
                signal.signal(number, before[number])


def _leave_terminal() -> None:
    """The terminal is closed: to write to it is an error, and a second signal must not break off what is written."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)


def trained_round(text: str, out: Path) -> Path:
    """The folder of a finished training."""
    folder = JobFolder(text)
    if not (folder.model_file.exists() and folder.model_info_file.exists()):
        raise InputError(f"{text} holds no trained model: give the --out folder of a training that had time to learn.")
    if folder.path.resolve() == out.resolve():
        raise InputError(f"The results would overwrite the training in {text}: choose another --out.")
    return folder.path
