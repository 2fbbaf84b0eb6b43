"""Reading a session back: its images from where they lie now, its annotations, its marks. Nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_mlbseg._util.zarr_arrays import open_array
from napari_mlbseg.io.file_array import FileArray, FileSource
from napari_mlbseg.io.image_file import METADATA_KEY, ImageFileError, ImageGeometry, split_series
from napari_mlbseg.io.read_pixels import READ_KEY, ReadPixels
from napari_mlbseg.session.clean_slices import SliceMarks
from napari_mlbseg.session.persistence.folder import SessionFolder, content_hash
from napari_mlbseg.session.persistence.schema import ImageRecord, MarksRecord, SessionError, SessionRecord, VolumeRecord
from napari_mlbseg.session.volume import AnnotatedVolume, ImageSource

__all__ = [
    "AT_ONCE",
    "LoadedSession",
    "LoadedVolume",
    "image_path",
    "load_session",
    "missing_images",
    "read_annotation",
    "read_marks",
]

#: Volumes whose images are in memory, and in a window are layers, at the same time; of the others, each is read when a
#: person turns to it.
AT_ONCE = 3


@dataclass(frozen=True, eq=False)
class LoadedVolume:
    """A volume as it was read.

    Attributes
    ----------
    volume : AnnotatedVolume
        With the marks of its slice axis.
    marks : dict of int to SliceMarks
        Of every slice axis on which there are any.
    record : VolumeRecord
    """

    volume: AnnotatedVolume
    marks: dict[int, SliceMarks]
    record: VolumeRecord


@dataclass(frozen=True, eq=False)
class LoadedSession:
    """A session as it was read.

    Attributes
    ----------
    folder : SessionFolder
    record : SessionRecord
    volumes : tuple of LoadedVolume
    notes : tuple of str
        What is odd but need not be wrong, a sentence each.
    """

    folder: SessionFolder
    record: SessionRecord
    volumes: tuple[LoadedVolume, ...]
    notes: tuple[str, ...]


def image_path(folder: SessionFolder, record: ImageRecord, moved: Mapping[str, Path] | None = None) -> Path | None:
    """Where an image is now: where somebody says it was moved to, beside the session as before, or where it was.

    Parameters
    ----------
    moved : mapping of str to Path, optional
        Path in the record -> where the file is now. A file beside a moved one needs no entry of its own.
    """
    if record.kind == "embedded":
        if moved and record.path in moved:
            return moved[record.path]
        return folder.path / record.path if record.complete else None
    old = Path(record.path)
    candidates = [moved[record.path]] if moved and record.path in moved else []
    if record.relative:
        candidates.append(folder.path / record.relative)
    candidates.append(old)
    for before, now in (moved or {}).items():  # the whole folder moved: asked once
        candidates.append(now.parent / _relative_to_parent(old, Path(before)))
    return next((path for path in candidates if split_series(path)[0].exists()), None)


def missing_images(folder: SessionFolder, record: SessionRecord, moved: Mapping[str, Path] | None = None) -> list[str]:
    """Recorded paths of images that are not where they were, or of which only a part was copied."""
    return [v.image.path for v in record.volumes if v.attached and image_path(folder, v.image, moved) is None]


def load_session(path: Path, moved: Mapping[str, Path] | None = None) -> LoadedSession:
    """Read a session folder.

    Parameters
    ----------
    path : Path
        ``NAME.mlbseg``.
    moved : mapping of str to Path, optional
        See `image_path`.

    Raises
    ------
    SessionError
        If the folder is no session, damaged or of a newer version, or an image is missing or does not fit.
    """
    folder = SessionFolder(path)
    record = folder.read()
    notes: list[str] = []
    if record.volumes and not any(volume.attached for volume in record.volumes):
        attached = tuple(volume.model_copy(update={"attached": True}) for volume in record.volumes)
        record = record.model_copy(update={"volumes": attached})  # nothing is of more use than what was taken out
    if not record.volumes and (record.rounds or folder.has_strokes()):
        notes.append(f"The session {path.name} lists no image. What was painted lies in its folder 'annotations'.")
    attached_volumes = [volume for volume in record.volumes if volume.attached]
    volumes = tuple(
        _load_volume(folder, volume, moved, notes, forget=number >= AT_ONCE)
        for number, volume in enumerate(attached_volumes)
    )
    return LoadedSession(folder, record, volumes, tuple(notes))


def _load_volume(
    folder: SessionFolder, record: VolumeRecord, moved: Mapping[str, Path] | None, notes: list[str], *, forget: bool
) -> LoadedVolume:
    path = image_path(folder, record.image, moved)
    if path is None:
        what = "was not copied completely" if record.image.kind == "embedded" else "is missing"
        raise SessionError(f"The image {record.image.path} of '{record.name}' {what}: say where it is now.")
    image, grid, read = _read_image(record, path, forget)
    shape = tuple(n for axis, n in enumerate(image.shape) if axis != record.channel_axis)
    if shape != record.shape:
        raise SessionError(
            f"The image {path} has shape {_by(shape)} now, but '{record.name}' was annotated with {_by(record.shape)}: "
            "put the image of then back."
        )
    if record.image.kind != "embedded" and record.image.content and content_hash(path) != record.image.content:
        notes.append(f"The image {path} is not the file of then: check that your labels still fit it.")
    marks = read_marks(record)
    volume = AnnotatedVolume(
        name=record.name,
        image=image,
        annotation=read_annotation(folder, record),
        slice_axis=record.slice_axis,
        channel_axis=record.channel_axis,
        spacing=record.spacing,
        unit=record.unit,
        marks=marks.setdefault(record.slice_axis, SliceMarks()),
        independent_slices=record.independent_slices,
        uid=record.uid,
        source=_source(record.image, path, read),
        grid=grid,
        is_moved=bool(read and record.geometry and not read.lies_at(record.geometry.model_dump())),
        geometry=record.geometry,
        is_annotated=bool(record.annotation),
    )
    return LoadedVolume(volume, marks, record)


def _source(record: ImageRecord, path: Path, read: ReadPixels | None) -> ImageSource | None:
    """Where the image was read from, if not from the session's own copy."""
    if record.kind != "embedded":
        return ImageSource(record.kind, path, record.channel, read.digest if read is not None else "")
    return None if (path / "zarr.json").exists() else ImageSource("file", path)


