"""The job folder: the whole protocol between a worker and whoever watches it.

::

    JOB_DIR/request.json    what to do; written last, so its presence means that the inputs are complete
            inputs/         arrays of the request that had no file of their own, and those that the worker made of files
            events.jsonl    append-only, one event a line: the worker's only channel
            cancel          its presence asks the worker to stop at the next step
            focus           the slice that the user looks at, {"volume": ..., "slice": ...}: predicted first
            heartbeat       rewritten by the worker every second: {"pid": ..., "created": ...}
            worker.log      stdout and stderr of the worker
            results/        zarr arrays, one chunk a slice; results/NAME/ where there are several volumes; none where
                            clean slices are left out in turn
            model.safetensors, model.json
            cluster.json    of a job on a Dask cluster, while it is there: what it is called there

The folder may lie on a disk that two machines share, and it outlives both processes. Nothing in it is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_mlbseg._util.files import safe_name, write_atomically
from napari_mlbseg._util.zarr_arrays import create_array, open_array
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Event, from_json, is_terminal, to_json
from napari_mlbseg.jobs.inputs import (
    ArrayReference,
    CopyProgress,
    InputPart,
    ProgressCallback,
    share_fetched,
    store_array,
    store_slices,
)
from napari_mlbseg.task import SegmentationTask, Volume
from napari_mlbseg.training.results import ResultArray, result_layout

if TYPE_CHECKING:
    import zarr

__all__ = [
    "SCHEMA_VERSION",
    "EventReader",
    "JobFolder",
    "JobKind",
    "Request",
    "ZarrResults",
]

SCHEMA_VERSION = 2  # 1 knew no arrays that the worker makes of files

JobKind = Literal["train", "predict", "leave_one_out"]


class VolumeRequest(BaseModel):
    """A `Volume` whose arrays are references; without labels, nothing is painted on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    image: ArrayReference
    labels: ArrayReference | None = None
    initial_labels: ArrayReference | None = None
    clean: tuple[int, ...]
    spacing: tuple[float, float, float]
    unit: str
    independent_slices: bool
    focus: int | None
    slice_direction: str = ""


