"""Results of a training as napari layers: made once a volume, then updated in place, round after round.

Pseudo-labels and weight maps become layers by themselves, all else once it is ticked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal

from napari_mlbseg.events import Preview
from napari_mlbseg.viewer.layers.arrays import SliceReader
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
    geometry_of,
    make_result,
    place_layer,
    spatial_shape,
    transform_of,
)
from napari_mlbseg.viewer.layers.paint_listener import lock
from napari_mlbseg.viewer.layers.result_kinds import RESULT_KINDS, ResultKind
from napari_mlbseg.viewer.layers.result_volume import FallbackReader, ResultVolume

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_mlbseg.session import Round

__all__ = ["ResultLayers"]


class ResultLayers:
    """The result layers of a viewer.

    `expect` says which layers a round's results belong to, `take` reads a Preview, `flush` redraws what changed.
    """

    changed = Signal()  # layers came, went, or were shown or hidden

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._round: Round | None = None
        self._targets: dict[str, ResultVolume] = {}
        self._stale: set[tuple[str, str]] = set()
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def close(self) -> None:
        """Stop listening; the layers stay."""
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)
        for target in self._targets.values():
            for layer in target.layers.values():
                self._unwatch(layer)
        self._targets.clear()
        self._round = None

    def __iter__(self) -> Iterator[tuple[ResultKind, Layer]]:
        for target in self._targets.values():
            for kind in RESULT_KINDS:
                if kind.key in target.layers:
                    yield kind, target.layers[kind.key]

    def expect(self, started: Round, bindings: dict[str, VolumeBinding], slice_axis: int) -> None:
        """Results of `started` come next; earlier ones are shown until then."""
        earlier = list(self._targets.values())
        self._round, self._targets = started, {}
        self._stale.clear()
        for name, binding in bindings.items():
            same = next((target for target in earlier if target.binding.image == binding.image), None)
            target = ResultVolume(binding, slice_axis)
            if same is not None:
                target.layers, target.readers = same.layers, same.readers if same.slice_axis == slice_axis else {}
                target.forget_what_does_not_carry_over()
                earlier.remove(same)
            self._targets[name] = target
        for left_over in earlier:
            self._give_away(left_over)

    @property
    def shown_round(self) -> Round | None:
        """The round that the layers show, or will show as soon as it has something."""
        return self._round

    def show(self, past: Round, bindings: dict[str, VolumeBinding], slice_axis: int) -> None:
        """Show all that a round has written; nothing of another round is shown in its place.

        Parameters
        ----------
        past : Round
        bindings : dict of str to VolumeBinding
            By the volumes' names in that round.
        slice_axis : int
            Of volumes whose axis the round does not tell.
        """
        self.expect(past, bindings, slice_axis)
        for target in self._targets.values():
            target.slice_axis = past.record.slice_axes.get(target.binding.uid, slice_axis)
            for key in list(target.layers):
                if not _round_has(past, _kind(key)):
                    self._remove(target, key)
            target.readers = {}
        for event in past.events:
            if isinstance(event, Preview):
                self.take(event)
        self.changed.emit()

    def add(self, binding: VolumeBinding, slice_axis: int) -> None:
        """Results of a volume whose layers have just been opened, as the round that is shown has left them."""
        name = self._round.name_of(binding.uid) if self._round is not None else None
        if self._round is None or name is None:
            return
        self._targets[name] = ResultVolume(binding, self._round.record.slice_axes.get(binding.uid, slice_axis))
        for event in self._round.events:
            if isinstance(event, Preview) and event.volume == name:
                self.take(event)

    def hand_over(self, before: VolumeBinding, binding: VolumeBinding, slice_axis: int) -> None:
        """The layers of one volume show another from now on: those of its results too, where it has such results."""
        left = {name: target for name, target in self._targets.items() if target.binding is before}
        self.add(binding, slice_axis)
        name, target = self._named_target(binding.image, but=before)
        for old_name, old in left.items():
            for key in list(old.layers):
                if target is None or (name, key) not in self._stale:
                    self._remove(old, key)
                    continue
                target.layers[key] = layer = old.layers.pop(key)
                layer.name = f"{binding.image.name} {_kind(key).layer_name}"
                place_layer(layer, geometry_of(binding.image))
            if self._targets.get(old_name) is old:
                del self._targets[old_name]
        if target is not None:
            for key in list(target.layers):
                self._stale.discard((name, key))
                self._show(name, target, _kind(key))

    def let_go(self, binding: VolumeBinding) -> None:
        """Results of a volume that is none any more: nothing new comes, and its layers are the user's now."""
        for name, target in list(self._targets.items()):
            if target.binding is binding:
                self._give_away(self._targets.pop(name))
                self._stale = {stale for stale in self._stale if stale[0] != name}
        self.changed.emit()

    def _give_away(self, target: ResultVolume) -> None:
        """Of an image that is no longer trained on: its layers are the user's now."""
        for layer in target.layers.values():
            self._unwatch(layer)

    def drop(self, binding: VolumeBinding) -> None:
        """Take the result layers of a volume away, whose other layers go too."""
        for name, target in list(self._targets.items()):
            if target.binding is binding:
                for key in list(target.layers):
                    self._remove(target, key)
                del self._targets[name]
                self._stale = {stale for stale in self._stale if stale[0] != name}

    def visible_kinds(self, binding: VolumeBinding) -> set[str] | None:
        """Kinds of result of a volume whose layers are shown; None where it has none to show or hide."""
        target = self._target_of(binding)
        if target is None or not target.layers:
            return None
        return {key for key, layer in target.layers.items() if layer.visible}

    def show_kinds(self, binding: VolumeBinding, keys: Collection[str] | None) -> None:
        """Show these kinds of a volume's results and no others; layers that are still to be made come with `flush`.

        Parameters
        ----------
        binding : VolumeBinding
        keys : collection of str, optional
            None: what is shown by itself.
        """
        for name, target in self._targets.items():
            if target.binding is not binding:
                continue
            for key, layer in target.layers.items():
                layer.visible = _kind(key).options.get("visible", True) if keys is None else key in keys
            if keys is not None and not binding.is_hidden:
                target.shown = set(keys)
                target.waiting |= target.shown - set(target.layers)
            self._stale |= {(name, key) for key in target.waiting}
        self.changed.emit()

    def clear(self) -> None:
        """Take all result layers away: their round is gone."""
        for target in self._targets.values():
            for key in list(target.layers):
                self._remove(target, key)
        self._targets, self._round = {}, None
        self._stale.clear()
        self.changed.emit()

    def has_slice(self, binding: VolumeBinding, key: str, z: int) -> bool:
        """Whether a slice of a kind of result is there to be shown."""
        target = self._target_of(binding)
        if target is None or key not in target.sources:
            return False
        return target.sources[key].has(z)

    def slice_of(self, binding: VolumeBinding, key: str, z: int) -> np.ndarray | None:
        """A slice of a kind of result as it is shown, (Y, X); None where the slice was not written yet."""
        target = self._target_of(binding)
        if target is None or not self.has_slice(binding, key, z):
            return None
        return np.asarray(target.sources[key](slice(z, z + 1)))[0]

    def _target_of(self, binding: VolumeBinding) -> ResultVolume | None:
        return next((target for target in self._targets.values() if target.binding is binding), None)

    def take(self, event: Preview) -> None:
        """Note what was written, and make the layers that can be made now."""
        target = self._targets.get(event.volume)
        if target is None or self._round is None:
            return
        for array in event.arrays:
            target.written[array].update(event.slices)
        for kind in RESULT_KINDS:
            if set(kind.arrays) & set(event.arrays) and all(target.written[array] for array in kind.arrays):
                self._stale.add((event.volume, kind.key))

    def flush(self, new_layers: int | None = None) -> None:
        """Show what `take` noted since the last call: one redraw a layer, however many slices came.

        Parameters
        ----------
        new_layers : int, optional
            Layers that may be made in this call; the others wait for the next. Making one takes napari tenths of a
            second, and several at once would be felt. By default all of them.
        """
        for kind in RESULT_KINDS:
            for name, target in self._targets.items():
                if (name, kind.key) not in self._stale:
                    continue
                is_new = kind.at_once and kind.key not in target.layers
                is_new = (is_new or kind.key in target.waiting) and not target.binding.is_hidden
                if is_new and new_layers is not None:
                    if not new_layers:
                        continue
                    new_layers -= 1
                self._stale.discard((name, kind.key))
                self._show(name, target, kind)

    def readers_of(self, image: Image) -> dict[str, SliceReader]:
        """What can be read of the results of an image, by kind: of this round or, where it has written nothing yet, of
        the one before.
        """
        _, target = self._named_target(image)
        return dict(target.readers) if target is not None else {}

    def was_written(self, image: Image, key: str, z: int) -> bool:
        """Whether slice `z` of a kind of result was ever written: one that was not reads as 0."""
        _, target = self._named_target(image)
        reader = target.readers.get(key) if target is not None else None
        return reader is not None and isinstance(reader.read, FallbackReader) and reader.read.has(z)

    def origin_of(self, image: Image) -> tuple[Round | None, str]:
        """The round that results of an image come from, and the name of its volume there; None and an empty text where
        there is none.
        """
        name, target = self._named_target(image)
        return (self._round, name) if target is not None else (None, "")

    def _named_target(self, image: Image, but: VolumeBinding | None = None) -> tuple[str, ResultVolume | None]:
        found = ((n, t) for n, t in self._targets.items() if t.binding.image == image and t.binding is not but)
        return next(found, ("", None))

    def is_visible(self, key: str) -> bool:
        """Whether a layer of that kind is shown."""
        return any(layer.visible for kind, layer in self if kind.key == key)

    def is_available(self, key: str) -> bool:
        """Whether there is something to show of that kind."""
        kind = _kind(key)
        return any(kind.key in target.readers for target in self._targets.values())

    def set_visible(self, key: str, visible: bool) -> None:
        """Show or hide a kind of result of every volume in view; a layer that is not there is made to be shown."""
        kind = _kind(key)
        for name, target in self._targets.items():
            if target.binding.is_hidden:
                continue
            if target.shown is not None:
                target.shown = target.shown | {key} if visible else target.shown - {key}
            if visible and key not in target.layers and key in target.readers:
                self._insert(name, target, kind, target.readers[key])
            if key in target.layers:
                target.layers[key].visible = visible
        self.changed.emit()

    def _show(self, name: str, target: ResultVolume, kind: ResultKind) -> None:
        is_news = kind.key not in target.sources
        if is_news:
            self._open(name, target, kind)
            fresh = self._fresh_reader(target, kind)
            shown = target.layers.get(kind.key)
            if shown is not None and _fits(shown, fresh):
                fresh = shown.data
                fresh.read_from(target.sources[kind.key])
                self._describe(shown, name, kind)
            elif shown is not None:
                self._remove(target, kind.key)
            target.readers[kind.key] = fresh
            if (kind.at_once or shown is not None) and kind.key not in target.layers:
                target.waiting.add(kind.key)
        if kind.key in target.waiting and not target.binding.is_hidden:
            target.waiting.discard(kind.key)
            if kind.key not in target.layers:
                self._insert(name, target, kind, target.readers[kind.key])
                is_news = True
        if is_news:
            self.changed.emit()
        layer = target.layers.get(kind.key)
        if layer is not None:
            layer.refresh(extent=False)

    def _open(self, name: str, target: ResultVolume, kind: ResultKind) -> None:
        assert self._round is not None  # `take` saw to it
        if not set(kind.arrays) <= set(target.arrays):
            target.arrays = self._round.job.folder.results(name)
        target.open(kind, before=target.readers.get(kind.key))

    def _fresh_reader(self, target: ResultVolume, kind: ResultKind) -> SliceReader:
        source = target.sources[kind.key]
        dtype = source.dtype if kind.is_labels else np.float32
        return SliceReader(source, spatial_shape(target.binding.image), dtype, target.slice_axis)

    def _insert(self, name: str, target: ResultVolume, kind: ResultKind, reader: SliceReader) -> None:
        """Put a new layer beneath the annotation, and leave the user's layer selected."""
        image = target.binding.image
        options = {**kind.options, **transform_of(image), "name": f"{image.name} {kind.layer_name}"}
        if kind.is_labels:
            layer: Layer = Labels(reader, **options)
            self._share_colours(layer)
        else:
            layer = Image(reader, rgb=False, multiscale=False, **options)
        lock(layer)
        layers = self._viewer.layers
        selected = list(layers.selection)
        active = layers.selection.active
        position = self._position(target)
        target.layers[kind.key] = layer
        self._describe(layer, name, kind)
        layers.insert(position, layer)
        if target.shown is not None:
            layer.visible = kind.key in target.shown
        layer.events.visible.connect(self._on_visible)
        layers.selection.clear()
        layers.selection.update(selected)
        if active is not None:
            layers.selection.active = active

    def _position(self, target: ResultVolume) -> int:
        """Where a new layer of a volume goes: beneath its annotation; without one, above its image and beneath those
        of the other volumes.
        """
        layers = list(self._viewer.layers)
        own = target.binding.annotation
        annotations = [own] if own is not None else [other.binding.annotation for other in self._targets.values()]
        image = layers.index(target.binding.image) if target.binding.image in layers else -1
        places = [layers.index(annotation) for annotation in annotations if annotation in layers]
        return min((place for place in places if own is not None or place > image), default=len(layers))

    def _share_colours(self, layer: Labels) -> None:
        """Colours of the painted layer, so that a label looks the same in both."""
        painted = [target.binding.annotation for target in self._targets.values()]
        colours = next((annotation.colormap for annotation in painted if annotation is not None), None)
        if colours is not None:
            layer.colormap = colours

    def _describe(self, layer: Layer, name: str, kind: ResultKind) -> None:
        """Say in the layer where it comes from."""
        assert self._round is not None  # layers come from rounds only
        make_result(
            layer,
            image=name,
            result=kind.key,
            round=self._round.number,
            job_folder=str(self._round.job.folder.path),
            class_values=self._round.task.class_values,
            config=self._round.task.config.model_dump(mode="json"),
        )

    def _remove(self, target: ResultVolume, key: str) -> None:
        layer = target.layers.pop(key)
        self._unwatch(layer)
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _unwatch(self, layer: Layer) -> None:
        layer.events.visible.disconnect(self._on_visible)

    def _on_layer_removed(self, event: Any) -> None:
        """The user deleted a result: it comes back with the next round, or when it is ticked."""
        for target in self._targets.values():
            for key, layer in list(target.layers.items()):
                if layer == event.value:
                    del target.layers[key]
                    self._unwatch(layer)
                    self.changed.emit()

    def _on_visible(self, event: Any) -> None:
        self.changed.emit()


def _fits(layer: Layer, reader: SliceReader) -> bool:
    """Whether the layer can go on with another source: same shape, type and slice axis."""
    old = layer.data
    return (old.shape, old.dtype, old.slice_axis) == (reader.shape, reader.dtype, reader.slice_axis)


def _round_has(past: Round, kind: ResultKind) -> bool:
    """Whether a round wrote what a kind of result is read from."""
    written = {array for event in past.events if isinstance(event, Preview) for array in event.arrays}
    return set(kind.arrays) <= written


def _kind(key: str) -> ResultKind:
    return next(kind for kind in RESULT_KINDS if kind.key == key)
