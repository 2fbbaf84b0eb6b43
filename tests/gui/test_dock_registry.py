"""Docks are found by their viewer, and being found keeps none alive."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
from unittest.mock import Mock

import pytest
from qtpy.QtCore import Qt

from napari_mlbseg.viewer.docks.registry import CURVES, INSPECTOR, DockRegistry, docks, open_beside, open_dock
from napari_mlbseg.viewer.docks.side_dock import SideDock
from tests.gui.gui_actions import press_train

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]


def test_the_newest_dock_of_a_viewer_is_found_until_it_ends(open_dock, wait_for):
    first_viewer, first = open_dock()
    second_viewer, second = open_dock()
    assert docks.find(first_viewer) is first
    assert docks.find(second_viewer) is second
    _, newer = open_dock(first_viewer)
    assert docks.find(first_viewer) is newer
    heard = []
    docks.changed.connect(lambda: heard.append(True))
    first_viewer.window.remove_dock_widget(newer)
    wait_for(lambda: docks.find(first_viewer) is first)
    assert heard == [True]
    first_viewer.window.remove_dock_widget(first)
    wait_for(lambda: docks.find(first_viewer) is None)
    assert docks.find(second_viewer) is second


def test_a_dock_is_found_by_a_proxy_of_its_viewer_too(make_napari_viewer_proxy):
    from napari_mlbseg.viewer.dock import MLBSegDock

    viewer = make_napari_viewer_proxy()
    dock = MLBSegDock(viewer)
    viewer.window.add_dock_widget(dock)
    assert docks.find(viewer) is dock
    assert docks.find(viewer.__wrapped__) is dock


def test_a_dock_is_opened_where_there_is_none(make_napari_viewer):
    viewer = make_napari_viewer(strict_qt="raise")
    opened = open_dock(viewer)
    assert open_dock(viewer) is opened
    assert docks.find(viewer) is opened


def test_the_registry_keeps_no_dock_alive():
    registry, viewer = DockRegistry(), object()
    dock = Mock(controller=Mock(viewer=viewer))
    registry.add(dock)
    assert registry.find(viewer) is dock
    del dock
    gc.collect()
    assert registry.find(viewer) is None


def test_the_main_dock_loads_no_plots():
    script = textwrap.dedent(
        """
        import sys
        import napari_mlbseg.viewer.dock, napari_mlbseg.viewer.commands
        print("pyqtgraph" in sys.modules)
        """
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"


def test_loading_the_plots_leaves_the_handling_of_errors_alone():
    script = textwrap.dedent(
        """
        import sys, threading
        before = sys.excepthook, threading.excepthook
        import napari_mlbseg.viewer.widgets.plots
        print(before == (sys.excepthook, threading.excepthook))
        """
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "True"


def test_opened_from_the_menus_all_docks_work_together_through_napari_s_proxies(make_napari_viewer, image, wait_for):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    main = open_dock(viewer)  # as from the menu: napari gives plugins a proxy of the viewer
    main.data.volume_rows[0].new.click()
    viewer.layers["heart annotation"].data[3, 8:16, 8:16] = 1
    main.controller.mark_clean(True, 3)
    main.controller.workspace.go_to(3)
    main.train.curves.click()
    main.results.inspect.click()
    curves, inspector = (
        next(dock for name, dock in viewer.window.dock_widgets.items() if name.startswith(wanted))
        for wanted in (CURVES, INSPECTOR)
    )
    assert inspector.controller is main.controller
    wait_for(lambda: curves.controller is None)  # it lies behind the inspector, and listens to nothing
    press_train(main)
    job = main.controller.session.current_round.job
    job.write("heart", (3,), weight_initial=0.25, weight_pseudo=0.5)
    wait_for(lambda: inspector.body.isVisible(), 20)
    viewer.cursor.position = (3, 10, 20)
    wait_for(lambda: inspector.pixel.text().startswith("Row 10, column 20:  wⁿ 0.25,  wᵖ 0.50"))
    inspector.mark.click()
    assert "heart trusted by neither" in viewer.layers
    inspector.mark.click()
    assert "heart trusted by neither" not in viewer.layers
    main.train.curves.click()
    wait_for(lambda: curves.controller is main.controller and inspector.controller is None)


@pytest.mark.parametrize("panel_and_button", [("train", "curves"), ("results", "inspect")])
def test_a_button_opens_its_dock_once(open_dock, make_napari_viewer, image, panel_and_button):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    _, dock = open_dock(viewer)
    panel, button = panel_and_button
    for _ in range(2):
        getattr(getattr(dock, panel), button).click()
    opened = [widget for widget in viewer.window.dock_widgets.values() if isinstance(widget, SideDock)]
    assert len(opened) == 1
    assert opened[0].controller is dock.controller, "and no second main dock"


@pytest.mark.parametrize(("width", "area"), [(1200, Qt.DockWidgetArea.BottomDockWidgetArea), (1800, None)])
def test_docks_lie_beside_the_main_one_and_not_over_it(open_dock, make_napari_viewer, image, wait_for, width, area):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    viewer.add_image(image, name="heart")
    window = viewer.window._qt_window
    window.resize(width, 800)
    _, main = open_dock(viewer)
    wait_for(lambda: window.width() == width)
    curves, inspector = open_beside(viewer, CURVES), open_beside(viewer, INSPECTOR)
    wait_for(lambda: curves.holder in window.tabifiedDockWidgets(inspector.holder))
    assert not window.tabifiedDockWidgets(main.holder), "the main dock is not hidden behind another"
    expected = area or window.dockWidgetArea(main.holder)
    assert {window.dockWidgetArea(dock.holder) for dock in (curves, inspector)} == {expected}
    for dock, title in ((curves, CURVES), (inspector, INSPECTOR)):
        wait_for(lambda dock=dock, title=title: dock.holder.windowTitle() == title)
        wait_for(lambda dock=dock, title=title: dock.holder.titleBarWidget().title.text() == title)
    assert not main.holder.geometry().intersects(inspector.holder.geometry())
    assert main.isVisible()
    wait_for(lambda: inspector.controller is main.controller and curves.controller is None)
