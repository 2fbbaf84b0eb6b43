"""What ``session.json`` holds: frozen records, validated when they are read.

A record with a newer schema version is refused with a sentence, an older one is migrated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_mlbseg.session.clean_slices import Acceptance

__all__ = [
    "SCHEMA_VERSION",
    "Geometry",
    "ImageRecord",
    "MarksRecord",
    "RoundRecord",
    "SessionError",
    "SessionRecord",
    "SliceScore",
    "VolumeRecord",
    "parse_record",
]

SCHEMA_VERSION = 1

#: From a schema version to the next one: each takes and gives the JSON of a whole session. Version 1 is the first.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class SessionError(ValueError):
    """A session cannot be opened or saved; the message says why and what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Geometry(_Record):
    """How a layer lies in the world, as napari says it; axes in the user's order."""

    scale: tuple[float, ...]
    translate: tuple[float, ...]
    rotate: tuple[tuple[float, ...], ...]
    shear: tuple[float, ...]
    affine: tuple[tuple[float, ...], ...]
    units: tuple[str, ...]
    axis_labels: tuple[str, ...]


class ImageRecord(_Record):
    """Where an image is.

    Attributes
    ----------
    kind : {"file", "zarr", "embedded"}
        By reference to a file or zarr array, or a copy within the session's folder.
    path : str
        Absolute, or within the session's folder for an embedded image.
    relative : str
        The same from the session's folder: tried first, so that both can be moved together.
    channel : int, optional
        Of a file with channels.
    content : str
        Fingerprint of the file; empty while it is not known.
    complete : bool
        Of an embedded image: whether all of it was written.
    """

    kind: Literal["file", "zarr", "embedded"]
    path: str
    relative: str = ""
    channel: int | None = None
    content: str = ""
    complete: bool = True


class MarksRecord(_Record):
    """`SliceMarks` of one slice axis."""

    clean: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    accepted: dict[int, tuple[Acceptance, ...]] = {}


class VolumeRecord(_Record):
    """An image, its annotation and its marks.

    Attributes
    ----------
    annotation : str
        Path of the zarr array of painted voxels within the session's folder; empty without an annotation.
    marks : dict of int to MarksRecord
        For each slice axis.
    provenance : dict of int to str
        Of the slices along `slice_axis` on which something is painted: for people and other programs.
    attached : bool
        False: it was taken out of the session. What was painted on it stays in the folder, but it is not opened.
    """

    uid: str
    name: str
    image: ImageRecord
    annotation: str
    shape: tuple[int, ...]
    slice_axis: int
    channel_axis: int | None
    spacing: tuple[float, float, float]
    unit: str
    geometry: Geometry | None
    independent_slices: bool
    marks: dict[int, MarksRecord]
    provenance: dict[int, str] = {}
    attached: bool = True


class SliceScore(_Record):
    """Agreement of a prediction with what a person made of the slice afterwards.

    Attributes
    ----------
    volume : str
        Its uid.
    slice : int
    dice : float
        Mean over the classes on the slice.
    hd95 : float, optional
        The same of the 95th percentile of the surfaces' distances, in `unit`; None where a class is in one only.
    unchanged : bool
        Whether the slice was accepted as it was predicted: then the agreement says little.
    """

    volume: str
    slice: int
    dice: float
    hd95: float | None
    unit: str
    unchanged: bool = False


class RoundRecord(_Record):
    """A training of the session; its files are in ``rounds/NNN``.

    Attributes
    ----------
    names : dict of str to str
        Volume uid -> its name in this round.
    slice_axes : dict of str to int
        Volume uid -> axis along which its slices lay.
    clean : dict of str to tuple of int
        Volume uid -> slices that were clean.
    checksums : dict of str to str
        Volume uid -> fingerprint of all that was painted when the round began.
    base : int, optional
        Round whose model this one started from.
    """

    number: int
    started: str
    names: dict[str, str]
    slice_axes: dict[str, int]
    clean: dict[str, tuple[int, ...]]
    checksums: dict[str, str]
    base: int | None = None
    outcome: str | None = None
    seconds: float | None = None
    scores: tuple[SliceScore, ...] = ()


class SessionRecord(_Record):
    """A whole session."""

    schema_version: int = SCHEMA_VERSION
    version: str
    classes: tuple[int, ...]
    config: dict[str, Any]
    volumes: tuple[VolumeRecord, ...]
    rounds: tuple[RoundRecord, ...]
    restored: int | None = None  # round from which the next one starts; None: the latest
    left_out: tuple[SliceScore, ...] = ()  # of the last leave-one-clean-slice-out


def parse_record(text: str, where: str) -> SessionRecord:
    """The record of a ``session.json``; `where` is named in complaints.

    Raises
    ------
    SessionError
        If a newer version wrote it, or it is damaged.
    """
    try:
        values = json.loads(text)
        version = int(values["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise SessionError(f"{where} is damaged: open another session, or restore it from a backup.") from error
    if version > SCHEMA_VERSION:
        raise SessionError(
            f"{where} was written by a newer napari-mlbseg (format {version}, this one reads {SCHEMA_VERSION}): update "
            "napari-mlbseg."
        )
    while version < SCHEMA_VERSION:
        if version not in MIGRATIONS:
            raise SessionError(f"{where} has the unknown format {version}: open it with an earlier napari-mlbseg.")
        values = {**MIGRATIONS[version](values), "schema_version": version + 1}
        version += 1
    try:
        return SessionRecord.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SessionError(f"{where} is damaged at '{place}' ({first['msg'].lower()}): restore a backup.") from error
