"""Studies: many images of a kind, given as files, as folders or as a table."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_mlbseg.io.files import SUFFIXES, has_known_suffix, is_image_path
from napari_mlbseg.io.image_file import ImageFileError

__all__ = ["DatasetRow", "find_labels", "is_table", "name_of", "parse_slices", "dataset_rows"]

_LABEL = "_label"
_COLUMNS = ("image", "labels", "clean", "initial_labels", "slice_axis")


@dataclass(frozen=True)
class DatasetRow:
    """An image of a study, and what is known of it.

    Attributes
    ----------
    image : Path
    labels : Path, optional
        Its label file; without one, nothing is painted on it.
    clean : tuple of int
        Slices of the label file that somebody vouches for.
    initial_labels : Path, optional
        Labels from elsewhere for the other slices.
    slice_axis : int, optional
        Axis of the file along which the slices lie; None: nobody said so.
    where : str
        How a complaint names it, such as ``Row 3 of study.csv``; empty where its file does.
    name : str
        Name of its volume: that of the file, with folders before it where other images are called alike.
    """

    image: Path
    labels: Path | None = None
    clean: tuple[int, ...] = ()
    initial_labels: Path | None = None
    slice_axis: int | None = None
    where: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", name_of(self.image))

    def explain(self, error: Exception) -> str:
        """The error as a sentence that names the row."""
        return f"{self.where}: {error}" if self.where else str(error)


def dataset_rows(words: Sequence[str | Path], *, only_images: bool = False) -> list[DatasetRow]:
    """The images of a study with what is known of them.

    Parameters
    ----------
    words : sequence of path
        Image files; folders, of which all images are taken, by name, but no ``NAME_label`` beside a ``NAME``; and
        tables (``.csv``) with the columns ``image`` and, where there are any, ``labels``, ``clean`` (12;24;36),
        ``initial_labels`` and ``slice_axis``. Paths are relative to the table.
    only_images : bool
        Read no other column: it may mean something else to somebody else.

    Raises
    ------
    ImageFileError
        If a folder or a table names no image, a cell makes no sense, or an image is there twice; a sentence that says
        what to do.
    """
    rows: list[DatasetRow] = []
    for word in map(Path, words):
        if word.is_dir() and not is_image_path(word):  # a zarr image is a folder too
            rows += [DatasetRow(image) for image in _images_in(word)]
        elif is_table(word):
            rows += _listed(word, ("image",) if only_images else _COLUMNS)
        else:
            rows.append(DatasetRow(word))
    return _with_names(rows)


def _with_names(rows: Sequence[DatasetRow]) -> list[DatasetRow]:
    """Rows whose names are all different: with as many folders before the file's name as that takes (p1-t1, p2-t1)."""
    paths = [row.image.resolve() for row in rows]
    depth = [1] * len(rows)  # of a name, in parts of its path
    while True:
        folders = [path.parts[max(1, len(path.parts) - n) : -1] for path, n in zip(paths, depth, strict=True)]
        names = ["-".join((*above, name_of(row.image))) for above, row in zip(folders, rows, strict=True)]
        known = Counter(name.casefold() for name in names)
        alike = [i for i, name in enumerate(names) if known[name.casefold()] > 1]
        if not alike:
            return [replace(row, name=name) for row, name in zip(rows, names, strict=True)]
        if all(depth[i] >= len(paths[i].parts) for i in alike):
            twice = sorted({str(rows[i].image) for i in alike})
            raise ImageFileError(f"Two images have the same name ({', '.join(twice)}): rename one of them.")
        for i in alike:
            depth[i] += 1


def find_labels(rows: Sequence[DatasetRow], folder: Path) -> dict[str, Path]:
    """Label files in a folder by the names of the images that they belong to: ``NAME`` or ``NAME_label``.

    Raises
    ------
    ImageFileError
        If there is none, or two for one image.
    """
    images = {row.image.resolve() for row in rows}
    called = Counter(name_of(row.image) for row in rows)
    files = [path for path in sorted(folder.iterdir()) if has_known_suffix(path) and path.resolve() not in images]
    found: dict[str, Path] = {}
    for row in rows:
        # a file's own name says whose labels these are only where no other image is called so
        names = {row.name, name_of(row.image)} if called[name_of(row.image)] == 1 else {row.name}
        wanted = {name + suffix for name in names for suffix in ("", _LABEL)}
        fitting = [path for path in files if name_of(path) in wanted]
        if len(fitting) > 1:
            both = " and ".join(path.name for path in fitting)
            raise ImageFileError(f"{folder} has {both} for '{row.name}': take one of them away.")
        if fitting:
            found[row.name] = fitting[0]
    if not found:
        raise ImageFileError(
            f"The folder {folder} has no labels for these images: call them as the images, or NAME{_LABEL}."
        )
    return found


def is_table(path: str | Path) -> bool:
    """Whether a path is that of a table, by its suffix."""
    return Path(path).suffix.lower() == ".csv"


def name_of(path: Path) -> str:
    """Name of a file without its suffix, as `ImageGeometry.name`."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def parse_slices(text: str) -> tuple[int, ...]:
    """Slice numbers from ``12,24,36``, or with semicolons or spaces; raises ValueError."""
    return tuple(int(number) for number in text.replace(",", " ").replace(";", " ").split())


def _images_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if has_known_suffix(path) and not path.name.startswith("."))
    names = {name_of(path) for path in found}
    images = [
        path for path in found if not (name_of(path).endswith(_LABEL) and name_of(path).removesuffix(_LABEL) in names)
    ]
    if not images:
        raise ImageFileError(f"The folder {folder} holds no image: give one with {', '.join(SUFFIXES)} files.")
    return images


def _listed(table: Path, columns: Sequence[str]) -> list[DatasetRow]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            # a spreadsheet in a language with decimal commas separates by semicolons
            reader = csv.DictReader(file, delimiter=";" if ";" in header and "," not in header else ",")
            cells = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageFileError(f"The table {table} cannot be read ({error}): give a CSV file in UTF-8.") from None
    for number, line in cells:
        if None in line:  # cells beyond the header's
            raise ImageFileError(
                f"Row {number} of {table.name} has more cells than the header: put lists in quotes, or write 12;24;36."
            )
    rows = [
        _row(table, number, {column: (line.get(column) or "").strip() for column in columns})
        for number, line in cells
        if (line.get("image") or "").strip()
    ]
    if not rows:
        raise ImageFileError(f"The table {table} lists no image: give a column 'image' with the paths of the images.")
    return rows


def _row(table: Path, number: int, cells: Mapping[str, str]) -> DatasetRow:
    where = f"Row {number} of {table.name}"
    try:
        clean = parse_slices(cells.get("clean", ""))
    except ValueError:
        raise ImageFileError(
            f"{where}: '{cells['clean']}' is no list of clean slices: write 12;24;36, or \"12,24,36\" in quotes."
        ) from None
    axis = cells.get("slice_axis", "")
    if axis not in ("", "auto", "0", "1", "2"):
        raise ImageFileError(f"{where}: there is no slice axis '{axis}': write auto, 0, 1 or 2.")
    if clean and not cells["labels"]:
        raise ImageFileError(f"{where}: it has clean slices but no labels: name a label file in the column 'labels'.")

    def path(column: str) -> Path | None:
        return table.parent / cells[column] if cells.get(column) else None

    return DatasetRow(
        image=table.parent / cells["image"],
        labels=path("labels"),
        clean=clean,
        initial_labels=path("initial_labels"),
        slice_axis=int(axis) if axis.isdigit() else None,
        where=where,
    )
