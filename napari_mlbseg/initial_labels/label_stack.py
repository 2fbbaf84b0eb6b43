"""Class indices of a stack, slice by slice. Torch-free."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["LabelStack", "SparseLabels", "index_dtype"]


class LabelStack(Protocol):
    """Class indices of a stack, slice by slice: an array (Z, Y, X), or what makes a slice when it is asked for."""

    def __getitem__(self, z: int, /) -> np.ndarray: ...


class SparseLabels(dict[int, np.ndarray]):
    """Class indices (Y, X) of some slices of a stack, by their number: what a network says of a large one."""


def index_dtype(n_classes: int) -> np.dtype:
    """Smallest integer type for class indices: a stack of them may be as large as the image."""
    return np.min_scalar_type(n_classes - 1)