class Request(BaseModel):
    """What a job is asked to do: the content of ``request.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA_VERSION
    kind: JobKind = "train"
    class_values: tuple[int, ...]
    last_instance: int | None = None
    note: str = ""
    config: TrainingConfig
    volumes: tuple[VolumeRequest, ...]
    previous: str | None = None  # a round whose model to start from (train) or to use (predict)
    threads: int | None = None  # of a worker that shares the machine with a window; None: it has all cores to itself


class JobFolder:
    """Paths of a job folder, and what is read from and written to them."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.request_file = self.path / "request.json"
        self.events_file = self.path / "events.jsonl"
        self.cancel_file = self.path / "cancel"
        self.focus_file = self.path / "focus"
        self.heartbeat_file = self.path / "heartbeat"
        self.log_file = self.path / "worker.log"
        self.results_path = self.path / "results"
        self.model_file = self.path / "model.safetensors"
        self.model_info_file = self.path / "model.json"
        self.cluster_file = self.path / "cluster.json"

    # -- request -------------------------------------------------------------------------------------------------

    def write_request(
        self,
        task: SegmentationTask,
        *,
        kind: JobKind = "train",
        previous: Path | None = None,
        threads: int | None = None,
        painted: Mapping[str, Collection[int]] | None = None,
        reuse_from: Path | None = None,
        relative_to: Path | None = None,
        step: Callable[[CopyProgress], object] = lambda copied: None,
    ) -> Request:
        """Freeze `task` into the folder: arrays first, ``request.json`` last.

        Parameters
        ----------
        task : SegmentationTask
        kind : {"train", "predict", "leave_one_out"}
        previous : Path, optional
            See `Request`.
        threads : int, optional
            See `Request`.
        painted : mapping of str to collection of int, optional
            Volume name -> slices whose labels are kept besides those of the clean ones: a snapshot, nothing learns
            from them.
        reuse_from : Path, optional
            An earlier job folder: images that are the same there are shared on the disk.
        relative_to : Path, optional
            See `store_array`.
        step : callable
            Called between slices with how far the copying of an array is; what it raises ends the writing.

        Raises
        ------
        OSError
            If the folder cannot be written.
        ValueError
            If two volumes' names differ only in characters that no folder's name can have.
        """
        names = [safe_name(volume.name).casefold() for volume in task.volumes]
        if len(set(names)) < len(names):
            raise ValueError("Two images have names that would share a folder: rename one of them.")
        self.path.mkdir(parents=True, exist_ok=True)
        fetched = _requested_images(reuse_from)
        volumes = []
        for number, volume in enumerate(task.volumes):
            shown = {*volume.clean_slices, *(painted or {}).get(volume.name, ())}
            volumes.append(self._write_volume(f"inputs/{number}", volume, shown, reuse_from, relative_to, step))
            if reuse_from is not None and volume.name in fetched:
                share_fetched(self.path, volumes[-1].image, reuse_from, fetched[volume.name])
        request = Request(
            kind=kind,
            class_values=task.class_values,
            last_instance=task.last_instance,
            note=task.note,
            config=task.config,
            volumes=tuple(volumes),
            previous=None if previous is None else str(Path(previous).absolute()),
            threads=threads,
        )
        write_atomically(self.request_file, request.model_dump_json(indent=1))
        return request

    def _write_volume(
        self,
        stem: str,
        volume: Volume,
        shown: Collection[int],
        reuse_from: Path | None,
        relative_to: Path | None,
        step: Callable[[CopyProgress], object],
    ) -> VolumeRequest:
        """Freeze a volume's arrays into the folder `stem`, of its labels the slices `shown`."""

        def of(part: InputPart) -> ProgressCallback:
            return lambda done, total: step(CopyProgress(volume.name, part, done, total))

        (self.path / stem).mkdir(parents=True, exist_ok=True)
        image = store_array(
            self.path, f"{stem}/image", volume.image, reuse_from, relative_to=relative_to, step=of("image")
        )
        given = volume.initial_labels
        if given is not None:
            given = store_array(self.path, f"{stem}/initial_labels", given, step=of("initial_labels"))
        slices = sorted(shown)
        labels = store_slices(self.path, f"{stem}/labels", volume.labels, slices, of("labels")) if slices else None
        return VolumeRequest(
            name=volume.name,
            image=image,
            labels=labels,
            initial_labels=given,
            clean=volume.clean_slices,
            spacing=volume.spacing,
            unit=volume.unit,
            independent_slices=volume.independent_slices,
            focus=volume.focus,
            slice_direction=volume.slice_direction,
        )

    def read_request(self) -> Request:
        """The request.

        Raises
        ------
        ValueError
            If it was written by a newer version of this package, or is no request.
        """
        text = self.request_file.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version", 0)
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{self.request_file} was written by a newer napari-mlbseg (format {version}, this one reads "
                f"{SCHEMA_VERSION}): update napari-mlbseg."
            )
        return Request.model_validate_json(text)

    def fetch_inputs(self, request: Request) -> None:
        """Make arrays that are still to be read from their files; the worker's first step.

        Raises
        ------
        ValueError, OSError
            If a file cannot be read or is another one now, or the disk is full.
        """
        for volume in request.volumes:
            for reference in (volume.image, volume.initial_labels):
                if reference is not None:
                    reference.fetch(self.path)

    def open_task(self, request: Request) -> SegmentationTask:
        """The frozen task of `request`, its arrays lazy."""
        return SegmentationTask(
            volumes=tuple(self._open_volume(volume) for volume in request.volumes),
            class_values=request.class_values,
            config=request.config,
            last_instance=request.last_instance,
            note=request.note,
        )

    def _open_volume(self, volume: VolumeRequest) -> Volume:
        image = volume.image.open(self.path)
        clean = np.zeros(image.shape[0], dtype=bool)
        clean[list(volume.clean)] = True
        return Volume(
            name=volume.name,
            image=image,
            labels=_nothing_painted(image) if volume.labels is None else volume.labels.open(self.path),
            clean=clean,
            initial_labels=None if volume.initial_labels is None else volume.initial_labels.open(self.path),
            spacing=volume.spacing,
            unit=volume.unit,
            independent_slices=volume.independent_slices,
            focus=volume.focus,
            slice_direction=volume.slice_direction,
        )

    # -- events --------------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        """Append one line in one write, flushed to the operating system: it survives a killed process."""
        line = to_json(event).encode() + b"\n"
        with self.events_file.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed worker left half a line: it must not spoil this one
                    line = b"\n" + line
            file.write(line)

    def events(self) -> list[Event]:
        """All complete events so far."""
        return EventReader(self).read()

    def withdraw_terminal_event(self) -> None:
        """Take a terminal event back: the job was given up, but it is found to go on."""
        events = self.events()
        if events and is_terminal(events[-1]):
            write_atomically(self.events_file, "".join(to_json(event) + "\n" for event in events[:-1]))

    def focus(self) -> tuple[str, int] | None:
        """Volume and slice that the user looks at, if anybody said so."""
        try:
            focus = json.loads(self.focus_file.read_text(encoding="utf-8"))
            return str(focus["volume"]), int(focus["slice"])
        except (OSError, ValueError, KeyError):
            return None

    # -- results -------------------------------------------------------------------------------------------------

    def volume_path(self, name: str, several: bool) -> Path:
        """Folder of a volume's result arrays: the results folder itself unless the job has several volumes."""
        return self.results_path / safe_name(name) if several else self.results_path

    def results(self, name: str) -> dict[str, zarr.Array[Any]]:
        """Result arrays of a volume, opened for reading; those not yet made are missing."""
        request = self.read_request()
        path = self.volume_path(name, len(request.volumes) > 1)
        return {child.name: open_array(child) for child in sorted(path.glob("*")) if _is_array(child)}

    def log_tail(self, lines: int = 12) -> str:
        """Last lines of the worker's log."""
        try:
            text = self.log_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


