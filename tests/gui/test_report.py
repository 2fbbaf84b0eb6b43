"""*Copy report*: the machine and the session, on the clipboard."""

from __future__ import annotations

import pytest
from qtpy.QtWidgets import QApplication

from napari_mlbseg.session import environment
from napari_mlbseg.viewer import commands

pytestmark = pytest.mark.gui


def test_the_report_is_on_the_clipboard_and_it_is_said(heart, qtbot, monkeypatch):
    _, dock, _ = heart
    monkeypatch.setattr("napari_mlbseg.viewer.controllers.report.environment_facts", lambda: {"torch": "2.0"})
    notices: list[str] = []
    monkeypatch.setattr("napari_mlbseg.viewer.panels.session.show_info", notices.append)
    commands.copy_report(dock.controller.viewer)
    assert not dock.session.report.isEnabled()
    qtbot.waitUntil(dock.session.report.isEnabled)
    text = QApplication.clipboard().text()
    assert "torch: 2.0" in text
    assert "shape: [" in text
    assert "clean: " in text
    assert "on the clipboard" in notices[0]


def test_a_report_that_fails_says_what_else_there_is(heart, qtbot, monkeypatch):
    _, dock, _ = heart

    def broken() -> None:
        raise OSError("no more processes")

    monkeypatch.setattr("napari_mlbseg.viewer.controllers.report.environment_facts", broken)
    complained: list[str] = []
    dock.controller.complained.connect(complained.append)
    dock.session.report.click()
    qtbot.waitUntil(dock.session.report.isEnabled)
    assert "run 'napari-mlbseg doctor' in a terminal" in complained[-1]


def test_a_session_tells_shapes_and_counts(heart):
    _, dock, _ = heart
    facts = environment.session_facts(dock.controller.session)
    (volume,) = facts["volumes"].values()
    assert volume["shape"] == list(dock.controller.workspace.bindings[0].image.data.shape)
    assert facts["rounds"] == []
