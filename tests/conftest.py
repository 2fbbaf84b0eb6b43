"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def sessions_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of sessions that nobody saved, of this test alone."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("NAPARI_MLBSEG_HOME", str(home))
    return home


@pytest.fixture
def la_dir() -> Path:
    """Folder of the real left-atrium volumes; tests that need it are skipped without."""
    folder = os.environ.get("MLBSEG_LA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("the environment variable MLBSEG_LA_DIR names no folder of real volumes")
    return Path(folder)
