"""Opening, saving and exporting a session from the window: slow work in a thread, layers on the window's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from napari.utils.notifications import show_info, show_warning
from psygnal import Signal

from napari_mlbseg.io.image_file import METADATA_KEY as FILE_KEY
from napari_mlbseg.io.read_pixels import READ_KEY, ReadPixels
from napari_mlbseg.session import AnnotatedVolume, SessionError, SessionState, SliceMarks
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.loader import AT_ONCE, LoadedSession, load_session, missing_images
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
    annotation_name,
    is_result,
    make_annotation,
    place_layer,
    shows,
    transform_from,
)
from napari_mlbseg.viewer.layers.closed_volume import ClosedVolume
from napari_mlbseg.viewer.layers.paint_listener import paint_on

if TYPE_CHECKING:
    from napari_mlbseg.viewer.controllers.controller import DockController

__all__ = ["SessionFiles"]


class SessionFiles:
    """Session folders of a dock.

    Parameters
    ----------
    controller : DockController

    Attributes
    ----------
    is_busy : bool
        Whether a session is being read or exported.
    """

    busy_changed = Signal(str)  # what is being done, in words; empty: nothing
    image_missing = Signal(object, str, object)  # session, path that an image had, and what `open` knows of others

    def __init__(self, controller: DockController) -> None:
        self._controller = controller
        self.is_busy = False

    def open(self, path: Path, moved: Mapping[str, Path] | None = None) -> None:
        """Read a session in a thread, then show it. What was open is saved first and stays in the layer list.

        Parameters
        ----------
        path : Path
        moved : mapping of str to Path, optional
            Where images are now that are not where they were; for one that is missing, `image_missing` is emitted
            instead, so that somebody can ask and call again.
        """
        controller, moved = self._controller, dict(moved or {})
        if controller.session.state is not SessionState.IDLE:
            controller.complained.emit("A training is running: stop it first, then open another session.")
            return
        if self.is_busy:
            return
        if path.absolute() == controller.session.folder and not controller.session.read_only:
            controller.complained.emit(f"The session {path.name} is open already.")
            return
        try:
            folder = SessionFolder(path)
            lost = missing_images(folder, folder.read(), moved)
        except SessionError as error:
            controller.complained.emit(str(error))
            return
        if lost:
            controller.complained.emit(f"The image {lost[0]} of this session is missing: say where it is now.")
            self.image_missing.emit(path, lost[0], moved)
            return
        self._in_thread(f"Opening {path.name}…", lambda: load_session(path, moved), self._show)

    def save(self) -> None:
        """Write everything now."""
        self._try(self._controller.session.save)

    def save_as(self, path: Path) -> None:
        """Keep the session in another folder from now on."""
        self._try(lambda: self._controller.session.save_as(path))

    def restore_annotation(self, binding: VolumeBinding) -> None:
        """Bring back the annotation of an image that was deleted, with its clean marks; it is read in a thread."""
        removed = self._controller.removed_annotation(binding)
        if removed is not None and not self.is_busy:
            self._in_thread(
                f"Restoring the annotation of {binding.image.name}…",
                removed.read,
                lambda restored: self._controller.annotate_with(binding, restored),
            )

    def export(self, out: Path) -> None:
        """Write annotation and results as image files into a new folder within `out`, in a thread."""
        from napari_mlbseg.session.exporting import export_session  # brings nibabel and tifffile

        session = self._controller.session
        volumes, shown = list(session), session.shown_round
        number = f" round {shown.number}" if shown is not None else ""
        out = _free_folder(out / f"{session.folder.stem}{number}")

        def tell(written: list[Path]) -> None:
            show_info(f"MLB-Seg: {len(written)} files written to {out}")

        self._in_thread(f"Exporting to {out.name}…", lambda: export_session(volumes, shown, out), tell)

    def add_layers(
        self,
        volume: AnnotatedVolume,
        marks: dict[int, SliceMarks],
        *,
        image: Image | None = None,
        annotate: bool = False,
    ) -> VolumeBinding:
        """Layers of a volume that was read, which takes their name.

        Parameters
        ----------
        volume : AnnotatedVolume
        marks : dict of int to SliceMarks
        image : Image, optional
            A layer that shows its image already.
        annotate : bool
            With a layer to paint on, even if nothing is painted.
        """
        viewer = self._controller.viewer
        with self._controller.layers_are_ours():
            if image is None:
                place = transform_from(volume.geometry) if volume.geometry is not None else {}
                is_colour = volume.channel_axis is not None
                image = Image(volume.image, name=volume.name, rgb=is_colour, metadata=_metadata(volume), **place)
                viewer.add_layer(image)
            volume.name = image.name  # napari renames where the name is taken
            pixels = volume.annotation if volume.is_annotated else None
            annotation = make_annotation(image, pixels) if annotate or pixels is not None else None
            if annotation is not None:
                viewer.add_layer(annotation)
                viewer.layers.selection.active = annotation
        return VolumeBinding(image, annotation, marks=marks, uid=volume.uid, given=volume.initial_labels)

    def fill_layers(self, image: Image, annotation: Labels, volume: AnnotatedVolume) -> None:
        """Show a volume with layers that are there already, as new ones would; it takes their name."""
        empty = np.zeros(volume.annotation.shape, dtype=np.uint8)
        image.data = volume.image
        paint_on(annotation, volume.annotation if volume.is_annotated else empty)
        image.reset_contrast_limits_range()
        image.reset_contrast_limits()
        image.metadata = _metadata(volume)
        for layer in (image, annotation):
            if volume.geometry is not None:
                place_layer(layer, volume.geometry)
        image.name = volume.name
        volume.name = image.name
        annotation.name = annotation_name(image)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _show(self, loaded: LoadedSession) -> None:
        """Put the layers of a session that was read into the viewer, and go on with it."""
        controller = self._controller
        if controller.is_closed:
            return

        def make_layers() -> None:
            controller.results.clear()
            volumes = loaded.volumes
            at_once = volumes if len(volumes) <= AT_ONCE else volumes[:1]
            open_images = [layer for layer in controller.viewer.layers if isinstance(layer, Image)]
            bindings = [
                self.add_layers(each.volume, each.marks, image=_take_open(open_images, each.volume)) for each in at_once
            ]
            first = volumes[0].volume if volumes else None
            axis = first.slice_axis if first is not None else 0
            controller.open_volumes.take_over([ClosedVolume(each.volume, each.marks) for each in volumes], bindings)
            controller.take_over(bindings, axis, first is not None and first.independent_slices)

        try:
            controller.session.load(loaded, make_layers)
        except (ValueError, OSError, RuntimeError) as error:  # or a training was started meanwhile
            controller.complained.emit(str(error))
            return
        controller.complained.emit("")
        for note in loaded.notes:
            show_warning(f"MLB-Seg: {note}")
        controller.show_first()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
            self._controller.complained.emit("")
        except SessionError as error:
            self._controller.complained.emit(str(error))
        except OSError as error:
            reason = error.strerror or str(error)
            self._controller.complained.emit(
                f"The session cannot be saved there ({reason}): choose another folder. What you painted is in memory."
            )

    def _in_thread(self, words: str, action: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.is_busy = True
        self.busy_changed.emit(words)

        def finish(result: Any) -> None:
            self._ready()
            done(result)

        def fail(error: Exception) -> None:
            self._ready()
            self._controller.complained.emit(str(error))

        create_worker(action, _start_thread=True, _connect={"returned": finish, "errored": fail})

    def _ready(self) -> None:
        self.is_busy = False
        self.busy_changed.emit("")


def _take_open(layers: list[Image], volume: AnnotatedVolume) -> Image | None:
    """Take out of `layers` the one that shows a volume's image already, and place it as the volume says."""
    found = next((layer for layer in layers if not is_result(layer) and shows(layer, volume)), None)
    if found is None:
        return None
    layers.remove(found)
    if volume.geometry is not None:
        place_layer(found, volume.geometry)
    show_info(f"MLB-Seg: The image '{found.name}' was open already: the session goes on with that layer.")
    return found


def _metadata(volume: AnnotatedVolume) -> dict[str, Any]:
    """What an image's layer knows of its file, as our reader leaves it."""
    if volume.grid is None:
        return {}
    entry: dict[str, Any] = {"grid": volume.grid, "channel": None}
    if volume.source is not None and volume.geometry is not None:
        entry["channel"] = volume.source.channel
        place = None if volume.is_moved else volume.geometry.model_dump()
        entry[READ_KEY] = ReadPixels(volume.image, place, volume.source.digest)
    return {FILE_KEY: entry}


def _free_folder(wanted: Path) -> Path:
    """`wanted`, or with a number behind it where that is there: an export replaces no other."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name} ({number})")
    return path
