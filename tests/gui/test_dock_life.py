"""The dock comes and goes: in every state, in several viewers, by commands; nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from qtpy.QtWidgets import QApplication

from napari_mlbseg.events import Finished, FinishReason
from napari_mlbseg.session import SessionState
from napari_mlbseg.viewer.keys import SHORTCUTS
from tests.gui.gui_actions import make_ready, until_begun

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]


@pytest.mark.parametrize("state", ["empty", "idle", "running", "stopping", "finished"])
def test_closing_in_each_state_ends_the_session_and_leaks_no_widget(
    open_dock, make_napari_viewer, image, state, wait_for
):
    viewer = make_napari_viewer(strict_qt="raise")
    before = set(QApplication.topLevelWidgets())
    _, dock = open_dock(viewer)
    controller = dock.controller
    if state != "empty":
        viewer.add_image(image, name="heart")
        dock.data.volume_rows[0].new.click()
    if state in ("running", "stopping", "finished"):
        job = make_ready(dock, viewer.layers["heart annotation"])
    if state == "stopping":
        dock.train.button.click()
    if state == "finished":
        job.write("heart", (3,), pseudo_labels=1)
        job.say(Finished(reason=FinishReason.TIME, steps=1, seconds=1))
        wait_for(lambda: controller.session.state is SessionState.IDLE)
    viewer.window.remove_dock_widget("all")
    wait_for(lambda: controller.is_closed)
    assert controller.session.state is SessionState.IDLE
    assert not {w for w in QApplication.topLevelWidgets() if w not in before and w.isVisible()}
    if state == "finished":
        assert viewer.layers["heart pseudo-labels"].data[3].min() == 1, "results outlive the dock"


def test_two_docks_in_two_viewers(open_dock, image):
    first_viewer, first = open_dock()
    second_viewer, second = open_dock()
    first_viewer.add_image(image, name="one")
    second_viewer.add_image(image, name="two")
    assert [volume.name for volume in first.controller.session] == ["one"]
    assert [volume.name for volume in second.controller.session] == ["two"]


def test_the_dock_works_through_the_proxy_that_plugins_get(make_napari_viewer_proxy, image, wait_for):
    from napari_mlbseg.viewer.dock import MLBSegDock

    viewer = make_napari_viewer_proxy()
    viewer.add_image(image, name="heart")
    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock)
    dock.data.volume_rows[0].new.click()
    annotation = next(layer for layer in viewer.layers if layer.name == "heart annotation")
    job = make_ready(dock, annotation)
    job.write("heart", (3,), pseudo_labels=1)
    wait_for(lambda: "heart pseudo-labels" in [layer.name for layer in viewer.layers])
    assert viewer.layers.selection.active == annotation


def test_opening_the_dock_imports_nothing_that_takes_long():
    """How long it takes is measured by ``benchmarks.window``; this is what it depends on."""
    script = textwrap.dedent(
        """
        import sys, napari
        viewer = napari.Viewer(show=False)
        before = set(sys.modules)
        from napari_mlbseg.viewer.dock import MLBSegDock
        viewer.window.add_dock_widget(MLBSegDock(viewer))
        print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
        viewer.close()
        """
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    loaded = set(answer.stdout.splitlines()[-1].split())
    assert "napari_mlbseg" in loaded, answer.stderr
    slow = {
        "torch",
        "monai",
        "zarr",
        "scipy",
        "nibabel",
        "tifffile",
        "pyqtgraph",
        "skimage",
        "matplotlib",
        "distributed",
    }
    assert not loaded & slow


def test_commands_open_the_dock_and_act(make_napari_viewer, image, monkeypatch):
    from napari_mlbseg.viewer import commands

    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(image, name="heart")
    commands.new_annotation(viewer)
    viewer.layers["heart annotation"].data[3:5, 10:20, 10:20] = 1
    viewer.dims.set_point(0, 3)
    commands.mark_slice_clean(viewer)
    commands.train(viewer)
    commands.train(viewer)  # one at a time
    until_begun(commands.find_dock(viewer))
    session = commands.find_dock(viewer).controller.session
    assert session.state is SessionState.RUNNING
    assert session.current_round.task.volumes[0].clean_slices == (3,)
    commands.train(viewer)  # one at a time
    commands.stop(viewer)
    assert session.current_round.job.cancelled


def test_napari_can_run_every_command_of_the_dock(make_napari_viewer, image):
    from napari._app_model import get_app_model

    from napari_mlbseg.viewer import commands

    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(image, name="heart")
    for name in commands.__all__:
        get_app_model().injection_store.inject(getattr(commands, name))()
    assert "heart annotation" in viewer.layers


@pytest.mark.parametrize("first_goes_first", [False, True])
def test_of_two_docks_the_one_that_stays_has_the_shortcut(open_dock, make_napari_viewer, image, first_goes_first):
    viewer = make_napari_viewer(strict_qt="raise")
    viewer.add_image(image, name="heart")
    docks = [open_dock(viewer)[1] for _ in range(2)]
    gone, stays = docks if first_goes_first else reversed(docks)
    gone.controller.close()
    assert len(viewer.keymap) == len(SHORTCUTS)
    marked = []
    for dock in docks:
        dock.controller.toggle_clean = lambda dock=dock: marked.append(dock)
    next(slot for key, slot in viewer.keymap.items() if str(key) == SHORTCUTS["mark_slice_clean"].key)(viewer)
    assert marked == [stays]
    stays.controller.close()
    assert not viewer.keymap
