"""``napari-mlbseg session``: a saved session without a window."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_mlbseg.cli.exit_code import ExitCode
from napari_mlbseg.cli.options import (
    InputError,
    add_cluster_options,
    cluster_option,
    device_option,
    writable_folder,
)
from napari_mlbseg.cli.progress import interrupt_on_signals, watch
from napari_mlbseg.events import Event, Failed
from napari_mlbseg.io.dataset_table import DatasetRow, dataset_rows
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.session import AnnotatedVolume, Round, SegmentationSession, SessionState
from napari_mlbseg.session.adding import read_volume
from napari_mlbseg.session.exporting import export_session
from napari_mlbseg.session.overview import overview
from napari_mlbseg.session.persistence.folder import SUFFIX
from napari_mlbseg.session.persistence.loader import load_session
from napari_mlbseg.session.volume import free_name

__all__ = ["add_session_parser"]


def add_session_parser(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command to a command line."""
    session = commands.add_parser("session", help="look at, train or export a saved session")
    session.set_defaults(run=_session)
    session.add_argument("session", metavar="NAME.mlbseg", help="the session's folder")
    session.add_argument(
        "--add",
        nargs="+",
        metavar="IMAGE",
        help="add image files, those of a folder, or those of a CSV file as for train; the session is made if need be",
    )
    session.add_argument("--train", action="store_true", help="train another round on its clean slices")
    session.add_argument("--export", metavar="DIR", help="write annotation and results as image files")
    session.add_argument("--device", metavar="DEVICE", help="for --train: auto, cpu, cuda or mps; else the session's")
    session.add_argument("--time-budget", metavar="SECONDS", help="for --train; else the session's")
    session.add_argument("--seed", metavar="N", help="for --train; else the session's")
    add_cluster_options(session)
    session.add_argument(
        "--image", action="append", default=[], metavar="OLD=NEW", help="an image that lies elsewhere now"
    )


def _session(options: argparse.Namespace, start: float) -> int:
    interrupt_on_signals()
    out = None if options.export is None else writable_folder(options.export)
    path = Path(options.session)
    rows = dataset_rows(options.add) if options.add else []
    if rows and not path.exists():
        session = SegmentationSession(path if path.name.lower().endswith(SUFFIX) else f"{path}{SUFFIX}")
    else:
        session = SegmentationSession()
        loaded = load_session(path, _moved(options.image))
        for note in loaded.notes:
            print(f"napari-mlbseg: {note}", file=sys.stderr)
        session.load(loaded)
    try:
        if session.read_only and (rows or options.train):
            raise InputError(session.read_only)
        failed = _add(session, rows)
        code = _train(session, options) if options.train else ExitCode.DONE
        if code == ExitCode.DONE and failed:
            code = ExitCode.FAILED
        if code == ExitCode.FAILED and not failed:
            return code
        if out is not None:
            for path in export_session(list(session), session.shown_round, out):
                print(path)
        elif not options.train:
            print(json.dumps(_summary(session), indent=2))
        return code
    finally:
        session.close(stop_job=options.train)  # who only looks does not end what somebody started


def _add(session: SegmentationSession, rows: Sequence[DatasetRow]) -> bool:
    """Add images that are not in the session yet, and save; one that cannot be read is told and stops no other.

    Returns whether there was one.
    """
    known = {volume.source.path.resolve() for volume in session if volume.source is not None}
    names = {volume.name for volume in session}
    added, failed = list[AnnotatedVolume](), False
    for row in rows:
        if row.image.resolve() in known:
            continue
        try:
            volume = read_volume(row)
        except ValueError as error:
            print(f"napari-mlbseg: {error}", file=sys.stderr)
            failed = True
            continue
        volume.name = free_name(volume.name, names)
        names.add(volume.name)
        added.append(volume)
    if added:
        session.set_volumes([*session, *added])
        session.save()
    return failed


def _train(session: SegmentationSession, options: argparse.Namespace) -> int:
    """Train a round to its end, or go on watching the one that runs."""
    changes = {"time_budget": options.time_budget, "seed": options.seed, "cluster": cluster_option(options) or None}
    if options.device is not None:  # which devices a cluster has is known over there
        is_here = not (changes["cluster"] or session.config.cluster)
        changes["device"] = device_option(options.device) if is_here else options.device
    session.config = session.config.updated(**{name: value for name, value in changes.items() if value is not None})
    if session.state is SessionState.IDLE:
        session.start()
    running = session.current_round
    assert running is not None  # it was just started, or is why the state is not idle
    reader = _Following(session, running)
    interrupted, _ = watch(reader)
    session.save()
    if isinstance(running.outcome, Failed):
        print(f"napari-mlbseg: {running.outcome.message} {running.outcome.advice}".rstrip(), file=sys.stderr)
        return ExitCode.FAILED
    print(running.job.folder.path)
    return ExitCode.INTERRUPTED if interrupted else ExitCode.DONE


class _Following:
    """A round's job, whose events the session takes in as they are shown."""

    def __init__(self, session: SegmentationSession, running: Round) -> None:
        self._session, self._running = session, running
        self.folder = running.job.folder
        self._told = 0

    @property
    def state(self) -> JobState:
        """State of the job."""
        return self._running.job.state

    def poll(self) -> Sequence[Event]:
        """Events since the last call."""
        self._session.poll()
        new = self._running.events[self._told :]
        self._told += len(new)
        return new

    def cancel(self) -> None:
        """Ask the worker to stop and keep what it has."""
        self._session.stop()


def _summary(session: SegmentationSession) -> dict[str, object]:
    return {
        "session": session.folder.name,
        "classes": session.known_classes(),
        "volumes": {
            volume.name: {
                "status": overview(session, volume.name).status,
                "shape": list(volume.annotation.shape),
                "slice_axis": volume.slice_axis,
                "clean": sorted(volume.clean),
                "painted": sorted(session.painted_slices(volume.name)),
                "next": [suggestion.slice for suggestion in session.suggestions(volume.name)[:3]],
            }
            for volume in session
        },
        "rounds": [
            {
                "number": past.number,
                "clean": past.n_clean,
                "outcome": past.outcome.type if past.outcome is not None else None,
                "seconds": past.seconds,
                "held_out_dice": past.held_out_dice,
                "held_out_hd95": _finite(past.held_out_hd95),
                "bytes": past.measure(),
            }
            for past in session.rounds
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _moved(pairs: list[str]) -> dict[str, Path]:
    moved = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not new:
            raise InputError(
                f"--image {pair} lacks a path: write --image OLD=NEW, with the path of then and that of now."
            )
        moved[old] = Path(new)
    return moved
