"""What a Dask worker does for a job: it gives it a folder there and the usual worker process, and tells its events.

These functions are called by `napari_mlbseg.jobs.cluster`, on the other machine. The job's folder lies in the Dask
worker's own directory, which Dask removes when that worker ends.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from napari_mlbseg import __version__
from napari_mlbseg.events import to_json
from napari_mlbseg.jobs.folder import JobFolder, Request, write_atomically
from napari_mlbseg.jobs.local import LocalJob

__all__ = [
    "PREVIOUS",
    "digest_of",
    "forget",
    "read_files",
    "read_slices",
    "run_here",
    "sees",
    "version",
    "write_file",
]

#: Folder in a job's folder with the model that it starts from.
PREVIOUS = "previous"

_LOOK_SECONDS = 0.05  # between two looks for events


def version() -> str:
    """Of this package, on the Dask worker."""
    return __version__


def sees(path: str, digest: str) -> bool:
    """Whether this machine can open the job folder `path`: the very one, and not another of that name."""
    try:
        return digest_of(Path(path)) == digest
    except OSError:
        return False


def digest_of(path: Path) -> str:
    """Checksum of a job folder's request."""
    return hashlib.sha256(JobFolder(path).request_file.read_bytes()).hexdigest()


def run_here(request: str, files: Mapping[str, bytes], topic: str) -> None:
    """Run a job in a folder on this machine, to its end; every event is logged under `topic`.

    The first message tells where: ``{"attempt", "n": 0, "worker", "folder"}``; the others hold an event:
    ``{"attempt", "n", "event"}``, with `n` counting up. A job that Dask runs again, after its worker was lost, is a new
    attempt.

    Parameters
    ----------
    request : str
        JSON of a `Request`, its paths absolute or relative to its folder.
    files : mapping of str to bytes
        Files of the folder by their relative paths: what this machine cannot open elsewhere.
    topic : str
    """
    from distributed import get_worker

    worker = get_worker()
    attempt = uuid.uuid4().hex
    folder = JobFolder(Path(worker.local_directory) / f"mlbseg-{attempt}")
    _put_files(folder.path, files)
    asked = Request.model_validate_json(request)
    previous = None if asked.previous is None else str(folder.path / PREVIOUS)
    asked = asked.model_copy(update={"previous": previous, "threads": worker.state.nthreads})
    write_atomically(folder.request_file, asked.model_dump_json(indent=1))
    worker.log_event(topic, {"attempt": attempt, "n": 0, "worker": worker.address, "folder": str(folder.path)})
    job = LocalJob(folder)
    job.start(bound=True)
    try:
        for n, event in enumerate(job.events(_LOOK_SECONDS), start=1):
            worker.log_event(topic, {"attempt": attempt, "n": n, "event": to_json(event)})
    except BaseException:
        job.kill()
        raise


def _put_files(path: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    path.mkdir(parents=True, exist_ok=True)


# -- what is fetched and told while it runs --------------------------------------------------------------------------


def read_slices(folder: str, volume: str, arrays: Sequence[str], slices: Sequence[int]) -> dict[str, np.ndarray]:
    """Slices of result arrays, (len(slices), ...) each."""
    results = JobFolder(folder).results(volume)
    return {name: np.stack([results[name][z] for z in slices]) for name in arrays}


def read_files(folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """Files of the folder that are there, by name."""
    return {name: (Path(folder) / name).read_bytes() for name in names if (Path(folder) / name).exists()}


def write_file(folder: str, name: str, text: str) -> None:
    """Write a file into the folder, whole or not at all."""
    write_atomically(Path(folder) / name, text)


def forget(folder: str) -> None:
    """Remove the folder: all of it has been fetched."""
    shutil.rmtree(folder, ignore_errors=True)
