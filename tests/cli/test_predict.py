"""Predicting a study: one failure does not stop the rest, what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_mlbseg.cli import main as cli
from napari_mlbseg.cli import predict as cli_predict
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Cancelled, Failed, Finished, FinishReason
from napari_mlbseg.jobs.backend import JobState
from napari_mlbseg.jobs.folder import ZarrResults
from napari_mlbseg.jobs.local import LocalJob
from napari_mlbseg.training.results import RESULT_NAMES

FINISHED = Finished(reason=FinishReason.NOTHING_TO_TRAIN, steps=0, seconds=3)


class Study:
    """A trained model, images, and a worker that the test plays."""

    def __init__(self, path: Path) -> None:
        self.path, self.jobs, self.bad = path, list[str](), set[str]()
        self.running, self.most = set[str](), 0
        self.slow = 1  # polls until a job ends
        (path / "round").mkdir()
        self.train("first")
        (path / "images").mkdir()
        for name in "abc":
            self.write(name)

    def train(self, weights: str) -> None:
        config = TrainingConfig.from_preset("quick").model_dump(mode="json")
        (self.path / "round" / "model.safetensors").write_text(weights)
        model = {"class_values": [0, 3], "image_channels": 1, "config": config}
        (self.path / "round" / "model.json").write_text(json.dumps(model))

    def write(self, name: str, fill: int = 1) -> None:
        tifffile.imwrite(
            self.path / "images" / f"{name}.tif", np.full((4, 12, 16), fill, np.uint8), metadata={"axes": "ZYX"}
        )

    def predict(self, *images: str) -> tuple[int, dict[str, str]]:
        """Run the command; gives its exit code, and what became of each image."""
        self.jobs.clear()
        words = [str(self.path / image) for image in images or ("images",)]
        out = self.path / "out"
        code = cli.main(["predict", str(self.path / "round"), *words, "--out", str(out), "--device", "cpu"])
        report = json.loads((out / "report.json").read_text())
        return code, {Path(entry["image"]).stem: entry["outcome"] for entry in report["images"]}

    def start(self, job: LocalJob, *, bound: bool = False) -> None:
        task = job.folder.open_task(job.folder.read_request())
        results = ZarrResults(job.folder, task)
        name = task.volumes[0].name
        for array in RESULT_NAMES:
            results[name][array][:] = 1
        job.folder.events_file.unlink(missing_ok=True)
        job._state = JobState.RUNNING
        job.left = self.slow
        self.jobs.append(name)
        self.running.add(name)
        self.most = max(self.most, len(self.running))

    def poll(self, job: LocalJob) -> list:
        name = job.folder.path.name
        job.left -= 1
        if job.left > 0 and job.state is JobState.RUNNING:
            return []
        self.running.discard(name)
        event = Failed(message="The worker was killed.", advice="Train again.") if name in self.bad else FINISHED
        if job.state is JobState.CANCELLING:
            event = Cancelled(seconds=1)
        job.folder.append_event(event)
        return [event]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    made = Study(tmp_path)
    monkeypatch.setattr(LocalJob, "start", lambda job, bound: made.start(job))
    monkeypatch.setattr(LocalJob, "poll", lambda job: made.poll(job))
    monkeypatch.setattr("napari_mlbseg.cli.predict._LOOK_SECONDS", 0)
    return made


def test_every_image_of_a_folder(study, capsys):
    assert study.predict() == (0, {"a": "finished", "b": "finished", "c": "finished"})
    assert study.jobs == ["a", "b", "c"]
    assert study.most == 1, "one after the other on this machine"
    printed = [Path(line).relative_to(study.path / "out").as_posix() for line in capsys.readouterr().out.split()]
    assert printed[0] == "a/pseudo_labels.tif"
    assert printed[-1] == "report.json"
    assert len(printed) == 3 * 3 + 1
    assert tifffile.imread(study.path / "out" / "b" / "pseudo_labels.tif").shape == (4, 12, 16)


def test_one_failure_does_not_stop_the_rest_and_is_listed_at_the_end(study, capsys):
    (study.path / "images" / "aa.tif").write_text("no image")
    study.bad.add("b")
    assert study.predict() == (1, {"a": "finished", "aa": "failed", "b": "failed", "c": "finished"})
    complaints = capsys.readouterr().err.splitlines()[-2:]
    assert "aa.tif" in complaints[0]
    assert complaints[1] == "napari-mlbseg: b: The worker was killed. Train again."


def test_what_is_done_is_not_done_again(study):
    study.bad.add("b")
    assert study.predict()[0] == 1
    study.bad.clear()
    assert study.predict() == (0, {"a": "finished", "b": "finished", "c": "finished"})
    assert study.jobs == ["b"]
    assert study.predict()[0] == 0
    assert study.jobs == []


def test_another_image_or_another_model_is_another_result(study):
    study.predict()
    study.write("c", fill=2)
    study.predict()
    assert study.jobs == ["c"]
    study.train("second")
    study.predict()
    assert study.jobs == ["a", "b", "c"]


def test_what_was_interrupted_goes_on(study, monkeypatch):
    study.slow = 5
    poll, polls = study.poll, []

    def interrupted(job: LocalJob) -> list:
        polls.append(job.folder.path.name)
        if polls == ["a"] * 5 + ["b"] * 2:
            raise KeyboardInterrupt
        return poll(job)

    monkeypatch.setattr(study, "poll", interrupted)
    assert study.predict() == (130, {"a": "finished", "b": "cancelled", "c": "waiting"})
    monkeypatch.setattr(study, "poll", poll)
    assert study.predict() == (0, {"a": "finished", "b": "finished", "c": "finished"})
    assert study.jobs == ["b", "c"]


def test_a_cluster_has_as_many_at_a_time_as_it_has_workers(study, monkeypatch):
    monkeypatch.setattr("napari_mlbseg.cli.predict.cluster_option", lambda options: "tcp://127.0.0.1:8786")
    monkeypatch.setattr("napari_mlbseg.cli.predict.cluster_facts", lambda address: type("Facts", (), {"n_workers": 2}))
    study.slow = 3
    assert study.predict()[0] == 0
    assert study.most == 2
    request = json.loads((study.path / "out" / "a" / "request.json").read_text())
    assert request["config"]["cluster"] == "tcp://127.0.0.1:8786"


def test_the_next_begins_before_results_are_written(study, monkeypatch):
    """A cluster, or this machine's other cores, need not wait for large files to be compressed."""
    begun: list[list[str]] = []
    write = cli_predict.write_job_results

    def noticed(folder, volumes, names):
        begun.append(list(study.jobs))
        return write(folder, volumes, names)

    monkeypatch.setattr(cli_predict, "write_job_results", noticed)
    assert study.predict()[0] == 0
    assert begun == [["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]
    assert study.most == 1


def test_an_interruption_while_results_are_written_loses_none(study, monkeypatch):
    write, interruptions = cli_predict.write_job_results, [KeyboardInterrupt]

    def interrupted(folder, volumes, names):
        if interruptions:
            raise interruptions.pop()
        return write(folder, volumes, names)

    monkeypatch.setattr(cli_predict, "write_job_results", interrupted)
    assert study.predict() == (130, {"a": "finished", "b": "cancelled", "c": "waiting"})
    assert (study.path / "out" / "a" / "pseudo_labels.tif").exists()
    assert study.predict() == (0, {"a": "finished", "b": "finished", "c": "finished"})
    assert study.jobs == ["b", "c"]


def test_a_table_names_images(study):
    (study.path / "images" / "study.csv").write_text("patient,image\n1,c.tif\n2,\n3,a.tif\n")
    assert study.predict("images/study.csv") == (0, {"c": "finished", "a": "finished"})
    assert study.jobs == ["c", "a"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.csv", "image\n", "lists no image: give a column 'image'"),
        ("other.csv", "file\na.tif\n", "lists no image: give a column 'image'"),
        ("twice.csv", "image\na.tif\nA.TIF\n", "the same name"),
        ("binary.csv", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_table_that_names_none(study, capsys, name, content, complaint):
    table = study.path / "images" / name
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileNotFoundError):  # no report
        study.predict(f"images/{name}")
    assert complaint in capsys.readouterr().err
    assert not (study.path / "out").exists()


def test_an_empty_folder_is_said(study, capsys):
    (study.path / "none").mkdir()
    with pytest.raises(FileNotFoundError):
        study.predict("none")
    assert "holds no image" in capsys.readouterr().err
