"""Closes napari twice in each of its ways, in a process of its own; prints what the session folder lists each time.

python closing_actions.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtTest import QTest

from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.viewer.commands import find_dock

WAYS = {
    "ctrl-q": lambda viewer: viewer.window._qt_window.close(quit_app=True, confirm_need=False),
    "button": lambda viewer: viewer.window._qt_window.close(),
    "close": lambda viewer: viewer.close(),
}


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        QTest.qWait(20)


def main(folder: Path) -> None:
    for way, close in WAYS.items():
        image, path = np.random.default_rng(0).random((6, 24, 20)), folder / f"{way}.mlbseg"
        viewer = napari.Viewer(show=True)
        viewer.add_image(image, name="heart")
        dock = find_dock(viewer)
        dock.data.volume_rows[0].new.click()
        dock.controller.session.save_as(path)
        painted = np.zeros(image.shape, np.uint8)
        for z in (3, 5):
            painted[z, 2:9, 2:9] = viewer.layers["heart annotation"].data[z, 2:9, 2:9] = z
            dock.controller.mark_clean(True, z)
            controller = dock.controller
            close(viewer)
            wait_for(lambda controller=controller: controller.is_closed)
            listed = [volume.attached for volume in SessionFolder(path).read().volumes]
            viewer = napari.Viewer(show=True)
            dock = find_dock(viewer)
            dock.session.open_session(path)
            wait_for(lambda viewer=viewer: "heart annotation" in viewer.layers)
            same = np.array_equal(viewer.layers["heart annotation"].data, painted)
            (volume,) = dock.controller.session
            print(json.dumps([way, listed, same, sorted(volume.clean), len(viewer.layers)]), flush=True)
        viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
