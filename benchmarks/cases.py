"""Cases of the left-atrium protocol: which volumes are labelled, unlabelled and for the test, and how they are read.

A folder in the layout of the public UA-MT repository holds ``train.list`` and ``test.list``, one case name a line, and
for each case ``CASE/mri_norm2.h5`` (``image`` and ``label``, slices along the last axis) or ``CASE.nii.gz`` with
``CASE_label.nii.gz``. A folder without lists, only with NIfTI volumes, serves in the order of the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.volumes import find_volumes, label_path, read_volume
from napari_mlbseg.task import Volume

__all__ = ["N_LABELLED", "Case", "Split", "find_split", "read_case"]

#: The first so many of ``train.list`` are labelled.
N_LABELLED = 8

_H5 = "mri_norm2.h5"
_Spacing = tuple[float, float, float]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Case:
    """A volume that has not been read: its name and the file of its image."""

    name: str
    path: Path


@dataclass(frozen=True)
class Split:
    """Cases by their role.

    Attributes
    ----------
    labelled, unlabelled, test : tuple of Case
    note : str
        A sentence that says where the split comes from.
    """

    labelled: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    test: tuple[Case, ...]
    note: str


def find_split(folder: Path, subset: tuple[int, int, int] | None = None) -> Split:
    """The cases of a folder by their role.

    Parameters
    ----------
    folder : Path
    subset : tuple of int, optional
        How many labelled, unlabelled and test volumes to take, from the beginning of the lists. By default 8 labelled,
        the others of ``train.list`` and all of ``test.list``.

    Raises
    ------
    SystemExit
        If cases are missing or there are fewer than wanted: a sentence that says what to do.
    """
    train, test = (folder / name for name in ("train.list", "test.list"))
    if train.exists() and test.exists():
        return _listed(folder, _names(train), _names(test), subset)
    if train.exists() or test.exists():
        raise SystemExit(f"{folder} has only one of train.list and test.list: the protocol needs both.")
    found = [Case(path.name.split(".", 1)[0], path) for path in find_volumes(str(folder / "*.nii*"))]
    if subset is None:
        raise SystemExit(f"{folder} has no train.list: say with --subset how its {len(found)} volumes are to be used.")
    left = len(found) - sum(subset)  # between the training and the test: who changes U keeps the same test
    labelled, unlabelled, _, test_cases = _parts(found, (*subset[:2], left, subset[2]), str(folder))
    note = (
        f"No lists: of {len(found)} volumes in the order of their names, the first {subset[0]} are labelled, the next "
        f"{subset[1]} unlabelled, the last {subset[2]} for the test. This is not the published split."
    )
    return Split(labelled, unlabelled, test_cases, note)


def read_case(case: Case, spacing: _Spacing | None = None) -> Volume:
    """Read a case: its `labels` are the whole truth, none of its slices is clean.

    Parameters
    ----------
    case : Case
    spacing : tuple of float, optional
        Distance of voxels along (z, y, x) in mm, for h5 files, which tell none: without, its unit is ``"pixel"``.
    """
    if case.path.suffix != ".h5":
        return replace(read_volume(case.path), name=case.name)
    try:
        import h5py
    except ImportError:
        raise SystemExit(
            f"{case.path} can only be read with h5py: install napari-mlbseg[bench], or give NIfTI files."
        ) from None
    with h5py.File(case.path) as file:
        missing = [name for name in ("image", "label") if name not in file]
        if missing:
            raise SystemExit(f"{case.path} has no '{missing[0]}': it is not a file of the left-atrium protocol.")
        image, labels = (np.ascontiguousarray(np.moveaxis(file[name][()], -1, 0)) for name in ("image", "label"))
    return Volume(
        case.name,
        image,
        labels.astype(np.uint8),
        np.zeros(len(image), bool),
        spacing=spacing or (1.0, 1.0, 1.0),
        unit="pixel" if spacing is None else "mm",
    )


def _listed(folder: Path, train: list[str], test: list[str], subset: tuple[int, int, int] | None) -> Split:
    n_labelled, n_unlabelled, n_test = subset or (N_LABELLED, len(train) - N_LABELLED, len(test))
    labelled, unlabelled = _parts(train, (n_labelled, n_unlabelled), "train.list")
    (chosen,) = _parts(test, (n_test,), "test.list")
    part = "" if subset is None else f" A part of the protocol, which has {N_LABELLED} labelled."
    note = (
        f"train.list and test.list: the first {n_labelled} of {len(train)} are labelled, the next {n_unlabelled} "
        f"unlabelled; {n_test} of {len(test)} for the test.{part}"
    )
    first, second, third = (tuple(_find(folder, name) for name in names) for names in (labelled, unlabelled, chosen))
    return Split(first, second, third, note)


def _parts(items: Sequence[_T], sizes: Sequence[int], where: str) -> tuple[tuple[_T, ...], ...]:
    """Consecutive parts of these sizes."""
    if sum(sizes) > len(items) or min(sizes) < 0:
        raise SystemExit(f"{where} has only {len(items)} volumes: choose a smaller --subset.")
    ends = np.cumsum(sizes).tolist()
    return tuple(tuple(items[end - size : end]) for end, size in zip(ends, sizes, strict=True))


def _names(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _find(folder: Path, name: str) -> Case:
    """The files of a case, in the folder or in one below it, where the repository has its cases."""
    for root in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        for path in (root / name / _H5, root / f"{name}.nii.gz", root / f"{name}.nii"):
            if path.exists() and (path.suffix == ".h5" or label_path(path).exists()):
                return Case(name, path)
    raise SystemExit(
        f"There is neither {name}/{_H5} nor {name}.nii.gz with {name}_label.nii.gz in {folder}: check --data."
    )
