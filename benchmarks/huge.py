"""A volume that fits into no memory: train on five slices in a real window; what the window and the worker take.

    python -m benchmarks.huge --out DIR        (needs a display; xvfb-run gives one)

The volume is made once, in ``DIR/data``: a zarr image of 4.2 GB unless another shape is given. It is opened as a person
would, five slices are painted and marked clean, and while the job trains, slices are scrolled through and painted on.
Then *Predict the other ... slices* is pressed, and slices are scrolled through until all are there; with
``--predict-seconds``, a training without steps predicts for so long instead. Dice is over every tenth slice.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
import psutil
from qtpy.QtWidgets import QAbstractButton, QApplication

from benchmarks.event_loop import TICK, play, ticking
from benchmarks.huge_volume import make_huge_volume
from napari_mlbseg.events import Finished, Preview
from napari_mlbseg.session import Round, SessionState

if TYPE_CHECKING:
    from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Make the volume, train in a real viewer, predict, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.huge", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="500,2048,2048", help="slices, rows and columns")
    parser.add_argument("--seconds", type=float, default=60.0, help="time budget of the training")
    parser.add_argument("--predict-seconds", type=float, help="until all are predicted without; 0: do not predict")
    parser.add_argument("--out", type=Path, default=Path("bench-output/huge"))
    options = parser.parse_args(arguments)
    z, y, x = map(int, options.shape.split(","))
    _, truth = make_huge_volume(options.out / "data", (z, y, x))
    viewer = napari.Viewer()
    for _ in range(50):  # let the window settle before anything is measured
        QApplication.processEvents()
        time.sleep(TICK)
    before = _resident()
    viewer.open(str(options.out / "data" / "image.zarr"), plugin="napari-mlbseg")
    dock, seen = _prepare(viewer, truth, options.seconds)
    figures: dict[str, Any] = {"shape": options.shape, "window_gb_before": before / 1e9}
    figures |= _watched("train", dock, dock.train.button, truth, seen, before, paint=True)
    if options.predict_seconds is None:
        figures |= _watched("predict", dock, dock.train.rest, truth, seen, before, paint=False)
    elif options.predict_seconds > 0:
        session = dock.controller.session
        session.config = session.config.updated(
            steps=0, bootstrap_steps=0, time_budget=options.predict_seconds, n_views_predict=1, look_again=False
        )
        figures |= _watched("predict", dock, dock.train.button, truth, seen, before, paint=False)
    viewer.close()
    (options.out / "huge.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


def _prepare(viewer: napari.Viewer, truth: Any, seconds: float) -> tuple[MLBSegDock, int]:
    """Five clean slices, painted from the truth, the dock, and the slice in view."""
    from napari_mlbseg.viewer.dock import MLBSegDock
    from napari_mlbseg.viewer.layers.binding import make_annotation

    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock, name="MLB-Seg", area="right")
    annotation = make_annotation(viewer.layers[0])
    viewer.add_layer(annotation)
    QApplication.processEvents()
    showing = [z for z in range(truth.shape[0]) if truth[z].any()]
    clean = np.linspace(showing[0], showing[-1], 5).round().astype(int).tolist()
    for z in clean:
        annotation.data[z] = truth[z]
        dock.controller.mark_clean(True, z)
    annotation.refresh()
    seen = (clean[2] + clean[3]) // 2
    dock.controller.go_to(seen)
    session = dock.controller.session
    session.config = session.config.updated(time_budget=seconds)
    return dock, seen


def _watched(
    what: str, dock: MLBSegDock, button: QAbstractButton, truth: Any, seen: int, before: int, paint: bool
) -> dict[str, Any]:
    """Press a button, scroll and paint, and note memory, delays, and when the slice in view had its labels."""
    session = dock.controller.session
    peaks = _Peaks()
    with ticking(lambda count: _scroll_and_paint(dock, seen, count, paint)) as ticks:
        button.click()
        play(lambda: session.state is SessionState.IDLE, at_most=7200.0)
        started = session.current_round
        took = time.perf_counter() - ticks.began
    peaks.stop()
    delays = ticks.delays()
    events = started.job.folder.events()
    first = next((e.seconds for e in events if isinstance(e, Preview) and seen in e.slices), None)
    finished = next((e for e in events if isinstance(e, Finished)), None)
    predicted = {z for e in events if isinstance(e, Preview) and e.stage == "predict" for z in e.slices}
    return {
        f"{what}_seconds": took,
        f"{what}_seconds_to_first_labels_in_view": first,
        f"{what}_worker_peak_gb": peaks.worker / 1e9,
        f"{what}_window_growth_gb": (peaks.window - before) / 1e9,
        f"{what}_slices_predicted": len(predicted),
        f"{what}_dice": _dice(started, truth),
        f"{what}_slices_unreached": finished.unreached if finished is not None else None,
        f"{what}_delay_p95_ms": delays["delay_p95_ms"],
        f"{what}_delay_max_ms": delays["delay_max_ms"],
    }


def _dice(shown: Round, truth: Any) -> float:
    """Dice over every tenth slice."""
    labels = shown.job.folder.results(shown.task.volumes[0].name)["pseudo_labels"]
    both = either = 0
    for z in range(0, truth.shape[0], 10):
        predicted, wanted = np.asarray(labels[z]) > 0, np.asarray(truth[z]) > 0
        both += int(np.count_nonzero(predicted & wanted))
        either += int(np.count_nonzero(predicted)) + int(np.count_nonzero(wanted))
    return 2 * both / max(1, either)


def _scroll_and_paint(dock: MLBSegDock, seen: int, count: int, paint: bool) -> None:
    z = seen + (count // 25) % 7 - 3
    dock.controller.go_to(z)
    binding = dock.controller.current
    if paint and z not in dock.controller.clean_slices(binding):
        binding.annotation.selected_label = 1
        binding.annotation.paint((z, 400 + count % 200, 400), 1)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


class _Peaks:
    """Largest resident memory of this process and of the processes that it started, sampled by a thread."""

    def __init__(self) -> None:
        self.window = self.worker = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._ended.wait(0.1):
            self.window = max(self.window, _resident())
            sizes = [_size(child) for child in me.children(recursive=True)]
            self.worker = max(self.worker, *sizes, 0)


def _size(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:  # it ended
        return 0


if __name__ == "__main__":
    main()
