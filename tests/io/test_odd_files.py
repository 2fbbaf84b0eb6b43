"""Files as other programs write them: units, missing parts, several images in one, names that mislead, byte orders."""

from __future__ import annotations

import gzip
import re

import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from napari_mlbseg._util import arrays
from napari_mlbseg.io import readers, tiff
from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.io.files import read_image, read_labels, write_result
from napari_mlbseg.io.image_file import ImageFileError, default_slice_axis
from napari_mlbseg.io.readers import get_reader, read_layers

STACK = np.arange(6 * 8 * 10, dtype=np.uint16).reshape(6, 8, 10)


def imagej(path, unit: str | bytes, spacing: str = "3.0"):
    text = f"ImageJ=1.53t\nimages=6\nslices=6\nunit=XXYY\nspacing={spacing}\nloop=false\n".encode()
    raw = unit if isinstance(unit, bytes) else unit.encode()
    description = text.replace(b"XXYY", raw)
    tifffile.imwrite(path, STACK, description=description, metadata=None, resolution=(2, 2), resolutionunit=1)
    return read_image(path)


def ome_zarr(path, array, axes="zyx", scale=(2, 0.5, 0.5), units=(), group_options=None):
    group = zarr.open_group(path, mode="a", **(group_options or {}))
    group.create_array("0", data=array)
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis, unit in zip(described, units, strict=False):
        axis["unit"] = unit
    step = {"type": "scale", "scale": list(scale)}
    datasets = [{"path": "0", "coordinateTransformations": [step]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": described, "datasets": datasets}]}
    return path


# -- units -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "unit"),
    [("angstrom", "angstrom"), ("\\u00C5", "angstrom"), ("meter", "m"), ("micrometers", "um"), ("\\u00b5m", "um"),
     ("microns", "um"), ("µm".encode("latin1"), "um"), ("millimetre", "mm"), ("inches", "inch")],
)  # fmt: skip
def test_units_have_one_spelling_and_keep_their_distances(tmp_path, written, unit):
    image = imagej(tmp_path / "stack.tif", written)
    assert (image.unit, image.spacing, image.notes) == (unit, (3, 0.5, 0.5), ())
    assert read_layers(str(tmp_path / "stack.tif"))[0][1]["units"] == [unit] * 3
    result = read_image(write_result(tmp_path / "result", np.zeros((6, 8, 10), np.uint8), image.grid, 0))
    assert (result.unit, result.spacing) == (unit, (3, 0.5, 0.5))


def test_a_unit_that_nobody_knows_keeps_proportions_and_is_said(tmp_path):
    with pytest.warns(UserWarning, match="'furlong'"):
        read_layers(str(tmp_path / imagej(tmp_path / "stack.tif", "furlong").path.name))
    image = read_image(tmp_path / "stack.tif")
    assert (image.unit, image.spacing) == ("pixel", (3, 0.5, 0.5))
    assert "'furlong'" in image.notes[0]


def test_a_negative_spacing_is_a_distance_and_is_said(tmp_path):
    image = imagej(tmp_path / "stack.tif", "um", "-3.0")
    assert image.spacing == (3, 0.5, 0.5)
    assert "negative spacing" in image.notes[0]


def test_axes_in_different_units_are_brought_to_one(tmp_path):
    sizes = {"PhysicalSizeX": 500.0, "PhysicalSizeY": 500.0, "PhysicalSizeZ": 2.0}
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm", "PhysicalSizeZUnit": "µm"}
    tifffile.imwrite(tmp_path / "u.ome.tif", STACK, metadata={"axes": "ZYX", **sizes, **units})
    words = ("micrometer", "nanometer", "nanometer")
    ome_zarr(tmp_path / "u.zarr", STACK, scale=(2, 500, 500), units=words)
    for path in (tmp_path / "u.ome.tif", tmp_path / "u.zarr"):
        image = read_image(path)
        assert (image.unit, image.spacing, default_slice_axis(image)) == ("nm", (2000, 500, 500), 0)


def test_angstroms_survive_in_zarr(tmp_path):
    image = read_image(ome_zarr(tmp_path / "tomogram.zarr", STACK, units=("angstrom",) * 3))
    assert image.unit == "angstrom"
    out = write_result(tmp_path / "result", np.zeros(STACK.shape, np.uint8), image.grid, 0)
    axes = zarr.open(out, mode="r").attrs["ome"]["multiscales"][0]["axes"]
    assert [axis["unit"] for axis in axes] == ["angstrom"] * 3


# -- several files, several images -------------------------------------------------------------------------------


def test_an_image_of_several_files_needs_all_of_them(tmp_path):
    names = ("first.ome.tif", "second.ome.tif")
    uuids = [f"urn:uuid:{n:08d}-0000-0000-0000-000000000000" for n in (1, 2)]
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z % 3}" PlaneCount="1">'
        f'<UUID FileName="{names[z // 3]}">{uuids[z // 3]}</UUID></TiffData>'
        for z in range(6)
    )
    for part, name in enumerate(names):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuids[part]}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            'SizeX="10" SizeY="8" SizeZ="6" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(tmp_path / name, ome=False) as file:
            for z in range(3):
                text = xml if z == 0 else None
                file.write(STACK[3 * part + z], description=text, metadata=None, contiguous=False)
    assert np.array_equal(read_image(tmp_path / names[0]).data, STACK)
    (tmp_path / names[1]).unlink()
    with pytest.raises(ImageFileError, match=r"one of 2 files of an image, and second\.ome\.tif is missing"):
        read_image(tmp_path / names[0])


