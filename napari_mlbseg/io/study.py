"""Studies: many images of a kind, given as files, as folders or as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from napari_mlbseg.io.files import SUFFIXES, has_known_suffix
from napari_mlbseg.io.image_file import ImageFileError

__all__ = ["name_of", "study_images"]


def study_images(words: Sequence[str | Path]) -> list[Path]:
    """Image files of a study.

    Parameters
    ----------
    words : sequence of path
        Image files; folders, of which all images are taken, by name; and tables (``.csv``) with a column ``image`` of
        paths, relative to the table.

    Raises
    ------
    ImageFileError
        If a folder or a table names no image, or two images share a name; a sentence that says what to do.
    """
    images: list[Path] = []
    for word in map(Path, words):
        if word.is_dir():
            found = sorted(path for path in word.iterdir() if has_known_suffix(path) and not path.name.startswith("."))
            if not found:
                raise ImageFileError(f"The folder {word} holds no image: give one with {', '.join(SUFFIXES)} files.")
            images += found
        elif word.suffix.lower() == ".csv":
            images += _listed(word)
        else:
            images.append(word)
    names = [name_of(path).casefold() for path in images]
    if twice := sorted({str(path) for path, name in zip(images, names, strict=True) if names.count(name) > 1}):
        raise ImageFileError(f"Two images have the same name ({', '.join(twice)}): rename one of them.")
    return images


def name_of(path: Path) -> str:
    """Name of a file without its suffix, as `FileGrid.name`."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def _listed(table: Path) -> list[Path]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageFileError(f"The table {table} cannot be read ({error}): give a CSV file in UTF-8.") from None
    if not rows or "image" not in rows[0]:
        raise ImageFileError(f"The table {table} lists no image: give a column 'image' with the paths of the images.")
    return [table.parent / row["image"].strip() for row in rows if (row["image"] or "").strip()]
