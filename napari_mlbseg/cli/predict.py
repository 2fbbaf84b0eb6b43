"""``napari-mlbseg predict``: a trained model on one image, or on many.

Of many, each is a job of its own in ``DIR/NAME``: one that fails does not stop the others, and what is done is not done
again when the command is repeated. On a cluster, there are as many at a time as it has workers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from napari_mlbseg import events
from napari_mlbseg._util.files import safe_name, write_atomically
from napari_mlbseg.cli.exit_code import ExitCode
from napari_mlbseg.cli.options import (
    InputError,
    add_cluster_options,
    add_device_option,
    add_slice_axis_option,
    cluster_facts,
    cluster_option,
    device_option,
    slice_axis_option,
    trained_round,
    trained_slice_axis,
    writable_folder,
)
from napari_mlbseg.cli.progress import interrupt_on_signals, run_job
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.io.dataset_table import DatasetRow, dataset_rows
from napari_mlbseg.io.image_file import split_series
from napari_mlbseg.io.volumes import FileVolume, load_volume
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.jobs.report import PREDICTED_FILES, slice_facts, write_job_results, write_report
from napari_mlbseg.task import SegmentationTask

__all__ = ["add_predict_parser"]

_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class _Model:
    """A trained model, and what it is to be used with."""

    folder: Path
    digest: str
    class_values: tuple[int, ...]
    instances: bool
    channels: int
    config: TrainingConfig
    slice_axis: int | None  # of the images' files; None: as `slice_direction`, or as each image suggests
    slice_direction: str

    def volume_of(self, image: Path) -> FileVolume:
        """The image as a volume; raises InputError if the model was made for another kind."""
        volume = load_volume(image, slice_axis=self.slice_axis, slice_direction=self.slice_direction)
        if volume.volume.n_channels != self.channels:
            raise InputError(
                f"'{volume.volume.name}' has {volume.volume.n_channels} channels but the model was trained on "
                f"{self.channels}: give images of the same kind."
            )
        for note in volume.notes:
            print(f"napari-mlbseg: {note}", file=sys.stderr)
        return volume

    def job(self, out: Path, volume: FileVolume) -> LocalJob:
        """A job that predicts the volume in the folder `out`."""
        last_instance = 0 if self.instances else None
        task = SegmentationTask((volume.volume,), self.class_values, self.config, last_instance)
        return LocalJob.create(out, task, kind="predict", previous=self.folder)


def add_predict_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a command line."""
    predict = commands.add_parser("predict", help="segment images with a trained model")
    predict.set_defaults(run=_predict)
    predict.add_argument("round", metavar="ROUND_DIR", help="folder of the training")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image file, folder of images, or CSV file with a column 'image'"
    )
    predict.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    add_slice_axis_option(predict)
    add_device_option(predict)
    add_cluster_options(predict)


def _predict(options: argparse.Namespace, start: float) -> int:
    cluster = cluster_option(options)
    at_once = max(1, cluster_facts(cluster).n_workers) if cluster else 1
    out = writable_folder(options.out)
    model = _model(options, out, cluster)
    rows = dataset_rows(options.images, only_images=True)
    if len(rows) > 1:
        return _Dataset(model, rows, out).run(at_once)
    volume = model.volume_of(rows[0].image)
    return run_job(model.job(out, volume), [volume], PREDICTED_FILES)


def _model(options: argparse.Namespace, out: Path, cluster: str) -> _Model:
    folder = JobFolder(trained_round(options.round, out))
    info = json.loads(folder.model_info_file.read_text(encoding="utf-8"))
    device = options.device if cluster else device_option(options.device)
    axis, direction = slice_axis_option(options.slice_axis), str(info.get("slice_direction", ""))
    if axis is None and not direction:  # its volumes lay along several, or nobody wrote it down
        axis = trained_slice_axis(folder.path)
    return _Model(
        folder=folder.path,
        digest=hashlib.sha256(folder.model_file.read_bytes()).hexdigest(),
        class_values=tuple(info["class_values"]),
        instances=bool(info.get("instances", False)),
        channels=info["image_channels"],
        config=TrainingConfig.parse(info["config"]).updated(device=device, cluster=cluster),
        slice_axis=axis,
        slice_direction=direction,
    )


@dataclass
class _Item:
    """One of the images, and what became of it."""

    image: Path
    folder: Path
    outcome: str = "waiting"  # then running, ended (its results are to be written), finished, failed or cancelled
    error: str = ""
    seconds: float = 0.0
    job: LocalJob | None = None
    volume: FileVolume | None = None
    last: events.Event | None = None  # the job's terminal event

    def fail(self, error: str) -> None:
        self.outcome, self.error = "failed", " ".join(error.split())


