"""What several tests of the dock do first."""

from __future__ import annotations

__all__ = ["make_ready"]


def make_ready(dock, annotation):
    """Paint and mark a slice, press Train; gives the job, which the test plays."""
    annotation.data[3, 10:20, 10:20] = 1
    dock.controller.mark_clean(True, 3)
    dock.train.button.click()
    return dock.controller.session.current_round.job
