"""Zarr in and out, and arrays that stay on the disk whatever their format."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg.io.files import read_image, read_labels, write_result
from napari_mlbseg.io.image_file import ImageFile, ImageFileError, default_slice_axis, slice_spacing, to_slices
from napari_mlbseg.io.readers import get_reader, read_layers
from napari_mlbseg.io.volumes import load_volume
from napari_mlbseg.jobs.inputs import store_array

DATA = np.random.default_rng(0).integers(0, 4000, (6, 16, 12)).astype(np.uint16)  # (Z, Y, X)


def plain(path: Path, data: np.ndarray = DATA, names: list[str] | None = None) -> Path:
    array = zarr.create_array(path, shape=data.shape, chunks=data.shape, dtype=data.dtype, dimension_names=names)
    array[:] = data
    return path


def ome(path: Path, version: str = "0.5") -> Path:
    """An image of a time point, two channels and two levels."""
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    data = np.stack([DATA, DATA + 1])[None]  # (T, C, Z, Y, X)
    for level, step in (("0", 1), ("1", 2)):
        smaller = data[..., ::step, ::step]
        group.create_array(level, shape=smaller.shape, chunks=(1, 1, 1, 8, 8), dtype=data.dtype)[:] = smaller
    axes = [
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"),
    ]
    datasets = [
        {
            "path": level,
            "coordinateTransformations": [
                {"type": "scale", "scale": [1, 1, 2.0, 0.5 * step, 0.25 * step]},
                {"type": "translation", "translation": [0, 0, 10, 20, 30]},
            ],
        }
        for level, step in (("0", 1), ("1", 2))
    ]
    described = {"multiscales": [{"axes": axes, "datasets": datasets, "version": version}]}
    group.attrs.update(described if version == "0.4" else {"ome": {"version": version, **described}})
    return path


def test_a_plain_array_is_a_stack_that_is_not_read(tmp_path: Path) -> None:
    image = read_image(plain(tmp_path / "stack.zarr"))
    assert (image.axes, image.unit, image.spacing, image.name) == ("ZYX", "pixel", (1.0, 1.0, 1.0), "stack")
    assert isinstance(image.data, ArrayView)
    assert default_slice_axis(image) == 0
    for axis in range(3):
        assert np.array_equal(to_slices(image, axis)[2], np.moveaxis(DATA, axis, 0)[2])


def test_axes_are_taken_by_name(tmp_path: Path) -> None:
    image = read_image(plain(tmp_path / "stack.zarr", names=["y", "x", "z"]))
    assert image.axes == "YXZ"
    assert to_slices(image, 2).shape == (12, 6, 16)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_image_has_its_scale_channels_and_levels(tmp_path: Path, version: str) -> None:
    image = read_image(ome(tmp_path / "image.ome.zarr", version))
    assert (image.axes, image.spacing, image.unit, image.name) == ("CZYX", (2.0, 0.5, 0.25), "um", "image")
    assert slice_spacing(image, 0) == (2.0, 0.5, 0.25)
    slices = to_slices(image, 0)
    assert slices.shape == (6, 2, 16, 12)
    assert np.array_equal(slices[4], np.stack([DATA[4], DATA[4] + 1]))
    layers = read_layers(str(image.path))
    assert [options["name"] for _, options, _ in layers] == ["image [0]", "image [1]"]
    data, options, _ = layers[1]
    assert options["multiscale"]
    assert (list(options["scale"]), list(options["translate"])) == ([2.0, 0.5, 0.25], [10, 20, 30])
    assert [level.shape for level in data] == [(6, 16, 12), (6, 8, 6)]
    assert np.array_equal(data[0][3], DATA[3] + 1)


def test_labels_of_several_levels_open_at_full_resolution(tmp_path: Path) -> None:
    path = tmp_path / "cells_seg.zarr"
    group = zarr.open_group(path, mode="w")
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scales = [[2, 0.5, 0.5], [2, 1, 1]]
    for level, step in (("0", 1), ("1", 2)):
        group.create_array(level, data=DATA[:, ::step, ::step])
    datasets = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for level, scale in enumerate(scales)
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    ((data, options, kind),) = read_layers(str(path))
    assert kind == "labels"
    assert "multiscale" not in options, "nobody can paint on several levels"
    assert np.array_equal(np.asarray(data), DATA)
    assert list(options["scale"]) == [2, 0.5, 0.5]


def test_results_go_back_into_the_same_space(tmp_path: Path) -> None:
    image = read_image(ome(tmp_path / "image.ome.zarr"))
    probability = np.random.default_rng(1).random((6, 2, 16, 12)).astype(np.float32)
    written = write_result(tmp_path / "probability", ArrayView(probability), image, 0)
    assert written.name == "probability.ome.zarr"
    again = read_image(written)
    assert (again.axes, again.spacing, again.unit) == ("ZCYX", image.spacing, "um")
    assert again.format_metadata.translation == image.format_metadata.translation
    assert np.array_equal(np.asarray(again.data), probability)
    labels = write_result(tmp_path / "labels", ArrayView(DATA), image, 0)
    assert np.array_equal(np.asarray(read_labels(labels).data), DATA)
    write_result(tmp_path / "labels", ArrayView(DATA + 1), image, 0)  # replaces it
    assert np.array_equal(np.asarray(read_labels(labels).data), DATA + 1)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "empty.zarr")
    with pytest.raises(ImageFileError, match="holds 0 arrays"):
        read_image(tmp_path / "empty.zarr")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(ImageFileError, match="cannot be read as zarr"):
        read_image(tmp_path / "folder.zarr")
    with pytest.raises(ImageFileError, match="3 time points"):
        read_image(plain(tmp_path / "series.zarr", np.zeros((3, 2, 8, 8)), names=["t", "z", "y", "x"]))
    with pytest.raises(ImageFileError, match="complex"):
        read_image(plain(tmp_path / "waves.zarr", np.zeros((3, 8, 8), complex)))


def test_napari_opens_folders_that_are_zarr_only(tmp_path: Path) -> None:
    assert get_reader(str(plain(tmp_path / "stack.zarr"))) is not None
    (tmp_path / "folder.tif").mkdir()
    assert get_reader(str(tmp_path / "folder.tif")) is None
    assert get_reader(str(tmp_path / "none.zarr")) is None


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_util.arrays", "io.nifti", "io.tiff", "io.readers", "io.volumes"):
        monkeypatch.setattr(f"napari_mlbseg.{module}.MAPPED_BYTES", 100)


def _nifti(path: Path) -> ImageFile:
    nibabel.save(nibabel.Nifti1Image(DATA.astype(np.int16).T, np.diag([2, 3, 4, 1])), path)
    return read_image(path)


def _scaled_nifti(path: Path) -> ImageFile:
    image = nibabel.Nifti1Image(DATA.astype(np.int16).T, np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nibabel.save(image, path)
    return read_image(path)


def _tiff(path: Path, **options: object) -> ImageFile:
    tifffile.imwrite(path, DATA, metadata={"axes": "ZYX"}, **options)
    return read_image(path)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("kind", ["mapped", "scaled", "tiff", "compressed tiff"])
def test_large_files_stay_on_the_disk(tmp_path: Path, kind: str) -> None:
    made = {
        "mapped": lambda: _nifti(tmp_path / "image.nii"),
        "scaled": lambda: _scaled_nifti(tmp_path / "image.nii"),
        "tiff": lambda: _tiff(tmp_path / "image.tif"),
        "compressed tiff": lambda: _tiff(tmp_path / "image.tif", compression="zlib"),
    }[kind]()
    assert isinstance(made.data, ArrayView | np.memmap)
    axis = default_slice_axis(made)
    expected = DATA[3] * 0.5 + 10 if kind == "scaled" else DATA[3]
    plane = np.asarray(to_slices(made, axis)[3])
    assert np.allclose(plane.T if made.format == "nifti" else plane, expected, atol=1)
    layer = read_layers(str(made.path))[0][0]
    assert np.allclose(np.asarray(layer[3]), expected, atol=1)
    volume = load_volume(made.path).volume
    (tmp_path / "job").mkdir()
    reference = store_array(tmp_path / "job", "image", volume.image)
    reference.fetch(tmp_path / "job")
    assert not list((tmp_path / "job").iterdir())  # nothing was copied
    opened, slice_3 = reference.open(tmp_path / "job"), np.asarray(volume.image[3])
    assert np.array_equal(np.asarray(opened[3]), slice_3)
    assert np.array_equal(np.asarray(opened[3, ..., 2:5, 1:7]), slice_3[2:5, 1:7])
    reference.fetch(tmp_path / "job", to_send=True)  # to a machine that cannot open the file
    made.path.rename(tmp_path / "elsewhere")
    assert np.array_equal(np.asarray(reference.open(tmp_path / "job")[3]), slice_3)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_job_opens_the_same_zarr_array_along_any_axis(tmp_path: Path, slice_axis: int) -> None:
    slices = load_volume(plain(tmp_path / "stack.zarr"), slice_axis=slice_axis).volume.image
    (tmp_path / "job").mkdir()
    opened = store_array(tmp_path / "job", "image", slices).open(tmp_path / "job")
    assert not list((tmp_path / "job").iterdir())
    for z in range(opened.shape[0]):
        assert np.array_equal(np.asarray(opened[z]), np.moveaxis(DATA, slice_axis, 0)[z])


@pytest.mark.parametrize(
    "key", [2, -1, slice(1, 4), (slice(None), 3), (..., slice(2, None, 3)), (2, slice(None, None, -2), 1)]
)
def test_a_view_reads_what_numpy_would(key: object) -> None:
    view = ArrayView(DATA).transpose(2, 0, 1)
    assert np.array_equal(view[key], DATA.transpose(2, 0, 1)[key])
    assert np.array_equal(ArrayView(DATA).take(3, 1)[0], DATA[0, 3])
    assert np.array_equal(np.moveaxis(view, 0, -1)[1], DATA[1])
    assert np.array_equal(view.T[4], DATA.transpose(2, 0, 1).T[4])
    assert view[np.array([0, 2])].shape == (2, 6, 16)
