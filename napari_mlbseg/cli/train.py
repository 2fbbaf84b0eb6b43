"""``napari-mlbseg train``: images with labels and clean slices become a training."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_mlbseg.cli.options import (
    SOURCES,
    InputError,
    add_cluster_options,
    add_device_option,
    add_slice_axis_option,
    check_resumed,
    cluster_facts,
    cluster_option,
    slice_axis_option,
    slice_numbers,
    trained_round,
    training_config,
    writable_folder,
)
from napari_mlbseg.cli.progress import run_job
from napari_mlbseg.config import PRESETS, TrainingConfig
from napari_mlbseg.io.dataset_table import DatasetRow, dataset_rows, find_labels, is_table
from napari_mlbseg.io.files import SUFFIXES, has_known_suffix, is_image_path
from napari_mlbseg.io.volumes import FileVolume, load_volume
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.jobs.report import TRAINED_FILES
from napari_mlbseg.task import SegmentationTask, resolve_task

__all__ = ["add_train_parser"]

_MOST_NAMED = 5  # images that a complaint lists
_SECONDS_TO_WRITE = 1.2e-7  # per voxel and class, for all results of a training, on a slow disk
_LEAST_BUDGET = 5.0


def add_train_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a command line."""
    fields = ", ".join(TrainingConfig.model_fields)
    train = commands.add_parser(
        "train",
        help="train on clean slices and segment the others",
        description=f"Train on clean slices and segment the others. Parameters for --set: {fields}.",
    )
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
    add_slice_axis_option(train)
    train.add_argument("--preset", metavar="NAME", help=f"{', '.join(PRESETS)}; quick on a CPU, standard on a GPU")
    train.add_argument("--time-budget", metavar="SECONDS", help=_help_of("time_budget"))
    train.add_argument("--steps", metavar="N", help=_help_of("steps"))
    add_device_option(train)
    train.add_argument("--seed", metavar="N", help=_help_of("seed"))
    train.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any other parameter")
    train.add_argument("--resume", metavar="ROUND_DIR", help="start from the model of an earlier training")
    add_cluster_options(train)


def _train(options: argparse.Namespace, start: float) -> int:
    cluster = cluster_option(options)
    rows = _training_rows(options)
    has_gpu = cluster_facts(cluster).has_gpu if cluster else None
    config = training_config(options, _initial_label_source(options, rows), cluster, has_gpu)
    out = writable_folder(options.out)
    previous = None if options.resume is None else trained_round(options.resume, out)
    volumes = _training_volumes(options, rows)
    elsewhere = {value: where for volume in volumes for value, where in volume.label_values.items()}
    task = resolve_task([volume.volume for volume in volumes], config, elsewhere=elsewhere)
    if previous is not None:
        check_resumed(previous, task)
    for note in (note for volume in volumes for note in volume.notes):
        print(f"napari-mlbseg: {note}", file=sys.stderr)
    job = LocalJob.create(out, _with_time_to_write(task, start), previous=previous)
    return run_job(job, volumes, TRAINED_FILES, config=config.model_dump(mode="json"))


def _training_rows(options: argparse.Namespace) -> list[DatasetRow]:
    """The images to train on, with what is known of each.

    Raises
    ------
    InputError, ImageFileError
        If options are missing, do not go together, or name what is not there.
    """
    tables = [word for word in options.images if is_table(word)]
    if tables:
        if len(tables) < len(options.images):
            raise InputError(f"{tables[0]} cannot be given together with other images: list all of them in the table.")
        if options.labels is not None or options.clean is not None:
            raise InputError(
                f"--labels and --clean cannot be given beside {tables[0]}: write them into its columns 'labels' and "
                "'clean'."
            )
        return _with_given(options, dataset_rows(options.images))
    missing = [f"--{name}" for name in ("labels", "clean") if getattr(options, name) is None]
    if missing:
        raise InputError(f"Without a table, these are required: {', '.join(missing)}: see napari-mlbseg train --help.")
    rows = dataset_rows(options.images)
    labels = _labels(options.labels, rows)
    clean = _clean_slices(options.clean, [row.name for row in rows])
    without = [name for name, slices in clean.items() if slices and labels[name] is None]
    if without:
        raise InputError(
            f"'{without[0]}' has clean slices but no labels in {options.labels[0]}: put them there, or take it out of "
            "--clean."
        )
    return _with_given(
        options, [replace(row, labels=labels[row.name], clean=tuple(clean.get(row.name, ()))) for row in rows]
    )


