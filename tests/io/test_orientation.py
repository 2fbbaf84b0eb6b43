"""Files that meet are compared in the world: turned where that is exact, refused where it is not."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from napari_mlbseg._util.arrays import ArrayView
from napari_mlbseg.io.dataset_table import DatasetRow
from napari_mlbseg.io.files import read_image, read_labels
from napari_mlbseg.io.image_file import ImageFileError, default_slice_axis, has_clear_slice_axis, to_slices
from napari_mlbseg.io.orientation import axis_along, direction_of_axis, on_grid_of, turn_between
from napari_mlbseg.io.volumes import load_volume
from napari_mlbseg.session.adding import read_volume

DATA = np.random.default_rng(0).integers(0, 9, (4, 5, 6)).astype(np.uint8)
OBLIQUE = np.array([[-0.9, 0.1, 0.02, 61], [0.08, 1.15, -0.52, -50], [0.03, 0.25, 2.4, 13], [0, 0, 0, 1.0]])


def nifti(path: Path, data: np.ndarray = DATA, affine: np.ndarray | None = OBLIQUE) -> Path:
    nibabel.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_every_orientation_of_the_same_voxels_is_turned_back(tmp_path, axes):
    image = read_image(nifti(tmp_path / "image.nii"))
    for signs in product((1, -1), repeat=3):
        wanted = np.array(list(zip(axes, signs, strict=True)))
        stored = nibabel.load(image.path).as_reoriented(wanted)
        stored.to_filename(tmp_path / "labels.nii")
        labels = read_labels(tmp_path / "labels.nii")
        on_image, turn = on_grid_of(image, labels)
        assert np.array_equal(on_image.data, DATA)
        assert turn.is_none == (tuple(axes) == (0, 1, 2) and signs == (1, 1, 1))
        lazy = turn.apply(ArrayView(labels.data))
        assert np.array_equal(lazy[1:3, 2], DATA[1:3, 2])
        assert np.array_equal(lazy[..., ::-2], DATA[..., ::-2])


def test_another_grid_is_refused_with_how_far_it_is(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii"))
    half, wide, turned = OBLIQUE.copy(), OBLIQUE @ np.diag([2, 1, 1, 1]), OBLIQUE.copy()
    half[:3, 3] += OBLIQUE[:3, 2] * 0.7
    turned[:3, :3] = nibabel.eulerangles.euler2mat(0.3) @ OBLIQUE[:3, :3]
    for affine, words in ((half, r"by up to 0\.7 voxels"), (wide, "differ in size"), (turned, "elsewhere")):
        with pytest.raises(ImageFileError, match=words):
            turn_between(image, read_labels(nifti(tmp_path / "other.nii", affine=affine)))
    with pytest.raises(ImageFileError, match=r"4 \(i\) x 5 \(j\) x 5 \(k\) voxels but .* 6 \(k\): give labels"):
        turn_between(image, read_labels(nifti(tmp_path / "other.nii", DATA[..., 1:])))


def test_micrometre_and_millimetre_are_the_same_place(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii", affine=np.diag([0.5, 0.5, 2, 1])))
    in_um = nibabel.Nifti1Image(DATA, np.diag([500, 500, 2000, 1]))
    in_um.header.set_xyzt_units("micron")
    in_um.to_filename(tmp_path / "um.nii")
    assert turn_between(image, read_labels(tmp_path / "um.nii")).is_none


def test_a_file_that_tells_no_position_is_taken_voxel_by_voxel_and_it_is_said(tmp_path):
    image, labels = nifti(tmp_path / "image.nii"), nifti(tmp_path / "labels.nii", affine=None)
    made = load_volume(image, labels_path=labels, clean=[3])
    assert np.array_equal(made.volume.label_slice(3), DATA[:, :, 3])
    assert any("check that they belong together" in note for note in made.notes)


@pytest.mark.parametrize("shape", [(6, 6, 6), (4, 5, 6)])
def test_x_y_and_z_of_a_tiff_are_i_j_and_k_of_a_nifti(tmp_path, shape):
    labels = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    image = tmp_path / "stack.tif"
    tifffile.imwrite(image, labels, imagej=True, metadata={"axes": "ZYX", "unit": "mm"})
    painted = nifti(tmp_path / "painted.nii.gz", labels.T, np.eye(4))
    made = load_volume(image, labels_path=painted, initial_labels_path=painted, clean=[2])
    assert np.array_equal(made.volume.label_slice(2), labels[2])
    assert np.array_equal(np.asarray(made.volume.initial_labels), labels)
    volume = read_volume(DatasetRow(image, labels=painted, initial_labels=painted, clean=(2,)))
    assert np.array_equal(volume.annotation, labels)
    assert np.array_equal(np.asarray(volume.initial_labels), labels)


@pytest.mark.parametrize(
    ("spacing", "axis", "is_clear"),
    [
        ((0.977, 0.977, 0.625), 2, False),
        ((4.07, 4.07, 3.0), 2, False),
        ((1, 1, 1), 2, False),
        ((0.7, 0.7, 2.5), 2, True),
        ((3, 1, 1), 0, True),
        ((1.005, 1, 1), 2, False),
    ],
)
def test_slices_lie_along_the_one_coarsest_axis_or_k(tmp_path, spacing, axis, is_clear):
    image = read_image(nifti(tmp_path / "image.nii", affine=np.diag([*spacing, 1])))
    assert (default_slice_axis(image), has_clear_slice_axis(image)) == (axis, is_clear)
    made = load_volume(image.path)
    assert made.slice_axis == axis
    assert bool(made.notes) is not is_clear  # where it is a matter of opinion, it is said
    assert read_volume(DatasetRow(image.path)).slice_axis == 2 - axis


def test_the_same_direction_is_found_in_a_scan_stored_otherwise(tmp_path):
    image = read_image(nifti(tmp_path / "image.nii"))
    nibabel.load(image.path).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]])).to_filename(tmp_path / "other.nii")
    other = read_image(tmp_path / "other.nii")
    assert [direction_of_axis(image, axis) for axis in range(3)] == ["x", "y", "z"]
    assert [axis_along(other, direction) for direction in "xyzt"] == [2, 0, 1, None]
    along_z = [to_slices(of, axis_along(of, "z")) for of in (image, other)]
    assert along_z[0].shape[0] == along_z[1].shape[0] == 6
