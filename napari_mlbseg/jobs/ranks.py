"""The other processes of a data-parallel training, seen from its worker, which is rank 0.

On one machine the worker starts them itself. Under torchrun they were started already, perhaps on several machines that
share a disk; then torchrun ends all when one dies.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from napari_mlbseg.engine.place import Place
from napari_mlbseg.events import Failed
from napari_mlbseg.jobs.autopsy import explain_death
from napari_mlbseg.jobs.folder import JobFolder, Request
from napari_mlbseg.jobs.follower import LOST, read_note
from napari_mlbseg.jobs.processes import PARENT, n_cores

if TYPE_CHECKING:
    from napari_mlbseg.engine.ranks import Ranks

__all__ = ["Followers"]

_LOOK_SECONDS = 0.05
_WORD_SECONDS = 0.5  # that a process which met an error has to leave word of it


class Followers:
    """Starts the other ranks of a job, watches them, and ends them.

    Parameters
    ----------
    folder : JobFolder
    n : int
        Processes in all, this one included; where torchrun has started as many, none is started.
    threads : int, optional
        That they may use all together; by default one for every core, or what OMP_NUM_THREADS says of each.

    Raises
    ------
    ValueError
        If torchrun has started another number of them.
    """

    def __init__(self, folder: JobFolder, n: int, threads: int | None) -> None:
        self._folder, self._n = folder, n
        found = Place.of_this_process()
        self.are_ours = found.size == 1
        if not self.are_ours and (found.size, found.rank) != (n, 0):
            raise ValueError(
                f"The job asks for {n} processes but the environment names RANK {found.rank} of WORLD_SIZE "
                f"{found.size}: start with torchrun, or unset these variables."
            )
        self.place = Place(0, n, 0, n) if self.are_ours else found
        is_said = threads is None and "OMP_NUM_THREADS" in os.environ  # torchrun always says so
        self.threads = None if is_said else max(1, (threads or n_cores()) // self.place.local_size)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._meeting = Path()  # a folder on this machine's own disk: network disks have unsafe locks

    def start(self) -> None:
        """Start them, unless torchrun did; they wait for this one to `join`."""
        for rank in range(1, self._n):
            self._folder.note_of_rank(rank).unlink(missing_ok=True)
        if not self.are_ours:
            return
        self._meeting = Path(tempfile.mkdtemp(prefix="napari-mlbseg-"))
        self.place = Place(0, self._n, 0, self._n, self._meeting / "meeting")
        os.environ.update(_loopback())
        for rank in range(1, self._n):
            place = Place(rank, self._n, rank, self._n, self.place.meeting)
            environment = {**os.environ, **place.environment(), PARENT: str(os.getpid())}
            if self.threads is not None:
                environment["OMP_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = str(self.threads)
            command = [sys.executable, "-m", "napari_mlbseg.jobs.follower", str(self._folder.path)]
            # in this process's group, which is ended as a whole, and with its log
            self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment))

    def join(self, request: Request) -> Ranks:
        """Meet them and tell them what to train."""
        from napari_mlbseg.engine.ranks import join

        ranks = join(self.place)
        ranks.text_of_first(request.model_dump_json())
        return ranks

    def failure(self, seconds: float = 0.0) -> tuple[Failed, bool] | None:
        """Why another rank ended, and whether for want of memory; None if none did within `seconds`.

        Of those that torchrun started, only a word that they left is known, and torchrun soon ends this one, too.
        """
        end = time.monotonic() + (seconds if self.are_ours else min(seconds, _WORD_SECONDS))
        while (found := self._failure()) is None and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        return found

    def end(self) -> None:
        """End those that this process has started."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []
        if self._meeting.name:
            shutil.rmtree(self._meeting, ignore_errors=True)

    def _failure(self) -> tuple[Failed, bool] | None:
        for rank in range(1, self._n):
            if (note := read_note(self._folder.note_of_rank(rank))) is not None:
                failed, is_out_of_memory = note
                return self._naming(rank, failed), is_out_of_memory
        for rank, process in enumerate(self._processes, start=1):
            if process.poll() not in (None, 0, LOST):
                return self._naming(rank, explain_death(process.returncode, self._folder.log_tail())), False
        return None

    def _naming(self, rank: int, failed: Failed) -> Failed:
        return failed.model_copy(update={"message": f"{failed.message} (Process {rank + 1} of {self._n}.)"})


def _loopback() -> dict[str, str]:
    """Environment in which gloo listens on this machine's own addresses only, where it can be told."""
    with suppress(OSError):
        for name, addresses in psutil.net_if_addrs().items():
            if any(a.family == socket.AF_INET and a.address == "127.0.0.1" for a in addresses):
                return {"GLOO_SOCKET_IFNAME": name}
    return {}
