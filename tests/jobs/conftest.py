"""A small task, and workers that the tests write."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task

if TYPE_CHECKING:
    from .dask_cluster import Cluster

#: What a played worker does: it finishes, waits to be told to stop, or waits for ever.
FINISH = 'folder.append_event(Finished(reason="steps", steps=3, seconds=1))\n'
OBEY = """
while not folder.cancel_file.exists():
    time.sleep(0.01)
folder.append_event(Cancelled(steps=2))
"""
WAIT = "time.sleep(60)\n"

STUB = """
import json, os, psutil, signal, sys, time
from napari_mlbseg.events import *
from napari_mlbseg.jobs.folder import JobFolder
folder = JobFolder(sys.argv[1])
folder.heartbeat_file.write_text(json.dumps({"pid": os.getpid(), "created": psutil.Process().create_time()}))
folder.append_event(Started(device="CPU", seed=0, pid=os.getpid()))
"""


def make_volume(name: str = "heart", seed: int = 0, **changes: object) -> Volume:
    """Six slices with a bright square, painted on slices 1 and 4."""
    image = np.random.default_rng(seed).normal(0, 0.1, (6, 40, 48)).astype(np.float32)
    image[:, 10:26, 12:30] += 1
    labels = np.zeros(image.shape, np.uint8)
    labels[:, 10:26, 12:30] = 3
    clean = np.isin(np.arange(6), (1, 4))
    options = {"spacing": (2.5, 0.5, 0.5), "unit": "mm", "focus": 2, **changes}
    return Volume(name=name, **{"image": image, "labels": labels, "clean": clean, **options})


@pytest.fixture
def task() -> SegmentationTask:
    return resolve_task([make_volume()], TrainingConfig.from_preset("quick", seed=5))


@pytest.fixture
def stub_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Call it with the code of a worker: it says Started, beats, and then runs that code."""
    popen = subprocess.Popen

    def install(code: str) -> None:
        script = tmp_path / "stub_worker.py"
        script.write_text(STUB + textwrap.dedent(code))

        def start(command: list[str], **options: object) -> subprocess.Popen[bytes]:
            if command[1:3] == ["-m", "napari_mlbseg.jobs.worker"]:
                command = [sys.executable, str(script), *command[3:]]
            return popen(command, **options)

        monkeypatch.setattr("napari_mlbseg.jobs.local.subprocess.Popen", start)

    return install


@pytest.fixture
def new_job(task: SegmentationTask, tmp_path: Path) -> Iterator[Callable[[], LocalJob]]:
    """Makes jobs, and leaves no worker behind."""
    jobs: list[LocalJob] = []

    def make() -> LocalJob:
        jobs.append(LocalJob.create(tmp_path / f"job{len(jobs)}", task))
        return jobs[-1]

    yield make
    for job in jobs:
        job.kill()


@pytest.fixture
def folder(task: SegmentationTask, tmp_path: Path) -> JobFolder:
    """A job folder with a request."""
    made = JobFolder(tmp_path / "job")
    made.write_request(task)
    return made


@pytest.fixture(scope="session")
def package_path() -> dict[str, str]:
    """Environment in which a process of the test finds the package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory, package_path: dict[str, str]) -> Iterator[Cluster]:
    """A cluster of one worker, which tests leave as they found it."""
    pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    from .dask_cluster import Cluster, environment_of

    made = Cluster(tmp_path_factory.mktemp("cluster"), environment_of(package_path))
    try:
        made.add_worker()
        yield made
    finally:
        made.close()
