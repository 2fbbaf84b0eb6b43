"""The volumes of a session, of which only those looked at last have layers: switching, adding and taking out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.qt.threading import create_worker
from psygnal import Signal

from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.io.read_pixels import pixel_digest
from napari_mlbseg.session import AnnotatedVolume
from napari_mlbseg.session.persistence.loader import AT_ONCE
from napari_mlbseg.session.volume import free_name
from napari_mlbseg.viewer.layers.binding import VolumeBinding, is_result
from napari_mlbseg.viewer.layers.closed_volume import ClosedVolume
from napari_mlbseg.viewer.layers.paint_listener import can_be_used_again
from napari_mlbseg.viewer.layers.volume_layers import add_layers, fill_layers

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_mlbseg.viewer.controllers.workspace import Workspace

__all__ = ["OpenVolumes"]


class OpenVolumes:
    """The volumes of a dock's session.

    A volume that came by `add`, or with a session of many, is *listed*: its layers come when a person turns to it and
    go again when others were looked at since. What was painted on it stays in memory and in the session's folder.

    Parameters
    ----------
    workspace : Workspace
    """

    busy_changed = Signal(str)  # what is being read, in words; empty: nothing
    left = Signal()  # the volume that was in view is about to be left

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        workspace.claims.append(self.take_layer_away)
        self._listed: set[str] = set()
        self._looked_at: list[str] = []  # volumes that were in view, the last one last
        self._slices: dict[str, int] = {}  # the slice of each that was in view
        self._kinds: set[str] | None = None  # kinds of result that the person looks at
        self._wanted: str | None = None  # volume that comes into view once it is read
        self._leftover: list[Layer] = []  # layers of a volume of which the person deleted another layer
        self._workers: list[Any] = []

    # -- what there is -------------------------------------------------------------------------------------------

    # -- into view -----------------------------------------------------------------------------------------------

    def show(self, uid: str) -> None:
        """Bring a volume into view and hide the others; one without layers is read first, in a thread."""
        self._wanted = uid
        closed = self._workspace.closed.get(uid)
        binding = self._binding(uid)
        if binding is not None:
            self._bring(binding)
        elif closed is not None and isinstance(closed.volume.image, FileArray):
            name, read = closed.volume.name, closed.volume.image.read
            self._in_thread(f"Reading {name}…", read, lambda pixels: self._open(uid, pixels))
        elif closed is not None:
            self._open(uid, closed.volume.image)

    def _open(self, uid: str, pixels: Any) -> None:
        workspace = self._workspace
        if uid not in self._workspace.closed or uid != self._wanted or workspace.is_closed:
            return  # the person turned to another one meanwhile
        self._leave(workspace.current)
        closed = self._workspace.closed.pop(uid)
        volume = closed.to_volume(workspace.slice_axis, workspace.independent_slices)
        volume.image = np.asarray(pixels) if volume.source is None else pixels
        spare = self._spare(volume)
        if spare is None:
            with workspace.layers_are_ours():
                made = add_layers(workspace.viewer, volume, closed.marks, annotate=True)
            binding = workspace.register(made)
            workspace.results.add(binding, workspace.slice_axis)
        else:  # making layers and taking others away would take napari most of a second
            binding = self._use(spare, volume, closed)
        before = workspace.order[: workspace.order.index(uid)]
        place = sum(other.uid in before for other in workspace.bindings)
        workspace.bindings.insert(place, binding)
        self._bring(binding)
        workspace.sync()

    def _spare(self, volume: AnnotatedVolume) -> VolumeBinding | None:
        """The volume not looked at for longest, if a few have layers and its layers can show this one."""
        opened = self._hidden_listed()
        if len(opened) < AT_ONCE - 1:  # and there is the one in view
            return None
        binding = opened[0]
        fits = binding.image.rgb == (volume.channel_axis is not None) and not binding.image.multiscale
        return binding if fits and binding.initial_labels is None and can_be_used_again(binding.annotation) else None

    def _use(self, spare: VolumeBinding, volume: AnnotatedVolume, closed: ClosedVolume) -> VolumeBinding:
        """Show a volume with the layers of another, whose volume is put away."""
        workspace, annotation = self._workspace, spare.annotation
        assert annotation is not None  # else it is no spare
        self._put_away(spare, keep_results=True)
        with workspace.layers_are_ours():
            fill_layers(spare.image, annotation, volume)
        binding = VolumeBinding(
            spare.image, annotation, marks=closed.marks, uid=volume.uid, given=volume.initial_labels, is_hidden=True
        )
        binding.seen = [spare.image, annotation]
        workspace.results.hand_over(spare, binding, workspace.slice_axis)
        return workspace.register(binding)

    def _hidden_listed(self) -> list[VolumeBinding]:
        """Listed volumes that have layers but are not in view, the one not looked at for longest first."""
        ages = {uid: age for age, uid in enumerate(self._looked_at)}
        current = self._workspace.current
        hidden = [b for b in self._workspace.bindings if b.uid in self._listed and b is not current]
        return sorted(hidden, key=lambda binding: ages.get(binding.uid, -1))

    def _bring(self, binding: VolumeBinding) -> None:
        """Show a volume that has layers where it was left, and hide the others."""
        workspace = self._workspace
        if workspace.current is not binding:
            self._leave(workspace.current)
        for other in workspace.bindings:
            if other is not binding and not other.is_hidden:
                _set_visible(other, False)
                workspace.results.show_kinds(other, ())
        if binding.is_hidden:
            _set_visible(binding, True)
        workspace.results.show_kinds(binding, self._kinds)
        workspace.viewer.layers.selection.active = binding.image if binding.annotation is None else binding.annotation
        self._looked_at = [*(uid for uid in self._looked_at if uid != binding.uid), binding.uid]
        if binding.uid in self._slices:
            workspace.go_to(self._slices[binding.uid])
        else:
            workspace.show_first()
        workspace.layers_changed.emit()

    def _leave(self, binding: VolumeBinding | None) -> None:
        """Remember how the volume in view is looked at."""
        if binding is None:
            return
        self.left.emit()
        results = [layer for _, layer in self._workspace.results]
        for layer in self._workspace.viewer.layers:
            if is_result(layer) and layer not in results:  # a comparison, or what an inspector marks
                layer.visible = False
        z = self._workspace.current_slice
        if z is not None:
            self._slices[binding.uid] = z
        kinds = self._workspace.results.visible_kinds(binding)
        if kinds is not None and not binding.is_hidden:
            self._kinds = kinds

    # -- out of view ---------------------------------------------------------------------------------------------

    def close_one_too_many(self) -> None:
        """Take the layers of one volume away, if more than a few have layers: of the one not looked at for longest."""
        if not self._listed and not self._leftover:
            return
        self._remove_leftover()
        hidden = self._hidden_listed()
        if len(hidden) >= AT_ONCE:
            self.close(hidden[0])

    def close(self, binding: VolumeBinding) -> None:
        """Take the layers of a volume away. What is painted is kept, and its image where it can be read again."""
        workspace = self._workspace
        layers = [layer for layer in (binding.image, binding.annotation) if layer is not None]
        self._put_away(binding)
        with workspace.layers_are_ours():
            for layer in layers:
                if layer in workspace.viewer.layers:
                    workspace.viewer.layers.remove(layer)
        workspace.sync()

    def _put_away(self, binding: VolumeBinding, *, keep_results: bool = False) -> None:
        workspace = self._workspace
        workspace.session.mark_dirty(binding.image.name)  # what no event told of is compared and saved all the same
        volume = binding.to_volume(workspace.slice_axis, workspace.independent_slices)
        source = volume.source
        if source is not None and source.digest and pixel_digest(volume.image) != source.digest:
            volume.source = None  # somebody wrote into it: it cannot be read again
        elif source is not None and source.kind == "file" and isinstance(volume.image, np.ndarray):
            volume.image = FileArray(FileSource.of(source.path, "layer", volume.image, source.channel))
        self._workspace.closed[binding.uid] = ClosedVolume(volume, binding.marks)
        workspace.unregister(binding)
        if not keep_results:
            workspace.results.drop(binding)

    def take_layer_away(self, layer: Layer) -> bool:
        """A person deleted a layer: if it is a listed volume's, the volume stays without layers; whether it was."""
        workspace = self._workspace
        binding = next((b for b in workspace.bindings if layer in (b.image, b.annotation)), None)
        if binding is None or binding.uid not in self._listed:
            return False
        # not now: a window that is being closed takes them away itself
        self._leftover += [other for other in (binding.image, binding.annotation) if other not in (None, layer)]
        self._put_away(binding)
        workspace.sync()
        return True

    def _remove_leftover(self) -> None:
        with self._workspace.layers_are_ours():
            for layer in self._leftover:
                if layer in self._workspace.viewer.layers:
                    self._workspace.viewer.layers.remove(layer)
        self._leftover = []

    # -- coming and going ----------------------------------------------------------------------------------------

    def add(self, volumes: Sequence[AnnotatedVolume]) -> None:
        """Add volumes without layers; the first of a new session comes into view."""
        workspace = self._workspace
        was_empty = not workspace.bindings and not self._workspace.closed
        if volumes and was_empty:
            workspace.slice_axis = volumes[0].slice_axis
        names = {volume.name for volume in workspace.session}
        for volume in volumes:
            volume.name = free_name(volume.name, names)
            names.add(volume.name)
            self._workspace.closed[volume.uid] = ClosedVolume(volume, {volume.slice_axis: volume.marks})
            self._listed.add(volume.uid)
        workspace.sync()
        for volume in volumes:
            if volume.clean or volume.is_annotated:
                workspace.session.mark_dirty(volume.name)
        if volumes and was_empty:
            self.show(volumes[0].uid)

    def add_from(self, words: Sequence[Path]) -> None:
        """Read files, folders and tables in a thread, and add what is there; what cannot be read is said at the end."""
        found: list[AnnotatedVolume] = []
        failed: list[str] = []

        def read() -> Iterator[tuple[int, int, AnnotatedVolume | str]]:
            from napari_mlbseg.io.dataset_table import dataset_rows  # these bring nibabel and tifffile
            from napari_mlbseg.session.adding import read_volume

            try:
                rows = dataset_rows(words)
            except (ValueError, OSError) as error:
                yield 0, 0, str(error)
                return
            for number, row in enumerate(rows, start=1):
                try:
                    result: AnnotatedVolume | str = read_volume(row)
                except Exception as error:  # the thread must end well, whatever a file holds
                    result = str(error)
                yield number, len(rows), result

        def take(news: tuple[int, int, AnnotatedVolume | str]) -> None:
            number, total, result = news
            if isinstance(result, str):
                failed.append(result)
            else:
                found.append(result)
            self.busy_changed.emit(f"Reading {number} of {total}…")

        def finish(_: Any = None) -> None:
            self.busy_changed.emit("")
            if self._workspace.is_closed:
                return
            self.add(found)
            if failed:
                others = f" {len(failed) - 1} others could not be read either." if len(failed) > 1 else ""
                self._workspace.complained.emit(f"{failed[0]}{others}")
            else:
                self._workspace.complained.emit("")

        self.busy_changed.emit("Reading…")
        self._run(read, yielded=take, returned=finish)

    def take_out(self, uid: str) -> None:
        """Take a volume out of the session. What was painted on it stays in the folder, where it can be found again."""
        workspace = self._workspace
        binding = self._binding(uid)
        if binding is not None and uid in self._listed:
            self.close(binding)
        elif binding is not None:
            workspace.set_layers([(b.image, b.annotation) for b in workspace.bindings if b is not binding])
        self._workspace.closed.pop(uid, None)
        self._listed.discard(uid)
        workspace.sync()
        if workspace.current is None and self._workspace.closed:
            self.show(next(iter(self._workspace.closed)))

    def take_over(self, volumes: Sequence[ClosedVolume], opened: Sequence[VolumeBinding]) -> None:
        """These are the volumes of a session that was opened, and some of them have layers."""
        workspace = self._workspace
        with_layers = {binding.uid for binding in opened}
        workspace.closed = {each.volume.uid: each for each in volumes if each.volume.uid not in with_layers}
        order = [each.volume.uid for each in volumes]
        workspace.order = order
        self._listed = set(order) if workspace.closed else set()
        self._looked_at, self._slices, self._wanted = [], {}, None

    def end(self) -> None:
        """Read no further."""
        for worker in self._workers:
            worker.quit()
        self._workers.clear()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _binding(self, uid: str) -> VolumeBinding | None:
        return next((binding for binding in self._workspace.bindings if binding.uid == uid), None)

    def _in_thread(self, words: str, action: Any, done: Any) -> None:
        self.busy_changed.emit(words)

        def finish(result: Any) -> None:
            self.busy_changed.emit("")
            done(result)

        def fail(error: Exception) -> None:
            self.busy_changed.emit("")
            self._workspace.complained.emit(str(error))

        self._run(action, returned=finish, errored=fail)

    def _run(self, action: Any, **slots: Any) -> None:
        worker = create_worker(action, _start_thread=False)
        for signal, slot in slots.items():
            getattr(worker, signal).connect(slot)
        worker.finished.connect(lambda: self._workers.remove(worker) if worker in self._workers else None)
        self._workers.append(worker)
        worker.start()


def _set_visible(binding: VolumeBinding, visible: bool) -> None:
    """Hide the layers of a volume, or show those that were seen before."""
    layers = [layer for layer in (binding.image, binding.annotation, binding.initial_labels) if layer is not None]
    if not visible:
        binding.seen = [layer for layer in layers if layer.visible]
    for layer in layers:
        layer.visible = visible and layer in binding.seen
    binding.is_hidden = not visible
