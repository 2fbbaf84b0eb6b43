"""NIfTI in and out: geometry to the last digit, and files that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_mlbseg.io.files import read_image, read_labels, write_result
from napari_mlbseg.io.image_file import ImageFileError, default_slice_axis, slice_spacing, to_slices

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.02, 61.1], [0.08, 1.15, -0.52, -50.3], [0.03, 0.25, 2.4, 12.9], [0, 0, 0, 1]], dtype=np.float32
)
GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def save(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    image = nibabel.Nifti1Image(data, affine)
    image.set_qform(np.diag([-0.8, 1.0, 2.0, 1.0]), code=1)  # on purpose not the sform
    image.set_sform(affine, code=4)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_results_have_the_geometry_of_their_image(tmp_path, suffix):
    data = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    source = save(tmp_path / f"image{suffix}", data)
    image = read_image(source)
    axis = default_slice_axis(image)
    written = write_result(tmp_path / "result.v1", to_slices(image, axis).astype(np.int64), image, axis)

    assert written == tmp_path / f"result.v1{suffix}"
    before, after = nibabel.load(source), nibabel.load(written)
    assert np.array_equal(before.affine, after.affine)
    for field in GEOMETRY:
        assert np.array_equal(before.header[field], after.header[field]), field
    assert before.header.get_zooms() == after.header.get_zooms()
    assert after.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(after.dataobj), data)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_probabilities_have_their_channels_last(tmp_path, slice_axis):
    image = read_image(save(tmp_path / "image.nii", np.zeros((4, 5, 6), np.uint8)))
    stored = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float16)
    channels_second = np.moveaxis(np.moveaxis(stored, -1, 0), slice_axis + 1, 0)
    written = write_result(tmp_path / "probability", channels_second, image, slice_axis)
    after = nibabel.load(written)
    assert after.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(after.dataobj), stored.astype(np.float32))
    assert np.array_equal(after.affine, nibabel.load(image.path).affine)


def test_channels_of_an_image_come_second(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6, 2)).astype(np.float32)
    image = read_image(save(tmp_path / "image.nii.gz", data))
    assert (image.axes, image.stack_shape, image.channel_axis) == ("IJKC", (4, 5, 6), 3)
    assert np.array_equal(to_slices(image, 2), data.transpose(2, 3, 0, 1))


def test_a_2d_image_over_time_is_a_stack_and_goes_back_as_one(tmp_path):
    source = save(tmp_path / "cine.nii", np.random.default_rng(0).integers(0, 99, (4, 5, 1, 30)).astype(np.int16))
    image = read_image(source)
    assert (image.axes, default_slice_axis(image)) == ("IJT", 2)
    written = write_result(tmp_path / "result", to_slices(image, 2), image, 2)
    assert np.array_equal(np.asarray(nibabel.load(written).dataobj), np.asarray(nibabel.load(source).dataobj))


def test_a_scale_is_applied_and_not_written_again(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_slope_inter(0.5, -10)
    values = np.linspace(-10, 90, 24).reshape(2, 3, 4).round()
    nibabel.Nifti1Image(values, np.eye(4), header).to_filename(tmp_path / "scaled.nii")
    image = read_image(tmp_path / "scaled.nii")
    assert image.data.dtype == np.float32
    written = write_result(tmp_path / "result", to_slices(image, 2), image, 2)
    assert np.array_equal(np.asarray(nibabel.load(written).dataobj), image.data)
    assert np.allclose(image.data, values, atol=0.01)


def test_the_slice_axis_is_the_coarsest_and_else_the_last(tmp_path):
    zeros = np.zeros((4, 5, 6), np.uint8)
    coarse = read_image(_plain(tmp_path / "coarse.nii", zeros, (1.0, 3.0, 1.0)))
    assert (default_slice_axis(coarse), slice_spacing(coarse, 1)) == (1, (3.0, 1.0, 1.0))
    assert default_slice_axis(read_image(_plain(tmp_path / "equal.nii", zeros, (1.0, 1.0, 1.0)))) == 2


def _plain(path: Path, data: np.ndarray, spacing: tuple[float, ...]) -> Path:
    nibabel.Nifti1Image(data, np.diag([*spacing, 1])).to_filename(path)
    return path


def test_whole_floats_are_labels_and_others_are_not(tmp_path):
    whole = read_labels(_plain(tmp_path / "whole.nii", np.full((2, 3, 4), 3.0, np.float32), (1, 1, 1)))
    assert whole.data.dtype.kind == "i"
    assert (whole.data == 3).all()
    broken = np.full((2, 3, 4), 0.25, np.float32)
    with pytest.raises(ImageFileError, match=r"holds values such as 0\.25.*give integers"):
        read_labels(_plain(tmp_path / "broken.nii", broken, (1, 1, 1)))
    with pytest.raises(ImageFileError, match="nan"):
        read_labels(_plain(tmp_path / "nan.nii", np.full((2, 3, 4), np.nan, np.float32), (1, 1, 1)))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_named(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 4000, (20, 20, 20)).astype(np.int16)
    path = _plain(tmp_path / f"cut{suffix}", noise, (1, 1, 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageFileError, match=f"cut{suffix} cannot be read as NIfTI, it is truncated or damaged"):
        read_image(path)


def test_other_files_are_named(tmp_path):
    (tmp_path / "text.nii.gz").write_text("no image")
    (tmp_path / "image.png").write_bytes(b"")
    (tmp_path / "folder.nii").mkdir()
    for name, words in (
        ("text.nii.gz", "truncated or damaged"),
        ("image.png", "no NIfTI, TIFF or zarr"),
        ("missing.nii", "does not exist"),
        ("folder.nii", "no NIfTI, TIFF or zarr"),
    ):
        with pytest.raises(ImageFileError, match=words):
            read_image(tmp_path / name)


def test_a_time_series_of_volumes_is_refused(tmp_path):
    with pytest.raises(ImageFileError, match=r"series of volumes \(4 x 5 x 6 x 40\): choose one volume"):
        read_image(_plain(tmp_path / "series.nii", np.zeros((4, 5, 6, 40), np.uint8), (1, 1, 1)))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    image = read_image(_plain(tmp_path / "image.nii", np.zeros((4, 5, 6), np.uint8), (1, 1, 1)))
    written = write_result(tmp_path / "result", to_slices(image, 2), image, 2)
    before = written.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_result(tmp_path / "result", to_slices(image, 2) + 1, image, 2)
    assert written.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.nii", "result.nii"]


def test_too_large_label_numbers_are_refused(tmp_path):
    image = read_image(_plain(tmp_path / "image.nii", np.zeros((4, 5, 6), np.uint8), (1, 1, 1)))
    with pytest.raises(ImageFileError, match="renumber"):
        write_result(tmp_path / "result", np.full((6, 4, 5), 2**63, np.uint64), image, 2)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["la00", "la01", "la02"])  # plain, LPS with an origin, oblique
def test_real_headers_come_back(tmp_path, la_dir, name):
    source = la_dir / f"{name}.nii.gz"
    image = read_image(source)
    assert default_slice_axis(image) == 2
    written = write_result(tmp_path / name, to_slices(image, 2), image, 2)
    before, after = nibabel.load(source), nibabel.load(written)
    assert before.affine.tobytes() == after.affine.tobytes()
    for field in GEOMETRY:
        assert before.header[field].tobytes() == after.header[field].tobytes(), field
    assert np.array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))
