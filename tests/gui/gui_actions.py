"""What several tests of the dock do first."""

from __future__ import annotations

import time

from qtpy.QtTest import QTest

from napari_mlbseg.session import SessionState

__all__ = ["make_ready", "press_train", "until_begun"]


def make_ready(dock, annotation):
    """Paint and mark a slice, press Train; gives the job, which the test plays."""
    annotation.data[3, 10:20, 10:20] = 1
    dock.controller.mark_clean(True, 3)
    press_train(dock)
    return dock.controller.session.current_round.job


def press_train(dock):
    """Press Train, and wait until there is a worker, or it is said why there is none."""
    dock.train.button.click()
    until_begun(dock)


def until_begun(dock, seconds=20.0):
    """Let the window live for as long as a job is being prepared."""
    end = time.monotonic() + seconds
    while dock.controller.session.state is SessionState.PREPARING:
        assert time.monotonic() < end, "it did not begin in time"
        QTest.qWait(5)
