"""The label-and-retrain session: what a window shows and a command line runs. No Qt, no torch."""

from napari_mlbseg.session.clean_slices import Provenance, SliceMarks
from napari_mlbseg.session.persistence.schema import SessionError
from napari_mlbseg.session.rounds import Round
from napari_mlbseg.session.session import SegmentationSession
from napari_mlbseg.session.training import SessionState
from napari_mlbseg.session.volume import AnnotatedVolume

__all__ = [
    "AnnotatedVolume",
    "Provenance",
    "Round",
    "SegmentationSession",
    "SessionError",
    "SessionState",
    "SliceMarks",
]
