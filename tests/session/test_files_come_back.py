"""What is painted on an image file, kept in a session, opened again and exported is the same in the file's world."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mlbseg.io.dataset_table import DatasetRow
from napari_mlbseg.io.files import read_image, read_labels, write_result
from napari_mlbseg.io.layer_grid import layer_grid
from napari_mlbseg.io.orientation import turn_between
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.adding import read_volume
from napari_mlbseg.session.exporting import export_session

from .conftest import reopen


def make_image(path: Path, shape: tuple[int, ...], scale: tuple[float, ...], order: list[int], signs: tuple) -> None:
    """A stack whose values differ everywhere; a NIfTI file is turned and mirrored in the world."""
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    if path.suffix == ".nii":
        affine = np.eye(4)
        affine[:3, :3] = np.diag(scale)[:, order] * signs
        affine[:3, 3] = (7, -3, 11)
        nibabel.Nifti1Image(values, affine).to_filename(path)
    else:
        grid = layer_grid(path, shape, {"scale": scale, "units": ("um",) * 3})
        write_result(path.with_suffix(""), values, grid, 0)


@settings(max_examples=25, deadline=None)
@given(
    suffix=st.sampled_from([".nii", ".tif", ".zarr"]),
    shape=st.tuples(*[st.integers(2, 5)] * 3),
    scale=st.tuples(*[st.floats(0.1, 20)] * 3),
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    dtype=st.sampled_from(["uint8", "uint16", "int32", "int64", "uint64"]),
    axis=st.sampled_from([None, 0, 1, 2]),
)
def test_painted_voxels_lie_where_they_were_painted(suffix, shape, scale, order, signs, dtype, axis):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / f"scan{suffix}"
        make_image(image, shape, scale, order, signs)
        volume = read_volume(DatasetRow(image, slice_axis=axis))
        volume.annotation = np.random.default_rng(0).integers(0, 3, volume.annotation.shape).astype(dtype)
        volume.is_annotated = True
        session = SegmentationSession(folder / "scan.mlbseg")
        session.set_volume(volume)
        session.mark_dirty("scan")
        session.save()
        session.close()

        again = reopen(folder / "scan.mlbseg")
        found = again.volume("scan")
        assert np.array_equal(np.asarray(found.annotation), volume.annotation)
        assert np.array_equal(np.asarray(found.image), np.asarray(volume.image))
        assert found.slice_axis == volume.slice_axis
        (exported,) = export_session([found], None, folder / "out")
        again.close()
        source, back = read_image(image), read_labels(exported)
        assert turn_between(source, back).is_none
        assert back.spacing == pytest.approx(source.spacing, rel=1e-5)
        in_file = volume.annotation.T if suffix == ".nii" else volume.annotation
        assert np.array_equal(np.asarray(back.data), in_file)
