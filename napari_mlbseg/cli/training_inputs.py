"""What ``train`` is given: images with their labels and clean slices, as options, as folders or as a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from napari_mlbseg.cli.options import SOURCES, InputError, slice_axis_option, slice_numbers
from napari_mlbseg.io.dataset_table import DatasetRow, dataset_rows, find_labels, is_table
from napari_mlbseg.io.files import has_known_suffix, is_image_path
from napari_mlbseg.io.volumes import FileVolume, load_volume

__all__ = ["initial_label_source", "training_rows", "training_volumes"]

_MOST_NAMED = 5


def training_rows(options: argparse.Namespace) -> list[DatasetRow]:
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


def initial_label_source(options: argparse.Namespace, rows: Sequence[DatasetRow]) -> str | None:
    """Source of the initial labels; None: as the preset says."""
    if any(row.initial_labels is not None for row in rows):
        return "given"
    return None if options.initial_labels is None else str(options.initial_labels[0])


def training_volumes(options: argparse.Namespace, rows: Sequence[DatasetRow]) -> list[FileVolume]:
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
