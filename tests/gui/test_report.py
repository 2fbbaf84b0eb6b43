"""*Copy report*: the machine and the session, on the clipboard."""

from __future__ import annotations

import threading

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_mlbseg.events import Failed
from napari_mlbseg.session import environment
from napari_mlbseg.viewer import commands

pytestmark = pytest.mark.gui


@pytest.fixture
def machine(monkeypatch) -> None:
    monkeypatch.setattr(environment, "machine_facts", lambda: {"torch": "2.0"})


@pytest.fixture
def notices(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("napari_mlbseg.viewer.panels.session.show_info", said.append)
    return said


@pytest.mark.usefixtures("machine", "fake_jobs")
def test_the_report_is_on_the_clipboard_and_it_is_said(heart, qtbot, notices, wait_for):
    _, dock, annotation = heart
    annotation.data[3, 10:20, 10:20] = 2
    dock.controller.session.mark_dirty("heart", 3)
    dock.controller.mark_clean(True, 3)
    dock.controller.start()
    session = dock.controller.session
    wait_for(lambda: session.current_round is not None)
    job = session.current_round.job
    job.folder.log_file.write_text(f"first\nvolume 'heart' in {job.folder.path}\n")
    job.say(Failed(message="It failed.", advice="Try again."))
    wait_for(lambda: session.current_round.outcome is not None)
    commands.copy_report(dock.controller.viewer)
    assert not dock.session.report.isEnabled()
    qtbot.waitUntil(dock.session.report.isEnabled)
    text = QApplication.clipboard().text()
    assert "torch: 2.0" in text
    assert "  volumes:\n    volume 1:\n      shape: [12, 48, 40]" in text
    assert "      clean: 1\n" in text
    assert "    1: failed: It failed. Try again." in text
    *_, last_line, _ = text.splitlines()
    assert last_line.startswith("  volume 'volume 1' in …/")
    assert last_line.endswith(".mlbseg/rounds/001")
    assert str(session.folder.parent) not in text
    assert "heart" not in text
    assert notices == ["MLB-Seg: The report is copied."]


@pytest.mark.usefixtures("machine")
def test_the_button_is_pressed_by_the_keyboard(heart, qtbot, notices):
    _, dock, _ = heart
    dock.session.report.setFocus()
    QTest.keyClick(dock.session.report, Qt.Key.Key_Space)
    qtbot.waitUntil(lambda: bool(notices))


def test_the_window_does_not_wait_and_can_be_closed_meanwhile(heart, qtbot, monkeypatch):
    viewer, dock, _ = heart
    asked, answer = threading.Event(), threading.Event()

    def slow() -> dict[str, str]:
        asked.set()
        answer.wait(20)
        return {}

    monkeypatch.setattr(environment, "machine_facts", slow)
    QApplication.clipboard().setText("before")
    dock.session.report.click()
    (thread,) = (each for each in threading.enumerate() if each.name == "mlbseg-report")
    qtbot.waitUntil(asked.is_set)
    viewer.close()
    answer.set()
    thread.join(20)
    qtbot.wait(50)
    assert not thread.is_alive()


def test_a_report_that_fails_says_what_else_there_is(heart, qtbot, monkeypatch):
    _, dock, _ = heart

    def broken() -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(environment, "machine_facts", broken)
    complained: list[str] = []
    dock.controller.complained.connect(complained.append)
    dock.session.report.click()
    qtbot.waitUntil(dock.session.report.isEnabled)
    assert "run 'napari-mlbseg doctor' in a terminal" in complained[-1]
