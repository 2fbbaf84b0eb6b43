"""A whole session as a person does it, mouse and keys only: annotate, train, review, retrain, crash, come back.

With the folder of pictures in MLBSEG_PICTURES, what they see is kept there: the tutorial's pictures are made so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest

from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.session import SessionState

from .gui_driver import Person

pytestmark = [
    pytest.mark.gui,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL"),
]

SECONDS = 30  # of a training: enough for steps on a machine that does other things, too


@pytest.fixture(params=["phantom", pytest.param("la03", marks=pytest.mark.real_data)])
def scan(request, tmp_path) -> tuple[Path, Path]:
    """An image file and its truth."""
    if request.param == "la03":
        folder = request.getfixturevalue("la_dir")
        return folder / "la03.nii.gz", folder / "la03_label.nii.gz"
    made = make_phantom((48, 112, 128), seed=0)
    affine = np.diag([*made.spacing[::-1], 1.0])
    paths = tmp_path / "heart.nii.gz", tmp_path / "heart_label.nii.gz"
    for path, data in zip(paths, (made.image.astype(np.int16), made.labels), strict=True):
        nibabel.Nifti1Image(data.T, affine).to_filename(path)
    return paths


def test_a_whole_session(scan, tmp_path, open_dock, make_napari_viewer, sessions_home):
    image, labels = scan
    pictures = os.environ.get("MLBSEG_PICTURES", "")
    pictures = str(Path(pictures) / image.name.partition(".")[0]) if pictures else ""
    folder = tmp_path / "mine.mlbseg"
    command = [sys.executable, str(Path(__file__).with_name("crash_scenario.py"))]
    arguments = [str(image), str(labels), str(folder), pictures, str(SECONDS)]
    answer = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=700)
    assert answer.returncode == -signal.SIGKILL, answer.stderr[-3000:]
    told = json.loads(answer.stdout.splitlines()[-1])
    worker = psutil.Process(told["worker"])
    assert worker.is_running(), "the training goes on without the window"

    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.window.resize(1280, 800)
    _, dock = open_dock(viewer)
    person = Person(viewer, dock, Path(pictures) if pictures else None)
    session = dock.controller.session
    person.click(dock.session.open)
    person.choose_in_dialog(folder)
    person.wait_for(lambda: (session.folder == folder and len(session) == 1) or dock.train.complaint.text() != "", 60)
    assert dock.train.complaint.text() == ""
    assert session.current_round.number == 3
    person.wait_for(lambda: dock.controller.results.is_available("pseudo_labels"), 60)
    person.picture("12-reattached")
    painted = np.load(tmp_path / "painted.npy")
    volume = session.volume(told["name"])
    assert np.array_equal(volume.annotation, painted), "nothing painted is lost"
    assert sorted(volume.clean) == told["clean"]
    assert session.rounds[0].held_out_dice == pytest.approx(told["held_out"])
    person.wait_for(lambda: session.state is SessionState.IDLE, 300)
    assert session.current_round.outcome.type == "finished"
    assert session.current_round.record.base == 1, "from the restored round's model"
    person.picture("13-third-round")

    out = tmp_path / "out"
    out.mkdir()
    person.click(dock.session.export)
    person.choose_in_dialog(out)
    person.wait_for(lambda: any(out.iterdir()) and not dock.controller.files.is_busy, 60)
    (out,) = out.iterdir()
    written = nibabel.load(out / "annotation.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj).T, painted)
    assert np.allclose(written.affine, nibabel.load(image).affine)
    truth = np.asarray(nibabel.load(labels).dataobj) > 0
    found = np.asarray(nibabel.load(out / "pseudo_labels.nii.gz").dataobj) > 0
    others = np.setdiff1d(np.arange(truth.shape[2]), told["clean"])
    both = (found & truth)[..., others].sum()
    assert 2 * both / (found[..., others].sum() + truth[..., others].sum()) > 0.5
