"""``napari-mlbseg session``: a saved session is looked at, trained and exported without a window."""

from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
import tifffile

from napari_mlbseg.cli import main as cli
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.io.readers import METADATA_KEY, read_layers
from napari_mlbseg.session import AnnotatedVolume, SegmentationSession, SliceMarks
from napari_mlbseg.session.persistence.loader import load_session
from napari_mlbseg.session.volume import ImageSource

from ..session.conftest import FakeJob, train

AFFINE = np.array([[-2.0, 0, 0, 60], [0, 1.9, -0.6, -50], [0, 0.5, 2.2, 13], [0, 0, 0, 1]], dtype=np.float32)
CLEAN = (6, 12, 18)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A session of an oblique NIfTI file, as the window saves it: in the layer's order (k, j, i)."""
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)
    made = make_phantom((24, 40, 48))
    file = tmp_path / "scan.nii.gz"
    nibabel.Nifti1Image(made.image.T.astype(np.int16), AFFINE).to_filename(file)
    ((pixels, options, _),) = read_layers(str(file))
    painted = np.zeros(pixels.shape, np.uint8)
    painted[list(CLEAN)] = made.labels[list(CLEAN)]
    session = SegmentationSession(tmp_path / "scan.mlbseg")
    session.set_volume(
        AnnotatedVolume(
            name="scan",
            image=pixels,
            annotation=painted,
            spacing=tuple(options["scale"]),
            unit="mm",
            marks=SliceMarks(clean=set(CLEAN)),
            source=ImageSource("file", file),
            grid=options["metadata"][METADATA_KEY]["grid"],
        )
    )
    session.mark_dirty("scan", 6)
    train(session, value=1)
    session.save()
    session.close()
    monkeypatch.undo()
    monkeypatch.setenv("NAPARI_MLBSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "scan.mlbseg", painted, file


def test_a_look_says_what_is_in_it(saved, capsys):
    path, _, _ = saved
    assert cli.main(["session", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == [1]
    assert found["volumes"]["scan"]["clean"] == list(CLEAN)
    assert len(found["volumes"]["scan"]["next"]) == 3
    assert [(r["number"], r["clean"], r["outcome"]) for r in found["rounds"]] == [(1, 3, "finished")]
    assert not (path / "lock").exists()


def test_export_writes_into_the_space_of_the_image(saved, tmp_path, capsys):
    path, painted, file = saved
    assert cli.main(["session", str(path), "--export", str(tmp_path / "out")]) == 0
    names = [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert names[:2] == ["annotation.nii.gz", "pseudo_labels.nii.gz"]
    back = nibabel.load(tmp_path / "out" / "annotation.nii.gz")
    assert np.allclose(back.affine, nibabel.load(file).affine)
    assert np.array_equal(np.asarray(back.dataobj).T, painted)
    labels = np.asarray(nibabel.load(tmp_path / "out" / "pseudo_labels.nii.gz").dataobj)
    assert labels.shape == (48, 40, 24)
    assert nibabel.load(tmp_path / "out" / "probability.nii.gz").shape == (48, 40, 24, 2)


@pytest.mark.slow
def test_training_adds_a_round_with_the_real_worker(saved, tmp_path, capsys):
    path, painted, _ = saved
    assert cli.main(["session", str(path), "--train", "--time-budget", "15", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == str(path / "rounds" / "002")
    loaded = load_session(path)
    assert [(r.number, r.outcome) for r in loaded.record.rounds] == [(1, "finished"), (2, "finished")]
    assert loaded.record.config["time_budget"] == 15
    assert np.array_equal(loaded.volumes[0].volume.annotation, painted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.mlbseg"], "is no session"),
        (["scan.mlbseg", "--train", "--time-budget", "1"], "time_budget"),
        (["scan.mlbseg", "--image", "old"], "OLD=NEW"),
    ],
)
def test_bad_input_is_one_line(saved, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["session", *arguments]) == 2
    complaint = capsys.readouterr().err.strip().splitlines()
    assert len(complaint) == 1
    assert words in complaint[0]


def test_an_image_that_moved_is_said_and_can_be_named(saved, tmp_path, capsys):
    path, _, file = saved
    shutil.move(file, tmp_path / "moved.nii.gz")
    assert cli.main(["session", str(path)]) == 2
    assert "scan.nii.gz of 'scan' is missing" in capsys.readouterr().err
    assert cli.main(["session", str(path), "--image", f"{file}={tmp_path / 'moved.nii.gz'}"]) == 0


def test_an_image_without_a_file_is_exported_with_its_spacing(tmp_path, monkeypatch, capsys):
    session = SegmentationSession(tmp_path / "cells.mlbseg")
    painted = np.zeros((5, 8, 9), np.uint8)
    painted[2, 3:5, 3:5] = 3
    session.set_volume(
        AnnotatedVolume(
            name="cells", image=painted * 2.0, annotation=painted, spacing=(2.0, 0.5, 0.5), unit="micrometer"
        )
    )
    session.mark_dirty("cells", 2)
    session.save()
    session.close()
    assert cli.main(["session", str(tmp_path / "cells.mlbseg"), "--export", str(tmp_path / "out")]) == 0
    with tifffile.TiffFile(tmp_path / "out" / "annotation.tif") as file:
        assert np.array_equal(file.asarray(), painted)
        assert file.imagej_metadata["spacing"] == 2.0
