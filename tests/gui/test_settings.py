"""Settings in napari's preferences: a new session starts as they say."""

from __future__ import annotations

import pytest

from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.persistence import session_paths
from napari_mlbseg.viewer.settings import apply_settings

pytestmark = pytest.mark.gui


@pytest.fixture
def settings():
    """The plugin's settings, put back afterwards."""
    module = pytest.importorskip("napari.settings")
    if not hasattr(module, "get_plugin_settings"):
        pytest.skip("this napari has no settings of plugins")
    found = module.get_plugin_settings("napari-mlbseg")
    before = found.model_dump()
    sections = {"training": found.training, "sessions": found.sessions}
    for section in sections.values():  # whatever the person at this machine has chosen
        for name, field in type(section).model_fields.items():
            setattr(section, name, field.default)
    yield found
    for name, section in sections.items():
        for key, value in before[name].items():
            setattr(section, key, value)
    session_paths.choose(None)


def test_a_new_session_starts_as_the_settings_say(settings, tmp_path, monkeypatch):
    monkeypatch.delenv("NAPARI_MLBSEG_HOME")
    settings.training.preset = "standard"
    settings.training.time_budget = 33.0
    settings.training.warm_start = False
    settings.training.cluster = "127.0.0.1:8786"
    settings.sessions.folder = str(tmp_path / "mine")
    session = SegmentationSession()
    apply_settings(session)
    assert session.config.preset == "standard"
    assert session.config.time_budget == 33
    assert session.config.cluster == "tcp://127.0.0.1:8786"
    assert not session.warm_start
    assert session.folder.parent == tmp_path / "mine"
    session.close()


def test_a_setting_that_is_no_address_does_not_keep_the_dock_from_opening(settings):
    settings.training.cluster = "server"
    session = SegmentationSession()
    apply_settings(session)
    assert session.config.cluster == ""


def test_the_defaults_change_nothing(settings):
    session = SegmentationSession()
    before = session.config
    apply_settings(session)
    assert session.config == before
    assert session.warm_start


def test_a_dock_opens_with_them(settings, open_dock):
    settings.training.time_budget = 44.0
    _, dock = open_dock()
    assert dock.train.editors["time_budget"].value() == 44
