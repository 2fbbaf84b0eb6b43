"""Fixtures of all tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from napari_mlbseg.events import Finished, FinishReason, Metrics, Preview, Progress, Stage, Started
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import ZarrResults
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.training.results import RESULT_NAMES


@pytest.fixture(autouse=True)
def sessions_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of sessions that nobody saved, of this test alone."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("NAPARI_MLBSEG_HOME", str(home))
    return home


@pytest.fixture
def la_dir() -> Path:
    """Folder of the real left-atrium volumes; tests that need it are skipped without."""
    folder = os.environ.get("MLBSEG_LA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("the environment variable MLBSEG_LA_DIR names no folder of real volumes")
    return Path(folder)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> list[LocalJob]:
    """Replaces the worker: writes known results at once. Returns the jobs that were started."""
    jobs: list[LocalJob] = []

    def start(job: LocalJob, *, bound: bool = False) -> None:
        task = job.folder.open_task(job.folder.read_request())
        results = ZarrResults(job.folder, task)
        for volume in task.volumes:
            for name in RESULT_NAMES:
                array = results[volume.name][name]
                for z in range(volume.n_slices):
                    array[z] = np.broadcast_to(volume.label_slice(z), array.shape[1:])
        config = task.config.model_dump(mode="json")
        model = {"class_values": task.class_values, "image_channels": task.n_channels, "config": config}
        model["slice_direction"] = task.slice_direction
        job.folder.model_file.touch()
        job.folder.model_info_file.write_text(json.dumps(model))
        for event in (
            Started(device="CPU", seed=3, version="test"),
            Progress(stage=Stage.PREPARE, fraction=0, seconds=0),
            Preview(volume=task.volumes[0].name, slices=(0,), arrays=(), stage=Stage.INITIAL_LABELS, seconds=0.5),
            Progress(stage=Stage.TRAIN, fraction=0.5, seconds=2),
            Progress(stage=Stage.TRAIN, fraction=1, seconds=7),
            Metrics(values={"peak_memory_bytes": 123}),
            Finished(reason=FinishReason.STEPS, steps=5, seconds=8),
        ):
            job.folder.append_event(event)
        job._state = JobState.RUNNING
        jobs.append(job)

    monkeypatch.setattr(LocalJob, "start", start)
    return jobs
