"""The benchmark of the training step: the reference's iteration is the same method, and the command measures both."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="the reference makes its views with OpenCV, of the extra 'bench'")

from benchmarks.reference import Reference, unwarp_by_opencv, warp_by_opencv
from benchmarks.step import Case, main, measure
from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.method.views import IDENTITY, View, unwarp, warp
from napari_mlbseg.training.augmentation import Batch
from napari_mlbseg.training.networks import build_network
from napari_mlbseg.training.step import Learner

CPU = torch.device("cpu")
SIDE = 32
FLIPS = (IDENTITY, View(flip=(-1,)), View(flip=(-2,)), View(flip=(-2, -1)))  # OpenCV is exact there, in float64 too
ZOOMS = (View(1.3, (0.2, -0.1)), View(0.8, (0.1, 0.05)), View(0.8, (-0.1, 0.0), (-1,)))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(**changes: object) -> TrainingConfig:
    """The paper's settings on a U-Net without running statistics, so that the teacher's mode does not matter."""
    small = {"architecture": "unet", "features": (4, 4, 8), "norm": "instance", "teacher_noise": 0.0}
    return TrainingConfig.from_preset("paper", **{**small, "learning_rate": 0.05, **changes})


def batch(n: int, seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 1, SIDE, SIDE, generator=rng, dtype=torch.float64)
    classes = (image + torch.randn(image.shape, generator=rng, dtype=torch.float64) > 0)[:, 0].long()
    labels = torch.nn.functional.one_hot(classes, 2).movedim(-1, 1).double()
    return Batch(image, image[:, :0], labels, torch.ones_like(image), [(0, 0)] * n)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_weights_of_the_reference_are_ours(momentum: float) -> None:
    # without consistency: the reference cuts its gradient where the views go through NumPy
    settings = config(consistency_weight=0.0, momentum=momentum)
    network = build_network(settings, 1, 2).double()
    reference = Reference(copy.deepcopy(network), settings, CPU)
    learner = Learner(network, settings, CPU, lambda batch: batch.image)
    unlabelled, clean = batch(2, 0), batch(3, 1)
    for _ in range(3):  # with momentum from the second on; students and teachers have to stay the same as well
        theirs = reference.iteration(unlabelled, clean, FLIPS)
        in_views = reference.in_views(clean, FLIPS)
        seen = Batch(in_views.image, in_views.image[:, :0], in_views.labels, in_views.mask, [])
        ours = learner.meta_step(unlabelled, seen, FLIPS).weights
        for expected, found in zip(theirs, (ours.initial, ours.pseudo), strict=True):
            assert expected.count_nonzero() > 100, "a comparison of zeros would prove nothing"
            # our losses are computed in float32, whatever the network
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))
        reference.teacher.load_state_dict(learner.teacher.network.state_dict())  # ours forgets its start sooner
    for name, value in reference.student.named_parameters():
        torch.testing.assert_close(learner.parameters[name], value, rtol=1e-6, atol=1e-8)


def test_its_consistency_has_the_value_of_ours_but_teaches_one_side() -> None:
    settings = config(teacher_weight=0.0)
    reference = Reference(build_network(settings, 1, 2).double(), settings, CPU)
    learner = Learner(build_network(settings, 1, 2).double(), settings, CPU, lambda batch: batch.image)
    views = reference.in_views(batch(2, 0), FLIPS)
    probability = torch.randn(views.labels.shape, dtype=torch.float64).requires_grad_()
    theirs = reference._consistency(probability.softmax(1), views.mask, FLIPS)
    in_views = learner._in_views(batch(2, 0), FLIPS)
    ours = learner._view_consistency(probability.softmax(1), probability.softmax(1), in_views, FLIPS)
    torch.testing.assert_close(theirs, ours)
    theirs.backward()
    learns = [bool(part.any()) for part in probability.grad.chunk(len(FLIPS))]
    assert learns == [True, True, True, False]


@pytest.mark.parametrize("view", [*FLIPS, *ZOOMS])
def test_its_views_show_what_ours_show(view: View) -> None:
    x = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 40, 48), 5, 1)  # smooth: older versions of OpenCV round places
    torch.testing.assert_close(warp_by_opencv(x, view), warp(x, view), rtol=0, atol=0.02)
    torch.testing.assert_close(unwarp_by_opencv(x, view), unwarp(x, view), rtol=0, atol=0.02)


@pytest.mark.slow
def test_the_command_measures_all_and_resumes(tmp_path: Path) -> None:
    small = ["--features", "2", "--size", "32", "--views", "2", "--threads", "1", "--repeats", "1"]
    arguments = [
        *small,
        "--device",
        "cpu",
        "--methods",
        "reference,paper",
        "--parts",
        "iteration",
        "--out",
        str(tmp_path),
    ]
    main(arguments)
    first = (tmp_path / "runs.jsonl").read_text()
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [row["method"] for row in rows] == ["reference", "paper"]
    assert all(row["seconds"] > 0 and row["reference_by_seconds"] > 0 for row in rows)
    assert "| unet++ 2 | 1 + 2 slices of 32², 2 views | iteration | paper |" in (tmp_path / "table.md").read_text()

    main(arguments)  # nothing is left to do
    assert (tmp_path / "runs.jsonl").read_text() == first


@pytest.mark.parametrize("method", ["reference", "paper", "standard", "paper-plain", "standard-plain"])
@pytest.mark.parametrize("part", ["iteration", "weights", "tangent"])
def test_every_part_of_every_method_runs(method: str, part: str) -> None:
    case = Case(method, part, 2, 32, 1, 2, 3, "unet", "cpu", 1, iterations=1)
    run = measure(case)
    assert len(run["seconds"]) == len(run["cpu_seconds"]) == 1
    assert run["peak_bytes"] >= 0


def test_without_opencv_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SystemExit, match=r"pip install napari-mlbseg\[bench\]"):
        main(["--out", str(tmp_path)])
