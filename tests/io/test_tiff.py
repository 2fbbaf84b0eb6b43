"""TIFF in and out: axes, resolution and units of ImageJ's, OME's and plain files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_mlbseg.io.files import check_writable, read_image, write_result
from napari_mlbseg.io.image_file import ImageFileError, default_slice_axis, to_slices

DATA = np.random.default_rng(0).integers(0, 4000, (6, 5, 4)).astype(np.uint16)  # (Z, Y, X)


def imagej(path: Path, data: np.ndarray = DATA, axes: str = "ZYX") -> Path:
    metadata = {"axes": axes, "spacing": 2.5, "unit": "um"}
    resolution = ((1_000_000, 312_500), (1_000_000, 312_501))
    tifffile.imwrite(path, data, imagej=True, resolution=resolution, metadata=metadata)
    return path


def ome(path: Path, data: np.ndarray = DATA, axes: str = "ZYX") -> Path:
    metadata = {"axes": axes}
    for axis, size in (("X", 0.3), ("Y", 0.4), ("Z", 1.1)):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(path, data, ome=True, photometric="minisblack", metadata=metadata)
    return path


def test_imagej_files_keep_resolution_spacing_and_unit(tmp_path):
    image = read_image(imagej(tmp_path / "image.tif"))
    assert (image.axes, image.unit) == ("ZYX", "um")
    assert image.spacing == pytest.approx((2.5, 0.312501, 0.3125))
    written = write_result(tmp_path / "result", DATA.astype(np.int64), image, 0)
    with tifffile.TiffFile(image.path) as before, tifffile.TiffFile(written) as after:
        assert after.is_imagej
        for tag in ("XResolution", "YResolution", "ResolutionUnit"):
            assert before.pages[0].tags[tag].value == after.pages[0].tags[tag].value
        for key in ("spacing", "unit"):
            assert before.imagej_metadata[key] == after.imagej_metadata[key]
        assert after.series[0].axes == "ZYX"
        assert after.asarray().dtype == np.uint16
        assert np.array_equal(after.asarray(), DATA)


def test_ome_files_keep_physical_sizes(tmp_path):
    image = read_image(ome(tmp_path / "image.ome.tif"))
    assert (image.axes, image.spacing, image.unit) == ("ZYX", (1.1, 0.4, 0.3), "um")
    after = read_image(write_result(tmp_path / "result", DATA.astype(np.float64), image, 0))
    assert (after.format_metadata.ome, after.spacing) == (image.format_metadata.ome, image.spacing)
    assert after.data.dtype == np.float32


@pytest.mark.parametrize("write", [imagej, ome])
def test_channels_come_second_and_probabilities_go_back_so(tmp_path, write):
    channels = np.stack([DATA, DATA + 1, DATA + 2], axis=1)  # (Z, C, Y, X)
    image = read_image(write(tmp_path / "image.tif", channels, "ZCYX"))
    assert (image.axes, image.channel_axis, len(image.spacing)) == ("ZCYX", 1, 3)
    assert np.array_equal(to_slices(image, 0), channels)
    assert np.array_equal(to_slices(image, 1)[2], channels[:, :, 2].swapaxes(0, 1))
    after = read_image(write_result(tmp_path / "probability", channels.astype(np.float32), image, 0))
    assert (after.axes, after.spacing) == (image.axes, image.spacing)
    assert np.array_equal(after.data, channels)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_results_along_any_axis_go_back(tmp_path, slice_axis):
    image = read_image(imagej(tmp_path / "image.tif"))
    after = read_image(write_result(tmp_path / "result", to_slices(image, slice_axis), image, slice_axis))
    assert np.array_equal(after.data, DATA)


def test_plain_pages_are_slices_of_unknown_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "plain.tif") as file:
        for page in DATA:
            file.write(page, contiguous=False, metadata=None)
    image = read_image(tmp_path / "plain.tif")
    assert (image.data.shape, image.spacing, image.unit) == (DATA.shape, (1.0, 1.0, 1.0), "pixel")
    assert default_slice_axis(image) == 0
    assert np.array_equal(read_image(write_result(tmp_path / "result", DATA, image, 0)).data, DATA)


def test_the_slice_axis_is_time_before_space(tmp_path):
    assert default_slice_axis(read_image(imagej(tmp_path / "movie.tif", DATA, "TYX"))) == 0


def test_colours_are_channels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    image = read_image(tmp_path / "rgb.tif")
    assert image.channel_axis == 3
    assert to_slices(image, 0).shape == (6, 3, 5, 4)


def test_label_numbers_that_imagej_does_not_know_are_kept(tmp_path):
    image = read_image(imagej(tmp_path / "image.tif"))
    after = read_image(write_result(tmp_path / "result", np.full(DATA.shape, 70_000), image, 0))
    assert (after.data == 70_000).all()
    assert after.spacing == pytest.approx(image.spacing)
    assert after.unit == image.unit


def test_many_channels_of_a_plane_are_slices(tmp_path):
    assert read_image(imagej(tmp_path / "stack.tif", DATA, "CYX")).axes == "ZYX"
    assert read_image(imagej(tmp_path / "plane.tif", DATA[:3], "CYX")).axes == "CYX"


@pytest.mark.parametrize("axes", ["IYX", "QYX"])
def test_pages_that_nobody_named_fit_slices_that_somebody_did(tmp_path, axes):
    unnamed = tmp_path / "labels.tif"
    tifffile.imwrite(unnamed, DATA, metadata={"axes": axes}, photometric="minisblack")
    with tifffile.TiffFile(unnamed) as file:
        assert file.series[0].axes == axes
    image, labels = read_image(imagej(tmp_path / "image.tif")), read_image(unnamed)
    assert labels.axes == image.axes == "ZYX"
    assert np.array_equal(np.asarray(labels.data), DATA)


def test_a_flat_image_is_no_stack(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tif", DATA[0])
    with pytest.raises(ImageFileError, match="holds 5 x 4 pixels: a stack of slices has three axes, so stack its 2D"):
        to_slices(read_image(tmp_path / "flat.tif"), 0)


@pytest.mark.parametrize("keep", [0, 6, 100, 300])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = imagej(tmp_path / "cut.tif")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageFileError, match=r"cut\.tif cannot be read as TIFF, it is truncated or damaged"):
        read_image(path)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_raw_micro_sign_is_written_as_imagej_writes_it(tmp_path, encoding):
    description = "ImageJ=1.47v\nimages=5\nslices=5\nunit=µm\nspacing=3.0\nloop=false\n".encode(encoding)
    data = np.arange(5 * 16 * 8, dtype=np.uint16).reshape(5, 16, 8)
    source = tmp_path / "mu.tif"
    tifffile.imwrite(source, data, description=description, metadata=None, resolution=(2, 2), resolutionunit=1)
    image = read_image(source)
    assert (image.unit, image.spacing) == ("um", (3, 0.5, 0.5))
    check_writable(image, 0)
    back = read_image(write_result(tmp_path / "result", data, image, 0))
    assert (back.unit, back.spacing) == ("um", (3, 0.5, 0.5))
    assert np.array_equal(back.data, data)
    with tifffile.TiffFile(back.path) as file:
        assert "unit=\\u00B5m\n" in file.pages.first.description


def test_a_header_that_cannot_be_repeated_is_said_before_anything_begins(tmp_path):
    image = read_image(imagej(tmp_path / "image.tif", DATA, "ZYX"))
    odd = dataclasses.replace(image.format_metadata, resolution=((-1, 1), (1, 1)))
    with pytest.raises(ImageFileError, match="cannot be repeated"):
        check_writable(dataclasses.replace(image.grid, format_metadata=odd), 0)
