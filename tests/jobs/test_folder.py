"""The job folder: a task goes in and comes out; events and slices are whole or not there."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import zarr

from napari_mlbseg._util.files import safe_name, write_atomically
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Progress, Stage, Started, to_json
from napari_mlbseg.jobs.folder import SCHEMA_VERSION, EventReader, JobFolder, ZarrResults
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
from napari_mlbseg.training.results import RESULT_NAMES

from .conftest import make_volume


def reopened(folder: JobFolder) -> SegmentationTask:
    """The task as another process finds it."""
    other = JobFolder(folder.path)
    return other.open_task(other.read_request())


def round_trip(volume: Volume, path) -> tuple[Volume, JobFolder]:
    folder = JobFolder(path / "job")
    folder.write_request(SegmentationTask((volume,), (0, 3), TrainingConfig()))
    return reopened(folder).volumes[0], folder


def test_a_task_comes_back_as_it_was(folder, task):
    found = reopened(folder)
    assert found.config == task.config
    assert found.class_values == (0, 3)
    (given,), (volume,) = task.volumes, found.volumes
    for name in ("name", "spacing", "unit", "independent_slices", "focus", "shape", "clean_slices", "n_channels"):
        assert getattr(volume, name) == getattr(given, name), name
    assert np.array_equal(volume.image, given.image)
    assert volume.image.dtype == given.image.dtype
    for z in volume.clean_slices:
        assert np.array_equal(volume.label_slice(z), given.label_slice(z))


def test_only_clean_slices_are_handed_on(folder):
    volume = reopened(folder).volumes[0]
    assert [bool(volume.label_slice(z).any()) for z in range(6)] == [False, True, False, False, True, False]


def test_what_the_job_was_asked_for_comes_back(task, tmp_path):
    folder = JobFolder(tmp_path / "job")
    folder.write_request(task, kind="predict", previous=tmp_path / "round", threads=3)
    request = folder.read_request()
    assert (request.kind, request.previous, request.threads) == ("predict", str(tmp_path / "round"), 3)


def test_initial_labels_and_several_volumes_come_back(tmp_path):
    given = np.random.default_rng(0).integers(0, 4, (6, 40, 48))
    task = resolve_task([make_volume("a", initial_labels=given), make_volume("b", seed=1)], TrainingConfig())
    folder = JobFolder(tmp_path / "job")
    folder.write_request(task)
    first, second = reopened(folder).volumes
    assert np.array_equal(np.asarray(first.initial_labels), given)
    assert second.initial_labels is None
    assert np.array_equal(second.image, make_volume("b", seed=1).image)


def test_an_array_in_memory_is_mapped_and_not_read(tmp_path):
    volume, _ = round_trip(make_volume(), tmp_path)
    assert isinstance(volume.image, np.memmap)


def test_a_zarr_array_is_not_copied(tmp_path):
    image = zarr.create_array(tmp_path / "image.zarr", shape=(6, 40, 48), chunks=(1, 40, 48), dtype="f4")
    image[:] = make_volume().image
    volume, folder = round_trip(make_volume(image=image), tmp_path)
    assert isinstance(volume.image, zarr.Array)
    assert np.array_equal(volume.image_slice(3)[0], make_volume().image[3])
    assert not list(folder.path.glob("inputs/*/image*"))


def test_an_array_within_a_zarr_group_is_found(tmp_path):
    group = zarr.create_group(tmp_path / "group.zarr")
    image = group.create_array("scale0", shape=(6, 40, 48), chunks=(1, 40, 48), dtype="f4")
    image[:] = make_volume().image
    volume, _ = round_trip(make_volume(image=image), tmp_path)
    assert np.array_equal(volume.image_slice(3)[0], make_volume().image[3])


class Lazy:
    """An array that is read slice by slice, and remembers which."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.read: list[int] = []

    def __getitem__(self, z: int) -> np.ndarray:
        self.read.append(int(z))
        return self.array[z]


def test_a_lazy_array_is_read_slice_by_slice(tmp_path):
    lazy, labels = Lazy(make_volume().image), Lazy(make_volume().labels)
    volume, _ = round_trip(make_volume(image=lazy, labels=labels), tmp_path)
    assert lazy.read == list(range(6))
    assert labels.read == [1, 4]
    assert np.array_equal(np.asarray(volume.image[:]), lazy.array)