def test_pages_that_were_written_one_by_one_are_a_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "loop.tif") as file:
        for page in STACK:
            file.write(page)
    image = read_image(tmp_path / "loop.tif")
    assert image.axes == "ZYX"
    assert np.array_equal(image.data, STACK)


def advised(words: str) -> list[str]:
    """What a sentence advises to give instead."""
    return re.sub(r".*(?:as|one array,|of one,) ", "", words).rstrip(".").split(", ")


def test_each_image_of_a_tiff_file_can_be_named_as_it_is_advised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tifffile.TiffWriter("two.ome.tif") as file:
        file.write(STACK[:, :5], metadata={"axes": "ZYX"})
        file.write(STACK, metadata={"axes": "ZYX"})
    image = read_image("two.ome.tif")
    assert np.array_equal(image.data, STACK), "the largest"
    (other,) = advised(image.notes[0])
    named = read_image(other)
    assert np.array_equal(named.data, STACK[:, :5])
    assert write_result("out", np.zeros((6, 5, 10), np.uint8), named.grid, 0).name == "out.tif"
    assert get_reader(other) is not None
    source = FileSource.of(named.path, "image", named.data)  # of a study, read again when it is needed
    assert np.array_equal(FileArray(source).read(), STACK[:, :5])
    with pytest.raises(ImageFileError, match="holds images 0 to 1"):
        read_image("two.ome.tif#2")


def test_images_and_labels_inside_a_zarr_folder_are_found_by_what_they_hold(tmp_path):
    layout = zarr.open_group(tmp_path / "converted.zarr", mode="w")
    layout.attrs["bioformats2raw.layout"] = 3
    ome_zarr(tmp_path / "converted.zarr" / "0", STACK[None, None], "tczyx", (1, 1, 2, 0.5, 0.5))
    image = ome_zarr(tmp_path / "image.zarr", STACK)
    ome_zarr(image / "labels" / "nuclei", (STACK > 100).astype(np.int32))
    for path in ("converted.zarr", "converted.zarr/0", "converted.zarr/0/0", "image.zarr", "image.zarr/labels/nuclei"):
        found = read_image(tmp_path / path)
        assert found.stack_shape == STACK.shape, path
        assert get_reader(str(tmp_path / path)) is not None
    labels = read_labels(tmp_path / "image.zarr" / "labels" / "nuclei")
    written = write_result(tmp_path / "result", np.asarray(labels.data), labels.grid, 0)
    assert written.name == "result.zarr"
    assert np.array_equal(read_image(written).data, labels.data)


def test_of_several_images_or_arrays_in_a_folder_each_can_be_named_as_it_is_advised(tmp_path):
    for name in ("a", "b"):
        ome_zarr(tmp_path / "images.zarr" / name, STACK)
        zarr.open_group(tmp_path / "arrays.zarr", mode="a").create_array(name, data=STACK)
    zarr.open_group(tmp_path / "images.zarr", mode="a")
    for folder in ("images.zarr", "arrays.zarr"):
        with pytest.raises(ImageFileError) as caught:
            read_image(tmp_path / folder)
        paths = advised(str(caught.value))
        assert len(paths) == 2
        assert all(np.array_equal(read_image(path).data, STACK) for path in paths)


# -- names, axes and number types --------------------------------------------------------------------------------


def test_what_a_file_holds_decides_and_not_its_name(tmp_path):
    nibabel.Nifti1Image(STACK.T.astype(np.int16), np.diag([0.5, 0.5, 2, 1])).to_filename(tmp_path / "a.nii")
    plain = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    tifffile.imwrite(tmp_path / "b.tif", STACK, metadata={"axes": "ZYX"})
    (tmp_path / "tiff.nii").write_bytes((tmp_path / "b.tif").read_bytes())
    for name in ("plain.nii.gz", "packed.nii"):
        image = read_image(tmp_path / name)
        assert np.array_equal(np.asarray(image.data).T, STACK)
        assert image.spacing == (0.5, 0.5, 2)
        write_result(tmp_path / "result", np.zeros((6, 10, 8), np.uint8), image.grid, 2)
    assert np.array_equal(read_image(tmp_path / "tiff.nii").data, STACK)


