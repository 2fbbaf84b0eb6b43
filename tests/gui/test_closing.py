"""napari is closed in each of its ways, and the session opened again: it is as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_mlbseg.session import AnnotatedVolume, SegmentationSession
from napari_mlbseg.session.volume import ImageSource

pytestmark = [pytest.mark.gui]


@pytest.mark.slow
def test_a_session_is_the_same_after_each_way_to_close_napari(tmp_path):
    script = Path(__file__).with_name("closing_acts.py")
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
    assert dock.controller.current.image is shown
    assert np.array_equal(viewer.layers["heart annotation"].data, painted)
    assert [volume.name for volume in dock.controller.session] == ["heart"]
