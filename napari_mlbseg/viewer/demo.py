"""The demonstration: ``python -m napari_mlbseg.viewer.demo`` trains on a generated phantom in a real window.

With ``--headless`` it runs by itself, leaves screenshots and says how good the result is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_mlbseg.events import Failed
from napari_mlbseg.io.phantom import Phantom, make_phantom
from napari_mlbseg.session import SegmentationSession, SessionState

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["main", "run_demo"]

_NAME = "phantom"
_N_CLEAN = 5
_SHAPE = (48, 112, 128)
_WINDOW = (1440, 900)
_TOLERANCE = 0.02  # by which the last Dice may lie below the first


def run_demo(headless: bool, out: Path, seconds: float = 45.0) -> int:
    """Open napari with a phantom and five clean slices, and press Train.

    Parameters
    ----------
    headless : bool
        Wait for the end, save screenshots and close; otherwise the window stays open.
    out : Path
        Folder of the screenshots.
    seconds : float
        Time budget of the training.

    Returns
    -------
    int
        0, or 1 if the training failed, made the first labels worse or touched what was painted.
    """
    import napari

    phantom = make_phantom(_SHAPE, 0)
    if not headless:
        stage = _set_up(phantom, seconds, None)
        stage.dock.train.button.click()
        napari.run()
        return 0
    with tempfile.TemporaryDirectory() as folder:  # nobody will want to open this session again
        stage = _set_up(phantom, seconds, Path(folder) / "demo.mlbseg")
        try:
            return _perform(stage, phantom, out)
        finally:
            stage.dock.controller.close()
            stage.viewer.close()


@dataclass
class _Stage:
    """A window with the dock, ready to train."""

    viewer: Viewer
    dock: MLBSegDock
    clean: tuple[int, ...]

    def play(self, until: Callable[[], bool], at_most: float) -> bool:
        """Let the window live until something is true; False if it took too long."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + at_most
        while not until():
            if time.monotonic() > end:
                return False
            QApplication.processEvents()
            time.sleep(0.02)
        return True

    def settle(self) -> None:
        """Let what is on its way be drawn."""
        end = time.monotonic() + 1.5
        self.play(lambda: time.monotonic() > end, at_most=3)


