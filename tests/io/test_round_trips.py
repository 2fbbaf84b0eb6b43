"""Whatever is written and read again is the same in the world: every format, as a result and as a saved layer."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_mlbseg.io.files import read_image, read_labels, write_result
from napari_mlbseg.io.image_file import from_slices, to_slices
from napari_mlbseg.io.layer_grid import layer_grid
from napari_mlbseg.io.orientation import turn_between
from napari_mlbseg.io.readers import image_layers
from napari_mlbseg.io.units import conversion_factor
from napari_mlbseg.io.writers import write_layer

SUFFIXES = (".nii", ".nii.gz", ".tif", ".zarr")
sizes = st.tuples(*[st.integers(2, 5)] * 3)
steps = st.tuples(*[st.floats(0.01, 50)] * 3)
origins = st.tuples(*[st.floats(-100, 100)] * 3)
units = st.sampled_from(["nm", "um", "mm"])
dtypes = st.sampled_from(["uint8", "uint16", "int16", "int32", "int64"])


def pixels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 100, shape).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    suffix=st.sampled_from(SUFFIXES),
    shape=sizes,
    scale=steps,
    origin=origins,
    unit=units,
    dtype=dtypes,
    axis=st.integers(0, 2),
)
def test_results_of_every_format_are_the_same_when_read_again(suffix, shape, scale, origin, unit, dtype, axis):
    with tempfile.TemporaryDirectory() as folder:
        attributes = {"scale": scale, "translate": origin, "units": (unit,) * 3}
        grid = layer_grid(Path(folder) / f"image{suffix}", shape, attributes)
        labels = pixels(shape, dtype)
        stored = labels.T if grid.format == "nifti" else labels
        along_z = np.moveaxis(stored, axis, 0)
        back = read_labels(write_result(Path(folder) / "result", along_z, grid, axis))
        assert np.array_equal(np.asarray(to_slices(back, axis)), along_z)
        assert turn_between(grid, back).is_none
        factor = conversion_factor(back.unit, unit)
        there = [step * factor for step in back.spacing]
        assert (there[::-1] if grid.format == "nifti" else there) == pytest.approx(scale, rel=1e-5)
        channels = np.stack([along_z, along_z + 1], axis=1).astype(np.float32)
        probability = read_image(write_result(Path(folder) / "probability", channels, grid, axis))
        expected, axes = from_slices(channels, grid, axis)
        assert np.array_equal(np.asarray(probability.data), expected)
        assert probability.axes == axes


@settings(max_examples=40, deadline=None)
@given(
    suffix=st.sampled_from([".nii", ".tif"]),
    shape=sizes,
    scale=steps,
    origin=origins,
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    has_levels=st.booleans(),
    dtype=dtypes,
)
def test_saved_layers_of_a_scan_lie_where_the_scan_does(suffix, shape, scale, origin, order, signs, has_levels, dtype):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(scale)[:, order] * signs
    affine[:3, 3] = origin
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what a TIFF has no place for
        source = Path(folder) / "scan.nii"
        nibabel.Nifti1Image(pixels(shape, dtype), affine, dtype=dtype).to_filename(source)
        scan = read_labels(source)
        ((data, attributes, _),) = image_layers(scan, "labels")
        levels = {"multiscale": True} if has_levels else {}
        target = Path(folder) / f"saved{suffix}"
        write_layer(str(target), [data, data[::2, ::2, ::2]] if has_levels else data, attributes | levels)
        back = read_labels(target)
        turn = turn_between(scan, back)
        assert np.array_equal(turn.apply(np.asarray(back.data)), scan.data)
        assert sorted(back.spacing) == pytest.approx(sorted(scan.spacing), rel=1e-5)
