"""An image file as an array that is read when it is needed and forgotten again: of a study, not all fit into memory."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from napari_mlbseg._util.arrays import is_on_disk, plain_dtype
from napari_mlbseg.io.image_file import split_series

__all__ = ["FileArray", "FileSource"]

Part = Literal["image", "labels", "layer"]


class FileSource(BaseModel):
    """Which array of which file, and what is known of it without reading it again.

    Attributes
    ----------
    path : str
        Absolute.
    part : {"image", "labels", "layer"}
        All of the file's array in the file's order, the same as label numbers, or one layer in napari's order.
    channel : int, optional
        Of the layers, that of this channel.
    order : tuple of int
        Axes of that array, in the order in which they are given here.
    shape : tuple of int
        In that order.
    number_type : str
        Data type as numpy writes it.
    is_finite : bool
        Whether every voxel is a number; of a large array of reals nobody looked.
    in_parts : bool
        Whether a part of it can be read without all of it.
    size, modified : int
        Bytes of the file and when it was written (ns): a file with others is another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    part: Part
    channel: int | None = None
    order: tuple[int, ...]
    shape: tuple[int, ...]
    number_type: str
    is_finite: bool
    in_parts: bool = False
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path, part: Part, data: Any, channel: int | None = None) -> FileSource:
        """The source of an array that was just read from a file."""
        status = split_series(path)[0].stat()
        in_parts = is_on_disk(data)
        return cls(
            path=str(path.absolute()),
            part=part,
            channel=channel,
            order=tuple(range(data.ndim)),
            shape=data.shape,
            number_type=plain_dtype(data.dtype).str,
            is_finite=data.dtype.kind != "f" or (not in_parts and bool(np.isfinite(data).all())),
            in_parts=in_parts,
            size=status.st_size,
            modified=status.st_mtime_ns,
        )


class FileArray:
    """Array-like over a file; its axes can be put in another order without reading it.

    Parameters
    ----------
    source : FileSource
    """

    def __init__(self, source: FileSource) -> None:
        self.source = source

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of every axis."""
        return self.source.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.source.shape)

    @property
    def dtype(self) -> np.dtype:
        """Number type."""
        return plain_dtype(self.source.number_type)

    @property
    def is_finite(self) -> bool:
        """Whether every voxel is a number."""
        return self.source.is_finite

    def transpose(self, *order: Any) -> FileArray:
        """The same array with its axes in another order, as of a numpy array; so `numpy.moveaxis` takes it too."""
        old = self.source
        order = tuple(order[0]) if len(order) == 1 else order
        update = {"order": tuple(old.order[axis] for axis in order), "shape": tuple(old.shape[axis] for axis in order)}
        return FileArray(old.model_copy(update=update))

    def read(self) -> np.ndarray:
        """The whole array.

        Raises
        ------
        ValueError
            If the file cannot be read or holds another array now: one sentence that says what to do.
        """
        return np.asarray(self._in_order(_read(self.source.path, self.source.part, self.source.channel)))

    def _in_order(self, data: Any) -> Any:
        source = self.source
        if data.ndim != self.ndim or data.transpose(source.order).shape != self.shape or data.dtype != self.dtype:
            raise ValueError(f"{source.path} is not the image of then: put that file back, or add this one anew.")
        return data.transpose(source.order)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """A part of the array; the last file that was asked for parts is remembered."""
        source = self.source
        data = _remembered(source.path, source.part, source.channel, source.size, source.modified)
        return np.asarray(self._in_order(data)[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole array."""
        return np.array(self.read(), dtype=dtype, copy=copy if copy else None)


@lru_cache(maxsize=1)
def _remembered(path: str, part: Part, channel: int | None, size: int, modified: int) -> Any:
    """Read a file; one of another size or time counts as another one."""
    return _read(path, part, channel)


def _read(path: str, part: Part, channel: int | None) -> Any:
    # these bring nibabel and tifffile, which a window need not wait for
    if part == "layer":
        from napari_mlbseg.io.readers import read_layer

        data, options, _ = read_layer(path, channel)
        return data[0] if options.get("multiscale") else data
    from napari_mlbseg.io.files import read_image, read_labels

    return (read_labels if part == "labels" else read_image)(path).data
