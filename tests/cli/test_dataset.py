"""Training on a study and adding one to a session: tables and folders, from files to files."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import tifffile

from napari_mlbseg.cli import main as cli
from napari_mlbseg.events import Finished, FinishReason
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.session.persistence.loader import load_session

NAMES = ("a", "b", "c", "d")
TABLE = """image,labels,clean,slice_axis
a.tif,truth/a.tif,3;6,
b.tif,truth/b_label.tif,"5, 7",
c.tif,,,0
d.tif,,,
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four phantoms as TIFF, labels of two of them in a folder of their own, and a table of it all."""
    path = tmp_path_factory.mktemp("study")
    (path / "truth").mkdir()
    for seed, name in enumerate(NAMES):
        phantom = make_phantom((12, 32, 40), seed)
        metadata = {"spacing": 4.0, "unit": "mm"}
        tifffile.imwrite(path / f"{name}.tif", phantom.image, imagej=True, metadata=metadata)
        if name in "ab":
            suffix = "_label" if name == "b" else ""
            tifffile.imwrite(path / "truth" / f"{name}{suffix}.tif", phantom.labels, imagej=True)
    (path / "study.csv").write_text(TABLE)
    return path


@pytest.fixture
def study(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def requests(monkeypatch):
    """Replaces the worker: it only says that it is done. Gives the folders of the jobs."""
    folders: list[JobFolder] = []

    def start(job: LocalJob, *, bound: bool = False) -> None:
        job.folder.append_event(Finished(reason=FinishReason.STEPS, steps=1, seconds=1))
        job._state = JobState.RUNNING
        folders.append(job.folder)

    monkeypatch.setattr(LocalJob, "start", start)
    return folders


FORMS = {
    "table": ["study.csv"],
    "folder": [".", "--labels", "truth", "--clean", "a:3,6;b:5,7"],
    "files": ["a.tif", "b.tif", "c.tif", "d.tif", "--labels", "truth", "--clean", "a:3,6;b:5,7"],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_study_is_the_same_task(study, requests, tmp_path, form):
    assert cli.main(["train", *FORMS[form], "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    (folder,) = requests
    request = folder.read_request()
    assert [(volume.name, volume.clean) for volume in request.volumes] == [
        ("a", (3, 6)),
        ("b", (5, 7)),
        ("c", ()),
        ("d", ()),
    ]
    assert not list(folder.path.rglob("*.npy")), "the worker reads the images"
    folder.fetch_inputs(request)
    volumes = folder.open_task(request).volumes
    for seed, volume in enumerate(volumes):
        phantom = make_phantom((12, 32, 40), seed)
        assert isinstance(volume.image, np.memmap)
        assert np.array_equal(volume.image, phantom.image)
        assert all(np.array_equal(volume.labels[z], phantom.labels[z]) for z in volume.clean_slices)
        assert not any(np.any(volume.labels[z]) for z in volume.unlabelled_slices)


def test_a_table_has_initial_labels_and_a_slice_axis_for_each(study, requests, tmp_path):
    (tmp_path / "s.csv").write_text(
        f"image;labels;clean;initial_labels;slice_axis\n{study}/a.tif;{study}/truth/a.tif;20,25;{study}/truth/a.tif;1\n"
        f"{study}/c.tif;;;;\n"
    )
    assert cli.main(["train", str(tmp_path / "s.csv"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    request = requests[0].read_request()
    requests[0].fetch_inputs(request)
    first, second = requests[0].open_task(request).volumes
    assert (first.shape, second.shape) == ((32, 12, 40), (12, 32, 40))
    assert request.config.initial_labels == "given"
    assert np.array_equal(first.initial_labels, make_phantom((12, 32, 40), 0).labels.transpose(1, 0, 2))
    assert second.initial_labels is None


BAD = {
    "options beside a table": (None, ["study.csv", "--clean", "3"], "cannot be given beside study.csv"),
    "images beside a table": (None, ["study.csv", "a.tif"], "list all of them in the table"),
    "no labels": (None, [".", "--clean", "a:3"], "required: --labels"),
    "a folder without labels": (None, [".", "--labels", "none", "--clean", "a:3"], "has no labels for these images"),
    "clean without labels": (None, [".", "--labels", "truth", "--clean", "c:3"], "'c' has clean slices but no labels"),
    "no numbers": ("image,labels,clean\na.tif,truth/a.tif,six\n", [], "Row 2 of bad.csv: 'six' is no list"),
    "no quotes": ("image,labels,clean\na.tif,truth/a.tif,3,6\n", [], "Row 2 of bad.csv has more cells"),
    "no label file": ("image,labels,clean\nc.tif,,\na.tif,,3\n", [], "Row 3 of bad.csv: it has clean slices but no"),
    "strange axis": ("image,slice_axis\na.tif,3\n", [], "Row 2 of bad.csv: there is no slice axis '3'"),
    "missing image": ("image,labels,clean\nc.tif,,\n\nz.tif,,\n", [], "Row 4 of bad.csv: .*z.tif does not exist"),
    "slice outside": ("image,labels,clean\na.tif,truth/a.tif,12\n", [], "Row 2 of bad.csv: Slice 12 is given as clean"),
    "nothing clean": ("image\na.tif\nb.tif\n", [], "No slice is marked clean"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_one_line_that_names_the_row(study, requests, tmp_path, capsys, case):
    table, words, complaint = BAD[case]
    (study / "none").mkdir(exist_ok=True)
    bad = study / "bad.csv"
    if table is not None:
        bad.write_text(table)
        words = ["bad.csv"]
    try:
        assert cli.main(["train", *words, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    finally:
        bad.unlink(missing_ok=True)
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert re.search(complaint, said), said
    assert not requests
    assert not (tmp_path / "out").exists()


def test_labels_beside_their_images_are_no_images(study, tmp_path, capsys):
    for name in ("x", "x_label", "y"):
        (tmp_path / f"{name}.tif").write_bytes((study / "a.tif").read_bytes())
    arguments = ["train", str(tmp_path), "--labels", str(tmp_path), "--clean", "y:3", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "'y' has clean slices but no labels" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_becomes_a_session_that_is_trained(study, tmp_path, capsys):
    """With the real worker: two annotated volumes and two without a clean slice."""
    path = tmp_path / "s.mlbseg"
    assert cli.main(["session", str(path), "--add", "study.csv"]) == 0
    found = json.loads(capsys.readouterr().out)["volumes"]
    assert [(name, v["status"], v["clean"]) for name, v in found.items()] == [
        ("a", "annotated", [3, 6]),
        ("b", "annotated", [5, 7]),
        ("c", "not annotated", []),
        ("d", "not annotated", []),
    ]
    (tmp_path / "e.tif").write_text("no image")
    assert cli.main(["session", str(path), "--add", "a.tif", str(tmp_path / "e.tif")]) == 1, "one is known, one is none"
    assert "e.tif cannot be read" in capsys.readouterr().err
    loaded = load_session(path)
    assert [each.volume.name for each in loaded.volumes] == list(NAMES)
    truth = make_phantom((12, 32, 40), 1).labels
    assert np.array_equal(loaded.volumes[1].volume.annotation, truth)

    session = json.loads((path / "session.json").read_text())
    session["config"] |= {"bootstrap_steps": 1, "steps": 1, "time_budget": None, "patch_size": 64, "device": "cpu"}
    session["config"] |= {"features": [8, 16], "n_views": 2, "initial_labels": "interpolation"}
    (path / "session.json").write_text(json.dumps(session))
    assert cli.main(["session", str(path), "--train"]) == 0
    results = JobFolder(path / "rounds" / "001").results("d")
    assert results["pseudo_labels"].shape == (12, 32, 40)
    capsys.readouterr()
    assert cli.main(["session", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)["volumes"]
    assert {v["status"] for v in found.values()} == {"predicted"}


def test_images_of_one_name_are_called_after_their_folders(made, requests, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        shutil.copy(made / "a.tif", tmp_path / patient / "t1.tif")
        shutil.copy(made / "truth" / "a.tif", tmp_path / patient / "seg.tif")
    (tmp_path / "study.csv").write_text("image,labels,clean\np1/t1.tif,p1/seg.tif,3;6\np2/t1.tif,,\n")
    assert cli.main(["train", "study.csv", "--out", "out"]) == 0
    assert [volume.name for volume in requests[-1].read_request().volumes] == ["p1-t1", "p2-t1"]
    words = ["train", "p1/t1.tif", "p2/t1.tif", "--labels", "p1/seg.tif", "p2/seg.tif", "--out", "named"]
    assert cli.main([*words, "--clean", "p1-t1:3;p2-t1:5,6"]) == 0
    assert [volume.clean for volume in requests[-1].read_request().volumes] == [(3,), (5, 6)]
    assert cli.main(["session", "s.mlbseg", "--add", "study.csv"]) == 0
    assert [volume.volume.name for volume in load_session(tmp_path / "s.mlbseg").volumes] == ["p1-t1", "p2-t1"]


def test_one_label_file_is_not_given_to_two_images_of_its_name(made, requests, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("p1", "p2", "truth"):
        (tmp_path / folder).mkdir()
        shutil.copy(made / "a.tif", tmp_path / folder / "t1.tif")
    words = ["train", "p1/t1.tif", "p2/t1.tif", "--labels", "truth", "--clean", "p1-t1:3;p2-t1:5", "--out", "out"]
    assert cli.main(words) == 2
    assert "has no labels for these images" in capsys.readouterr().err


def test_an_image_that_is_named_in_two_ways_is_one(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(made)
    words = ["train", "a.tif", "truth/../a.tif", "--labels", "truth", "--clean", "a:3", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert "Two images have the same name" in capsys.readouterr().err
