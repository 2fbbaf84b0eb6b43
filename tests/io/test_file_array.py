"""An image file as an array: axes are reordered without reading, and a file that changed is noticed."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from napari_mlbseg.io import file_array
from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.io.readers import read_layer


@pytest.fixture
def made(tmp_path):
    """A NIfTI file in a layer's order, (k, j, i), as it is and as an array that is read when it is needed."""
    path = tmp_path / "scan.nii.gz"
    pixels = np.arange(3 * 4 * 5, dtype=np.int16).reshape(5, 4, 3)
    nibabel.Nifti1Image(pixels, np.eye(4)).to_filename(path)
    stored = read_layer(str(path))[0]
    return path, stored, FileArray(FileSource.of(path, "layer", stored))


def test_axes_are_moved_without_reading(made, monkeypatch):
    _, stored, array = made
    monkeypatch.setattr(file_array, "_read", lambda *_: pytest.fail("it was read"))
    moved = np.moveaxis(array, 2, 0)
    assert isinstance(moved, FileArray)
    assert (moved.shape, moved.dtype, moved.ndim) == ((5, 3, 4), stored.dtype, 3)
    monkeypatch.undo()
    assert np.array_equal(moved, np.moveaxis(stored, 2, 0))
    assert np.array_equal(moved.read(), np.moveaxis(stored, 2, 0))
    assert np.array_equal(moved[1], stored[:, :, 1])


def test_slices_of_one_file_read_it_once(made, monkeypatch):
    _, stored, array = made
    reads, read = [], file_array._read
    monkeypatch.setattr(file_array, "_read", lambda *arguments: reads.append(arguments) or read(*arguments))
    assert all(np.array_equal(array[z], stored[z]) for z in range(3))
    assert len(reads) == 1


def test_another_image_of_that_name_is_refused(made):
    path, _, array = made
    nibabel.Nifti1Image(np.zeros((5, 4, 2), np.int16), np.eye(4)).to_filename(path)
    with pytest.raises(ValueError, match=r"scan\.nii\.gz is not the image of then: put that file back"):
        array.read()
