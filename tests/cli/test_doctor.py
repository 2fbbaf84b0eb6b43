"""``napari-mlbseg doctor``: facts for a report, whatever is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import napari_mlbseg
from napari_mlbseg._util import environment
from napari_mlbseg.cli import main as cli

ROOT = Path(__file__).parent.parent.parent


def test_it_tells_versions_devices_memory_and_the_plugin(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["napari-mlbseg"] == napari_mlbseg.__version__
    assert {"torch", "monai", "napari", "numpy", "zarr"} <= set(facts["packages"])
    assert facts["torch"]["devices"]
    assert ", Qt " in facts["Qt"]
    assert facts["plugin"].startswith("manifest found")
    assert facts["memory"].endswith("GiB free")
    assert facts["sessions"]["disk"].endswith("GiB free")


def test_one_fact_that_cannot_be_had_takes_no_other_with_it(monkeypatch, capsys):
    def broken(*words: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(environment.subprocess, "run", broken)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch: not known (TimeoutExpired" in said
    assert "manifest found" in said


def test_a_process_that_crashes_is_told(monkeypatch):
    monkeypatch.setattr(environment, "_ASK_TORCH", "raise ImportError('libcudart.so is not there')")
    monkeypatch.setattr(environment, "_ASK_QT", "import os; os._exit(3)")
    facts = environment.machine_facts()
    assert "libcudart.so is not there" in facts["torch"]
    assert "exit code 3" in facts["Qt"]


def run_bare(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in an interpreter that finds none of the packages that are installed."""
    command = [sys.executable, "-S", "-m", "napari_mlbseg", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def test_the_doctor_works_where_nothing_is_installed():
    answer = run_bare("doctor", "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    facts = json.loads(answer.stdout)
    assert facts["napari-mlbseg"] == napari_mlbseg.__version__
    assert facts["memory"].startswith("not known (ModuleNotFoundError")
    assert facts["plugin"].startswith("not known (ModuleNotFoundError")
    assert facts["sessions"].startswith("not known (ModuleNotFoundError")


def test_another_command_names_the_doctor_where_it_cannot_be_loaded():
    answer = run_bare("evaluate", "a.nii", "b.nii")
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert "'numpy'" in line
    assert "'napari-mlbseg doctor'" in line


def test_every_command_can_be_verbose():
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if action.choices)
    assert all("--verbose" in command.format_help() for command in commands.choices.values())


@pytest.mark.parametrize("verbose", [True, False])
def test_a_verbose_command_logs_to_stderr_and_stdout_is_as_before(tmp_path, verbose):
    words = ["session", str(tmp_path / "none.mlbseg"), *(["--verbose"] if verbose else [])]
    answer = subprocess.run([sys.executable, "-m", "napari_mlbseg", *words], capture_output=True, text=True)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert (" INFO napari_mlbseg" in answer.stderr) is verbose