def test_a_movie_is_sliced_along_time_in_every_format(tmp_path):
    ome_zarr(tmp_path / "movie.zarr", STACK, "tyx", (1, 0.5, 0.5))
    tifffile.imwrite(tmp_path / "movie.tif", STACK, imagej=True, metadata={"axes": "TYX"})
    nibabel.Nifti1Image(STACK.T[:, :, None].astype(np.int16), np.eye(4)).to_filename(tmp_path / "movie.nii")
    for name in ("movie.zarr", "movie.tif", "movie.nii"):
        image = read_image(tmp_path / name)
        assert image.stack_axes[default_slice_axis(image)] == "T"


@pytest.mark.parametrize("dtype", [bool, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".zarr", ".tif", ".nii"])
def test_labels_may_be_truth_values_or_reals(tmp_path, dtype, suffix):
    labels = (STACK > 100).astype(dtype)
    path = tmp_path / f"cells_mask{suffix}"
    if suffix == ".zarr":
        zarr.create_array(path, data=labels, chunks=(1, 8, 10))
    elif suffix == ".tif":
        tifffile.imwrite(path, labels, metadata={"axes": "ZYX"})
    else:
        stored = labels.T.astype(np.uint8) if dtype is bool else labels.T  # NIfTI knows no truth values
        nibabel.Nifti1Image(stored, np.eye(4)).to_filename(path)
    found = read_labels(path)
    assert found.data.dtype.kind in "iu"
    in_order = np.asarray(found.data[:])
    assert np.array_equal(in_order.T if suffix == ".nii" else in_order, labels)
    assert read_layers(str(path))[0][2] == "labels"


def test_reals_on_the_disk_that_are_no_label_numbers_are_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=STACK / 2, chunks=(1, 8, 10))
    with pytest.raises(ImageFileError, match=r"values such as 0\.5"):
        read_labels(tmp_path / "a.zarr")


@pytest.mark.parametrize("suffix", [".nii.gz", ".tif", ".zarr"])
@pytest.mark.parametrize("number", [3_000_000_000, 2**40])
def test_label_numbers_beyond_31_bits_are_written(tmp_path, suffix, number):
    image = tmp_path / f"image{suffix}"
    if suffix == ".zarr":
        ome_zarr(image, STACK)
    elif suffix == ".tif":
        tifffile.imwrite(image, STACK, imagej=True, metadata={"axes": "ZYX"})
    else:
        nibabel.Nifti1Image(STACK.astype(np.int16), np.eye(4)).to_filename(image)
    grid = read_image(image).grid
    written = write_result(tmp_path / "result", np.where(STACK > 100, number, 0), grid, 0)
    assert set(np.unique(np.asarray(read_labels(written).data))) == {0, number}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".tif", ".zarr"])
def test_what_becomes_a_layer_is_in_this_machines_byte_order(tmp_path, monkeypatch, suffix, large):
    if large:
        for module in (arrays, readers, tiff, readers):
            monkeypatch.setattr(module, "MAPPED_BYTES", 100)
        monkeypatch.setattr("napari_mlbseg.io.nifti.MAPPED_BYTES", 100)
    labels = np.where(STACK > 100, 2, 0).astype(">i2")
    path = tmp_path / f"cells_label{suffix}"
    if suffix == ".zarr":
        array = zarr.create_array(path, shape=labels.shape, dtype=">i2", chunks=(1, 8, 10), zarr_format=2)
        array[:] = labels
    elif suffix == ".tif":
        tifffile.imwrite(path, labels.astype(">u2"), byteorder=">", metadata={"axes": "ZYX"})
    else:
        header = nibabel.Nifti1Header(endianness=">")
        header.set_data_dtype(">i2")
        nibabel.Nifti1Image(labels.T, np.eye(4), header).to_filename(path)
    (data, _, layer_type) = read_layers(str(path))[0]
    assert layer_type == "labels"
    assert data.dtype.isnative
    part = np.asarray(data[5])
    assert part.dtype.isnative
    assert part.max() == 2


# -- contrast ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_dark_first_slice_does_not_decide_the_contrast(tmp_path, dtype):
    image = STACK.astype(dtype)
    image[:2] = 0
    zarr.create_array(tmp_path / "a.zarr", data=image, chunks=(1, 8, 10))
    assert read_layers(str(tmp_path / "a.zarr"))[0][1]["contrast_limits"] == (0, image.max())


def test_a_border_without_data_does_not_decide_the_contrast(tmp_path):
    image = STACK.astype(np.float32)
    image[:, :2] = -3.4028235e38
    tifffile.imwrite(tmp_path / "a.tif", image, metadata={"axes": "ZYX"})
    low, high = read_layers(str(tmp_path / "a.tif"))[0][1]["contrast_limits"]
    assert (low, high) == (image[:, 2:].min(), image.max())


def test_an_image_in_memory_is_left_to_napari(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, metadata={"axes": "ZYX"})
    assert "contrast_limits" not in read_layers(str(tmp_path / "a.tif"))[0][1]


def test_a_compressed_stack_of_lzw_is_read_or_it_is_said_what_is_missing(tmp_path):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", STACK, compression="lzw", metadata={"axes": "ZYX"})
    assert np.array_equal(read_image(tmp_path / "a.tif").data, STACK)
