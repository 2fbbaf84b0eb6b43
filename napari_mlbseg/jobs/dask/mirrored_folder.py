"""The folder of a job on a Dask worker, as seen from the machine that asked for it.

What lies there is copied file by file, as it is: nobody decodes an array on the way. Where this machine can open the
folder itself (one machine, or a shared disk), the files are read from there, without Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import distributed

from napari_mlbseg._util.files import write_atomically
from napari_mlbseg._util.zarr_arrays import chunk_file
from napari_mlbseg.events import Preview
from napari_mlbseg.jobs.dask import remote
from napari_mlbseg.jobs.dask.connection import UnreachableError, call
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.task import SegmentationTask
from napari_mlbseg.training.results import result_layout

__all__ = ["WorkerFolder"]

_AT_ONCE = 16  # slices that are fetched together


class WorkerFolder:
    """A job's folder on a Dask worker. Every method raises `UnreachableError` if it cannot be read now.

    Parameters
    ----------
    client : distributed.Client
    worker : str
        Address of the Dask worker.
    path : str
        The folder, over there.
    digest : str
        Checksum of its request: a folder of that name on this machine may be another.
    """

    def __init__(self, client: distributed.Client, worker: str, path: str, digest: str) -> None:
        self.client, self._worker, self._path = client, worker, path
        self._is_here = remote.can_access(path, digest)
        self._has_arrays = False

    def fetch_slices(self, folder: JobFolder, task: SegmentationTask, event: Preview) -> None:
        """Bring what a preview names into the results of `folder`."""
        if not self._has_arrays:  # as whoever made them described them
            self._fetch(folder, self._ask(remote.array_files))
            self._has_arrays = True
        volume = next(volume for volume in task.volumes if volume.name == event.volume)
        place = folder.volume_path(volume.name, len(task.volumes) > 1).relative_to(folder.path)
        n_axes = {name: len(shape) for name, (shape, _) in result_layout(task, volume).items()}
        for first in range(0, len(event.slices), _AT_ONCE):
            slices = event.slices[first : first + _AT_ONCE]
            self._fetch(
                folder, [chunk_file(place / name, z, n_axes[name]).as_posix() for name in event.arrays for z in slices]
            )

    def fetch_files(self, folder: JobFolder, names: Sequence[str]) -> None:
        """Bring files into `folder`; those that are not there are not here afterwards either."""
        self._fetch(folder, names)

    def events_after(self, n: int) -> list[str]:
        """JSON of the events that followed the first `n`."""
        return self._ask(remote.events_after, n)

    def write(self, name: str, text: str) -> None:
        """Write a small file over there."""
        self._ask(remote.write_file, name, text)

    def forget(self) -> None:
        """Remove it: all of it has been fetched."""
        self._ask(remote.forget)

    def _fetch(self, folder: JobFolder, names: Sequence[str]) -> None:
        contents = self._ask(remote.read_files, names)
        for name in names:
            _put(folder.path / name, contents.get(name))

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of `remote` says of the folder."""
        if not self._is_here:
            return call(self.client, self._worker, function, self._path, *arguments)
        try:
            return function(self._path, *arguments)
        except OSError as error:
            raise UnreachableError from error


def _put(path: Path, content: bytes | None) -> None:
    """Write a file whole or not at all; without content, there is none (a slice that is zero has no file)."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, durable=False)  # after a power cut it is asked for again
