"""What many volumes cost: to add, open and switch between them, and the delays of the window while all are trained on.

    python -m benchmarks.study --out DIR        (needs a display; xvfb-run gives one)

Volumes are phantoms of 12 x 64 x 64 voxels in files, three of them with three clean slices; a case ``1x5000`` is one
volume of 5,000 slices. Each number of volumes is a process of its own. Switching is timed from the choice in the table
until the volume's layers are there and drawn: to volumes that had none, whose image is read first, and back to the ones
before. The training is as short as can be: two bootstrap steps and one weighted step of a small network, then every
slice of every volume is predicted; meanwhile, a slice is scrolled to every half second. Costs are seconds of the CPU,
the worker's those of its process, which other programs change little; switches and delays are by the clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
import psutil
import tifffile

from benchmarks.event_loop import play, ticking
from benchmarks.plots import Curve, plot_curves
from benchmarks.tables import markdown
from benchmarks.volumes import evenly
from napari_mlbseg.events import Finished
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.session import SegmentationSession, SessionState

if TYPE_CHECKING:
    from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["main"]

_SIDE = 64
_N_SLICES = 12
_N_ANNOTATED, _N_CLEAN = 3, 3
_N_SWITCHES = 6
_SMALL = {
    "bootstrap_steps": 2,
    "steps": 1,
    "time_budget": None,
    "features": (8, 16),
    "patch_size": 64,
    "n_views": 2,
    "initial_labels": "interpolation",
}

_COLUMNS = {
    "add (CPU s)": "seconds_to_add",
    "open the session (CPU s)": "seconds_to_open",
    "switch, new (s, median / largest)": "switch_new",
    "switch, back (s)": "switch_back",
    "click on Train (CPU s)": "seconds_of_click",
    "largest delay until the worker is there (ms)": "delay_until_worker_max_ms",
    "shortest job (CPU s)": "seconds_of_job",
    "delay p95 (ms)": "delay_p95_ms",
    "largest (ms)": "delay_max_ms",
    "memory (MB)": "megabytes",
}


def main(arguments: list[str] | None = None) -> None:
    """Measure every case, print a table and draw the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="2,10,30,100,1x5000", help="numbers of volumes, with x their slices")
    parser.add_argument("--one", help="measure this case in this process and print it as JSON")
    parser.add_argument("--out", type=Path, default=Path("bench-output/study"))
    options = parser.parse_args(arguments)
    if options.one is not None:
        print(json.dumps(_measure(*_case(options.one))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, Any]] = {}
    for case in options.cases.split(","):
        command = [sys.executable, "-m", "benchmarks.study", "--one", case]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures[case] = json.loads(answer.splitlines()[-1])
        print(case, figures[case], flush=True)
        (options.out / "study.json").write_text(json.dumps(figures, indent=1))
    table = markdown(["volumes", *_COLUMNS], [[case, *_cells(of_case)] for case, of_case in figures.items()])
    (options.out / "table.md").write_text(table)
    print(table)
    _plot(options.out / "study_cost.png", figures)


def _case(text: str) -> tuple[int, int]:
    n_volumes, _, n_slices = text.partition("x")
    return int(n_volumes), int(n_slices or _N_SLICES)


def _cells(figures: dict[str, Any]) -> list[str]:
    cells = []
    for name in _COLUMNS.values():
        value = figures[name]
        if isinstance(value, list):
            cells.append(f"{np.median(value):.2f} / {max(value):.2f}" if value else "")
        else:
            cells.append(f"{value:.0f}" if name.endswith("ms") or name == "megabytes" else f"{value:.2f}")
    return cells


def _plot(path: Path, figures: dict[str, dict[str, Any]]) -> None:
    """Seconds over the number of volumes, all of one size."""
    cases = [case for case in figures if "x" not in case]
    if not cases:
        return
    numbers = [_case(case)[0] for case in cases]
    labels = {"seconds_to_add": "add", "seconds_to_open": "open the session", "seconds_of_job": "shortest training"}
    curves = [
        Curve(label, numbers, [figures[case][name] for case in cases], colour=colour)
        for colour, (name, label) in enumerate(labels.items())
    ]
    plot_curves(
        path,
        curves,
        title=f"Volumes of {_N_SLICES} x {_SIDE} x {_SIDE}",
        xlabel="volumes",
        ylabel="CPU seconds",
        xticks=numbers,
    )


