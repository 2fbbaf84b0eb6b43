"""The plugin's settings, which napari shows in its preferences; their defaults stand in the manifest."""

from __future__ import annotations

from pathlib import Path

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.config.cluster_address import checked_address
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.persistence import session_paths

__all__ = ["apply_settings"]

_PLUGIN = "napari-mlbseg"


def apply_settings(session: SegmentationSession) -> None:
    """Start a new session as the settings say. napari before 0.9 has none: then it stays as it is."""
    try:
        from napari.settings import get_plugin_settings

        settings = get_plugin_settings(_PLUGIN)
    except (ImportError, KeyError):  # an earlier napari, or a plugin that is not installed but run from its folder
        return
    training = settings.training
    session.config = TrainingConfig.from_preset(
        training.preset, time_budget=training.time_budget, cluster=_address(training.cluster)
    )
    session.warm_start = training.warm_start
    session_paths.choose(Path(settings.sessions.folder) if settings.sessions.folder else None)


def _address(text: str) -> str:
    """The address of a cluster, or none where the settings hold something else: the dock must open all the same."""
    try:
        return checked_address(text) if text.strip() else ""
    except ValueError:
        return ""
