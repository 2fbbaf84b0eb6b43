"""The demonstration without its window: which display it takes, and when it counts as failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from napari_mlbseg.cli import main as cli
from napari_mlbseg.viewer import demo

linux = pytest.mark.skipif(sys.platform != "linux", reason="only X and Wayland can be missing")


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """Commands that would have been run; each ends with 7."""
    run: list[list[str]] = []

    def remember(command: list[str], **_: object) -> SimpleNamespace:
        run.append(command)
        return SimpleNamespace(returncode=7)

    monkeypatch.setattr(subprocess, "run", remember)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return run


@linux
def test_without_a_display_it_runs_by_itself(commands):
    assert cli.main(["demo"]) == 7
    assert commands == [[sys.executable, "-m", "napari_mlbseg.viewer.demo", "--headless"]]


@linux
@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_with_a_display_a_window_opens_unless_told_otherwise(commands, monkeypatch, name):
    monkeypatch.setenv(name, ":0")
    cli.main(["demo"])
    cli.main(["demo", "--headless"])
    assert [command[3:] for command in commands] == [[], ["--headless"]]


@linux
def test_by_itself_it_brings_its_own_display(commands, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert demo.main(["--headless", "--seconds", "9"]) == 7
    ((runner, *_, second_last, last),) = commands
    assert runner == "/bin/xvfb-run"
    assert (second_last, last) == ("--seconds", "9")


@linux
def test_what_is_missing_for_that_is_said(commands, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert demo.main(["--headless"]) == 2
    assert "install it" in capsys.readouterr().err


def test_with_a_display_it_runs_here(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(demo, "run_demo", lambda *given: asked.append(given) or 0)
    assert demo.main(["--headless", "--out", str(tmp_path), "--seconds", "5"]) == 0
    assert asked == [(True, Path(tmp_path), 5.0)]


@pytest.mark.parametrize(
    ("first", "last", "unchanged", "code"),
    [(0.8, 0.9, True, 0), (0.8, 0.785, True, 0), (0.8, 0.775, True, 1), (0.8, 0.9, False, 1), (0.0, 0.0, True, 0)],
)
def test_it_fails_where_the_training_does_harm(capsys, first, last, unchanged, code):
    assert demo.verdict(first, last, unchanged) == code
    assert bool(capsys.readouterr().err) == bool(code)
