"""The manifest in napari's own hands: open, paint, save."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile

AFFINE = np.array([[-0.5, 0, 0, 60], [0, 1.2, -0.5, -50], [0, 0.5, 2.4, 13], [0, 0, 0, 1]], dtype=np.float32)


@pytest.fixture
def viewer():
    """A viewer without a window; plugins as they are installed."""
    from napari.components import ViewerModel
    from npe2 import PluginManager

    manager = PluginManager.instance()
    manager.discover()
    if "napari-mlbseg" not in {manifest.name for manifest in manager.iter_manifests()}:
        pytest.skip("napari-mlbseg is not installed in this environment")
    return ViewerModel()


def test_a_nifti_file_goes_through_napari_and_back(viewer, tmp_path):
    data = np.random.default_rng(0).integers(0, 4000, (4, 5, 6)).astype(np.int16)
    image = nibabel.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm")
    image.to_filename(tmp_path / "scan.nii.gz")
    (layer,) = viewer.open(str(tmp_path / "scan.nii.gz"), plugin="napari-mlbseg")
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("k", "j", "i")

    labels = viewer.add_labels((layer.data > 2000).astype(np.uint8), metadata=layer.metadata, scale=layer.scale)
    (written,) = labels.save(str(tmp_path / "painted.nii.gz"), plugin="napari-mlbseg")
    after = nibabel.load(written)
    assert np.array_equal(after.affine, nibabel.load(tmp_path / "scan.nii.gz").affine)
    assert after.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(after.dataobj), data > 2000)


def test_units_of_a_layer_are_written(viewer, tmp_path):
    layer = viewer.add_image(np.zeros((3, 4, 5), np.float64), scale=(2, 0.5, 0.25), units=("um",) * 3)
    (written,) = layer.save(str(tmp_path / "new.tif"), plugin="napari-mlbseg")
    with tifffile.TiffFile(written) as file:
        assert file.imagej_metadata["unit"] == "um"
        assert file.imagej_metadata["spacing"] == 2
        x, y = (file.pages[0].tags[name].value for name in ("XResolution", "YResolution"))
        assert (x[0] / x[1], y[0] / y[1]) == (4, 2)


def test_sample_data_opens(viewer):
    image, truth = viewer.open_sample("napari-mlbseg", "phantom")
    assert image.data.shape == truth.data.shape
    assert np.array_equal(image.scale, truth.scale)
    assert not truth.visible


def test_a_layer_that_cannot_be_written_is_said_in_a_warning(viewer, tmp_path):
    layer = viewer.add_labels(np.zeros((2, 3, 4, 5), np.uint8), name="movie")
    with pytest.warns(UserWarning, match="'movie' has 4 axes"):
        assert layer.save(str(tmp_path / "movie.nii.gz"), plugin="napari-mlbseg") == []
