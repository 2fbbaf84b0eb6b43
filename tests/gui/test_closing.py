"""napari is closed in each of its ways, and the session opened again: it is as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gui, pytest.mark.slow]


def test_a_session_is_the_same_after_each_way_to_close_napari(tmp_path):
    script = Path(__file__).with_name("closing_acts.py")
    answer = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    expected = [[way, [True], True, clean, 2] for way in ("ctrl-q", "button", "close") for clean in ([3], [3, 5])]
    assert [json.loads(line) for line in answer.stdout.splitlines()] == expected
    assert "Traceback" not in answer.stderr
