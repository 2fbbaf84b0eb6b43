"""The way from the click on *Train* to the started worker: which of our functions run, in which files, as a tree.

    python -m benchmarks.call_path        (needs a display; xvfb-run gives one)

A map for newcomers, and a count: every function of the package that is called in any thread between the click on a
small image and the start of the worker's process counts once, and so does every file that one of them stands in.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import napari
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

import napari_mlbseg
from napari_mlbseg.io.phantom import make_phantom
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.viewer.demo import clean_slices
from napari_mlbseg.viewer.dock import MLBSegDock

__all__ = ["main"]

_ROOT = Path(napari_mlbseg.__file__).parent
_MOST_SECONDS = 60.0  # from the click to the worker, before it is given up


@dataclass
class _Call:
    """A function of ours, and those of ours that it called."""

    code: CodeType | None
    calls: dict[CodeType, _Call] = field(default_factory=dict)


class _Recorder:
    """Notes which functions of ours are called in which thread."""

    def __init__(self) -> None:
        self.threads: dict[str, _Call] = {}
        self._stacks: dict[int, list[_Call | None]] = {}
        self._is_ours: dict[str, bool] = {}
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self.is_on or event not in ("call", "return"):
            return
        name = threading.current_thread().name
        stack = self._stacks.setdefault(
            threading.get_ident(), [self.threads.setdefault(name.partition("_")[0], _Call(None))]
        )
        if event == "return":
            if len(stack) > 1:
                stack.pop()
            return
        code = frame.f_code
        if not self._is_ours.setdefault(code.co_filename, code.co_filename.startswith(str(_ROOT))):
            stack.append(None)
            return
        caller = next(call for call in reversed(stack) if call is not None)
        stack.append(caller.calls.setdefault(code, _Call(code)))

    def codes(self) -> set[CodeType]:
        """All functions of ours; parts of one, such as a comprehension or a class body, are not counted apart."""
        waiting, found = list(self.threads.values()), set()
        while waiting:
            call = waiting.pop()
            waiting += call.calls.values()
            if call.code is not None and not call.code.co_name.startswith("<"):
                found.add(call.code)
        return found


def main(arguments: list[str] | None = None) -> None:
    """Click on *Train* in a real viewer and print what was called."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.call_path", description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=6, help="levels of the tree that are printed")
    options = parser.parse_args(arguments)
    recorder, begun = _Recorder(), threading.Event()
    threading.setprofile(recorder)  # before the session's threads begin: others cannot be listened to
    viewer = napari.Viewer()
    dock = _prepare(viewer)
    start = LocalJob._start_worker

    def noted(job: LocalJob, **options: Any) -> None:
        start(job, **options)
        begun.set()

    LocalJob._start_worker = noted  # type: ignore[method-assign]
    end = time.monotonic() + _MOST_SECONDS
    sys.setprofile(recorder)
    recorder.is_on = True
    QTest.mouseClick(dock.train.button, Qt.MouseButton.LeftButton)
    while not begun.is_set() and time.monotonic() < end:
        QApplication.processEvents()
    recorder.is_on = False
    sys.setprofile(None)
    for name, root in recorder.threads.items():
        print(f"thread {name}")
        _print(root, 1, options.depth, set())
    codes = recorder.codes()
    files = sorted({str(Path(code.co_filename).relative_to(_ROOT)) for code in codes})
    print(f"\n{len(files)} files: {', '.join(files)}\n{len(codes)} functions")
    dock.controller.session.close()
    viewer.close()


def _prepare(viewer: napari.Viewer) -> MLBSegDock:
    """A small image, three clean slices painted from its truth, and the dock."""
    phantom = make_phantom((24, 64, 72))
    viewer.add_image(phantom.image, name="image")
    clean = clean_slices(phantom.labels)[::2]
    painted = phantom.labels * 0
    painted[list(clean)] = phantom.labels[list(clean)]
    viewer.add_labels(painted, name="image annotation")
    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock, name="MLB-Seg")
    for z in clean:
        dock.controller.session.set_clean("image", z, True)
    for _ in range(50):  # let the window settle, and what is painted be saved
        QTest.qWait(20)
    return dock


def _print(call: _Call, level: int, depth: int, printed: set[CodeType]) -> None:
    for code, inner in call.calls.items():
        name = f"{Path(code.co_filename).relative_to(_ROOT)}  {code.co_qualname}"
        again = " ..." if code in printed and inner.calls else ""
        print(f"{'  ' * level}{name}{again}")
        if not again and level < depth:
            printed.add(code)
            _print(inner, level + 1, depth, printed)


if __name__ == "__main__":
    main()
