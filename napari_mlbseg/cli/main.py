"""The command line: the jobs of the dock without a window.

Result paths go to stdout, the progress bar and complaints to stderr. Exit codes: 0 done, 1 the job failed, 2 the input
does not fit (one line says why, nothing was written), 130 interrupted (what there was has been written).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, NoReturn, get_args

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from napari_mlbseg import __version__, events
from napari_mlbseg.cli.cluster import add_cluster_options, cluster_facts, cluster_option
from napari_mlbseg.cli.options import (
    SOURCES,
    InputError,
    check_resumed,
    interrupt_on_signals,
    signals_noted,
    slice_axis_option,
    slice_numbers,
    trained_round,
    training_config,
    writable_folder,
)
from napari_mlbseg.cli.predict import predict as predict_images
from napari_mlbseg.cli.session import Watchable, add_session_parser
from napari_mlbseg.cli.training_inputs import initial_label_source, training_rows, training_volumes
from napari_mlbseg.config import PRESETS, Device, LabelKind, TrainingConfig
from napari_mlbseg.instances import LOOKED_AT, are_instances
from napari_mlbseg.io.files import SUFFIXES, read_labels
from napari_mlbseg.io.image_file import default_slice_axis, slice_spacing, to_slices
from napari_mlbseg.io.orientation import on_grid_of, turn_note
from napari_mlbseg.io.volumes import FileVolume
from napari_mlbseg.jobs.failures import FULL_DISK
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.jobs.report import TRAINED_FILES, slice_facts, write_job_results, write_report
from napari_mlbseg.method.metrics import compare_instances, compare_labels
from napari_mlbseg.task import SegmentationTask, resolve_task

__all__ = ["main"]

_OK, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130
_SECONDS_TO_WRITE = 1.2e-7  # per voxel and class, for all results of a training, on a slow disk
_LEAST_BUDGET = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    start, options = time.monotonic(), argparse.Namespace()
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options, start))
    except (ValueError, OSError) as error:  # InputError, TaskError, ImageFileError, and files that resist
        message = str(error)
        if isinstance(error, OSError) and error.strerror:  # numpy and zarr do not say which file it was
            where = error.filename or getattr(options, "out", None) or getattr(options, "export", None) or "A file"
            advice = " (make room there or choose another folder)" if error.errno in FULL_DISK else ""
            message = f"{where}: {error.strerror}{advice}"
        print(f"napari-mlbseg: {' '.join(message.split())}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:  # before the job began, or while its results were written
        return _INTERRUPTED


# -- train -------------------------------------------------------------------------------------------------------


def _train(options: argparse.Namespace, start: float) -> int:
    cluster = cluster_option(options)
    rows = training_rows(options)
    has_gpu = cluster_facts(cluster).has_gpu if cluster else None
    config = training_config(options, initial_label_source(options, rows), cluster, has_gpu)
    out = writable_folder(options.out)
    previous = None if options.resume is None else trained_round(options.resume, out)
    volumes = training_volumes(options, rows)
    elsewhere = {value: where for volume in volumes for value, where in volume.label_values.items()}
    task = resolve_task([volume.volume for volume in volumes], config, elsewhere=elsewhere)
    if previous is not None:
        check_resumed(previous, task)
    for note in (note for volume in volumes for note in volume.notes):
        print(f"napari-mlbseg: {note}", file=sys.stderr)
    job = LocalJob.create(out, _with_time_to_write(task, start), previous=previous)
    return _run(job, volumes, TRAINED_FILES, config=config.model_dump(mode="json"))


def _with_time_to_write(task: SegmentationTask, start: float) -> SegmentationTask:
    """The task with a time budget that leaves room for what this process does before and after the job."""
    budget = task.config.time_budget
    if budget is None:
        return task
    voxels = sum(math.prod(volume.shape) for volume in task.volumes)
    around = time.monotonic() - start + _SECONDS_TO_WRITE * voxels * (4 + task.n_classes)
    config = task.config.updated(time_budget=max(_LEAST_BUDGET, budget - around))
    return replace(task, config=config)


# -- a job -------------------------------------------------------------------------------------------------------


def _run(job: LocalJob, volumes: list[FileVolume], names: Sequence[str], **facts: Any) -> int:
    """Run a job to its end, write its results, and print their paths."""
    interrupt_on_signals()
    # a job on a cluster goes on without us, and is found again; a worker here would train on for nobody
    job.start(bound=not job.folder.read_request().config.cluster)
    interrupted, outcome = _watch(job)
    facts |= slice_facts(volumes)
    report = job.folder.path / "report.json"
    if isinstance(outcome, events.Failed):
        print(f"napari-mlbseg: {outcome.message} {outcome.advice}".rstrip(), file=sys.stderr)
        with suppress(OSError):  # a full disk may be why it failed
            write_report(report, job.folder, **facts)
        return _FAILED
    try:
        written = write_job_results(job.folder, volumes, names)
        write_report(report, job.folder, **facts)
    except OSError as error:
        print(
            f"napari-mlbseg: The results cannot be written to {error.filename or job.folder.path} "
            f"({error.strerror or error}): make room there. What was found lies in {job.folder.results_path}.",
            file=sys.stderr,
        )
        return _FAILED
    for path in (*written, report):
        print(path)
    return _INTERRUPTED if interrupted else _OK


def _watch(job: Watchable) -> tuple[bool, events.Event | None]:
    """Show the job's progress until it ends; Ctrl+C asks it to stop and keep what it has.

    Returns whether that happened, and the job's last word, which a full disk may not hold.
    """
    interrupted, notes, event = False, list[str](), None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with signals_noted() as asked, Progress(*columns, console=Console(stderr=True)) as bar:
        line = bar.add_task("start", total=1.0)
        while not job.state.is_final:
            for event in job.poll():
                if isinstance(event, events.Progress):
                    bar.update(line, completed=event.fraction, description=event.message or str(event.stage))
                elif isinstance(event, events.Metrics):
                    notes += event.notes
                elif isinstance(event, events.Finished):
                    bar.update(line, completed=1.0, description="done")
            if asked.is_set() and not interrupted:
                interrupted = True
                job.cancel()
                bar.update(line, description="stopping")
            time.sleep(0.1)
    for note in notes:
        print(f"napari-mlbseg: {note}", file=sys.stderr)
    return interrupted, event


# -- evaluate ----------------------------------------------------------------------------------------------------


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
        return _OK
    scores = compare_labels(found, true, spacing, exclude=exclude)
    classes = {str(value): _finite(asdict(of_class)) for value, of_class in scores.items()}
    print(json.dumps({"classes": classes, **facts}, indent=2))
    return _OK


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no nan."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


# -- demo --------------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace, start: float) -> int:
    """Open napari with the phantom in a process of its own, so that this module needs no window."""
    has_display = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    headless = [] if has_display and not options.headless else ["--headless"]
    return subprocess.run([sys.executable, "-m", "napari_mlbseg.viewer.demo", *headless]).returncode


# -- options -----------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="napari-mlbseg", description="Segment volumes from a few painted slices (MLB-Seg).")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="train on clean slices and segment the others", description=_train_help())
    train.set_defaults(run=_train)
    train.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help=f"image file ({', '.join(SUFFIXES)}), folder of images, or CSV file with the columns image, labels, clean "
        "and, where wanted, initial_labels and slice_axis",
    )
    train.add_argument("--labels", nargs="+", metavar="LABELS", help="label file of each image, or a folder of them")
    train.add_argument(
        "--clean",
        help="clean slices: 12,24,36, or NAME:12,24;NAME:3 of several images (FOLDER-NAME where names are alike)",
    )
    train.add_argument("--out", required=True, metavar="DIR", help="folder for the results; it becomes the job folder")
    train.add_argument(
        "--initial-labels", nargs="+", metavar="SOURCE", help=f"{', '.join(SOURCES)}, or a file for each image"
    )
    _add_slice_axis(train)
    train.add_argument("--preset", metavar="NAME", help=f"{', '.join(PRESETS)}; quick on a CPU, standard on a GPU")
    train.add_argument("--time-budget", metavar="SECONDS", help=_help_of("time_budget"))
    train.add_argument("--steps", metavar="N", help=_help_of("steps"))
    _add_device(train)
    train.add_argument("--seed", metavar="N", help=_help_of("seed"))
    train.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any other parameter")
    train.add_argument("--resume", metavar="ROUND_DIR", help="start from the model of an earlier training")
    add_cluster_options(train)

    predict = commands.add_parser("predict", help="segment images with a trained model")
    predict.set_defaults(run=lambda options, start: predict_images(options, _run))
    predict.add_argument("round", metavar="ROUND_DIR", help="folder of the training")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image file, folder of images, or CSV file with a column 'image'"
    )
    predict.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    _add_slice_axis(predict)
    _add_device(predict)
    add_cluster_options(predict)

    evaluate = commands.add_parser(
        "evaluate",
        help="Dice, Jaccard, HD95 and ASD of each class, or of objects, as JSON",
    )
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
    _add_slice_axis(evaluate)

    add_session_parser(commands, _watch)

    demo = commands.add_parser("demo", help="train on a generated phantom in napari")
    demo.set_defaults(run=_demo)
    demo.add_argument("--headless", action="store_true", help="show no window, leave screenshots in demo-output")
    return parser


def _train_help() -> str:
    fields = ", ".join(TrainingConfig.model_fields)
    return f"Train on clean slices and segment the others. Parameters for --set: {fields}."


def _help_of(field: str) -> str:
    return str(TrainingConfig.model_fields[field].description).replace("%", "%%")


def _add_slice_axis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--slice-axis",
        default="auto",
        metavar="AXIS",
        help="axis of the file's array along which the slices lie, channels not counted: auto, 0, 1 or 2",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="DEVICE", help=f"one of {', '.join(get_args(Device))}")


if __name__ == "__main__":
    raise SystemExit(main())