def _measure(n_volumes: int, n_slices: int) -> dict[str, Any]:
    """Everything of one case, in a real viewer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        table = _write_study(path, n_volumes, n_slices)
        viewer, dock = _open_window(SegmentationSession(path / "study.mlbseg"))
        controller = dock.controller
        start = time.process_time()
        controller.study.add_from([table])
        play(lambda: controller.current is not None)
        figures: dict[str, Any] = {"seconds_to_add": time.process_time() - start}
        _settle(dock)
        figures |= _switch(dock)
        figures |= _train(dock)
        figures["megabytes"] = psutil.Process().memory_info().rss / 1e6
        controller.session.save()
        saved = controller.session.folder
        viewer.close()
        controller.close()
        viewer, dock = _open_window(None)
        start = time.process_time()
        dock.controller.files.open(saved)
        play(lambda: dock.controller.current is not None)
        figures["seconds_to_open"] = time.process_time() - start
        viewer.close()
        dock.controller.close()
    return figures


def _write_study(path: Path, n_volumes: int, n_slices: int) -> Path:
    lines = ["image,labels,clean"]
    for number in range(n_volumes):
        phantom = make_phantom((n_slices, _SIDE, _SIDE), seed=number)
        name = f"p{number:03d}"
        tifffile.imwrite(path / f"{name}.tif", phantom.image, metadata={"axes": "ZYX"})
        if number < _N_ANNOTATED:
            tifffile.imwrite(path / f"{name}_label.tif", phantom.labels, metadata={"axes": "ZYX"})
            clean = ";".join(map(str, evenly(phantom.labels, _N_CLEAN)))
            lines.append(f"{name}.tif,{name}_label.tif,{clean}")
        else:
            lines.append(f"{name}.tif,,")
    table = path / "study.csv"
    table.write_text("\n".join(lines))
    return table


def _open_window(session: SegmentationSession | None) -> tuple[napari.Viewer, MLBSegDock]:
    from napari_mlbseg.viewer.dock import MLBSegDock

    viewer = napari.Viewer()
    viewer.window.resize(1280, 800)
    dock = MLBSegDock(viewer, session)
    viewer.window.add_dock_widget(dock, name="MLB-Seg", area="right")
    _settle(dock)
    return viewer, dock


def _settle(dock: MLBSegDock) -> None:
    """Let what was begun come to its end before anything else is measured."""
    end = time.perf_counter() + 1.5
    play(lambda: time.perf_counter() > end and len(dock.controller.bindings) <= 3)


def _switch(dock: MLBSegDock) -> dict[str, list[float]]:
    """Seconds of switches to volumes without layers, and back."""
    controller = dock.controller
    uids = [row.uid for row in dock.volumes.model.rows]
    new, back = list[float](), list[float]()
    for uid in uids[1 : 1 + _N_SWITCHES]:
        before = controller.current
        assert before is not None
        new.append(_show(dock, uid))
        back.append(_show(dock, before.uid))
        _show(dock, uid)
        _settle(dock)
    return {"switch_new": new, "switch_back": back}


def _show(dock: MLBSegDock, uid: str) -> float:
    start = time.perf_counter()
    dock.controller.study.show(uid)
    play(lambda: dock.controller.current is not None and dock.controller.current.uid == uid)
    dock.controller.viewer.window._qt_viewer.canvas.native.repaint()
    return time.perf_counter() - start


def _train(dock: MLBSegDock) -> dict[str, float]:
    """Press Train and note the window's delays until the job has ended."""
    session, controller = dock.controller.session, dock.controller
    session.config = session.config.updated(**_SMALL)
    with ticking(lambda ticks: controller.go_to(ticks % controller.n_slices)) as ticks:
        start = time.process_time()
        dock.train.button.click()
        click = time.process_time() - start
        prepared = play(lambda: session.state is not SessionState.PREPARING)
        delay = ticks.delays()["delay_max_ms"]
        spent = _Spent(session)
        play(spent.until_the_end)
    outcome = session.current_round.outcome if session.current_round is not None else None
    if not isinstance(outcome, Finished):
        raise SystemExit(f"The training did not end well: {outcome or dock.train.complaint.text()}")
    figures = {"seconds_of_click": click, "seconds_until_worker": prepared, "delay_until_worker_max_ms": delay}
    return {**figures, "seconds_of_job": spent.seconds, **ticks.delays()}


class _Spent:
    """Seconds of the CPU that the worker has spent, as far as it was asked while it lived."""

    def __init__(self, session: SegmentationSession) -> None:
        self._session = session
        if session.current_round is None:
            raise SystemExit("The training did not begin.")
        self._worker = psutil.Process(session.current_round.job.pid)
        self.seconds = 0.0

    def until_the_end(self) -> bool:
        """Ask once more; whether the training has ended."""
        with suppress(psutil.Error):
            times = self._worker.cpu_times()
            self.seconds = max(self.seconds, times.user + times.system)
        return self._session.state is SessionState.IDLE


if __name__ == "__main__":
    main()
