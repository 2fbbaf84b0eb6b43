"""napari is closed in each of its ways, and the session opened again: it is as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from napari_mlbseg.session import AnnotatedVolume, SegmentationSession
from napari_mlbseg.session.exporting import export_session
from napari_mlbseg.session.persistence.loader import load_session
from napari_mlbseg.session.volume import ImageSource

pytestmark = [pytest.mark.gui]


@pytest.mark.slow
def test_a_session_is_the_same_after_each_way_to_close_napari(tmp_path):
    script = Path(__file__).with_name("closing_actions.py")
    answer = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    expected = [[way, [True], True, clean, 2] for way in ("ctrl-q", "button", "close") for clean in ([3], [3, 5])]
    assert [json.loads(line) for line in answer.stdout.splitlines()] == expected
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("from_file", [True, False])
def test_a_session_goes_on_with_the_layer_that_shows_its_image_already(open_dock, image, tmp_path, wait_for, from_file):
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    painted = np.zeros(image.shape, np.uint8)
    painted[3, 10:20, 10:20] = 1
    source = None
    if from_file:
        tifffile.imwrite(tmp_path / "heart.tif", image, imagej=True)
        source = ImageSource("file", tmp_path / "heart.tif")
    session.set_volume(AnnotatedVolume(name="heart", image=image, annotation=painted, source=source))
    session.save()
    session.close()
    viewer, dock = open_dock()
    if from_file:
        viewer.open(tmp_path / "heart.tif", plugin="napari-mlbseg")
    else:
        viewer.add_image(image.copy(), name="heart")
    shown = viewer.layers["heart"]
    dock.session.open_session(tmp_path / "heart.mlbseg")
    wait_for(lambda: len(viewer.layers) == 2)
    assert dock.controller.workspace.current.image is shown
    assert np.array_equal(viewer.layers["heart annotation"].data, painted)
    assert [volume.name for volume in dock.controller.session] == ["heart"]


@pytest.mark.parametrize("change", ["flipped", "in place", "moved"])
def test_an_image_that_was_changed_in_the_viewer_is_the_one_that_comes_back(
    open_dock, image, tmp_path, wait_for, change
):
    path = tmp_path / "heart.mlbseg"
    nibabel.Nifti1Image(image.T, np.diag([0.5, 0.5, 2.0, 1])).to_filename(tmp_path / "heart.nii.gz")
    viewer, dock = open_dock()
    viewer.open(tmp_path / "heart.nii.gz", plugin="napari-mlbseg")
    layer = viewer.layers["heart"]
    if change == "flipped":
        layer.data = np.ascontiguousarray(layer.data[:, ::-1])
    elif change == "moved":
        layer.scale = (3, 1, 1)
    dock.data.volume_rows[0].new.click()
    viewer.layers["heart annotation"].data[3, 10:20, 10:15] = 1
    dock.controller.mark_clean(True, 3)
    if change == "in place":
        layer.data[5] *= 2
    dock.controller.session.save_as(path)
    session, shown, scale = dock.controller.session, np.array(layer.data), tuple(layer.scale)
    session.close()
    volume = load_session(path).volumes[0].volume
    assert (volume.source is None) is (change != "moved")
    written = export_session([volume], None, tmp_path / "out")
    exported = nibabel.load(written[0])
    assert exported.header.get_zooms() == pytest.approx(scale[::-1])
    assert np.array_equal(np.asarray(exported.dataobj).T, viewer.layers["heart annotation"].data)
    viewer.layers.clear()
    wait_for(lambda: not dock.controller.workspace.bindings)
    dock.session.open_session(path)
    wait_for(lambda: "heart annotation" in viewer.layers)
    assert np.array_equal(viewer.layers["heart"].data, shown)
    assert tuple(viewer.layers["heart"].scale) == scale
