"""Opening, saving and exporting a session from the window: slow work in a thread, layers on the window's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_info, show_warning
from psygnal import Signal

from napari_mlbseg.session import SessionError, SessionState
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.loader import AT_ONCE, LoadedSession, load_session, missing_images
from napari_mlbseg.viewer.layers.binding import (
    VolumeBinding,
)
from napari_mlbseg.viewer.layers.closed_volume import ClosedVolume
from napari_mlbseg.viewer.layers.volume_layers import add_layers, take_open_layer

if TYPE_CHECKING:
    from napari_mlbseg.viewer.controllers.open_volumes import OpenVolumes
    from napari_mlbseg.viewer.controllers.workspace import Workspace

__all__ = ["SessionFiles"]


class SessionFiles:
    """Session folders of a dock.

    Parameters
    ----------
    workspace : Workspace
    open_volumes : OpenVolumes

    Attributes
    ----------
    is_busy : bool
        Whether a session is being read or exported.
    """

    busy_changed = Signal(str)  # what is being done, in words; empty: nothing
    image_missing = Signal(object, str, object)  # session, path that an image had, and what `open` knows of others

    def __init__(self, workspace: Workspace, open_volumes: OpenVolumes) -> None:
        self._workspace, self._open_volumes = workspace, open_volumes
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
        workspace, moved = self._workspace, dict(moved or {})
        if workspace.session.state is not SessionState.IDLE:
            workspace.complained.emit("A training is running: stop it first, then open another session.")
            return
        if self.is_busy:
            return
        if path.absolute() == workspace.session.folder and not workspace.session.read_only:
            workspace.complained.emit(f"The session {path.name} is open already.")
            return
        try:
            folder = SessionFolder(path)
            lost = missing_images(folder, folder.read(), moved)
        except SessionError as error:
            workspace.complained.emit(str(error))
            return
        if lost:
            workspace.complained.emit(f"The image {lost[0]} of this session is missing: say where it is now.")
            self.image_missing.emit(path, lost[0], moved)
            return
        self._in_thread(f"Opening {path.name}…", lambda: load_session(path, moved), self._show)

    def save(self) -> None:
        """Write everything now."""
        self._try(self._workspace.session.save)

    def save_as(self, path: Path) -> None:
        """Keep the session in another folder from now on."""
        self._try(lambda: self._workspace.session.save_as(path))

    def restore_annotation(self, binding: VolumeBinding) -> None:
        """Bring back the annotation of an image that was deleted, with its clean marks; it is read in a thread."""
        removed = self._workspace.removed_annotation(binding)
        if removed is not None and not self.is_busy:
            self._in_thread(
                f"Restoring the annotation of {binding.image.name}…",
                removed.read,
                lambda restored: self._workspace.annotate_with(binding, restored),
            )

    def export(self, out: Path) -> None:
        """Write annotation and results as image files into a new folder within `out`, in a thread."""
        from napari_mlbseg.session.exporting import export_session  # brings nibabel and tifffile

        session = self._workspace.session
        volumes, shown = list(session), session.shown_round
        number = f" round {shown.number}" if shown is not None else ""
        out = _free_folder(out / f"{session.folder.stem}{number}")

        def tell(written: list[Path]) -> None:
            show_info(f"MLB-Seg: {len(written)} files written to {out}")

        self._in_thread(f"Exporting to {out.name}…", lambda: export_session(volumes, shown, out), tell)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _show(self, loaded: LoadedSession) -> None:
        """Put the layers of a session that was read into the viewer, and go on with it."""
        workspace = self._workspace
        if workspace.is_closed:
            return

        def make_layers() -> None:
            workspace.results.clear()
            volumes = loaded.volumes
            at_once = volumes if len(volumes) <= AT_ONCE else volumes[:1]
            open_images = [layer for layer in workspace.viewer.layers if isinstance(layer, Image)]
            with workspace.layers_are_ours():
                bindings = [
                    add_layers(
                        workspace.viewer, each.volume, each.marks, image=take_open_layer(open_images, each.volume)
                    )
                    for each in at_once
                ]
            first = volumes[0].volume if volumes else None
            axis = first.slice_axis if first is not None else 0
            self._open_volumes.take_over([ClosedVolume(each.volume, each.marks) for each in volumes], bindings)
            workspace.take_over(bindings, axis, first is not None and first.independent_slices)

        try:
            workspace.session.load(loaded, make_layers)
        except (ValueError, OSError, RuntimeError) as error:  # or a training was started meanwhile
            workspace.complained.emit(str(error))
            return
        workspace.complained.emit("")
        for note in loaded.notes:
            show_warning(f"MLB-Seg: {note}")
        workspace.show_first()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
            self._workspace.complained.emit("")
        except SessionError as error:
            self._workspace.complained.emit(str(error))
        except OSError as error:
            reason = error.strerror or str(error)
            self._workspace.complained.emit(
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
            self._workspace.complained.emit(str(error))

        create_worker(action, _start_thread=True, _connect={"returned": finish, "errored": fail})

    def _ready(self) -> None:
        self.is_busy = False
        self.busy_changed.emit("")


def _free_folder(wanted: Path) -> Path:
    """`wanted`, or with a number behind it where that is there: an export replaces no other."""
    path, number = wanted, 1
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name} ({number})")
    return path
