"""The label-and-retrain session: what a window shows and a command line runs. No Qt, no torch."""

from napari_mlbseg.session.session import Round, SegmentationSession, SessionState
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = ["AnnotatedVolume", "Round", "SegmentationSession", "SessionState"]
