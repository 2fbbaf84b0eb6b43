"""How alive the window is while a job trains: delays of its event loop, and seconds from the click to the first labels.

    python -m benchmarks.window --out DIR        (needs a display; xvfb-run gives one)

A timer that should fire every 20 ms says how late it is. What is scrolled through meanwhile is scrolled as a person
would: a slice every half second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from benchmarks.event_loop import TICK, play, ticking
from benchmarks.volumes import load_volume
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.demo import clean_slices

if TYPE_CHECKING:
    from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Train in a real viewer and print the delays as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.window", description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="image with a label file beside it; by default the phantom")
    parser.add_argument("--seconds", type=float, default=30.0, help="time budget of the training")
    parser.add_argument("--out", type=Path, default=Path("bench-output/window"))
    options = parser.parse_args(arguments)
    viewer = napari.Viewer()
    to_open = _seconds_to_open()
    dock = _prepare(viewer, options.image, options.seconds)
    for _ in range(50):  # let the window settle before anything is measured
        QApplication.processEvents()
        time.sleep(TICK)
    figures = {"seconds_to_open_dock": to_open, **_measure(viewer, dock)}
    viewer.close()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "window.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


def _seconds_to_open() -> float:
    """Seconds from nothing to an open dock, its imports included; best of three fresh processes."""
    script = (
        "import time, napari; viewer = napari.Viewer(show=False); start = time.perf_counter();"
        "from napari_mlbseg.viewer.dock import MLBSegDock; viewer.window.add_dock_widget(MLBSegDock(viewer));"
        "print(time.perf_counter() - start); viewer.close()"
    )
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True) for _ in range(3)]
    return min(float(run.stdout.splitlines()[-1]) for run in runs)


def _prepare(viewer: napari.Viewer, image: Path | None, seconds: float) -> MLBSegDock:
    """An image, five clean slices painted from its truth, and the dock."""
    if image is None:
        phantom = make_phantom()
        pixels, truth, clean = phantom.image, phantom.labels, clean_slices(phantom.labels)
    else:
        volume = load_volume(image, 5)
        pixels, truth, clean = volume.image, volume.labels, volume.clean_slices
    painted = np.zeros_like(truth)
    painted[list(clean)] = truth[list(clean)]
    viewer.add_image(pixels, name="image")
    viewer.add_labels(painted, name="image annotation")
    from napari_mlbseg.viewer.dock import MLBSegDock

    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock, name="MLB-Seg", area="right")
    for z in clean:
        dock.controller.mark_clean(True, z)
    session = dock.controller.session
    session.config = session.config.updated(time_budget=seconds)
    return dock


def _measure(viewer: napari.Viewer, dock: MLBSegDock) -> dict[str, float]:
    """Press Train, scroll, and note when every tick came."""
    session, controller, first = dock.controller.session, dock.controller, []
    viewer.layers.events.inserted.connect(lambda event: first.append(time.perf_counter()))
    with ticking(lambda ticks: controller.workspace.go_to(ticks % controller.workspace.n_slices)) as ticks:
        clicked = time.perf_counter()
        dock.train.button.click()
        play(lambda: session.state is SessionState.IDLE, at_most=3600.0)
    return {"seconds_to_first_labels": first[0] - clicked, **ticks.delays()}


if __name__ == "__main__":
    main()