class EventReader:
    """Reads ``events.jsonl`` from where it last stopped; an unfinished last line waits for its end."""

    def __init__(self, folder: JobFolder) -> None:
        self._path = folder.events_file
        self._offset = 0
        self.ended = False

    def read(self) -> list[Event]:
        """Events appended since the last call. Nothing follows a terminal event."""
        if self.ended or not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        events: list[Event] = []
        for line in complete.split(b"\n")[:-1]:
            try:
                events.append(from_json(line))
            except ValidationError:  # half a line of a worker that was killed, or news of a later version
                continue
            if is_terminal(events[-1]):
                self.ended = True
                break
        return events


class ZarrResults(Mapping[str, Mapping[str, ResultArray]]):
    """Results as zarr arrays in a job folder, one chunk a slice.

    A chunk is written to a temporary file and renamed (zarr's local store does so), so a reader sees the old slice or
    the new one.
    """

    def __init__(self, folder: JobFolder, task: SegmentationTask) -> None:
        several = len(task.volumes) > 1
        self._arrays: dict[str, dict[str, zarr.Array[Any]]] = {}
        for volume in task.volumes:
            path = folder.volume_path(volume.name, several)
            self._arrays[volume.name] = {
                name: create_array(path / name, shape, (1, *shape[1:]), dtype)
                for name, (shape, dtype) in result_layout(task, volume).items()
            }

    def __getitem__(self, volume: str) -> Mapping[str, ResultArray]:
        return self._arrays[volume]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _nothing_painted(image: Any) -> np.ndarray:
    """Labels of an image on which nothing is painted; they take no room."""
    return np.broadcast_to(np.uint8(0), (image.shape[0], *image.shape[-2:]))


def _requested_images(folder: Path | None) -> dict[str, ArrayReference]:
    """Images that another job was given, by the volumes' names."""
    try:
        return {} if folder is None else {each.name: each.image for each in JobFolder(folder).read_request().volumes}
    except (OSError, ValueError):  # it was deleted, or is of another version
        return {}


def _is_array(path: Path) -> bool:
    return (path / "zarr.json").exists()