def _read_image(record: VolumeRecord, path: Path, forget: bool) -> tuple[Any, ImageGeometry | None, ReadPixels | None]:
    """The image in the order of its layer, read for good or to be read again, the grid of its file, and how it was."""
    image = record.image
    if image.kind == "zarr":
        return open_array(path), None, None
    if image.kind == "embedded" and (path / "zarr.json").exists():
        array = open_array(path)
        return array if forget else np.asarray(array[:]), None, None
    from napari_mlbseg.io.readers import read_layer  # brings nibabel and tifffile

    try:
        data, options, _ = read_layer(str(path), image.channel)
    except ImageFileError as error:
        raise SessionError(f"{error}") from error
    entry = options["metadata"][METADATA_KEY]
    if options.get("multiscale"):
        data = data[0]
    pixels = FileArray(FileSource.of(path, "layer", data, image.channel)) if forget else data
    return pixels, entry["grid"], entry.get(READ_KEY)


def read_annotation(folder: SessionFolder, record: VolumeRecord) -> np.ndarray:
    """What was painted on a volume; raises SessionError if it cannot be read."""
    if not record.annotation:
        return np.broadcast_to(np.uint8(0), record.shape)
    array = folder.array(record.annotation, record.slice_axis)
    try:
        pixels = array.read()
    except (OSError, ValueError, KeyError) as error:
        raise SessionError(
            f"The annotation {array.path} cannot be read ({error}): restore it from a backup."
        ) from error
    if pixels.shape != record.shape:
        raise SessionError(f"The annotation {array.path} has shape {_by(pixels.shape)}: restore it from a backup.")
    return pixels


def read_marks(record: VolumeRecord) -> dict[int, SliceMarks]:
    """What was said of a volume's slices, for each slice axis."""
    return {axis: _marks(saved) for axis, saved in record.marks.items()}


def _marks(saved: MarksRecord) -> SliceMarks:
    return SliceMarks(
        clean=set(saved.clean),
        rejected=set(saved.rejected),
        skipped=set(saved.skipped),
        accepted={z: list(acceptances) for z, acceptances in saved.accepted.items()},
    )


def _relative_to_parent(path: Path, before: Path) -> Path:
    """`path` as seen from the folder in which `before` lay; its bare name where it lay elsewhere."""
    return path.relative_to(before.parent) if path.is_relative_to(before.parent) else Path(path.name)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
