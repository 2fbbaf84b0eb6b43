"""The worker: one terminal event whatever happens, and a second try with less where memory ran out."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from napari_mlbseg.events import Cancelled, Failed, Finished, HeldOut, Progress, Started
from napari_mlbseg.jobs import worker
from napari_mlbseg.task import TaskError

from .conftest import make_volume


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's."""


@pytest.fixture
def attempts(monkeypatch):
    """Attempts meet these errors, one each, then finish; returns (errors to meet, configs that were tried)."""
    errors, configs = [], []

    def attempt(folder, request, task, start):
        configs.append(task.config)
        yield Started(device="CPU", seed=0)
        if errors:
            raise errors.pop(0)
        yield Finished(reason="steps", steps=1, seconds=1)

    monkeypatch.setattr(worker, "_attempt", attempt)
    monkeypatch.setattr(worker, "lower_priority", lambda threads: None)
    monkeypatch.setattr(worker, "_beat", lambda *_: None)
    return errors, configs


def run(folder):
    return worker.main([str(folder.path)]), folder.events()


def test_a_job_that_works_needs_one_attempt(folder, attempts):
    code, events = run(folder)
    assert code == 0
    assert [type(event) for event in events] == [Started, Finished]


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    ],
    ids=repr,
)
def test_out_of_memory_is_tried_again_with_less_and_says_so(folder, attempts, error):
    errors, configs = attempts
    errors.append(error)
    code, events = run(folder)
    assert code == 0
    assert isinstance(events[-1], Finished)
    first, second = configs
    assert second.batch_size == first.batch_size // 2
    assert second.clean_batch_size == first.clean_batch_size // 2
    assert second.patch_size < first.patch_size
    (said,) = [event.message for event in events if isinstance(event, Progress)]
    assert f"batch_size {second.batch_size}" in said
    assert "Out of memory" in said


def test_out_of_memory_twice_is_the_end(folder, attempts, capsys):
    errors, configs = attempts
    errors += [OutOfMemoryError("CUDA"), OutOfMemoryError("CUDA")]
    code, events = run(folder)
    assert code == 1
    assert len(configs) == 2
    assert isinstance(events[-1], Failed)
    assert "not enough memory" in events[-1].message
    assert "smaller" in events[-1].advice
    assert sum(isinstance(event, Failed) for event in events) == 1


def test_what_cannot_be_made_smaller_is_not_tried_again(folder, task, attempts):
    errors, configs = attempts
    least = task.config.updated(batch_size=1, clean_batch_size=1, patch_size=64)
    folder.write_request(type(task)(task.volumes, task.class_values, least))
    errors.append(MemoryError())
    code, _ = run(folder)
    assert (code, len(configs)) == (1, 1)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TaskError("The device 'cuda' is not there: choose cpu, or auto."), r"^The device 'cuda' is not there"),
        (OSError(28, "No space left on device"), "The disk of .* is full: there was no room for the results"),
        (OSError(28, "No space left on device", "model.safetensors"), "there was no room for model.safetensors"),
        (OSError(13, "Permission denied"), "could not be read or written: .*Permission denied"),
        (KeyError("x"), "unexpected KeyError"),
        (RuntimeError("shape mismatch"), "unexpected RuntimeError: shape mismatch"),
    ],
    ids=["input", "disk", "disk of the model", "permission", "key", "mistake"],
)
def test_any_other_error_is_the_terminal_event_at_once(folder, attempts, capsys, error, message):
    errors, configs = attempts
    errors.append(error)
    code, events = run(folder)
    assert code == 1
    assert len(configs) == 1
    assert [type(event) for event in events] == [Started, Failed]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(events[-1].message)
    assert "Traceback" not in events[-1].message
    assert "Traceback" in capsys.readouterr().err, "for the log"


def test_a_request_that_cannot_be_read_is_the_terminal_event(folder, attempts, capsys):
    folder.request_file.write_text('{"schema_version": 99}')
    code, events = run(folder)
    assert code == 1
    assert "update napari-mlbseg" in events[-1].message


def test_a_cancelled_job_did_not_fail(folder, monkeypatch, attempts):
    monkeypatch.setattr(worker, "_attempt", lambda *_: iter([Cancelled()]))
    assert run(folder) == (0, [Cancelled()])


def test_the_device_that_was_asked_for_is_used(folder, task, monkeypatch, tmp_path):
    """For a prediction as well as for a training."""
    asked = []

    def fake(*_, **options):
        asked.append(options.get("device"))
        yield Finished(reason="nothing to train", steps=0, seconds=0)

    monkeypatch.setattr("napari_mlbseg.training.inference.predict", fake)
    config = task.config.updated(device="cpu")
    request = folder.write_request(type(task)(task.volumes, (0, 3), config), kind="predict", previous=tmp_path)
    list(worker._run(folder, request, time.monotonic()))
    assert asked == ["cpu"]


def test_a_prediction_needs_a_model(folder, task):
    request = folder.write_request(task, kind="predict")
    with pytest.raises(ValueError, match="finished training"):
        list(worker._run(folder, request, time.monotonic()))


def test_a_score_on_clean_slices_left_out_writes_no_results(folder, task, monkeypatch):
    monkeypatch.setattr(worker, "lower_priority", lambda threads: None)
    monkeypatch.setattr(worker, "_beat", lambda *_: None)
    volume = make_volume(clean=np.isin(np.arange(6), (1, 2, 4)))
    config = task.config.updated(time_budget=None, bootstrap_steps=1, steps=1, features=(8, 16), patch_size=32)
    folder.write_request(type(task)((volume,), (0, 3), config), kind="leave_one_out")
    code, events = run(folder)
    assert code == 0
    assert [event.slice for event in events if isinstance(event, HeldOut)] == [1, 2, 4]
    assert isinstance(events[-1], Finished)
    assert not folder.results_path.exists()
    assert not folder.model_file.exists()


def test_too_few_clean_slices_to_leave_one_out_are_said(folder, task):
    request = folder.write_request(task, kind="leave_one_out")
    with pytest.raises(TaskError, match="mark at least 3"):
        list(worker._run(folder, request, time.monotonic()))


def test_threads_are_limited_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(worker.psutil.Process, "nice", lambda self, value: None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    worker.lower_priority(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
