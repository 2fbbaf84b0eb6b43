"""A Dask scheduler and workers as processes of their own on loopback, and a connection that can be cut."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import distributed
import psutil

AT_MOST = 60.0
#: In a Dask worker: the process of a job is the script that lies there, if there is one.
PRELOAD = """
import os, subprocess, sys, types
from napari_mlbseg.jobs import local
def start(command, **options):
    script = {script!r}
    command = [sys.executable, script, *command[3:]] if os.path.exists(script) else command
    return subprocess.Popen(command, **options)
local.subprocess = types.SimpleNamespace(**{{**vars(subprocess), "Popen": start}})
"""


def until(condition: Callable[[], object], seconds: float = AT_MOST) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Cluster:
    """A scheduler and workers on loopback.

    Parameters
    ----------
    path : Path
        Folder for what they write, and for ``played.py``: what a job's process is on these workers, if it is there.
    environment : mapping of str to str
    options : sequence of str
        Of the scheduler.
    """

    def __init__(self, path: Path, environment: Mapping[str, str], *options: str, **security: object) -> None:
        self._path, self._environment = path, environment
        self._file = path / "scheduler.json"
        self.script = path / "played.py"
        (path / "preload.py").write_text(PRELOAD.format(script=str(self.script)))
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", *options)
        until(self._file.exists)
        self.client = distributed.Client(scheduler_file=str(self._file), set_as_default=False, **security)
        self.address = self.client.scheduler.address

    def add_worker(self, *options: str) -> None:
        """Start a worker with one thread, and wait for it."""
        there = len(self.addresses)
        place = self._path / f"worker{len(self.workers)}"
        words = ("--no-nanny", "--nthreads", "1", "--preload", str(self._path / "preload.py"))
        self.workers.append(self._start("worker", *words, "--local-directory", str(place), *options))
        until(lambda: len(self.addresses) == there + 1)

    @property
    def addresses(self) -> list[str]:
        return list(self.client.scheduler_info(n_workers=-1)["workers"])

    def busy(self) -> subprocess.Popen[bytes]:
        """The worker that has a job."""
        return next(w for w in self.workers if w.poll() is None and psutil.Process(w.pid).children(recursive=True))

    @property
    def is_idle(self) -> bool:
        """Whether no worker has a job's process."""
        living = [psutil.Process(worker.pid) for worker in self.workers if worker.poll() is None]
        return not any(worker.children(recursive=True) for worker in living)

    def end_jobs(self) -> None:
        """Kill the processes of jobs that go on, and wait until the workers are free."""
        for worker in self.workers:
            for child in psutil.Process(worker.pid).children(recursive=True) if worker.poll() is None else ():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        until(lambda: self.is_idle and not any(self.client.processing().values()))

    def close(self) -> None:
        with suppress(Exception):
            self.client.close(timeout=0.5)
        for process in (*self.workers, self.scheduler):
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self._file), "--no-dashboard", *options]
        with (self._path / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)


class Tunnel:
    """What an SSH tunnel is: a port here that leads to another; it can be cut and mended."""

    def __init__(self, address: str) -> None:
        self.lead_to(address, open_it=False)
        self._sockets: set[socket.socket] = set()
        self._door: socket.socket | None = None
        self._port = 0
        self.mend()
        self.address = f"tcp://127.0.0.1:{self._port}"

    def lead_to(self, address: str, *, open_it: bool = True) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self._target = host, int(port)
        if open_it:
            self.mend()

    def mend(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
        self._port = self._door.getsockname()[1]
        threading.Thread(target=self._let_in, args=(self._door,), daemon=True).start()

    def cut(self) -> None:
        for one in (self._door, *self._sockets):
            if one is not None:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._sockets.clear()

    def _let_in(self, door: socket.socket) -> None:
        with suppress(OSError):  # it was cut
            while True:
                near, _ = door.accept()
                far = socket.create_connection(self._target)
                self._sockets |= {near, far}
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    source.close()  # the other direction closes the other


def environment_of(package_path: Mapping[str, str], **more: str) -> dict[str, str]:
    """Of processes that find the package and compute with one thread."""
    return {**package_path, "OMP_NUM_THREADS": "1", **more}
