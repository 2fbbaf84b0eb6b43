"""Between the viewer and the session: which layers are trained on, which slice is in view, and the clock of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from napari.utils import progress
from napari.utils.notifications import show_error, show_info
from psygnal import Signal
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_mlbseg.events import Event, Failed, Preview, Progress, is_terminal
from napari_mlbseg.session import Round, SegmentationSession
from napari_mlbseg.viewer.binding import (
    VolumeBinding,
    annotates,
    current_slice,
    default_slice_axis,
    is_result,
    matching_annotation,
    show_slice,
    spatial_shape,
    turn_view,
)
from napari_mlbseg.viewer.layers import ResultLayers
from napari_mlbseg.viewer.words import ending

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

__all__ = ["SHORTCUT", "DockController"]

#: Marks the slice in view clean. No layer of napari's binds it, and layer keys would win over a viewer's.
SHORTCUT = "K"

_POLL_MILLISECONDS = 100

# There is no watcher in a `thread_worker` for napari's close confirmation: napari waits for such threads when it quits,
# and one that learns only then that its worker was ended holds up the quitting. Nothing painted depends on the worker.


class DockController:
    """Owns the session of one dock; the panels call it and listen to it.

    Parameters
    ----------
    viewer : Viewer
    session : SegmentationSession, optional
        By default a new one in a temporary folder.
    """

    layers_changed = Signal()  # other images or annotations, or another slice axis
    slice_changed = Signal()  # another slice or volume is in view
    complained = Signal(str)  # one sentence for the user; empty: all is well again

    def __init__(self, viewer: Viewer, session: SegmentationSession | None = None) -> None:
        self.viewer = viewer
        self.session = session if session is not None else SegmentationSession()
        self.results = ResultLayers(viewer)
        self.bindings: list[VolumeBinding] = []
        self.slice_axis = 0
        self.independent_slices = False
        self._known: list[VolumeBinding] = []
        self._current: VolumeBinding | None = None
        self._in_view: tuple[VolumeBinding | None, int | None] = (None, None)
        self._focus_is_news = False
        self._progress: progress | None = None
        self._closed = False
        self._shadowed: Any = None
        self._timer = QTimer()
        self._timer.setInterval(_POLL_MILLISECONDS)
        self._connect()

    # -- layers --------------------------------------------------------------------------------------------------

    def set_layers(self, pairs: Sequence[tuple[Image, Labels | None]]) -> None:
        """Train on these images with these annotations. A pair that was there before keeps its clean slices."""
        first_image = self.bindings[0].image if self.bindings else None
        bindings = [self._binding(image, annotation) for image, annotation in pairs]
        if bindings and bindings[0].image != first_image:
            self.slice_axis = default_slice_axis(bindings[0].image, self.viewer)
        self.bindings = bindings
        self.sync()

    def set_slices(self, axis: int, independent: bool) -> None:
        """Slices lie along `axis`; turns the view there if that changes."""
        if axis != self.slice_axis and self.current is not None:
            turn_view(self.viewer, self.current.image, axis)
        self.slice_axis, self.independent_slices = axis, independent
        self.sync()

    def set_initial_labels(self, binding: VolumeBinding, layer: Labels | None) -> None:
        """Take the initial labels of a volume from a layer."""
        binding.initial_labels = layer
        self.sync()

    def sync(self) -> None:
        """Bring the session's volumes up to date with the layers."""
        self.session.set_volumes([b.to_volume(self.slice_axis, self.independent_slices) for b in self.bindings])
        self.layers_changed.emit()
        self._on_view_moved()

    def adopt(self, layer: Layer) -> None:
        """Take up a layer that the user opened or made, where one is still missing."""
        if is_result(layer):
            return
        if isinstance(layer, Image) and not self.bindings:
            self.set_layers([(layer, matching_annotation(layer, self.viewer))])
        elif isinstance(layer, Labels):
            self.set_layers(
                [
                    (b.image, layer if b.annotation is None and annotates(layer, b.image) else b.annotation)
                    for b in self.bindings
                ]
            )

    def _binding(self, image: Image, annotation: Labels | None) -> VolumeBinding:
        for known in self._known:
            if known.image == image and known.annotation == annotation:
                return known
        self._known.append(VolumeBinding(image, annotation))
        image.events.name.connect(self._on_renamed)
        return self._known[-1]

    # -- the slice in view ---------------------------------------------------------------------------------------

    @property
    def current(self) -> VolumeBinding | None:
        """The volume that the user works on: that of the selected layer, else the last such, else the first."""
        active = self.viewer.layers.selection.active
        for binding in self.bindings:
            if binding.holds(active):
                self._current = binding
        if self._current not in self.bindings:
            self._current = self.bindings[0] if self.bindings else None
        return self._current

    @property
    def current_slice(self) -> int | None:
        """Number of the slice in view, or None where the view is along another axis or outside the stack."""
        binding = self.current
        return None if binding is None else current_slice(self.viewer, binding.image, self.slice_axis)

    @property
    def n_slices(self) -> int:
        """Number of slices of the current volume; 0 without one, or where it is no stack."""
        shape = spatial_shape(self.current.image) if self.current is not None else ()
        return shape[self.slice_axis] if len(shape) == 3 else 0

    def mark_clean(self, clean: bool, z: int | None = None) -> None:
        """Mark a slice of the current volume clean or not; by default the one in view."""
        binding, z = self.current, self.current_slice if z is None else z
        if binding is None or z is None:
            self.complained.emit("There is no slice in view to mark: choose an image and scroll to one of its slices.")
        elif binding.annotation is None:
            self.complained.emit(f"'{binding.image.name}' has no annotation layer: press New to make one, then paint.")
        else:
            try:
                self.session.set_clean(binding.image.name, z, clean)
                self.complained.emit("")
            except IndexError as error:
                self.complained.emit(f"{error} Choose an annotation that belongs to this image, or press New.")

    def toggle_clean(self) -> None:
        """Mark the slice in view clean, or take the mark away."""
        binding, z = self.current, self.current_slice
        self.mark_clean(binding is None or z is None or z not in self.clean_slices(binding))

    def clean_slices(self, binding: VolumeBinding) -> set[int]:
        """Slices of a volume that are marked clean."""
        return binding.clean.setdefault(self.slice_axis, set())

    def go_to(self, z: int) -> None:
        """Scroll to a slice of the current volume."""
        if self.current is not None:
            show_slice(self.viewer, self.current.image, self.slice_axis, z)

    def turn_view(self) -> None:
        """Turn the viewer so that it scrolls through the slices."""
        if self.current is not None:
            turn_view(self.viewer, self.current.image, self.slice_axis)

    # -- training ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Train; a reason why that cannot be is said in one sentence."""
        self.complained.emit("")
        self.sync()  # pixels of a layer may have been replaced since
        binding, z = self.current, self.current_slice
        try:
            if self.bindings and all(b.annotation is None for b in self.bindings):
                raise ValueError("There is no annotation layer: press New, paint on some slices and mark them clean.")
            self.session.start(focus=None if binding is None or z is None else (binding.image.name, z))
        except ValueError as error:
            self.complained.emit(str(error))
        except OSError as error:
            reason = error.strerror or "the disk is full"  # numpy says only how many bytes it could not write
            self.complained.emit(
                f"The training's files cannot be written to {self.session.folder} ({reason}): make room there, then "
                "press Train again."
            )

    def stop(self) -> None:
        """Stop the training and keep what it has."""
        self.session.stop()

    def close(self) -> None:
        """End the training and let go of everything. Safe to call more than once."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self._disconnect()
        self._end_progress()
        self.session.close()
        self.results.close()

    # -- slots ---------------------------------------------------------------------------------------------------

    def _on_view_moved(self, event: Any = None) -> None:
        in_view = (self.current, self.current_slice)
        if in_view == self._in_view:
            return
        self._in_view = in_view
        self.slice_changed.emit()
        self._focus_is_news = True

    def _on_renamed(self, event: Any) -> None:
        self.sync()

    def _on_layer_inserted(self, event: Any) -> None:
        self.adopt(event.value)
        self.layers_changed.emit()

    def _on_layer_removed(self, event: Any) -> None:
        """A layer that we worked on is gone: an image takes its volume along, an annotation its clean slices."""
        gone: Layer = event.value
        for known in [known for known in self._known if known.holds(gone)]:
            if known.initial_labels == gone:
                known.initial_labels = None
                continue
            self._known.remove(known)
            if known.image == gone:
                known.image.events.name.disconnect(self._on_renamed)
        if any(binding.holds(gone) for binding in self.bindings):
            self.set_layers(
                [(b.image, None if b.annotation == gone else b.annotation) for b in self.bindings if b.image != gone]
            )
        self.layers_changed.emit()

    def _on_round_started(self, started: Round) -> None:
        by_name = {binding.image.name: binding for binding in self.bindings}
        self.results.expect(started, by_name, self.slice_axis)
        self._progress = progress(total=100, desc="MLB-Seg")
        self._timer.start()

    def _on_tick(self) -> None:
        if self._focus_is_news:  # told here and not with every step of the slider: telling writes a file
            self._focus_is_news = False
            binding, z = self._in_view
            if binding is not None and z is not None:
                self.session.look_at(binding.image.name, z)
        self.session.poll()
        self.results.flush(new_layers=1)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Preview):
            self.results.take(event)
        elif isinstance(event, Progress) and self._progress is not None:
            self._progress.n = round(100 * event.fraction)
            self._progress.refresh()
        elif is_terminal(event):
            self._timer.stop()
            self._end_progress()
            self.results.flush()
            if isinstance(event, Failed):
                self.complained.emit(f"{event.message} {event.advice}".strip())
                show_error(f"MLB-Seg: {event.message}")
            else:
                show_info(f"MLB-Seg: {ending(event)}")

    def _on_key(self, viewer: Any) -> None:
        self.toggle_clean()

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    # -- connections ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        for emitter in self._view_emitters():
            emitter.connect(self._on_view_moved)
        self.viewer.layers.events.inserted.connect(self._on_layer_inserted)
        self.viewer.layers.events.removed.connect(self._on_layer_removed)
        self._shadowed = self.viewer.bind_key(SHORTCUT, None)  # that of another dock in this viewer
        self.viewer.bind_key(SHORTCUT, self._on_key)
        self.session.round_started.connect(self._on_round_started)
        self.session.event_received.connect(self._on_event)
        self._timer.timeout.connect(self._on_tick)
        QApplication.instance().aboutToQuit.connect(self.close)

    def _disconnect(self) -> None:
        for emitter in self._view_emitters():
            emitter.disconnect(self._on_view_moved)
        self.viewer.layers.events.inserted.disconnect(self._on_layer_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self._release_key()
        for image in {known.image for known in self._known}:
            image.events.name.disconnect(self._on_renamed)
        self.session.round_started.disconnect(self._on_round_started)
        self.session.event_received.disconnect(self._on_event)
        self._timer.timeout.disconnect(self._on_tick)
        QApplication.instance().aboutToQuit.disconnect(self.close)

    def _release_key(self) -> None:
        """Give the shortcut back to the dock that had it before, if that is still open."""
        bound = self.viewer.bind_key(SHORTCUT, None)
        if bound == self._on_key:
            bound = self._shadowed
            while isinstance(owner := getattr(bound, "__self__", None), DockController) and owner._closed:
                bound = owner._shadowed
        if bound is not None:
            self.viewer.bind_key(SHORTCUT, bound)

    def _view_emitters(self) -> tuple[Any, ...]:
        dims = self.viewer.dims.events
        return dims.point, dims.order, dims.ndisplay, self.viewer.layers.selection.events.active
