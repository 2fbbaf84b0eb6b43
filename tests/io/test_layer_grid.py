"""A layer is saved where it lies: every transform, unit and level of it, or it is said what is lost."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from napari.layers import Image, Labels

from napari_mlbseg.io.files import read_image
from napari_mlbseg.io.readers import read_layers
from napari_mlbseg.io.writers import save_layer, write_layer
from napari_mlbseg.session.exporting import export_session
from napari_mlbseg.viewer.layers.binding import VolumeBinding

LABELS = np.random.default_rng(0).integers(0, 4, (4, 6, 5)).astype(np.uint8)
LAST = np.array(LABELS.shape) - 1
PLACES = {
    "affine": {"affine": [[-2, 0, 0, 30], [0, -0.5, 0, 12], [0, 0, 0.5, -7], [0, 0, 0, 1]]},
    "rotation": {"scale": (2, 0.5, 0.25), "rotate": 10, "translate": (1, 2, 3)},
    "reflection": {"scale": (-2, -0.5, 0.5), "translate": (30, 12, -7)},
    "all": {"scale": (2, 0.5, 0.5), "rotate": (10, 20, 30), "shear": (0.1, 0.2, 0.3), "affine": np.diag([1, 2, 3, 1])},
}


@pytest.mark.parametrize("place", PLACES)
def test_save_and_export_put_every_voxel_where_the_layer_has_it(tmp_path, place):
    image = Image(LABELS * 50, name="image", units=("mm",) * 3, **PLACES[place])
    labels = Labels(LABELS, name="painted", units=("mm",) * 3, **PLACES[place])
    data, attributes, _ = labels.as_layer_data_tuple()
    write_layer(str(tmp_path / "saved.nii.gz"), data, attributes)
    volume = VolumeBinding(image, labels).to_volume(0, independent=False)
    exported, *_ = export_session([volume], None, tmp_path / "out")
    for path in (tmp_path / "saved.nii.gz", exported):
        back = nibabel.load(path)
        assert np.array_equal(np.asarray(back.dataobj).T, LABELS)
        for index in ((0, 0, 0), LAST, LAST * (1, 0, 0), LAST * (0, 1, 0)):
            there = back.affine @ (*index[::-1], 1)
            assert there[:3][::-1] == pytest.approx(labels.data_to_world(index), abs=1e-4)
    with pytest.warns(UserWarning, match=r"'painted' is written without its rotation.*save it as NIfTI"):
        write_layer(str(tmp_path / "saved.tif"), data, attributes)
    assert read_image(tmp_path / "saved.tif").spacing == pytest.approx(tuple(map(float, back.header.get_zooms()[::-1])))


def test_a_layer_of_a_flipped_scan_that_was_moved_or_cropped_stays_in_the_world_of_the_scan(tmp_path):
    affine = np.array([[-0.5, 0, 0, 60], [0, 1.2, -0.5, -50], [0, 0.5, 2.4, 13], [0, 0, 0, 1]])
    nibabel.Nifti1Image(LABELS.T, affine).to_filename(tmp_path / "scan_label.nii")
    ((data, options, _),) = read_layers(str(tmp_path / "scan_label.nii"))
    moved = Labels(data[1:], **{**options, "translate": np.add(options["translate"], (options["scale"][0], 0, 0))})
    data, attributes, _ = moved.as_layer_data_tuple()
    write_layer(str(tmp_path / "crop.nii"), data, attributes)
    expected = affine.copy()
    expected[:3, 3] += affine[:3, 2]
    assert np.allclose(nibabel.load(tmp_path / "crop.nii").affine, expected, atol=1e-4)


def test_units_are_converted_to_one_and_to_what_the_format_knows(tmp_path):
    labels = Labels(LABELS, scale=(2, 500, 0.5), units=("um", "nm", "um"))
    data, attributes, _ = labels.as_layer_data_tuple()
    write_layer(str(tmp_path / "a.tif"), data, attributes)
    tiff = read_image(tmp_path / "a.tif")
    assert (tiff.unit, tiff.spacing) == ("um", pytest.approx((2, 0.5, 0.5)))
    attributes["units"] = ("angstrom",) * 3
    write_layer(str(tmp_path / "a.nii"), data, attributes)
    assert nibabel.load(tmp_path / "a.nii").header.get_zooms() == pytest.approx((5e-8, 5e-5, 2e-7))
    assert read_image(tmp_path / "a.nii").unit == "mm"


@pytest.mark.parametrize("suffix", [".nii.gz", ".tif"])
def test_the_first_of_several_levels_is_saved_and_the_suffix_decides_the_format(tmp_path, suffix):
    group = zarr.open_group(tmp_path / "cells_seg.zarr", mode="w")
    for level in range(2):
        group.create_array(str(level), data=LABELS[:, :: 2**level, :: 2**level])
    steps = [[{"type": "scale", "scale": [2, 0.5 * 2**level, 0.25 * 2**level]}] for level in range(2)]
    sets = [{"path": str(level), "coordinateTransformations": of} for level, of in enumerate(steps)]
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": sets}]}
    target = tmp_path / f"out{suffix}"
    tifffile.imwrite(target, np.zeros((2, 2), np.uint8))  # what was there is replaced
    ((data, options, _),) = read_layers(str(tmp_path / "cells_seg.zarr"))
    layer = Image(data, **options)
    data, attributes, _ = layer.as_layer_data_tuple()
    write_layer(str(target), data, attributes)
    back = read_image(target)
    stored = np.asarray(back.data).T if suffix == ".nii.gz" else back.data
    assert np.array_equal(stored, LABELS)
    assert sorted(back.spacing) == [0.25, 0.5, 2]
    assert target.is_file()


def test_what_cannot_be_written_is_a_warning_that_napari_shows(tmp_path):
    with pytest.warns(UserWarning, match=r"did not write a.nii: The layer 'movie' has 4 axes"):
        assert save_layer(str(tmp_path / "a.nii"), np.zeros((2, 3, 4, 5), np.uint8), {"name": "movie"}) == []
    assert not list(tmp_path.iterdir())


def test_sizes_are_right_to_many_digits_in_a_tiff(tmp_path):
    for size in (1.234567e-3, 0.3333333, 123.4567, 98765.43):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_layer(str(tmp_path / "a.tif"), LABELS, {"scale": (1.0, size, size), "units": ("um",) * 3})
        assert read_image(tmp_path / "a.tif").spacing == pytest.approx((1, size, size), rel=1e-8)
