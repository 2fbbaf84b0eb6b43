"""What the parts of a dock work on: the layers that are trained on, the slice in view, the volumes of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_mlbseg.io.image_file import METADATA_KEY as FILE_KEY
from napari_mlbseg.session import Round, SegmentationSession, SliceMarks
from napari_mlbseg.session.suggestions import Suggestion
from napari_mlbseg.session.volume import AnnotatedVolume, free_name
from napari_mlbseg.viewer import messages
from napari_mlbseg.viewer.connections import Connections
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
    annotates,
    current_slice,
    default_slice_axis,
    is_result,
    make_annotation,
    matching_annotation,
    matching_turned,
    show_slice,
    spatial_shape,
    turn_view,
    turned_onto,
)
from napari_mlbseg.viewer.layers.closed_volume import ClosedVolume
from napari_mlbseg.viewer.layers.editable import EditableCopies
from napari_mlbseg.viewer.layers.paint_listener import PaintListener
from napari_mlbseg.viewer.layers.result_layers import ResultLayers
from napari_mlbseg.viewer.state import ViewState

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_mlbseg.session.persistence.restoring import RemovedAnnotation, RestoredAnnotation


__all__ = ["Workspace"]


class Workspace:
    """Pairs of layers that are volumes of the session, kept in step with it; shared by all controllers of a dock.

    Parameters
    ----------
    viewer : Viewer
    session : SegmentationSession

    Attributes
    ----------
    bindings : list of VolumeBinding
        Of the session's volumes that have layers.
    closed : dict of str to ClosedVolume
        Those that have none, by their uid.
    slice_axis : int
    independent_slices : bool
        Whether the slices are unrelated images.
    claims : list of callable
        Asked of a layer that a person deleted; one that returns True has taken care of it.
    """

    layers_changed = Signal()  # other images or annotations, or another slice axis
    slice_changed = Signal()  # another slice or volume is in view
    painted = Signal()  # something may have been painted
    complained = Signal(str)  # one sentence for the user; empty: all is well again
    asked = Signal(object)  # Question: something is done only after a yes

    def __init__(self, viewer: Viewer, session: SegmentationSession) -> None:
        self.viewer, self.session = viewer, session
        self.results = ResultLayers(viewer)
        self.editable = EditableCopies()
        self.bindings: list[VolumeBinding] = []
        self.closed: dict[str, ClosedVolume] = {}
        self.slice_axis = 0
        self.independent_slices = False
        self.is_closed = False
        self.claims: list[Callable[[Layer], bool]] = []
        self.order: list[str] = []
        self._known: list[VolumeBinding] = []
        self._shown_bindings: Sequence[VolumeBinding] = []
        self._current: VolumeBinding | None = None
        self._in_view: tuple[VolumeBinding | None, int | None] = (None, None)
        self._adopts = True
        self._paint_listener = PaintListener(self._on_painted)
        self._removed: list[Layer] = []  # layers that left the viewer and were not yet taken note of
        self._removal = QTimer(singleShot=True, interval=0)
        self._connections = Connections()
        self._connect()

    def set_layers(self, pairs: Sequence[tuple[Image, Labels | None]]) -> None:
        """Train on these images with these annotations. A pair that was there before keeps its clean slices."""
        first_image = self.bindings[0].image if self.bindings else None
        bindings = [self._binding(image, annotation) for image, annotation in pairs]
        if bindings and bindings[0].image != first_image:
            self.slice_axis = default_slice_axis(bindings[0].image, self.viewer)
            if bindings[0].image.ndim == 3 and self.viewer.dims.ndisplay == 2:
                turn_view(self.viewer, bindings[0].image, self.slice_axis)
        self.bindings = bindings
        self.sync()

    @contextmanager
    def layers_are_ours(self) -> Iterator[None]:
        """Layers that come and go meanwhile are the session's doing: nothing is adopted, nothing leaves the session."""
        self._adopts = False
        try:
            yield
        finally:
            self._adopts = True

    def show_first(self) -> None:
        """Show the slice to work on first: in the midst of what is painted, else a suggested one, or the middle."""
        suggestion = self.suggestion()
        if self.current is not None and self.n_slices:
            self.viewer.reset_view()
            painted = sorted(self.session.painted_slices(self.current.image.name))
            if painted:
                self.go_to(painted[len(painted) // 2])
            else:
                self.go_to(suggestion.slice if suggestion is not None else self.n_slices // 2)

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
        """Bring the session's volumes up to date with the layers; nobody is told where nothing changed."""
        broken = [binding for binding in self.bindings if not binding.is_whole]
        for binding in broken:
            self._break_up(binding)
        state = ViewState(self.volumes(), list(self.bindings))
        if state == ViewState(list(self.session), self._shown_bindings):
            return
        self._shown_bindings = state.bindings
        self.session.set_volumes(state.volumes)
        annotations = [binding.annotation for binding in self.bindings if binding.annotation is not None]
        self._paint_listener.watch(annotations)
        for annotation in annotations:
            self.editable.ensure(annotation)
        self.layers_changed.emit()
        self._on_view_moved()
        if broken and self.results.shown_round is not None:
            self.show_round(self.results.shown_round)

    def _break_up(self, binding: VolumeBinding) -> None:
        """An image or its annotation was given pixels of another shape: they are no pair any more, nor one of before.

        What was painted is kept, as of any annotation that was replaced by another one; with the pixels of before, they
        are a pair again.
        """
        image, annotation = binding.image, binding.annotation
        self.results.let_go(binding)
        fits = annotation is not None and annotates(annotation, image)
        pairs = [known for known in self._known if known.image == image and known.is_whole]
        again = next((pair for pair in pairs if pair.annotation in self.viewer.layers), None)
        place = self.bindings.index(binding)
        self.bindings[place] = again or self._binding(image, annotation if fits else None)
        if annotation is not None and not fits:
            self.complained.emit(
                f"The image '{image.name}' has shape {messages.by(spatial_shape(image))} now and '{annotation.name}' "
                f"has {messages.by(annotation.data.shape)}: choose an annotation of the image's shape, or press New."
            )

    def take_over(self, bindings: Sequence[VolumeBinding], slice_axis: int, independent: bool) -> None:
        """Work on these bindings, which a session that was opened brought."""
        for binding in bindings:
            self.register(binding)
        self.bindings = list(bindings)
        self.slice_axis, self.independent_slices = slice_axis, independent
        self.sync()

    def adopt(self, layer: Layer) -> None:
        """Take up a layer that the user opened or made, where one is still missing."""
        if is_result(layer) or not self._adopts:
            return
        self.editable.release(layer)
        if isinstance(layer, Image) and not self.bindings:
            self.set_layers([(layer, matching_annotation(layer, self.viewer))])
        elif isinstance(layer, Labels):
            self.set_layers(
                [
                    (b.image, layer if b.annotation is None and annotates(layer, b.image) else b.annotation)
                    for b in self.bindings
                ]
            )
            if FILE_KEY in layer.metadata:  # what our reader opened can be painted on, also where no image fits it
                self.editable.ensure(layer)
        self._copy_turned()

    def _copy_turned(self) -> None:
        """Annotate images with copies of labels that are stored in another orientation."""
        for binding in self.bindings:
            labels = matching_turned(binding.image, self.viewer) if binding.annotation is None else None
            if labels is not None:
                self.complained.emit(
                    f"'{labels.name}' is stored in another orientation than '{binding.image.name}': a copy that lies "
                    "on the image is used. Its file stays as it is."
                )
                self.annotate_with_copy(binding, labels)

    def annotate_with_copy(self, binding: VolumeBinding, labels: Labels) -> None:
        """Have an image annotated with a copy of labels that napari can only show; those are hidden."""

        def use(copy: Labels) -> None:
            if binding not in self.bindings:
                return  # it was taken out meanwhile
            labels.visible = False
            turned = turned_onto(labels, binding.image)
            if turned is not None:
                copy = make_annotation(binding.image, np.ascontiguousarray(turned))
                copy.name = f"{labels.name} on {binding.image.name}"
            with self.layers_are_ours():
                self.viewer.add_layer(copy)
            self.set_layers([(b.image, copy if b is binding else b.annotation) for b in self.bindings])
            self.viewer.layers.selection.active = copy

        self.editable.copy_of(labels, use)

    def _binding(self, image: Image, annotation: Labels | None) -> VolumeBinding:
        for known in self._known:
            if known.image == image and known.annotation == annotation and known.is_whole:
                return known
        return self.register(VolumeBinding(image, annotation))

    def register(self, binding: VolumeBinding) -> VolumeBinding:
        """Remember a pair of layers, and listen to them."""
        self._known.append(binding)
        binding.image.events.name.connect(self._on_renamed)
        binding.image.events.data.connect(self._on_image_replaced)
        return binding

    def unregister(self, binding: VolumeBinding) -> None:
        """Take a pair of layers out of all that is remembered: the layers go, and the volume stays without them."""
        if binding in self.bindings:
            self.bindings.remove(binding)
        self._unregister(binding)

    def _unregister(self, binding: VolumeBinding) -> None:
        self._known.remove(binding)
        if all(known.image != binding.image for known in self._known):  # napari connects a slot once
            self._stop_listening(binding.image)

    def _stop_listening(self, image: Image) -> None:
        image.events.name.disconnect(self._on_renamed)
        image.events.data.disconnect(self._on_image_replaced)

    def removed_annotation(self, binding: VolumeBinding) -> RemovedAnnotation | None:
        """The annotation of an image that went last and has no layer any more; None without one."""
        if binding.image.name not in self.session:
            return None
        shown = [layer.data for layer in self.viewer.layers if isinstance(layer, Labels)]
        gone = reversed(self.session.removed_annotations(binding.image.name))
        return next((removed for removed in gone if not any(removed.pixels is data for data in shown)), None)

    def annotate_with(self, binding: VolumeBinding, restored: RestoredAnnotation) -> None:
        """Have an image annotated as it was once. What is painted on it now keeps its layer."""
        volume = self.session.volume_of(binding.uid)
        if binding not in self.bindings or volume is None:
            return  # it was taken out meanwhile
        self.session.take_back(restored, volume)
        annotation = make_annotation(binding.image, restored.pixels)
        with self.layers_are_ours():
            self.viewer.add_layer(annotation)
        again = self.register(VolumeBinding(binding.image, annotation, marks=restored.marks, uid=restored.uid))
        again.initial_labels, again.given = binding.initial_labels, binding.given
        self.bindings[self.bindings.index(binding)] = again
        self.sync()
        self.viewer.layers.selection.active = annotation
        if self.results.shown_round is not None:
            self.show_round(self.results.shown_round)

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

    def clean_slices(self, binding: VolumeBinding) -> set[int]:
        """Slices of a volume that are marked clean."""
        return self.marks(binding).clean

    def marks(self, binding: VolumeBinding) -> SliceMarks:
        """What was said of a volume's slices."""
        return binding.marks.setdefault(self.slice_axis, SliceMarks())

    def go_to(self, z: int) -> None:
        """Scroll to a slice of the current volume."""
        if self.current is not None:
            show_slice(self.viewer, self.current.image, self.slice_axis, z)

    def turn_view(self) -> None:
        """Turn the viewer so that it scrolls through the slices."""
        if self.current is not None:
            turn_view(self.viewer, self.current.image, self.slice_axis)

    def _on_view_moved(self, event: Any = None) -> None:
        if not all(binding.is_whole for binding in self.bindings):  # napari tells of other pixels only after this
            self.sync()
            return
        in_view = (self.current, self.current_slice)
        if in_view == self._in_view:
            return
        self._in_view = in_view
        self.slice_changed.emit()

    def _on_painted(self, layer: Labels) -> None:
        for binding in self.bindings:
            if binding.annotation == layer:
                if not self._is_current(binding):  # its pixels were replaced: a conversion, another plugin
                    self.sync()
                self.session.mark_dirty(binding.image.name, current_slice(self.viewer, binding.image, self.slice_axis))
        self.painted.emit()

    def _is_current(self, binding: VolumeBinding) -> bool:
        """Whether the session knows the array that a layer holds now."""
        volume = self.session.volume_of(binding.uid)
        return volume is None or binding.annotation is None or volume.annotation is binding.annotation.data

    def _on_renamed(self, event: Any) -> None:
        self.sync()

    def _on_image_replaced(self, event: Any) -> None:
        if self._adopts:
            self.sync()

    def _on_layer_inserted(self, event: Any) -> None:
        self.adopt(event.value)
        self.layers_changed.emit()

    def _on_layer_removed(self, event: Any) -> None:
        """A layer is gone. What that means is decided once no more go: a viewer that closes removes them one by one."""
        if self._adopts:
            self._removed.append(event.value)
            self._removal.start()

    def _on_layers_removed(self) -> None:
        """Layers that we worked on are gone: an image takes its volume along, an annotation its clean slices.

        Of a study, either takes the other along, and the volume stays in the table.
        """
        gone = [layer for layer in self._removed if layer not in self.viewer.layers]
        self._removed = []
        gone = [layer for layer in gone if not any(claim(layer) for claim in self.claims)]
        for known in [known for known in self._known if any(known.holds(layer) for layer in gone)]:
            if known.initial_labels in gone:
                known.initial_labels = None
            if known.image in gone or known.annotation in gone:
                self._unregister(known)
        if any(binding.image in gone or binding.annotation in gone for binding in self.bindings):
            left = [binding for binding in self.bindings if binding.image not in gone]
            self.set_layers([(b.image, None if b.annotation in gone else b.annotation) for b in left])
        elif gone:
            self.sync()
            self.layers_changed.emit()  # what can be chosen is not what it was

    def show_round(self, shown: Round | None) -> None:
        """Another round's results are to be seen: one that was restored, or found when the session was opened."""
        if shown is None:
            self.results.clear()
            return
        self.results.show(shown, self.by_name(shown), self.slice_axis)

    def by_name(self, past: Round) -> dict[str, VolumeBinding]:
        """The volumes with layers by their names in a round."""
        named = {past.name_of(binding.uid): binding for binding in self.bindings}
        return {name: binding for name, binding in named.items() if name is not None}

    def volumes(self) -> list[AnnotatedVolume]:
        """The session's volumes in their order, with names of their own."""
        axis, independent = self.slice_axis, self.independent_slices
        opened = [binding.to_volume(axis, independent) for binding in self.bindings]
        names = {volume.name for volume in opened}
        for closed in self.closed.values():
            closed.volume.name = free_name(closed.volume.name, names)
            names.add(closed.volume.name)
        found = {volume.uid: volume for volume in opened}
        found |= {uid: closed.to_volume(axis, independent) for uid, closed in self.closed.items()}
        self.order = self._ordered([volume.uid for volume in opened])
        return [found[uid] for uid in self.order]

    @property
    def is_annotated(self) -> bool:
        """Whether a volume without layers has an annotation."""
        return any(closed.volume.is_annotated for closed in self.closed.values())

    def _ordered(self, opened: Sequence[str]) -> list[str]:
        """Uids in the order of before; a volume that was made anew takes the place of the one that it replaces."""
        old = [uid for uid in self.order if uid in self.closed or uid in opened]
        if not self.closed:
            return list(opened)
        new = iter([uid for uid in opened if uid not in old])
        places = [uid if uid in old else next(new, None) for uid in self.order]
        missing = [uid for uid in self.closed if uid not in places]
        return [*(uid for uid in places if uid is not None), *new, *missing]

    def suggestion(self) -> Suggestion | None:
        """The slice of the current volume to annotate next."""
        binding = self.current
        if binding is None or self.n_slices < 2 or binding.image.name not in self.session:
            return None
        ranked = self.session.suggestions(binding.image.name)
        return ranked[0] if ranked else None

    # -- connections ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        dims = self.viewer.dims.events
        for signal in (dims.point, dims.order, dims.ndisplay, self.viewer.layers.selection.events.active):
            self._connections.make(signal, self._on_view_moved)
        for signal, slot in (
            (self.viewer.layers.events.inserted, self._on_layer_inserted),
            (self.viewer.layers.events.removed, self._on_layer_removed),
            (self.session.round_shown, self.show_round),
            (self.editable.changed, self.layers_changed.emit),
            (self._removal.timeout, self._on_layers_removed),
        ):
            self._connections.make(signal, slot)

    def close(self) -> None:
        """Take a last look at what is painted, and let go of the viewer."""
        if any(not self._is_current(binding) for binding in self.bindings):
            self.sync()
        self.is_closed = True
        with suppress(RuntimeError):  # Qt deletes its timers first when the program ends
            self._removal.stop()
        self._connections.drop()
        self._paint_listener.watch([])
        for image in {known.image for known in self._known}:
            self._stop_listening(image)
        self.editable.end()
