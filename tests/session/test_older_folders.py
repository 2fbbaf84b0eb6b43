"""Folders that commit 256019c wrote still open: a session of one volume with a round, whose folder is a job's.

``tests/data/session_of_256019c.zip`` was made there by one training of two steps on a block in noise of 8 slices.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from napari_mlbseg.events import Finished, Started
from napari_mlbseg.jobs.folder import JobFolder
from napari_mlbseg.session import SegmentationSession

from .conftest import reopen

ARCHIVE = Path(__file__).parent.parent / "data" / "session_of_256019c.zip"
TRUTH = np.zeros((8, 24, 28), np.uint8)
TRUTH[1:7, 6:16, 8:20] = 2


@pytest.fixture
def folder(tmp_path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return tmp_path / "heart.mlbseg"


@pytest.fixture
def old(folder) -> SegmentationSession:
    session = reopen(folder)
    yield session
    session.close()


def test_what_was_painted_and_said_is_there(old):
    volume = old.volume("heart")
    assert np.array_equal(volume.annotation[[2, 5]], TRUTH[[2, 5]])
    assert not np.delete(volume.annotation, [2, 5], axis=0).any()
    assert (volume.marks.clean, volume.marks.skipped) == ({2, 5}, {7})
    assert (volume.spacing, volume.unit, volume.slice_axis) == ((2.0, 1.0, 1.0), "mm", 0)
    assert volume.image.shape == TRUTH.shape
    image = np.asarray(volume.image)
    assert image[TRUTH > 0].mean() > 2.5 > 0.5 > abs(image[TRUTH == 0].mean())


def test_its_parameters_are_there_also_those_that_have_another_name_now(old):
    assert old.config.find_label_errors
    assert (old.config.preset, old.config.steps, old.config.features) == ("quick", 1, (8, 16))


def test_its_round_is_there_with_results(old):
    (past,) = old.rounds
    assert isinstance(past.outcome, Finished)
    assert past.outcome.steps == 2
    results = past.job.folder.results("heart")
    assert np.array_equal(np.asarray(results["pseudo_labels"][2]), TRUTH[2])
    probability = np.asarray(results["probability"][:])
    assert probability.shape == (8, 2, 24, 28)
    assert np.allclose(probability.sum(1), 1, atol=0.01)


def test_the_next_round_can_be_resolved_and_saved(old, folder):
    assert old.resolve().class_values == (0, 2)
    old.mark_dirty("heart")
    old.save()
    again = reopen(folder) if not old.read_only else old
    assert again.volume("heart").marks.clean == {2, 5}
    again.close()


def test_the_job_folder_says_what_it_was_asked_and_holds_a_model(folder):
    from napari_mlbseg.training.checkpoint import load_model

    job = JobFolder(folder / "rounds" / "001")
    request = job.read_request()
    assert request.class_values == (0, 2)
    task = job.open_task(request)
    assert task.volumes[0].clean_slices == (2, 5)
    assert np.array_equal(task.volumes[0].label_slice(5), TRUTH[5])
    assert isinstance(job.events()[0], Started)
    model = load_model(job.model_file)
    assert (model.class_values, model.image_channels) == ((0, 2), 1)