def _set_up(phantom: Phantom, seconds: float, folder: Path | None) -> _Stage:
    import napari

    from napari_mlbseg.viewer.dock import MLBSegDock
    from napari_mlbseg.viewer.layers.binding import make_annotation

    viewer = napari.Viewer(title="napari-mlbseg demo")
    viewer.window.resize(*_WINDOW)
    place = {"scale": phantom.spacing, "units": ("mm",) * 3, "axis_labels": ("z", "y", "x")}
    annotation = make_annotation(viewer.add_image(phantom.image, name=_NAME, **place))
    clean = clean_slices(phantom.labels)
    annotation.data[list(clean)] = phantom.labels[list(clean)]
    viewer.add_layer(annotation)
    dock = MLBSegDock(viewer, None if folder is None else SegmentationSession(folder))
    viewer.window.add_dock_widget(dock, name="MLB-Seg", area="right")
    for z in clean:
        dock.controller.mark_clean(True, z)
    config = dock.controller.session.config
    dock.controller.session.config = config.updated(time_budget=seconds, preview_interval=1.0)
    dock.controller.workspace.go_to((clean[1] + clean[2]) // 2)
    return _Stage(viewer, dock, clean)


def clean_slices(labels: np.ndarray) -> tuple[int, ...]:
    """Slices evenly spaced from the first to the last that shows something."""
    shown = np.flatnonzero(labels.any(axis=(1, 2)))
    return tuple(int(z) for z in np.linspace(shown[0], shown[-1], _N_CLEAN).round())


def _perform(stage: _Stage, phantom: Phantom, out: Path) -> int:
    """Train, with a screenshot of every stage."""
    out.mkdir(parents=True, exist_ok=True)
    session, results = stage.dock.controller.session, stage.dock.controller.results
    painted = stage.viewer.layers[f"{_NAME} annotation"].data
    before = painted.copy()
    stage.settle()
    _save(stage, out, "1-before")
    start = time.monotonic()
    stage.dock.train.button.click()
    stage.play(lambda: results.is_available("pseudo_labels") or session.state is SessionState.IDLE, at_most=120)
    first_preview = time.monotonic() - start
    first_dice = 0.0
    if results.is_available("pseudo_labels"):
        first_dice = _dice(stage, phantom)
        print(f"first layers after {first_preview:.1f} s, Dice {first_dice:.3f} so far")
        stage.settle()
        _save(stage, out, "2-first-preview")
    ended = stage.play(lambda: session.state is SessionState.IDLE, at_most=600)
    outcome = session.current_round.outcome if session.current_round is not None else None
    stage.settle()
    _save(stage, out, "3-trained")
    if not ended or outcome is None or isinstance(outcome, Failed):
        print(f"the training failed: {stage.dock.train.complaint.text() or 'it did not end'}", file=sys.stderr)
        return 1
    for number, key in enumerate(("weight_initial", "weight_pseudo", "preference"), start=4):
        _show_only(stage, key)
        _save(stage, out, f"{number}-{key.replace('_', '-')}")
    steps = getattr(outcome, "steps", 0)
    print(f"{steps} steps in {time.monotonic() - start:.1f} s on {len(stage.clean)} clean slices {stage.clean}")
    last_dice, unchanged = _dice(stage, phantom), np.array_equal(before, painted)
    print(f"Dice on the other {len(phantom.labels) - len(stage.clean)} slices: {last_dice:.3f}")
    print(f"painted voxels unchanged: {unchanged}")
    print(f"screenshots in {out.resolve()}")
    return verdict(first_dice, last_dice, unchanged)


def verdict(first_dice: float, last_dice: float, unchanged: bool) -> int:
    """Exit code of a demonstration: 1, with the reason on stderr, where it did not show what it should."""
    if last_dice < first_dice - _TOLERANCE:
        print(f"the training made it worse: Dice {last_dice:.3f} after {first_dice:.3f}", file=sys.stderr)
        return 1
    if not unchanged:
        print("the painted voxels were changed", file=sys.stderr)
        return 1
    return 0


def _show_only(stage: _Stage, key: str) -> None:
    """Show the image and one kind of result."""
    results = stage.dock.controller.results
    for kind, _ in list(results):
        results.set_visible(kind.key, False)
    results.set_visible(key, True)  # which makes its layer, where nobody wanted it before
    stage.settle()


def _save(stage: _Stage, out: Path, name: str) -> None:
    path = out / f"{name}.png"
    stage.viewer.screenshot(str(path), canvas_only=False, flash=False)
    print(path)


def _dice(stage: _Stage, phantom: Phantom) -> float:
    """Dice of the pseudo-labels over the slices that were not clean."""
    layer = next(layer for kind, layer in stage.dock.controller.results if kind.key == "pseudo_labels")
    others = np.setdiff1d(np.arange(len(phantom.labels)), stage.clean)
    found, truth = np.asarray(layer.data)[others] > 0, phantom.labels[others] > 0
    return 2 * float((found & truth).sum()) / max(1, int(found.sum() + truth.sum()))


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration as the command line asks."""
    parser = argparse.ArgumentParser(prog="napari-mlbseg demo", description="Train on a generated phantom in napari.")
    parser.add_argument("--headless", action="store_true", help="run by itself and leave screenshots")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder of the screenshots")
    parser.add_argument("--seconds", type=float, default=45.0, help="time budget of the training")
    options = parser.parse_args(arguments)
    has_display = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if options.headless and not has_display:
        return _under_virtual_display(sys.argv[1:] if arguments is None else arguments)
    return run_demo(options.headless, options.out, options.seconds)


def _under_virtual_display(arguments: list[str]) -> int:
    """The same again under Xvfb."""
    runner = shutil.which("xvfb-run")
    if runner is None:
        print("There is no display and no xvfb-run: install it (package xvfb), or run with a display.", file=sys.stderr)
        return 2
    again = [sys.executable, "-m", "napari_mlbseg.viewer.demo", *arguments]
    return subprocess.run([runner, "-a", "-s", "-screen 0 1600x1000x24", *again]).returncode


if __name__ == "__main__":
    raise SystemExit(main())