def test_the_request_is_written_last(task, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_mlbseg.jobs.inputs._save", fail)
    folder = JobFolder(tmp_path / "job")
    with pytest.raises(OSError, match="No space"):
        folder.write_request(task)
    assert not folder.request_file.exists()


def test_a_newer_request_is_refused_in_a_sentence(folder):
    request = json.loads(folder.request_file.read_text())
    folder.request_file.write_text(json.dumps({**request, "schema_version": SCHEMA_VERSION + 1, "news": 1}))
    with pytest.raises(ValueError, match=r"newer napari-mlbseg .* update napari-mlbseg\.$") as caught:
        folder.read_request()
    assert "\n" not in str(caught.value)


def test_nothing_is_pickled(tmp_path):
    volume = make_volume(image=np.full((6, 40, 48), None))
    with pytest.raises(ValueError, match="Object arrays"):
        round_trip(volume, tmp_path)


# -- events ----------------------------------------------------------------------------------------------------------


STARTED = Started(device="CPU", seed=1)
HALF = Progress(stage=Stage.TRAIN, fraction=0.5)


def test_events_are_read_once_and_in_order(folder):
    reader = EventReader(folder)
    assert reader.read() == []
    folder.append_event(STARTED)
    folder.append_event(HALF)
    assert reader.read() == [STARTED, HALF]
    assert reader.read() == []
    folder.append_event(HALF)
    assert reader.read() == [HALF]
    assert folder.events() == [STARTED, HALF, HALF], "another reader begins at the start"


def test_a_half_written_line_waits_for_its_end(folder):
    reader = EventReader(folder)
    line = to_json(HALF).encode()
    with folder.events_file.open("ab", buffering=0) as file:
        file.write(to_json(STARTED).encode() + b"\n" + line[:20])
        assert reader.read() == [STARTED]
        assert reader.read() == []
        file.write(line[20:])
        assert reader.read() == []
        file.write(b"\n")
        assert reader.read() == [HALF]


def test_nothing_follows_a_terminal_event(folder):
    reader = EventReader(folder)
    for event in (STARTED, Cancelled(), HALF):
        folder.append_event(event)
    assert reader.read() == [STARTED, Cancelled()]
    folder.append_event(HALF)
    assert reader.read() == []


def test_focus(folder):
    assert folder.focus() is None
    write_atomically(folder.focus_file, '{"volume": "heart", "slice": 4}')
    assert folder.focus() == ("heart", 4)
    folder.focus_file.write_text("{")
    assert folder.focus() is None


def test_the_log_has_a_tail(folder):
    assert folder.log_tail() == ""
    folder.log_file.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % i for i in range(50)))
    assert folder.log_tail(2) == "line 48\nline 49"


# -- results ---------------------------------------------------------------------------------------------------------


def test_results_have_one_chunk_a_slice(folder, task):
    results = ZarrResults(folder, task)["heart"]
    assert set(results) == set(RESULT_NAMES)
    for array in results.values():
        assert array.chunks == (1, *array.shape[1:])
    chunks = folder.results_path / "pseudo_labels" / "c"
    assert not chunks.exists()
    results["pseudo_labels"][2] = 3
    assert [path.name for path in chunks.iterdir()] == ["2"]
    assert np.asarray(folder.results("heart")["pseudo_labels"][2]).all()
    assert not np.asarray(folder.results("heart")["pseudo_labels"][1]).any()


def test_several_volumes_have_a_folder_each(tmp_path):
    task = resolve_task([make_volume("a/b: c"), make_volume("d")], TrainingConfig())
    folder = JobFolder(tmp_path / "job")
    folder.write_request(task)
    ZarrResults(folder, task)["a/b: c"]["pseudo_labels"][0] = 3
    assert {path.name for path in folder.results_path.iterdir()} == {"a_b_ c", "d"}
    assert np.asarray(folder.results("a/b: c")["pseudo_labels"][0]).all()
    assert not np.asarray(folder.results("d")["pseudo_labels"][0]).any()


@pytest.mark.parametrize(
    ("name", "safe"), [("heart 1", "heart 1"), ("../x", "_x"), ("a\\b?", "a_b_"), ("..", "volume")]
)
def test_names_are_safe_as_folders(name, safe):
    assert safe_name(name) == safe


def test_a_reader_sees_the_old_slice_or_the_new_one(folder, task):
    """A slice is rewritten as fast as possible while it is read as fast as possible."""
    target = ZarrResults(folder, task)["heart"]["weight_initial"]
    target[2] = 0
    source = folder.results("heart")["weight_initial"]
    done = threading.Event()
    broken: list[object] = []
    seen: set[float] = set()

    def read() -> None:
        while not done.is_set():
            try:
                plane = np.asarray(source[2])
            except Exception as error:  # whatever a half-written chunk would raise
                broken.append(error)
                return
            if plane.min() != plane.max():
                broken.append(np.unique(plane))
            seen.add(float(plane[0, 0]))

    reader = threading.Thread(target=read)
    reader.start()
    # never all zero again: zarr would delete such a chunk, and compressible values would hide a torn one
    for value in range(1, 250):
        target[2] = np.full((40, 48), value, np.float32)
    done.set()
    reader.join()
    assert broken == []
    assert len(seen) > 3, "it was read while it was written"


def test_writing_atomically_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / "x", "one")
    write_atomically(tmp_path / "x", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "two"


def test_many_painted_slices_become_one_file(tmp_path):
    """A window waits while a round's snapshot is written, and a file for each of thousands of slices takes seconds."""
    labels = np.zeros((100, 8, 9), np.uint8)
    labels[5:95, 2:5, 2:5] = 3
    task = resolve_task([Volume("a", np.ones(labels.shape), labels, np.arange(100) == 7)], TrainingConfig())
    folder = JobFolder(tmp_path)
    request = folder.write_request(task, painted={"a": range(5, 90)})
    assert [path.name for path in (tmp_path / "inputs" / "0").iterdir() if "labels" in path.name] == ["labels.npy"]
    (volume,) = folder.open_task(request).volumes
    assert np.array_equal(volume.labels[:90], labels[:90])
    assert not volume.labels[90:].any(), "nobody said that these are painted"