def _initial_label_source(options: argparse.Namespace, rows: Sequence[DatasetRow]) -> str | None:
    """Source of the initial labels; None: as the preset says."""
    if any(row.initial_labels is not None for row in rows):
        return "given"
    return None if options.initial_labels is None else str(options.initial_labels[0])


def _training_volumes(options: argparse.Namespace, rows: Sequence[DatasetRow]) -> list[FileVolume]:
    """Images with labels, clean slices and initial labels; of several, the images are not kept in memory.

    Raises
    ------
    ValueError, OSError
        If a file cannot be read or does not fit; the sentence names the table's row, where there is one.
    """
    axis = slice_axis_option(options.slice_axis)
    volumes = []
    for row in rows:
        try:
            volume = load_volume(
                row.image,
                labels_path=row.labels,
                clean=row.clean,
                initial_labels_path=row.initial_labels,
                slice_axis=axis if row.slice_axis is None else row.slice_axis,
                forget=len(rows) > 1,
            )
        except (ValueError, OSError) as error:
            if row.where:
                raise InputError(row.explain(error)) from error
            raise
        volumes.append(replace(volume, volume=replace(volume.volume, name=row.name)))
    return volumes


def _labels(given: Sequence[str], rows: Sequence[DatasetRow]) -> dict[str, Path | None]:
    """Label file of each image, by its name: one file for each, or those of a folder as far as there are any."""
    if len(given) == 1 and Path(given[0]).is_dir() and not is_image_path(given[0]):
        found = find_labels(rows, Path(given[0]))
        return {row.name: found.get(row.name) for row in rows}
    if len(given) != len(rows):
        raise InputError(f"There are {len(rows)} images and {len(given)} labels: give one for each image.")
    return {row.name: Path(path) for row, path in zip(rows, given, strict=True)}


def _with_given(options: argparse.Namespace, rows: list[DatasetRow]) -> list[DatasetRow]:
    """Rows with the files of initial labels that an option names."""
    given: list[str] | None = options.initial_labels
    if given is None:
        return rows
    if any(row.initial_labels is not None for row in rows):
        raise InputError("The table has initial labels already: leave --initial-labels out, or that column.")
    if len(given) == 1 and given[0] in SOURCES:
        return rows
    strange = [name for name in given if not has_known_suffix(name)]
    if strange:
        raise InputError(f"--initial-labels {strange[0]} is no source: choose {', '.join(SOURCES)}, or give a file.")
    if len(given) != len(rows):
        raise InputError(f"There are {len(rows)} images and {len(given)} initial labels: give one file for each image.")
    return [replace(row, initial_labels=Path(path)) for row, path in zip(rows, given, strict=True)]


def _clean_slices(text: str, names: list[str]) -> dict[str, list[int]]:
    """Clean slices by image name, from ``12,24`` (one image) or ``NAME:12,24;NAME:3``."""
    if ":" not in text:
        if len(names) > 1:
            raise InputError(f"There are {len(names)} images: give --clean as '{names[0]}:12,24;{names[1]}:3'.")
        return {names[0]: slice_numbers(text, "--clean")}
    clean: dict[str, list[int]] = {}
    for part in text.split(";"):
        if not part.strip():
            continue
        name, _, numbers = part.strip().rpartition(":")
        if name not in names:
            known = ", ".join(names[:_MOST_NAMED]) + (" and others" if len(names) > _MOST_NAMED else "")
            raise InputError(f"--clean names an image '{name}' that is not there: the images are {known}.")
        clean.setdefault(name, []).extend(slice_numbers(numbers, "--clean"))
    return clean


def _with_time_to_write(task: SegmentationTask, start: float) -> SegmentationTask:
    """The task with a time budget that leaves room for what this process does before and after the job."""
    budget = task.config.time_budget
    if budget is None:
        return task
    voxels = sum(math.prod(volume.shape) for volume in task.volumes)
    around = time.monotonic() - start + _SECONDS_TO_WRITE * voxels * (4 + task.n_classes)
    config = task.config.updated(time_budget=max(_LEAST_BUDGET, budget - around))
    return replace(task, config=config)


def _help_of(field: str) -> str:
    return str(TrainingConfig.model_fields[field].description).replace("%", "%%")
