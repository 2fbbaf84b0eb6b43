"""Files as napari layers and back, through the manifest's reader and writer."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile

from napari_mlbseg.io.files import read_image
from napari_mlbseg.io.image_file import ImageFileError
from napari_mlbseg.io.readers import get_reader, read_layers
from napari_mlbseg.io.writers import write_layer

DATA = np.random.default_rng(0).integers(0, 4000, (4, 5, 6)).astype(np.int16)  # (I, J, K)
AFFINE = np.array([[-0.5, 0, 0, 60], [0, 1.2, -0.5, -50], [0, 0.5, 2.4, 13], [0, 0, 0, 1]])


@pytest.fixture
def nifti(tmp_path):
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.header.set_xyzt_units("mm")
    image.to_filename(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_nifti_shows_axial_slices_with_scale_units_and_labels(nifti):
    ((data, options, layer_type),) = read_layers(str(nifti))
    assert layer_type == "image"
    assert np.array_equal(data, DATA.T)
    assert options["name"] == "scan"
    assert options["scale"] == pytest.approx([np.hypot(0.5, 2.4), np.hypot(1.2, 0.5), 0.5])
    assert (options["units"], options["axis_labels"]) == (["mm"] * 3, ["k", "j", "i"])


def test_layers_of_one_orientation_overlay_each_other(tmp_path, nifti):
    """A crop that begins at voxel (1, 2, 3) is moved by (3, 2, 1) voxels along the layer's axes."""
    crop = AFFINE.copy()
    crop[:3, 3] = AFFINE[:3, :3] @ (1, 2, 3) + AFFINE[:3, 3]
    nibabel.Nifti1Image(DATA[1:, 2:, 3:], crop).to_filename(tmp_path / "crop.nii")
    _, whole, _ = read_layers(str(nifti))[0]
    _, part, _ = read_layers(str(tmp_path / "crop.nii"))[0]
    # The two axes of this affine that are not orthogonal share no distance with the first.
    moved = (np.array(part["translate"]) - whole["translate"]) / whole["scale"]
    assert moved[2] == pytest.approx(1, abs=1e-4)
    directions = AFFINE[:3, :3] / np.linalg.norm(AFFINE[:3, :3], axis=0)
    expected = (directions.T @ AFFINE[:3, :3] @ (1, 2, 3))[::-1] / whole["scale"]
    assert moved == pytest.approx(expected, abs=1e-4)


def test_a_layer_goes_back_with_its_affine_and_axis_order(tmp_path, nifti):
    ((data, options, _),) = read_layers(str(nifti))
    painted = (data > 2000).astype(np.int64)
    for name in ("labels.nii", "labels.nii.gz"):
        assert write_layer(str(tmp_path / name), painted, options) == [str(tmp_path / name)]
        after = nibabel.load(tmp_path / name)
        assert np.array_equal(after.affine, nibabel.load(nifti).affine)
        assert after.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(after.dataobj), DATA > 2000)


def test_a_layer_without_a_file_writes_scale_translation_and_unit(tmp_path):
    data = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    attributes = {"name": "new", "scale": (3.0, 0.5, 0.25), "translate": (10.0, 20.0, 30.0), "units": ("um",) * 3}
    write_layer(str(tmp_path / "new.nii"), data, attributes)
    after = nibabel.load(tmp_path / "new.nii")
    assert np.array_equal(np.asarray(after.dataobj), data.T)
    assert after.affine.tolist() == [[0.25, 0, 0, 30], [0, 0.5, 0, 20], [0, 0, 3, 10], [0, 0, 0, 1]]
    assert after.header.get_xyzt_units()[0] == "micron"

    with pytest.warns(UserWarning, match="without its position"):
        write_layer(str(tmp_path / "new.tif"), data, attributes)
    back = read_image(tmp_path / "new.tif")
    assert (back.axes, back.unit) == ("ZYX", "um")
    assert back.spacing == pytest.approx((3.0, 0.5, 0.25))
    assert np.array_equal(back.data, data)


def test_an_edited_shape_is_not_forced_into_the_old_header(tmp_path, nifti):
    ((data, options, _),) = read_layers(str(nifti))
    write_layer(str(tmp_path / "cropped.nii"), data[1:], options)
    after = nibabel.load(tmp_path / "cropped.nii")
    assert after.shape == (4, 5, 5)
    assert after.header.get_zooms() == pytest.approx(options["scale"][::-1])


def test_channels_are_layers(tmp_path):
    channels = np.random.default_rng(0).integers(0, 4000, (6, 2, 5, 4)).astype(np.uint16)
    metadata = {"axes": "ZCYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "two.tif", channels, imagej=True, resolution=(4, 2), metadata=metadata)
    layers = read_layers(str(tmp_path / "two.tif"))
    assert [options["name"] for _, options, _ in layers] == ["two [0]", "two [1]"]
    for c, (data, options, layer_type) in enumerate(layers):
        assert layer_type == "image"
        assert np.array_equal(data, channels[:, c])
        assert options["scale"] == [2.0, 0.5, 0.25]
        write_layer(str(tmp_path / "one.tif"), data, options)
        back = read_image(tmp_path / "one.tif")
        assert (back.spacing, back.unit) == ((2.0, 0.5, 0.25), "um")
        assert np.array_equal(back.data, channels[:, c])


def test_colours_stay_one_layer(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (6, 5, 4, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    ((data, options, _),) = read_layers(str(tmp_path / "rgb.tif"))
    assert options["rgb"]
    assert np.array_equal(data, colours)
    with pytest.raises(ValueError, match="split its channels"):
        write_layer(str(tmp_path / "out.tif"), data, options)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("patient_label", np.arange(60).reshape(3, 4, 5), "labels"),
        ("patient", (np.arange(60) % 3).reshape(3, 4, 5), "labels"),
        ("patient", np.arange(60).reshape(3, 4, 5), "image"),
        ("segment_of_scan", np.arange(60).reshape(3, 4, 5), "image"),
        ("label_negative", np.arange(-30, 30).reshape(3, 4, 5), "image"),
    ],
)
def test_labels_are_told_from_images(tmp_path, name, data, expected):
    nibabel.Nifti1Image(data.astype(np.int16), np.eye(4)).to_filename(tmp_path / f"{name}.nii")
    assert read_layers(str(tmp_path / f"{name}.nii"))[0][2] == expected


def test_only_our_files_are_read(tmp_path, nifti):
    assert get_reader(str(nifti)) is read_layers
    assert get_reader([str(nifti)]) is None
    assert get_reader(str(tmp_path)) is None
    assert get_reader(str(tmp_path / "missing.nii")) is None
    (tmp_path / "empty.nii").touch()
    with pytest.raises(ImageFileError, match="truncated or damaged"):
        read_layers(str(tmp_path / "empty.nii"))
