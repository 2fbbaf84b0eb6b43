"""The command line: bad input in one line with nothing written, and jobs from files to files."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import tifffile
import zarr

from napari_mlbseg.cli import main as cli
from napari_mlbseg.cli.progress import watch
from napari_mlbseg.events import Failed
from napari_mlbseg.io.files import read_image
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.jobs import devices
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.local import LocalJob

AFFINE = np.array([[-2.0, 0, 0, 60], [0, 1.9, -0.6, -50], [0, 0.5, 2.2, 13], [0, 0, 0, 1]], dtype=np.float32)
QUICK = [
    "--steps",
    "2",
    "--time-budget",
    "120",
    "--set",
    "bootstrap_steps=2",
    "--set",
    "patch_size=64",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A small phantom as NIfTI and TIFF, and everything that can be wrong with such files."""
    folder = tmp_path_factory.mktemp("files")
    made = make_phantom((24, 40, 48))
    image, labels = made.image.T.astype(np.int16), made.labels.T

    def save(name: str, data: np.ndarray) -> None:
        nibabel.Nifti1Image(data, AFFINE).to_filename(folder / f"{name}.nii.gz")

    save("scan", image)
    save("scan_label", labels)
    save("labels_of_another_shape", labels[:-1])
    save("labels_float", labels + np.float32(0.5))
    save("labels_negative", labels.astype(np.int16) - 1)
    both = labels.copy()
    both[0, 0, 23] = 7
    save("labels_with_a_rare_class", both)
    save("empty", np.zeros((48, 40, 0), np.int16))
    save("nan", np.full(image.shape, np.nan, np.float32))
    save("one_slice", image[:, :, 12:13])
    save("one_slice_label", labels[:, :, 12:13])
    whole = (folder / "scan.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("no image")
    (folder / "a_file").touch()
    tifffile.imwrite(
        folder / "stack.tif", made.image, imagej=True, resolution=(0.5, 0.5), metadata={"spacing": 2.2, "unit": "mm"}
    )
    tifffile.imwrite(folder / "stack_label.tif", made.labels, imagej=True)
    return folder


GOOD = {"images": ["scan.nii.gz"], "--labels": "scan_label.nii.gz", "--clean": "6,12,18", "--device": "cpu"}
BAD = {
    "no clean slice": ({"--clean": ""}, "No slice is marked clean: paint at least one"),
    "nothing painted": ({"--clean": "0"}, "Nothing is painted on the clean slices"),
    "labels of another shape": (
        {"--labels": "labels_of_another_shape.nii.gz"},
        r"has 47 \(i\) x 40 \(j\) x 24 \(k\) voxels but scan.nii.gz has 48 \(i\)",
    ),
    "clean slice outside": ({"--clean": "6,24"}, "Slice 24 is given as clean but 'scan' has slices 0 to 23"),
    "clean slice below": ({"--clean": "6,-1"}, "Slice -1 is given as clean"),
    "float labels": ({"--labels": "labels_float.nii.gz"}, "holds values such as 0.5, which are no label numbers"),
    "negative labels": ({"--labels": "labels_negative.nii.gz"}, "negative number -1: label numbers start at 0"),
    "empty image": (
        {"images": ["empty.nii.gz"], "--labels": "empty.nii.gz"},
        "(is empty|cannot be read|outside|slice)",
    ),
    "all NaN": ({"images": ["nan.nii.gz"]}, "holds no number, only NaN"),
    "one slice": (
        {"images": ["one_slice.nii.gz"], "--labels": "one_slice_label.nii.gz", "--clean": "0"},
        "only one slice: at least two are needed",
    ),
    "truncated": ({"images": ["truncated.nii.gz"]}, "truncated or damaged: copy or export it again"),
    "unreadable": ({"images": ["text.nii.gz"]}, "truncated or damaged"),
    "missing": ({"images": ["missing.nii.gz"]}, "does not exist: check its name"),
    "missing labels": ({"--labels": "missing.nii.gz"}, "does not exist: check its name"),
    "unknown format": ({"images": ["a_file"]}, "no NIfTI, TIFF or zarr"),
    "unknown preset": ({"--preset": "fast"}, "no preset 'fast': choose one of quick, standard, paper"),
    "unknown field": ({"--set": "views=3"}, "no parameter 'views': the parameters are"),
    "field without value": ({"--set": "n_views"}, "lacks a value: write --set FIELD=VALUE"),
    "preset as a field": ({"--set": "preset=quick"}, "choose it with --preset"),
    "value out of bounds": ({"--set": "n_views=0"}, "'n_views' cannot be '0'.*greater than or equal to 1"),
    "value of another type": ({"--time-budget": "soon"}, "'time_budget' cannot be 'soon'"),
    "folder below a file": ({"--out": "a_file/out"}, "a_file is a file, so .* choose another --out"),
    "unknown device": ({"--device": "tpu"}, "no device 'tpu': choose one of auto, cpu, cuda, mps"),
    "unknown slice axis": ({"--slice-axis": "3"}, "no slice axis '3'"),
    "unknown source": ({"--initial-labels": "guess"}, "guess is no source"),
    "no slice numbers": ({"--clean": "six"}, "six is no list of slice numbers: write them as 12,24,36"),
    "clean of another image": ({"--clean": "other:6"}, "'other' that is not there: the images are scan"),
    "no model": ({"--resume": "."}, "holds no trained model"),
    "two images of one label": ({"images": ["scan.nii.gz", "stack.tif"]}, "2 images and 1 labels"),
    "missing option": ({"--labels": None}, "required: --labels"),
    "unknown option": ({"--fast": "1"}, "--fast"),
}


def arguments(changes: dict) -> list[str]:
    options = {**GOOD, "--out": "out", **changes}
    words = ["train", *options.pop("images")]
    for option, value in options.items():
        words += [] if value is None else [option, value] if not value.startswith("-") else [f"{option}={value}"]
    return words


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_writes_nothing(files, case, monkeypatch, capsys):
    changes, words = BAD[case]
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    assert cli.main(arguments(changes)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("napari-mlbseg: ")
    assert re.search(words, captured.err), captured.err
    assert sorted(files.rglob("*")) == before


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr(devices, "available_devices", lambda: ("cpu",))
    assert cli.main(arguments({"--device": "cuda"})) == 2
    assert "The device 'cuda' is not there: choose cpu, or auto." in capsys.readouterr().err
    assert not (files / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert cli.main(arguments({})) == 2
    assert "cannot be written: choose another --out" in capsys.readouterr().err


def test_the_console_script_says_it_in_one_line_too(files):
    command = [sys.executable, "-m", "napari_mlbseg", *arguments({"images": ["missing.nii"]})]
    answer = subprocess.run(command, cwd=files, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "napari-mlbseg: missing.nii does not exist: check its name.\n"


# -- a job whose worker is played by the test --------------------------------------------------------------------


TRAINED = ("pseudo_labels", "probability", "weight_initial", "weight_pseudo", "view_agreement")


def test_train_writes_results_in_the_space_of_the_image_and_a_report(files, worker, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(files)
    assert cli.main(arguments({"--out": str(tmp_path / "new" / "out")})) == 0
    out = tmp_path / "new" / "out"
    printed = [Path(line) for line in capsys.readouterr().out.split()]
    assert printed == [*(out / f"{name}.nii.gz" for name in TRAINED), out / "report.json"]
    for path in printed[:-1]:
        image = nibabel.load(path)
        assert image.shape[:3] == (48, 40, 24)
        assert np.array_equal(image.affine, nibabel.load(files / "scan.nii.gz").affine)
    labels = np.asarray(nibabel.load(out / "pseudo_labels.nii.gz").dataobj)
    truth = np.asarray(nibabel.load(files / "scan_label.nii.gz").dataobj)
    assert np.array_equal(labels[:, :, [6, 12, 18]], truth[:, :, [6, 12, 18]])
    assert not labels[:, :, [5, 13]].any()  # only the clean slices were handed on

    report = json.loads((out / "report.json").read_text())
    assert report["config"]["preset"] == "quick"
    assert (report["steps"], report["seconds_to_first_preview"], report["peak_memory_bytes"]) == (5, 0.5, 123)
    assert report["seconds_per_stage"] == {"prepare": 2, "train": 5}
    assert report["config"]["time_budget"] == 60  # as it was asked for
    assert worker[0].folder.read_request().config.time_budget < 60  # writing the results takes time, too


@pytest.mark.parametrize("option", ["--labels", "--initial-labels"])
def test_labels_that_lie_elsewhere_are_refused(files, monkeypatch, tmp_path, capsys, option):
    monkeypatch.chdir(files)
    moved = AFFINE.copy()
    moved[2, 3] += 5
    labels = nibabel.load(files / "scan_label.nii.gz")
    nibabel.Nifti1Image(np.asarray(labels.dataobj), moved).to_filename(tmp_path / "moved.nii.gz")
    assert cli.main(arguments({option: str(tmp_path / "moved.nii.gz"), "--out": str(tmp_path / "out")})) == 2
    said = capsys.readouterr().err
    assert re.search(r"moved.nii.gz lies elsewhere in the world than scan.nii.gz .*2\.\d+ voxels.*resample", said)
    assert not (tmp_path / "out").exists()


def test_labels_in_another_orientation_are_turned_and_it_is_said(files, worker, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(files)
    turned = nibabel.as_closest_canonical(nibabel.load(files / "scan_label.nii.gz"))
    turned.to_filename(tmp_path / "ras.nii.gz")
    ras = str(tmp_path / "ras.nii.gz")
    assert cli.main(arguments({"--labels": ras, "--initial-labels": ras, "--out": str(tmp_path / "out")})) == 0
    assert "another orientation than scan.nii.gz: it was turned" in " ".join(capsys.readouterr().err.split())
    task = worker[0].folder.open_task(worker[0].folder.read_request())
    truth = np.asarray(nibabel.load(files / "scan_label.nii.gz").dataobj).transpose(2, 0, 1)
    for z in task.volumes[0].clean_slices:
        assert np.array_equal(task.volumes[0].label_slice(z), truth[z])
    assert np.array_equal(np.asarray(task.volumes[0].initial_labels[:]), truth)
    assert cli.main(["evaluate", ras, "scan_label.nii.gz"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"]["1"]["dice"] == 1


def test_an_affine_that_is_only_rounded_is_not_told(files, worker, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(files)
    labels = nibabel.load(files / "scan_label.nii.gz")
    rounded = AFFINE + np.float32(1e-3)
    nibabel.Nifti1Image(np.asarray(labels.dataobj), rounded).to_filename(tmp_path / "rounded.nii.gz")
    words = {"--labels": str(tmp_path / "rounded.nii.gz"), "--out": str(tmp_path / "out")}
    assert cli.main(arguments(words)) == 0
    assert "elsewhere" not in capsys.readouterr().err


def test_train_on_tiff_keeps_its_spacing(files, worker, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    out = tmp_path / "out"
    changes = {"images": ["stack.tif"], "--labels": "stack_label.tif", "--clean": "6,12", "--out": str(out)}
    assert cli.main(arguments(changes)) == 0
    with tifffile.TiffFile(out / "probability.tif") as file:
        assert file.series[0].axes == "ZCYX"
        assert file.imagej_metadata["spacing"] == 2.2
        assert file.pages[0].tags["XResolution"].value == (1, 2)


def test_train_on_zarr_copies_nothing_and_writes_zarr(files, worker, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = make_phantom((24, 40, 48))
    for name, data in (("stack", made.image), ("stack_label", made.labels)):
        zarr.create_array(tmp_path / f"{name}.zarr", shape=data.shape, chunks=(1, 16, 16), dtype=data.dtype)[:] = data
    changes = {"images": ["stack.zarr"], "--labels": "stack_label.zarr", "--clean": "6,12", "--out": "out"}
    assert cli.main(arguments(changes)) == 0
    image = worker[0].folder.read_request().volumes[0].image
    assert (image.format, image.path) == ("zarr", str(tmp_path / "stack.zarr"))
    assert read_image(tmp_path / "out" / "probability.zarr").axes == "ZCYX"
    labels = np.asarray(read_image(tmp_path / "out" / "pseudo_labels.zarr").data)
    assert np.array_equal(labels[12], made.labels[12])


def test_images_inside_a_zarr_folder_are_images(files, worker, monkeypatch, tmp_path):
    """A zarr folder holds its scales, and labels (OME-NGFF), as folders of no suffix of their own."""
    monkeypatch.chdir(tmp_path)
    made = make_phantom((24, 40, 48))
    group = zarr.create_group(tmp_path / "stack.zarr")
    for name, data in (("0", made.image), ("labels/heart/0", made.labels)):
        group.create_array(name, shape=data.shape, chunks=(1, 16, 16), dtype=data.dtype)[:] = data
    changes = {"images": ["stack.zarr/0"], "--labels": "stack.zarr/labels/heart/0", "--clean": "6,12", "--out": "out"}
    assert cli.main(arguments(changes)) == 0
    image = worker[0].folder.read_request().volumes[0].image
    assert image.path == str(tmp_path / "stack.zarr" / "0")
    labels = np.asarray(read_image(tmp_path / "out" / "pseudo_labels.zarr").data)
    assert np.array_equal(labels[12], made.labels[12])


def test_several_images_have_a_folder_each(files, worker, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    words = ["train", "scan.nii.gz", "stack.tif", "--labels", "scan_label.nii.gz", "stack_label.tif"]
    words += ["--clean", "scan:6,12;stack:3", "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main([*words, "--initial-labels", "scan_label.nii.gz", "stack_label.tif"]) == 0
    assert (tmp_path / "out" / "scan" / "pseudo_labels.nii.gz").exists()
    assert (tmp_path / "out" / "stack" / "view_agreement.tif").exists()
    request = worker[0].folder.read_request()
    assert [volume.clean for volume in request.volumes] == [(6, 12), (3,)]
    assert all(volume.initial_labels for volume in request.volumes)
    assert request.config.initial_labels == "given"


def test_options_reach_the_config(files, worker, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    options = {
        "--preset": "paper",
        "--seed": "7",
        "--steps": "11",
        "--set": "features=8,16",
        "--out": str(tmp_path / "o"),
    }
    options |= {"--initial-labels": "interpolation", "--slice-axis": "0", "--clean": "20,30", "--time-budget": "none"}
    assert cli.main(arguments(options)) == 0
    request = worker[0].folder.read_request()
    config = request.config
    assert (config.preset, config.seed, config.steps, config.features) == ("paper", 7, 11, (8, 16))
    assert (config.initial_labels, config.device, config.time_budget) == ("interpolation", "cpu", None)
    assert worker[0].folder.open_task(request).volumes[0].shape == (48, 40, 24)


def test_predict_uses_the_model_and_the_slice_axis_of_the_training(files, worker, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(files)
    round_dir, out = str(tmp_path / "round"), tmp_path / "out"
    assert cli.main(arguments({"--slice-axis": "1", "--clean": "20", "--out": round_dir})) == 0
    capsys.readouterr()
    assert cli.main(["predict", round_dir, "scan.nii.gz", "--out", str(out), "--device", "cpu"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.split()]
    assert names == ["pseudo_labels.nii.gz", "probability.nii.gz", "view_agreement.nii.gz", "report.json"]
    request = worker[1].folder.read_request()
    assert (request.kind, request.previous, request.class_values) == ("predict", round_dir, (0, 1))
    assert worker[1].folder.open_task(request).volumes[0].shape == (40, 48, 24)
    report = json.loads((out / "report.json").read_text())
    assert (report["slice_axis"], report["slice_axes"]["scan"]["name"]) == (1, "j")


def test_a_scan_of_thin_slices_is_predicted_along_the_axis_that_the_model_has_learnt(
    files, worker, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(files)
    round_dir, thin = str(tmp_path / "round"), tmp_path / "thin.nii.gz"
    assert cli.main(arguments({"--out": round_dir})) == 0
    (tmp_path / "round" / "report.json").unlink()  # the model itself knows
    scan = np.asarray(nibabel.load(files / "scan.nii.gz").dataobj).transpose(2, 0, 1)  # k first
    affine = AFFINE[:, [2, 0, 1, 3]] @ np.diag([0.2, 1, 1, 1])
    nibabel.Nifti1Image(scan, affine).to_filename(thin)
    capsys.readouterr()
    predict = ["predict", round_dir, str(thin), "--device", "cpu", "--out"]
    assert cli.main([*predict, str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "'thin' is sliced along axis 0 (i) as the model has learnt it, not along axis 1 (j)" in said
    assert json.loads((tmp_path / "out" / "report.json").read_text())["slice_axis"] == 0
    assert cli.main([*predict, str(tmp_path / "other"), "--slice-axis", "1"]) == 0
    assert json.loads((tmp_path / "other" / "report.json").read_text())["slice_axis"] == 1


def test_predict_refuses_what_does_not_fit(files, worker, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(files)
    round_dir = str(tmp_path / "round")
    assert cli.main(arguments({"--out": round_dir})) == 0
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((5, 2, 6, 7), np.uint8), imagej=True, metadata={"axes": "ZCYX"})
    for words, complaint in (
        ([str(tmp_path), "scan.nii.gz"], "holds no trained model"),
        ([round_dir, str(tmp_path / "two.tif")], "has 2 channels but the model was trained on 1"),
        ([round_dir, "scan.nii.gz", "scan.nii.gz"], "same name"),
    ):
        assert cli.main(["predict", *words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
        assert complaint in capsys.readouterr().err
    assert cli.main(["predict", round_dir, "scan.nii.gz", "--out", round_dir, "--device", "cpu"]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_job_that_fails_says_why_and_leaves_a_report(files, monkeypatch, tmp_path, capsys):
    def start(job: LocalJob, *, bound: bool = False) -> None:
        job.folder.append_event(Failed(message="The worker was killed.", advice="Close other programs."))
        job._state = JobState.RUNNING

    monkeypatch.setattr(LocalJob, "start", start)
    monkeypatch.chdir(files)
    assert cli.main(arguments({"--out": str(tmp_path / "out")})) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "The worker was killed. Close other programs." in captured.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["error"] == "The worker was killed."


def test_evaluate_prints_scores_as_json(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert cli.main(["evaluate", "scan_label.nii.gz", "scan_label.nii.gz", "--exclude", "6,12"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["classes"] == {"1": {"dice": 1.0, "jaccard": 1.0, "hd95": 0.0, "asd": 0.0}}
    assert (scores["unit"], scores["slice_axis"], scores["exclude"]) == ("mm", 2, [6, 12])
    assert cli.main(["evaluate", "labels_with_a_rare_class.nii.gz", "scan_label.nii.gz"]) == 0
    rare = json.loads(capsys.readouterr().out)["classes"]["7"]
    assert rare == {"dice": 0.0, "jaccard": 0.0, "hd95": None, "asd": None}
    assert cli.main(["evaluate", "labels_of_another_shape.nii.gz", "scan_label.nii.gz"]) == 2
    assert cli.main(["evaluate", "scan_label.nii.gz", "scan_label.nii.gz", "--exclude", "99"]) == 2


@pytest.mark.slow
def test_train_and_predict_for_real(files, tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "napari_mlbseg", *words]
        return subprocess.run(command, cwd=files, capture_output=True, text=True, check=False)

    round_dir, out = tmp_path / "round", tmp_path / "out"
    trained = run(*arguments({"--out": str(round_dir), "--initial-labels": "interpolation"}), *QUICK)
    assert trained.returncode == 0, trained.stderr
    assert len(trained.stdout.split()) == 6
    report = json.loads((round_dir / "report.json").read_text())
    assert (report["outcome"], report["reason"], report["metrics"]["steps"]) == ("finished", "steps", 2)
    assert report["seconds_to_first_preview"] < report["seconds"]
    assert report["peak_memory_bytes"] > 50e6
    probability = np.asarray(nibabel.load(round_dir / "probability.nii.gz").dataobj)
    assert np.allclose(probability.sum(axis=-1), 1, atol=0.01)

    predicted = run("predict", str(round_dir), "scan.nii.gz", "--out", str(out), "--device", "cpu")
    assert predicted.returncode == 0, predicted.stderr
    labels = np.asarray(nibabel.load(out / "pseudo_labels.nii.gz").dataobj)
    assert set(np.unique(labels)) <= {0, 1}
    assert labels.shape == (48, 40, 24)


def test_a_forgotten_number_on_another_slice_is_said_and_not_learnt(files, worker, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    words = {"--labels": "labels_with_a_rare_class.nii.gz", "--out": str(tmp_path / "out")}
    assert cli.main(arguments(words)) == 0
    request = worker[0].folder.read_request()
    assert request.class_values == (0, 1)
    assert request.note == "Label 7 (slice 23 of 'scan') occurs on no clean slice: it is not learnt."


@pytest.mark.parametrize("dtype", [np.longlong, np.ulonglong, np.int64, ">i8"])
def test_labels_may_have_64_bits(files, worker, monkeypatch, tmp_path, dtype):
    monkeypatch.chdir(files)
    labels = tifffile.imread("stack_label.tif").astype(dtype)
    tifffile.imwrite(tmp_path / "wide.tif", labels, metadata={"axes": "ZYX"})
    words = {"images": ["stack.tif"], "--labels": str(tmp_path / "wide.tif"), "--out": str(tmp_path / "out")}
    assert cli.main(arguments(words)) == 0
    task = worker[0].folder.open_task(worker[0].folder.read_request())
    assert np.array_equal(task.volumes[0].label_slice(12), labels[12])


@pytest.mark.parametrize("was_there", [False, True])
def test_a_job_that_cannot_be_written_leaves_nothing(files, monkeypatch, tmp_path, capsys, was_there):
    monkeypatch.chdir(files)
    out = tmp_path / "new" / "out"
    if was_there:
        out.mkdir(parents=True)
        (out / "mine.txt").touch()

    def fill_the_disk(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("napari_mlbseg.jobs.folder.store_slices", fill_the_disk)
    assert cli.main(arguments({"--out": str(out)})) == 2
    assert f"{out}: No space left on device (make room there" in " ".join(capsys.readouterr().err.split())
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == (["mine.txt", "new", "out"] if was_there else [])


def test_results_that_find_no_room_are_a_failure(files, worker, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(files)

    def fill_the_disk(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out" / "probability.nii.gz"))

    monkeypatch.setattr("napari_mlbseg.jobs.report.write_result", fill_the_disk)
    assert cli.main(arguments({"--out": str(tmp_path / "out")})) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot be written to" in said
    assert "probability.nii.gz (No space left on device): make room there" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--set": "context=1"}, "context: 0 there, 1 here"),
        ({"--set": "label_kind=instances"}, "label numbers: (0, 1) there, (0, 1, 2) here"),
    ],
)
def test_a_model_that_does_not_fit_is_not_started_from(files, worker, monkeypatch, tmp_path, capsys, changes, words):
    monkeypatch.chdir(files)
    assert cli.main(arguments({"--out": str(tmp_path / "first")})) == 0
    resumed = {"--resume": str(tmp_path / "first"), "--out": str(tmp_path / "second")}
    assert cli.main(arguments(resumed | changes)) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "second").exists()
    assert cli.main(arguments(resumed)) == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
def test_a_terminal_that_is_closed_ends_the_worker_and_keeps_what_there_is(files, tmp_path):
    out = tmp_path / "out"
    words = [
        *arguments({"--out": str(out), "--time-budget": "none", "--steps": "100000"}),
        "--set",
        "bootstrap_steps=5",
    ]
    command = subprocess.Popen(
        [sys.executable, "-m", "napari_mlbseg", *words], cwd=files, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    events_file = out / "events.jsonl"
    while command.poll() is None and not (events_file.exists() and '"losses"' in events_file.read_text()):
        time.sleep(0.1)
    worker = psutil.Process(json.loads((out / "heartbeat").read_text())["pid"])
    command.send_signal(signal.SIGHUP)
    assert command.wait(60) == 130
    worker.wait(60)
    assert (out / "pseudo_labels.nii.gz").exists()


class _Interrupting:
    """Ctrl+C reaches the process while this is being thrown away: an exception raised then goes nowhere."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class _Job:
    """Runs until it is asked to stop."""

    state = JobState.RUNNING

    def poll(self) -> list:
        _Interrupting()
        return []

    def cancel(self) -> None:
        self.state = JobState.CANCELLED


def test_ctrl_c_stops_a_job_wherever_it_is_noticed():
    before = signal.getsignal(signal.SIGINT)
    interrupted, _ = watch(_Job())
    assert interrupted
    assert signal.getsignal(signal.SIGINT) is before
