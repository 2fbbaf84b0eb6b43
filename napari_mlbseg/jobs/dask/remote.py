"""What a Dask worker does for a job: it gives it a folder there and the usual worker process, and tells its events.

These functions are called by `napari_mlbseg.jobs.dask.runner`, on the other machine. The job's folder lies in the Dask
worker's own directory, which Dask removes when that worker ends.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_mlbseg._util.files import write_atomically
from napari_mlbseg._version import __version__
from napari_mlbseg.events import to_json
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import JobFolder, Request
from napari_mlbseg.jobs.local import LocalJob

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Worker

__all__ = [
    "PREVIOUS",
    "array_files",
    "digest_of",
    "events_after",
    "forget",
    "read_files",
    "run_here",
    "can_access",
    "version",
    "write_file",
]

#: Folder in a job's folder with the model that it starts from.
PREVIOUS = "previous"

_LOOK_SECONDS = 0.05  # between two looks for events


def version() -> str:
    """Of this package, on the Dask worker."""
    return __version__


def can_access(path: str, digest: str) -> bool:
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

    Every message says where: ``{"attempt", "worker", "folder", "digest", "n"}``. The first, with ``n`` = 0, says no
    more; the others hold an ``"event"``, with `n` counting up. A job that Dask runs again, after its worker was lost,
    is a new attempt. One that Dask was asked to cancel is cancelled as on any machine, and keeps what it has.

    Parameters
    ----------
    request : str
        JSON of a `Request`, its paths absolute or relative to its folder.
    files : mapping of str to bytes
        Files of the folder by their relative paths: what this machine cannot open elsewhere.
    topic : str
    """
    from distributed import Status, get_worker

    worker = get_worker()
    key = worker.get_current_task()
    attempt = uuid.uuid4().hex
    folder = JobFolder(Path(worker.local_directory) / f"mlbseg-{attempt}")
    _put_files(folder.path, files)
    asked = Request.model_validate_json(request)
    previous = None if asked.previous is None else str(folder.path / PREVIOUS)
    asked = asked.model_copy(update={"previous": previous, "threads": worker.state.nthreads})
    write_atomically(folder.request_file, asked.model_dump_json(indent=1))
    job = LocalJob(folder)
    job.start(bound=True)
    where = {
        "attempt": attempt,
        "worker": worker.address,
        "folder": str(folder.path),
        "digest": digest_of(folder.path),
    }
    worker.log_event(topic, {**where, "n": 0})
    n = 0
    try:
        while not job.state.is_final:
            for event in job.poll():
                n += 1
                worker.log_event(topic, {**where, "n": n, "event": to_json(event)})
            if worker.status in (Status.closing, Status.closed):  # it takes no more words: another one has the job
                raise RuntimeError("The Dask worker is closing.")
            elif job.state is JobState.RUNNING and not _is_wanted(worker, key):
                job.cancel()
            time.sleep(_LOOK_SECONDS)
    except BaseException:
        job.kill()
        raise


def _is_wanted(worker: Worker, key: Key) -> bool:
    """Whether Dask has not been asked to cancel a task that runs here."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state != "cancelled"


def _put_files(path: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    path.mkdir(parents=True, exist_ok=True)


# -- what is fetched and told while it runs --------------------------------------------------------------------------


def array_files(folder: str) -> list[str]:
    """Names of the files that describe the result arrays."""
    path = _present(folder)
    return [file.relative_to(path).as_posix() for file in JobFolder(path).results_path.rglob("zarr.json")]


def events_after(folder: str, n: int) -> list[str]:
    """JSON of the job's events but for the first `n`."""
    return [to_json(event) for event in JobFolder(_present(folder)).events()[n:]]


def read_files(folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """Files of the folder that are there, by name."""
    path = _present(folder)
    contents = {}
    for name in names:
        with suppress(FileNotFoundError):
            contents[name] = (path / name).read_bytes()
    return contents


def write_file(folder: str, name: str, text: str) -> None:
    """Write a file into the folder, whole or not at all."""
    write_atomically(_present(folder) / name, text)


def forget(folder: str) -> None:
    """Remove the folder: all of it has been fetched."""
    shutil.rmtree(folder, ignore_errors=True)


def _present(folder: str) -> Path:
    """The folder; raises FileNotFoundError if it is gone, so that nobody takes its files for empty ones."""
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"The folder {folder} of the job is gone.")
    return path
