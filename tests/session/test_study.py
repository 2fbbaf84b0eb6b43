"""A session of many volumes: what is read when, what is saved, and how long a look at all of them may take."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tifffile

from napari_mlbseg.events import Failed, Preview, Stage
from napari_mlbseg.io.dataset_table import DatasetRow
from napari_mlbseg.io.file_array import FileArray
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.adding import read_volume
from napari_mlbseg.session.overview import overview
from napari_mlbseg.session.persistence.loader import AT_ONCE, load_session

from .conftest import make_volume, reopen, train

SHAPE = (6, 16, 20)


@pytest.fixture
def files(tmp_path):
    """Five stacks, and labels of the first."""
    for number in range(5):
        image = np.random.default_rng(number).integers(0, 999, SHAPE).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"s{number}.tif", image, metadata={"axes": "ZYX"})
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 3:9, 3:9] = 2
    tifffile.imwrite(tmp_path / "s0_label.tif", labels, metadata={"axes": "ZYX"})
    rows = [DatasetRow(tmp_path / f"s{number}.tif") for number in range(5)]
    rows[0] = DatasetRow(rows[0].image, tmp_path / "s0_label.tif", (1,))
    return rows


@pytest.fixture
def study(files, tmp_path):
    session = SegmentationSession(tmp_path / "study.mlbseg")
    session.set_volumes([read_volume(row) for row in files])
    yield session
    session.close()


@pytest.mark.usefixtures("fake_jobs")
def test_a_round_over_files_reads_none_and_the_next_shares_what_the_worker_read(study):
    first = study.start()
    folder = first.job.folder
    assert not list(folder.path.rglob("*.npy"))
    assert len(list(folder.path.glob("inputs/*/labels.zarr"))) == 1, "nothing is painted on the others"
    folder.fetch_inputs(folder.read_request())
    first.job.predict(2)
    study.poll()
    again = study.start().job.folder
    images = [again.path / f"inputs/{number}/image.npy" for number in range(5)]
    assert all(image.stat().st_nlink == 2 for image in images)
    opened = again.open_task(again.read_request()).volumes
    assert np.array_equal(opened[4].image, study.volume("s4").image)
    assert not opened[4].labels.any()


def test_of_many_volumes_a_few_are_in_memory(study):
    study.save()
    loaded = load_session(study.folder)
    lazy = [isinstance(each.volume.image, FileArray) for each in loaded.volumes]
    assert lazy == [False] * AT_ONCE + [True] * (5 - AT_ONCE)
    assert all(np.array_equal(each.volume.image, study.volume(each.volume.name).image) for each in loaded.volumes)


def test_what_is_painted_on_a_volume_that_had_no_annotation_is_saved(study, settle):
    """The window makes the layer when a person turns to the volume: it stays the same volume."""
    study.mark_dirty("s0")
    settle(study)
    before = study.volume("s3")
    painted = np.zeros(SHAPE, np.uint8)
    changed = make_volume("s3", source=before.source, uid=before.uid)
    changed.image, changed.annotation = before.image, painted
    study.set_volumes([changed if volume.name == "s3" else volume for volume in study])
    painted[2, 4:6, 4:6] = 1
    study.mark_dirty("s3", 2)
    settle(study)
    path = study.folder
    study.close()
    again = reopen(path)
    assert np.array_equal(again.volume("s3").annotation, painted)
    assert again.painted_slices("s3") == {2}
    assert again.volume("s0").annotation[1].any()
    again.close()


def test_a_look_at_many_volumes_takes_no_longer_than_at_one(tmp_path):
    session = SegmentationSession(tmp_path / "many.mlbseg")
    volumes = [make_volume(f"v{number}") for number in range(20)]
    for volume in volumes:
        volume.annotation = _Slow(volume.annotation)
    session.set_volumes(volumes)
    start = time.perf_counter()
    session.poll()
    assert time.perf_counter() - start < 0.1, "20 volumes of 6 slices of 5 ms each"
    while not all(session.painted_slices(volume.name) == {1, 4} for volume in volumes):
        session.poll()
        assert time.perf_counter() - start < 20
    session.close()


class _Slow(np.ndarray):
    """An annotation that takes its time."""

    def __new__(cls, array: np.ndarray) -> _Slow:
        return array.view(cls)

    def __getitem__(self, key):
        time.sleep(0.005)
        return np.asarray(super().__getitem__(key))


@pytest.mark.usefixtures("fake_jobs")
def test_the_overview_tells_what_has_become_of_each(study, settle):
    study.mark_dirty("s0")
    settle(study)
    assert [overview(study, volume.name).status for volume in study] == ["annotated", *["not annotated"] * 4]
    train(study)
    assert {overview(study, volume.name).status for volume in study} == {"predicted"}
    running = study.start()
    assert overview(study, "s2").status == "training"
    statistics = {"uncertainty": (10.0,) * 6, "foreground": (100.0,) * 6}
    running.job.say(
        Preview(
            volume="s2", slices=tuple(range(6)), arrays=("pseudo_labels",), stage=Stage.TRAIN, statistics=statistics
        )
    )
    study.poll()
    assert overview(study, "s2").doubt == pytest.approx(10 / 210)
    assert overview(study, "s3").doubt is None
    running.job.say(Failed(message="The worker was killed."))
    study.poll()
    assert overview(study, "s2").status == "failed"
