"""``napari-mlbseg doctor``: facts for a report, whatever is broken, and nothing of whose machine it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import napari_mlbseg
from napari_mlbseg.cli import main as cli
from napari_mlbseg.session import environment
from napari_mlbseg.session.environment import as_text, shortened


def test_it_tells_versions_devices_memory_and_the_plugin(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["napari-mlbseg"] == napari_mlbseg.__version__
    assert {"torch", "monai", "napari", "numpy", "zarr"} <= set(facts["packages"])
    assert facts["torch"]["devices"]
    assert facts["plugin"].startswith("manifest found")
    assert facts["memory"].endswith("GiB free")


def test_one_fact_that_cannot_be_had_takes_no_other_with_it(monkeypatch, capsys):
    def broken(*words: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(environment.subprocess, "run", broken)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch: not known (TimeoutExpired" in said
    assert "manifest found" in said


def test_paths_do_not_say_whose_they_are(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    assert shortened(Path("/home/somebody/data/heart.mlbseg")) == "~/data/heart.mlbseg"
    assert shortened(Path("/mnt/share/somebody/data/heart.mlbseg")) == "…/data/heart.mlbseg"


def test_facts_are_lines_to_paste():
    facts = {"a": {"b": 1, "c": ["x", "y"]}, "d": {}, "shape": [1, 2]}
    assert as_text(facts) == "a:\n  b: 1\n  c:\n    x\n    y\nd: none\nshape: [1, 2]"


def test_every_command_can_be_verbose():
    parser = cli._parser()
    (commands,) = (action for action in parser._actions if action.choices)
    assert all("--verbose" in command.format_help() for command in commands.choices.values())
