"""Between the viewer and the session: marking slices clean, training, and the clock of a job."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_mlbseg.events import Event, Failed, Preview
from napari_mlbseg.session import Round, SegmentationSession
from napari_mlbseg.viewer.connections import Connections
from napari_mlbseg.viewer.controllers.notifications import JobNotifications
from napari_mlbseg.viewer.controllers.open_volumes import OpenVolumes
from napari_mlbseg.viewer.controllers.review import Reviewer
from napari_mlbseg.viewer.controllers.session_files import SessionFiles
from napari_mlbseg.viewer.controllers.workspace import Workspace
from napari_mlbseg.viewer.key_bindings import KeyBindings
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
)
from napari_mlbseg.viewer.layers.comparison import Comparison
from napari_mlbseg.viewer.settings import apply_settings
from napari_mlbseg.viewer.widgets.dialogs import Question

if TYPE_CHECKING:
    from napari.viewer import Viewer


__all__ = ["DockController"]

_POLL_MILLISECONDS = 100

# There is no watcher in a `thread_worker` for napari's close confirmation: napari waits for such threads when it quits,
# and one that learns only then that its worker was ended holds up the quitting. Nothing painted depends on the worker.


class DockController:
    """Owns the session of one dock; the panels call it and listen to it.

    The layers and the slice in view are its `workspace`'s, what belongs to reviewing a slice its `reviewer`'s, what
    belongs to session folders its `files`', and what belongs to volumes that are not in view its `open_volumes`'. These
    are given the workspace, not each other.

    Parameters
    ----------
    viewer : Viewer
    session : SegmentationSession, optional
        By default a new one, kept in the home of sessions that nobody saved.
    """

    def __init__(self, viewer: Viewer, session: SegmentationSession | None = None) -> None:
        self.viewer = viewer
        self.session = session if session is not None else _new_session()
        self.workspace = Workspace(viewer, self.session)
        self.results, self.editable = self.workspace.results, self.workspace.editable
        self.complained, self.asked = self.workspace.complained, self.workspace.asked
        self.comparison = Comparison(viewer)
        self.reviewer = Reviewer(self.workspace)
        self.open_volumes = OpenVolumes(self.workspace)
        self.open_volumes.left.connect(self.reviewer.drop_region)
        self.files = SessionFiles(self.workspace, self.open_volumes)
        self._focus_is_news = False
        self._notices = JobNotifications(self.session)
        self._connections = Connections()
        self._keys = KeyBindings(viewer, self)
        self._timer = QTimer()
        self._timer.setInterval(_POLL_MILLISECONDS)
        self._connect()

    @property
    def is_closed(self) -> bool:
        """Whether its dock is gone."""
        return self.workspace.is_closed

    def mark_clean(self, clean: bool, z: int | None = None) -> None:
        """Mark a slice of the current volume clean or not; by default the one in view."""
        binding, z = self.workspace.current, self.workspace.current_slice if z is None else z
        if binding is None or z is None:
            self.complained.emit("There is no slice in view to mark: choose an image and scroll to one of its slices.")
        elif binding.annotation is None:
            self.complained.emit(f"'{binding.image.name}' has no annotation layer: press New to make one, then paint.")
        else:
            around = self._painted_around(binding, z) if clean else ()
            if around:
                self.asked.emit(
                    Question(
                        f"Is slice {z} all background?",
                        f"Nothing is painted on it, but on the clean slices {around[0]} and {around[1]} there is. "
                        "Marked clean, it would be learnt as a slice without anything.",
                        lambda: self._set_clean(binding, z, clean),
                    )
                )
            else:
                self._set_clean(binding, z, clean)

    def _set_clean(self, binding: VolumeBinding, z: int, clean: bool) -> None:
        try:
            self.session.set_clean(binding.image.name, z, clean)
            self.complained.emit("")
        except IndexError as error:
            self.complained.emit(f"{error} Choose an annotation that belongs to this image, or press New.")

    def _painted_around(self, binding: VolumeBinding, z: int) -> tuple[int, int] | tuple[()]:
        """Of a slice on which nothing is painted, the nearest clean ones before and behind it that show something.

        Empty where there are none, or the slices are unrelated images: then an empty slice is nothing to wonder at.
        """
        volume = self.session.volume_of(binding.uid)
        if volume is None or self.workspace.independent_slices or not 0 <= z < volume.n_slices:
            return ()
        clean = sorted(volume.clean)
        before = next((other for other in reversed(clean) if other < z and volume.is_painted(other)), None)
        behind = next((other for other in clean if other > z and volume.is_painted(other)), None)
        return () if before is None or behind is None or volume.is_painted(z) else (before, behind)

    def toggle_clean(self) -> None:
        """Mark the slice in view clean, or take the mark away."""
        binding, z = self.workspace.current, self.workspace.current_slice
        self.mark_clean(binding is None or z is None or z not in self.workspace.clean_slices(binding))

    def go_to_clean(self, step: int) -> None:
        """Go to the next clean slice, or with -1 to the one before."""
        binding, z = self.workspace.current, self.workspace.current_slice
        clean = sorted(self.workspace.clean_slices(binding)) if binding is not None else []
        here = z if z is not None else -1
        ahead = [other for other in clean if (other - here) * step > 0]
        if ahead:
            self.workspace.go_to(min(ahead) if step > 0 else max(ahead))
        else:
            self.complained.emit("" if clean else "No slice is marked clean yet: paint one completely and mark it.")

    def mark_slice_clean(self) -> None:
        """See `toggle_clean`."""
        self.toggle_clean()

    def next_clean_slice(self) -> None:
        """Go to the next clean slice."""
        self.go_to_clean(1)

    def previous_clean_slice(self) -> None:
        """Go to the previous clean slice."""
        self.go_to_clean(-1)

    def next_suggestion(self) -> None:
        """Go to the slice that is suggested next."""
        self.reviewer.go_to_suggestion()

    def accept(self) -> None:
        """Accept the prediction of the slice in view."""
        self.reviewer.accept()

    def reject(self) -> None:
        """Reject the prediction of the slice in view."""
        self.reviewer.reject()

    def start(self) -> None:
        """Train; a reason why that cannot be is said in one sentence. Returns before the worker is there."""
        self._begin(lambda: self.session.begin(self._focus))

    def predict_rest(self) -> None:
        """Predict the slices that the round in view had no time for, without learning more."""
        self._begin(lambda: self.session.begin_rest(self._focus))

    def start_check(self) -> None:
        """Leave one clean slice out after the other, to estimate the accuracy."""
        self._begin(self.session.begin_check)

    def _begin(self, begin: Callable[[], None]) -> None:
        self.complained.emit("")
        self.workspace.sync()  # pixels of a layer may have been replaced since
        try:
            if (
                self.workspace.bindings
                and not self.workspace.is_annotated
                and all(b.annotation is None for b in self.workspace.bindings)
            ):
                raise ValueError("There is no annotation layer: press New, paint on some slices and mark them clean.")
            begin()
        except ValueError as error:
            self._complain_of(error)

    @property
    def _focus(self) -> tuple[str, int] | None:
        """Name of the volume and slice in view."""
        binding, z = self.workspace.current, self.workspace.current_slice
        return None if binding is None or z is None else (binding.image.name, z)

    def _on_not_begun(self, error: Exception | None) -> None:
        if error is not None:
            self._complain_of(error)

    def _complain_of(self, error: Exception) -> None:
        if isinstance(error, OSError):
            reason = error.strerror or "the disk is full"  # numpy says only how many bytes it could not write
            self.complained.emit(
                f"The training's files cannot be written to {self.session.folder} ({reason}): make room there, then "
                "press Train again."
            )
        else:
            self.complained.emit(str(error))

    def stop(self) -> None:
        """Stop the training and keep what it has."""
        self.session.stop()

    def close(self) -> None:
        """End the training and let go of everything. Safe to call more than once."""
        if self.is_closed:
            return
        self.workspace.close()
        with suppress(RuntimeError):  # Qt deletes its timers first when the program ends
            self._timer.stop()
        self._connections.drop()
        self._keys.release()
        self._notices.close()
        self.open_volumes.end()
        self.session.close(stop_job=not self.session.runs_elsewhere)
        self.comparison.close()
        self.results.close()

    # -- slots ---------------------------------------------------------------------------------------------------

    def _on_slice_changed(self) -> None:
        self._focus_is_news = True

    def _on_round_started(self, started: Round) -> None:
        # layers may have been renamed or turned since the round was asked for
        axis = next(iter(started.record.slice_axes.values()), self.workspace.slice_axis)
        self.results.expect(started, self.workspace.by_name(started), axis)
        for event in started.events:  # of a round that was found running
            if isinstance(event, Preview):
                self.results.take(event)

    def _on_rounds_changed(self) -> None:
        self.comparison.forget_all_but({past.number for past in self.session.rounds})

    def _on_tick(self) -> None:
        if self._focus_is_news:  # told here and not with every step of the slider: telling writes a file
            self._focus_is_news = False
            if self._focus is not None:
                self.session.look_at(*self._focus)
        self.session.poll()
        self.results.flush(new_layers=1)
        self.open_volumes.close_one_too_many()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Preview):
            self.results.take(event)
        elif isinstance(event, Failed):
            self.complained.emit(f"{event.message} {event.advice}".strip())

    # -- connections ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        for signal, slot in (
            (self.workspace.slice_changed, self._on_slice_changed),
            (self.session.not_begun, self._on_not_begun),
            (self.session.round_started, self._on_round_started),
            (self.session.rounds_changed, self._on_rounds_changed),
            (self.session.event_received, self._on_event),
            (self._timer.timeout, self._on_tick),
            (QApplication.instance().aboutToQuit, self.close),
        ):
            self._connections.make(signal, slot)
        self._keys.bind()
        self._timer.start()


def _new_session() -> SegmentationSession:
    session = SegmentationSession()
    apply_settings(session)
    return session
