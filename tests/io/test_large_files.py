"""Large results become files of any format without ever being whole in memory, and the files are the same."""

from __future__ import annotations

import errno
import os

import nibabel
import numpy as np
import pytest
import tifffile

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg.io import files, writers
from napari_mlbseg.io.files import read_image, write_result
from napari_mlbseg.io.image_file import ImageFileError
from napari_mlbseg.io.writers import write_layer

SHAPE = (5, 7, 9)
FILES = ("image.nii", "image.nii.gz", "image.tif")


class Slices:
    """A result of a job: read a slice at a time, and never whole."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim

    def __getitem__(self, key: object) -> np.ndarray:
        part = self._data[key]
        assert part.size <= self._data[0].size, "more than a slice was asked for"
        return part

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("the whole result was asked for")


@pytest.fixture(params=FILES)
def image(request, tmp_path):
    """The grid of an image file that the results belong to."""
    path, data = tmp_path / request.param, np.zeros(SHAPE, np.uint16)
    if request.param.startswith("image.nii"):
        nibabel.save(nibabel.Nifti1Image(data, np.diag([0.5, 0.5, 2, 1])), path)
    else:
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"})
    return read_image(path).grid


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("channels", "dtype"), [(0, np.uint8), (0, np.int64), (0, np.float32), (3, np.float16)], ids=str
)
def test_a_large_result_is_written_slice_by_slice(image, tmp_path, monkeypatch, slice_axis, channels, dtype):
    sides = [n for axis, n in enumerate(image.stack_shape) if axis != slice_axis]
    shape = (image.stack_shape[slice_axis], *([channels] if channels else []), *sides)
    data = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    whole = write_result(tmp_path / "whole", data, image, slice_axis)
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    spooled = write_result(tmp_path / "spooled", ArrayView(Slices(data)), image, slice_axis)
    assert spooled.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.glob(".*")) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(image, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        write_result(tmp_path / "result", ArrayView(Slices(np.zeros(SHAPE, np.uint8))), image, 0)
    assert sorted(tmp_path.iterdir()) == before


def test_label_numbers_beyond_63_bits_are_refused(image, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAPPED_BYTES", 0)
    labels = np.zeros(SHAPE, np.uint64)
    labels[-1, 0, 0] = 2**63
    with pytest.raises(ImageFileError, match="renumber"):
        write_result(tmp_path / "result", ArrayView(Slices(labels)), image, 0)


@pytest.mark.parametrize("name", ["layer.nii", "layer.tif"])
def test_a_large_lazy_layer_is_saved_slice_by_slice(tmp_path, monkeypatch, name):
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
    attributes = {"name": "layer", "scale": (2.0, 0.5, 0.5), "units": ("micrometer",) * 3}
    write_layer(str(tmp_path / name), labels, attributes)
    whole = (tmp_path / name).read_bytes()
    for module in (files, writers):
        monkeypatch.setattr(module, "MAPPED_BYTES", 0)
    write_layer(str(tmp_path / name), Slices(labels), attributes)
    assert (tmp_path / name).read_bytes() == whole
