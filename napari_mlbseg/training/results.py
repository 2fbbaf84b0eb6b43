"""Where a training puts its arrays: a named array for every result of every volume. Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from napari_mlbseg.task import SegmentationTask, Volume

__all__ = [
    "RESULT_NAMES",
    "NullArray",
    "NullResults",
    "MemoryResults",
    "ResultArray",
    "Results",
    "label_dtype",
    "result_layout",
]

#: Result arrays of a volume. All are (Z, Y, X) but `probability`, which is (Z, C, Y, X).
RESULT_NAMES = (
    "initial_labels",
    "pseudo_labels",
    "probability",
    "weight_initial",
    "weight_pseudo",
    "view_agreement",
    "initial_doubt",
    "label_doubt",
)


class ResultArray(Protocol):
    """The part of an array that a training uses: numpy and zarr arrays both have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    def __getitem__(self, key: Any) -> Any: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


class Results(Protocol):
    """A place for results: ``results[volume name][array name][slice] = ...``."""

    def __getitem__(self, volume: str) -> Mapping[str, ResultArray]: ...


def label_dtype(task: SegmentationTask) -> np.dtype:
    """Smallest unsigned integer type that holds the user's label numbers; of instances, one for any number of them."""
    return np.min_scalar_type(max(task.class_values)) if task.last_instance is None else np.dtype(np.uint32)


def result_layout(task: SegmentationTask, volume: Volume) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each result array of `volume`."""
    z, y, x = volume.shape
    labels, real = label_dtype(task), np.dtype(np.float32)
    layout: dict[str, tuple[tuple[int, ...], np.dtype]] = dict.fromkeys(RESULT_NAMES, ((z, y, x), real))
    layout["initial_labels"] = layout["pseudo_labels"] = ((z, y, x), labels)
    layout["probability"] = ((z, task.n_classes, y, x), np.dtype(np.float16))
    return layout


class MemoryResults(dict[str, dict[str, np.ndarray]]):
    """Results as numpy arrays, zero at first: for tests, scripts and small volumes."""

    def __init__(self, task: SegmentationTask) -> None:
        super().__init__(
            {
                volume.name: {name: np.zeros(*spec) for name, spec in result_layout(task, volume).items()}
                for volume in task.volumes
            }
        )


class NullArray:
    """An array that forgets what is written into it."""

    shape: tuple[int, ...] = ()

    def __getitem__(self, key: Any) -> Any:
        raise IndexError("Nothing was kept.")

    def __setitem__(self, key: Any, value: Any) -> None: ...


class NullResults:
    """Results that nobody wants: many volumes' would not fit into memory.

    Parameters
    ----------
    kept : mapping of str to (mapping of str to array), optional
        Arrays that are wanted nevertheless, by volume and name.
    """

    def __init__(self, kept: Mapping[str, Mapping[str, ResultArray]] | None = None) -> None:
        self._kept = kept or {}

    def __getitem__(self, volume: str) -> Mapping[str, ResultArray]:
        return defaultdict(NullArray, self._kept.get(volume, {}))
