"""What `train` writes lies where the image does: every format, label file and slice axis, through the command line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_mlbseg.cli import main as cli
from napari_mlbseg.io.files import read_image, read_labels, write_result
from napari_mlbseg.io.image_file import to_slices
from napari_mlbseg.io.layer_grid import layer_grid
from napari_mlbseg.io.orientation import turn_between
from napari_mlbseg.io.units import conversion_factor

CLASSES = 3


def save_stack(path: Path, values: np.ndarray, scale: tuple[float, ...], unit: str) -> None:
    """Write (Z, Y, X) or (Z, C, Y, X) as TIFF or zarr."""
    grid = layer_grid(path, (len(values), *values.shape[-2:]), {"scale": scale, "units": (unit,) * 3})
    write_result(path.with_suffix(""), values, grid, 0)


def save_pyramid(path: Path, values: np.ndarray, scale: tuple[float, ...]) -> None:
    """Write (Z, Y, X) as OME-Zarr of two levels, the second of every other pixel of each row and column."""
    group = zarr.open_group(path, mode="w")
    datasets = []
    for level, step in enumerate([(1, 1, 1), (1, 2, 2)]):
        taken = values[:, :: step[1], :: step[2]]
        group.create_array(str(level), data=taken, chunks=(1, *taken.shape[1:]))
        spacing = [length * times for length, times in zip(scale, step, strict=True)]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": spacing}]})
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def save_scan(path: Path, values: np.ndarray, affine: np.ndarray, unit: str) -> None:
    """Write (I, J, K) or (I, J, K, C) as NIfTI."""
    image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
    image.header.set_xyzt_units({"mm": "mm", "um": "micron"}[unit])
    image.to_filename(path)


def assert_written(image: Path, labels: np.ndarray, out: Path, clean: list[int], axis: int) -> None:
    """The results of `train` lie on the image's grid, and hold the clean slices of `labels` as they were painted."""
    source = read_image(image)
    back = read_labels(next(out.glob("pseudo_labels.*")))
    assert turn_between(source, back).is_none
    factor = conversion_factor(back.unit, source.unit)
    assert [length * factor for length in back.spacing] == pytest.approx(source.spacing, rel=1e-5)
    written = np.moveaxis(np.asarray(back.data), axis, 0)
    assert np.array_equal(written[clean], np.moveaxis(labels, axis, 0)[clean])
    assert read_image(next(out.glob("weight_initial.*"))).data.shape == labels.shape
    classes = to_slices(read_image(next(out.glob("probability.*"))), axis)
    assert classes.shape == (labels.shape[axis], CLASSES, *np.delete(labels.shape, axis))


def train(image: Path, labels: Path, out: Path, clean: list[int], axis: int) -> None:
    words = ["train", str(image), "--labels", str(labels), "--clean", ",".join(map(str, clean)), "--out", str(out)]
    assert cli.main([*words, "--slice-axis", str(axis), "--device", "cpu"]) == 0


def painted(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Labels of `CLASSES` numbers, each of which is on every slice of every axis that has room for it."""
    return (np.indices(shape).sum(0) % CLASSES).astype(dtype)


on_files = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.tuples(*[st.integers(3, 6)] * 3)
steps = st.tuples(*[st.floats(0.1, 20)] * 3)
label_dtypes = st.sampled_from(["uint8", "uint16", "int32", "int64", "uint64"])
image_dtypes = st.sampled_from(["uint8", "uint16", "int16", "float32"])


@on_files
@given(
    suffix=st.sampled_from([".tif", ".zarr"]),
    label_suffix=st.sampled_from([".tif", ".zarr"]),
    shape=sizes,
    scale=steps,
    unit=st.sampled_from(["nm", "um", "mm"]),
    image_dtype=image_dtypes,
    label_dtype=label_dtypes,
    n_channels=st.sampled_from([0, 2]),
    has_levels=st.booleans(),
    axis=st.integers(0, 2),
)
def test_results_lie_on_the_stack(
    worker, suffix, label_suffix, shape, scale, unit, image_dtype, label_dtype, n_channels, has_levels, axis
):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, labels, out = folder / f"stack{suffix}", folder / f"painted{label_suffix}", folder / "out"
        values = np.random.default_rng(0).integers(0, 99, shape).astype(image_dtype)
        if has_levels and suffix == ".zarr":
            save_pyramid(image, values, scale)
            unit = "um"
        else:
            save_stack(image, np.stack([values] * n_channels, axis=1) if n_channels else values, scale, unit)
        truth = painted(shape, label_dtype)
        save_stack(labels, truth, scale, unit)
        clean = list(range(1, shape[axis]))
        train(image, labels, out, clean, axis)
        assert_written(image, truth, out, clean, axis)


@on_files
@given(
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    shape=sizes,
    scale=steps,
    unit=st.sampled_from(["mm", "um"]),
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from([1, -1])] * 3),
    tilt=st.floats(-0.3, 0.3),
    label_turn=st.sampled_from(["as the scan", "RAS", "LPI"]),
    n_channels=st.sampled_from([0, 2]),
    image_dtype=image_dtypes,
    label_dtype=label_dtypes,
    axis=st.integers(0, 2),
)
def test_results_lie_in_the_scan(
    worker, suffix, shape, scale, unit, order, signs, tilt, label_turn, n_channels, image_dtype, label_dtype, axis
):
    turned = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ (np.diag(scale)[:, order] * signs)
    affine[:3, 3] = (7, -3, 11)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, labels, out = folder / f"scan{suffix}", folder / f"painted{suffix}", folder / "out"
        values = np.random.default_rng(0).integers(0, 99, (*shape, n_channels)[: 4 if n_channels else 3])
        save_scan(image, values.astype(image_dtype), affine, unit)
        truth = painted(shape, label_dtype)
        save_scan(labels, truth, affine, unit)
        if label_turn != "as the scan":
            wanted = nibabel.orientations.axcodes2ornt(label_turn)
            transform = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), wanted)
            other = nibabel.orientations.apply_orientation(truth, transform)
            placed = affine @ nibabel.orientations.inv_ornt_aff(transform, shape)
            save_scan(labels, other, placed, unit)
        clean = list(range(1, shape[axis]))
        train(image, labels, out, clean, axis)
        assert_written(image, truth, out, clean, axis)