class _Dataset:
    """Many images, one job each.

    Parameters
    ----------
    model : _Model
    rows : sequence of DatasetRow
        The images.
    out : Path
        For ``NAME/`` of each image, and ``report.json`` of all.
    """

    def __init__(self, model: _Model, rows: Sequence[DatasetRow], out: Path) -> None:
        self._model, self._out = model, out
        self.items = [_Item(row.image.absolute(), out / safe_name(row.name)) for row in rows]
        self._interrupted = False

    def run(self, at_once: int) -> int:
        """Predict what is not there yet, so many at a time; returns the exit code."""
        interrupt_on_signals()
        waiting = deque(item for item in self.items if not self._is_done(item))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            line = bar.add_task("predict", total=len(self.items), completed=len(self.items) - len(waiting))
            while waiting or self._are("running") or self._are("ended"):
                try:
                    self._look()
                    while waiting and len(self._are("running")) < at_once:
                        self._start(waiting.popleft())
                    bar.update(line, completed=self._n_done(), description=self._words())
                    if ended := self._are("ended"):  # after the next was started: files are written meanwhile
                        self._write(ended[0])
                    else:
                        time.sleep(_LOOK_SECONDS)
                except KeyboardInterrupt:
                    self._interrupted = True
                    waiting.clear()
                    for item in self._are("running"):
                        assert item.job is not None  # it runs
                        item.job.cancel()
        return self._report()

    def _are(self, outcome: str) -> list[_Item]:
        return [item for item in self.items if item.outcome == outcome]

    def _n_done(self) -> int:
        return sum(item.outcome in ("finished", "failed", "cancelled") for item in self.items)

    def _words(self) -> str:
        names = [item.folder.name for item in self._are("running")]
        return ("stopping " if self._interrupted else "") + ", ".join(names[:3]) + (" …" if len(names) > 3 else "")

    def _is_done(self, item: _Item) -> bool:
        """Whether an earlier run of the command did it, with this model and from this very file."""
        try:
            report = json.loads((item.folder / "report.json").read_text(encoding="utf-8"))
            is_same = report["outcome"] == "finished" and report["of"] == self._facts(item)
        except (OSError, ValueError, KeyError):
            return False
        if is_same:
            item.outcome, item.seconds = "finished", report["seconds"]
        return is_same

    def _facts(self, item: _Item) -> dict[str, Any]:
        """What a prediction was made from."""
        stat, axis = split_series(item.image)[0].stat(), self._model.slice_axis
        return {
            "image": str(item.image),
            "bytes": stat.st_size,
            "modified": stat.st_mtime_ns,
            "model": self._model.digest,
            "slice_axis": self._model.slice_direction or "auto" if axis is None else str(axis),
        }

    def _start(self, item: _Item) -> None:
        try:
            item.volume = self._model.volume_of(item.image)
            item.job = self._model.job(item.folder, item.volume)
            (item.folder / "report.json").unlink(missing_ok=True)  # of an image or a model that was another
            item.job.start(bound=not self._model.config.cluster)
            item.outcome = "running"
        except (ValueError, OSError) as error:
            item.fail(str(error))

    def _look(self) -> None:
        for item in self._are("running"):
            assert item.job is not None
            for event in item.job.poll():
                if events.is_terminal(event):
                    item.outcome, item.last = "ended", event

    def _write(self, item: _Item) -> None:
        """Write the results of a job that has ended, and forget its image."""
        event = item.last
        assert item.job is not None
        assert item.volume is not None
        item.seconds = getattr(event, "seconds", 0.0)
        try:
            if isinstance(event, events.Failed):
                item.fail(f"{event.message} {event.advice}")
            elif isinstance(event, events.Cancelled):
                item.outcome = "cancelled"
            else:
                for path in write_job_results(item.job.folder, [item.volume], PREDICTED_FILES):
                    print(path, flush=True)
                item.outcome = "finished"
            write_report(
                item.folder / "report.json", item.job.folder, of=self._facts(item), **slice_facts([item.volume])
            )
        except OSError as error:
            item.fail(f"{error.filename or item.folder}: {error.strerror or error}")
        item.job = item.volume = None

    def _report(self) -> int:
        """Say how it went, and write it down."""
        failed = [item for item in self.items if item.outcome == "failed"]
        report = {
            "outcome": "cancelled" if self._interrupted else "failed" if failed else "finished",
            "images": [
                {
                    "image": str(item.image),
                    "folder": item.folder.name,
                    "outcome": item.outcome,
                    "error": item.error or None,
                    "seconds": item.seconds,
                }
                for item in self.items
            ],
        }
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            write_atomically(self._out / "report.json", json.dumps(report, indent=2) + "\n")
            print(self._out / "report.json")
        except OSError as error:
            print(f"napari-mlbseg: {self._out / 'report.json'}: {error.strerror or error}", file=sys.stderr)
            return ExitCode.FAILED
        for item in failed:
            print(f"napari-mlbseg: {item.folder.name}: {item.error}", file=sys.stderr)
        if self._interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.FAILED if failed else ExitCode.DONE
