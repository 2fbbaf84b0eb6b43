"""The training as a whole, on a small synthetic stack."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import (
    Cancelled,
    Event,
    Finished,
    FinishReason,
    Metrics,
    Preview,
    Progress,
    Stage,
    is_terminal,
)
from napari_mlbseg.task import SegmentationTask, TaskError, Volume, resolve_task
from napari_mlbseg.training.checkpoint import Model, load_model, save_model
from napari_mlbseg.training.evidence import Evidence
from napari_mlbseg.training.inference import Predictor, predict, predict_volume
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.trainer import train

CLEAN = (2, 7, 12)


def stack(name: str = "stack", *, n_slices: int = 15, channels: int = 0, classes: int = 1, seed: int = 0) -> Volume:
    """A bright ball (its left half of class 7 where there are two) in noise, three slices of it clean."""
    z, y, x = np.indices((n_slices, 40, 44))
    ball = (2.2 * (z - 7)) ** 2 + (y - 20) ** 2 + (x - 22) ** 2 < 15**2
    labels = ball.astype(np.uint8)
    if classes == 2:
        labels[ball & (x < 22)] = 7
    rng = np.random.default_rng(seed)
    image = (100 + 80 * ball + 30 * (labels == 7) + rng.normal(0, 12, ball.shape)).astype(np.float32)
    clean = np.zeros(n_slices, bool)
    clean[list(CLEAN)] = True
    if channels:
        image = np.stack([image] * channels, 1)
    return Volume(name, image, labels, clean)


def config(**changes: object) -> TrainingConfig:
    small = {"features": (8, 16, 16), "time_budget": None, "bootstrap_steps": 3, "steps": 2, "patch_size": 48}
    return TrainingConfig.from_preset("quick", **{**small, **changes})


def run(task: SegmentationTask, **options: object) -> tuple[MemoryResults, list[Event]]:
    results = MemoryResults(task)
    return results, list(train(task, "cpu", results=results, **options))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_same_seed_same_result_to_the_last_bit() -> None:
    task = resolve_task([stack()], config())
    first, second = run(task)[0]["stack"], run(task)[0]["stack"]
    for name, array in first.items():
        assert np.array_equal(array, second[name]), name


def test_another_seed_another_result() -> None:
    first = run(resolve_task([stack()], config()))[0]["stack"]
    other = run(resolve_task([stack()], config(seed=1)))[0]["stack"]
    assert not np.array_equal(first["probability"], other["probability"])


def test_events_begin_with_started_and_end_with_one_terminal_event() -> None:
    _, events = run(resolve_task([stack()], config()))
    assert events[0].type == "started"
    assert [is_terminal(event) for event in events].index(True) == len(events) - 1
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.STEPS
    assert events[-1].steps == 5


def test_every_slice_of_every_array_is_written_and_announced() -> None:
    task = resolve_task([stack()], config())
    results, events = run(task)
    announced = {z for e in events if isinstance(e, Preview) and e.stage is Stage.PREDICT for z in e.slices}
    assert announced == set(range(15))
    arrays = results["stack"]
    torch.testing.assert_close(
        torch.from_numpy(arrays["probability"].astype(np.float32)).sum(1), torch.ones(15, 40, 44), atol=2e-3, rtol=0
    )
    assert all(arrays["view_agreement"][z].max() > 0 for z in range(15))
    assert all((arrays["weight_initial"][z] + arrays["weight_pseudo"][z]).max() > 0 for z in range(15))


def test_the_doubt_in_the_initial_labels_finds_a_wrong_one_and_leaves_clean_slices_alone() -> None:
    volume = stack()
    given = np.asarray(volume.labels).copy()
    given[9, 12:28, 22:34] = 0  # a part of the ball is missing
    task = resolve_task([replace(volume, initial_labels=given)], config(bootstrap_steps=60, initial_labels="given"))
    results, events = run(task)
    doubt = results["stack"]["initial_doubt"]
    announced = {
        z for event in events if isinstance(event, Preview) and "initial_doubt" in event.arrays for z in event.slices
    }
    assert announced == set(range(15))
    wrong = given[9] != volume.labels[9]
    assert doubt[9][wrong].mean() > 0.8 > 0.4 > doubt[9][~wrong].mean()
    assert not doubt[list(CLEAN)].any()
    assert 0 <= doubt.min() <= doubt.max() <= 1


def test_initial_labels_stand_undoubted_without_a_trained_network() -> None:
    _, events = run(resolve_task([stack()], config(bootstrap_steps=0, steps=0)))
    assert all("initial_doubt" not in event.arrays for event in events if isinstance(event, Preview))


def test_every_predicted_slice_has_statistics_that_fit_the_arrays() -> None:
    task = resolve_task([stack()], config(bootstrap_steps=20, steps=5))
    results, events = run(task)
    arrays, finals = results["stack"], [e for e in events if isinstance(e, Preview) and e.stage is Stage.PREDICT]
    found: dict[str, dict[int, float]] = {}
    for event in finals:
        for name, values in event.statistics.items():
            found.setdefault(name, {}).update(zip(event.slices, values, strict=True))
    assert set(found) == {"uncertainty", "foreground", "view_disagreement", "initial_disagreement", "weight"}
    probability = arrays["probability"].astype(np.float32)
    weight = arrays["weight_initial"] + arrays["weight_pseudo"]
    for z in range(15):
        doubt = 1 - probability[z].max(0)
        assert found["uncertainty"][z] == pytest.approx(doubt[doubt > 0.1].sum(), rel=0.02, abs=1)
        assert found["view_disagreement"][z] == pytest.approx((1 - arrays["view_agreement"][z]).sum(), abs=0.1)
        assert found["weight"][z] == pytest.approx(weight[z].mean(), abs=1e-3)
        if z not in CLEAN:
            assert found["foreground"][z] == np.count_nonzero(arrays["pseudo_labels"][z])


def test_a_single_view_says_nothing_about_disagreement() -> None:
    task = resolve_task([stack()], config(steps=40, preview_interval=0.2))
    _, events = run(task)
    during = [e for e in events if isinstance(e, Preview) and e.stage is Stage.TRAIN]
    assert during
    assert all("view_disagreement" not in e.statistics and "uncertainty" in e.statistics for e in during)


def test_without_a_step_there_are_no_statistics() -> None:
    _, events = run(resolve_task([stack()], config(bootstrap_steps=0, steps=0)))
    assert not any(e.statistics for e in events if isinstance(e, Preview))


def test_a_prediction_has_statistics_too(tmp_path: Path) -> None:
    volume = stack()
    task = resolve_task([volume], config())
    run(task, save_to=tmp_path / "model.safetensors")
    previews = [e for e in predict(task, model=tmp_path / "model.safetensors", device="cpu") if isinstance(e, Preview)]
    assert {z for e in previews for z in e.slices} == set(range(15))
    assert all(set(e.statistics) == {"uncertainty", "foreground", "view_disagreement"} for e in previews)


def test_clean_slices_keep_the_users_labels_and_numbers() -> None:
    volume = stack(classes=2)
    results, _ = run(resolve_task([volume], config()))
    for z in CLEAN:
        assert np.array_equal(results["stack"]["pseudo_labels"][z], volume.labels[z])
    assert set(np.unique(results["stack"]["pseudo_labels"])) <= {0, 1, 7}


def test_it_learns() -> None:
    volume = stack()
    results, _ = run(resolve_task([volume], config(bootstrap_steps=60, steps=10)))
    others = ~volume.clean
    assert dice(results["stack"]["pseudo_labels"][others] > 0, volume.labels[others] > 0) > 0.93


def test_the_first_labels_are_there_before_torch_is_asked_for_anything() -> None:
    task = resolve_task([stack()], config(initial_labels="interpolation"))
    results = MemoryResults(task)
    for event in train(task, "no such device", results=results):
        if isinstance(event, Preview):
            break
    assert event.stage is Stage.INITIAL_LABELS
    assert results["stack"]["pseudo_labels"][4].any()


def test_a_device_that_is_not_there_is_said_in_a_sentence() -> None:
    task = resolve_task([stack()], config())
    with pytest.raises(TaskError, match="'tpu' is not there: choose"):
        list(train(task, "tpu"))


def test_stop_ends_with_cancelled_and_keeps_what_there_is(tmp_path: Path) -> None:
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    task = resolve_task([stack()], config(bootstrap_steps=50))
    results, events = run(task, stop=stop, save_to=tmp_path / "model.safetensors")
    assert isinstance(events[-1], Cancelled)
    assert 0 < events[-1].steps < 50
    assert results["stack"]["pseudo_labels"][5].any()
    assert load_model(tmp_path / "model.safetensors").class_values == (0, 1)


def test_the_slice_in_view_is_previewed_first() -> None:
    task = resolve_task([stack()], config(steps=3, preview_interval=0.2, initial_labels="interpolation"))
    _, events = run(task, focus=lambda: ("stack", 9))
    previews = [e for e in events if isinstance(e, Preview) and e.stage is Stage.PREDICT]
    assert 9 in previews[0].slices


def test_network_labels_are_predicted_for_a_volume_without_clean_slices() -> None:
    second = stack("second", seed=1)
    second = Volume("second", second.image, second.labels, np.zeros(15, bool))
    task = resolve_task([stack(), second], config(bootstrap_steps=60, steps=2))
    results, events = run(task)
    sources = [e.values["initial_labels"] for e in events if isinstance(e, Metrics) and "initial_labels" in e.values]
    assert sources == ["network and propagation"]
    assert dice(results["second"]["pseudo_labels"] > 0, second.labels > 0) > 0.6


def painted_and_unpainted() -> list[Volume]:
    """A volume that is clean throughout and two without a clean slice, whose labels nobody may read."""
    painted, *others = (stack(name, seed=seed) for seed, name in enumerate(("painted", "second", "third")))
    unread = np.broadcast_to(np.uint8(0), painted.shape)
    return [
        Volume("painted", painted.image, painted.labels, np.ones(15, bool)),
        *(Volume(volume.name, volume.image, unread, np.zeros(15, bool)) for volume in others),
    ]


@pytest.mark.parametrize("source", ["auto", "network"])
def test_whole_volumes_teach_others_without_a_clean_slice(source: str, tmp_path: Path) -> None:
    task = resolve_task(
        painted_and_unpainted(), config(initial_labels=source, bootstrap_steps=60, find_label_errors=False)
    )
    run(task, save_to=tmp_path / "model.safetensors", only=())
    fresh = stack("fresh", seed=9)
    assert (
        dice(predict_volume(tmp_path / "model.safetensors", fresh, "cpu")["pseudo_labels"] > 0, fresh.labels > 0) > 0.8
    )


def test_where_only_the_model_is_wanted_nothing_is_predicted_and_no_map_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_mlbseg.training.weight_maps.WeightMaps.add", pytest.fail)
    task = resolve_task(painted_and_unpainted(), config(steps=30, preview_interval=0.2, find_label_errors=False))
    results, events = run(task, only=())
    assert {e.stage for e in events if isinstance(e, Preview)} == {Stage.INITIAL_LABELS}
    assert isinstance(events[-1], Finished)
    assert not results["second"]["probability"].any()


def test_only_the_slices_that_are_wanted_are_predicted() -> None:
    task = resolve_task(painted_and_unpainted(), config(steps=30, preview_interval=0.2, find_label_errors=False))
    results, events = run(task, only=[("second", 4), ("painted", 9)])
    shown = {
        (e.volume, z)
        for e in events
        if isinstance(e, Preview) and e.stage is not Stage.INITIAL_LABELS
        for z in e.slices
    }
    assert shown == {("second", 4), ("painted", 9)}
    for name, wanted in (("painted", 9), ("second", 4), ("third", None)):
        for array in ("probability", "weight_initial"):
            written = [z for z in range(15) if results[name][array][z].any()]
            assert written == ([] if wanted is None else [wanted]), (name, array)


def test_labelling_many_volumes_by_the_network_says_how_far_it_is_and_can_be_stopped() -> None:
    task = resolve_task(painted_and_unpainted(), config(initial_labels="network", steps=5))
    _, events = run(task)
    assert [e.message for e in events if isinstance(e, Progress) and e.message.startswith("Initial labels: v")] == [
        f"Initial labels: volume {n} of 3" for n in (1, 2, 3)
    ]
    seen: list[str] = []
    results = MemoryResults(task)
    for event in train(task, "cpu", results=results, stop=lambda: "Initial labels: volume 3 of 3" in seen):
        seen.append(getattr(event, "message", ""))
    assert isinstance(event, Cancelled)
    assert event.steps == 3
    assert results["second"]["initial_labels"].any()
    assert not results["third"]["initial_labels"].any()


def test_unrelated_slices_are_bootstrapped_by_the_network_alone() -> None:
    volume = stack()
    volume = Volume("stack", volume.image, volume.labels, volume.clean, independent_slices=True)
    _, events = run(resolve_task([volume], config()))
    assert any(isinstance(e, Metrics) and e.values.get("initial_labels") == "network" for e in events)


def test_images_that_turn_out_to_be_unrelated_are_labelled_by_the_network_alone() -> None:
    random = np.random.default_rng(0)
    y, x = np.ogrid[:48, :48]
    middles = random.uniform(8, 40, (12, 2, 1, 1))
    labels = (np.hypot(y - middles[:, 0], x - middles[:, 1]) < 7).astype(np.uint8)
    clean = np.arange(12) % 3 == 0
    volume = Volume("cells", (100 * labels + random.normal(0, 5, labels.shape)).astype(np.float32), labels, clean)
    results, events = run(resolve_task([volume], config(bootstrap_steps=40)))
    assert any(isinstance(e, Metrics) and e.values.get("initial_labels") == "network" for e in events)
    assert dice(results["cells"]["pseudo_labels"][~clean] > 0, labels[~clean] > 0) > 0.8


def test_given_labels_are_the_initial_labels() -> None:
    volume = stack()
    given = np.roll(volume.labels, 3, axis=2)
    task = resolve_task([Volume("stack", volume.image, volume.labels, volume.clean, initial_labels=given)], config())
    results, _ = run(task)
    others = ~volume.clean
    assert np.array_equal(results["stack"]["initial_labels"][others], given[others])


def test_without_a_step_the_initial_labels_stand() -> None:
    task = resolve_task([stack()], config(bootstrap_steps=0, steps=0))
    results, events = run(task)
    assert events[-1].reason is FinishReason.NOTHING_TO_TRAIN
    assert np.array_equal(results["stack"]["pseudo_labels"], results["stack"]["initial_labels"])


def test_all_slices_clean_still_trains_and_ends() -> None:
    volume = stack()
    task = resolve_task([Volume("stack", volume.image, volume.labels, np.ones(15, bool))], config())
    _, events = run(task)
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_slices_without_a_number_do_no_harm(hole: float) -> None:
    volume = stack()
    volume.image[5] = hole
    volume.image[9, :20] = hole
    results, _ = run(resolve_task([volume], config()))
    assert all(np.isfinite(array).all() for array in results["stack"].values())


def test_channels_and_context(tmp_path: Path) -> None:
    volume = stack(channels=3)
    task = resolve_task([volume], config(context=1))
    run(task, save_to=tmp_path / "model.safetensors")
    predicted = predict_volume(tmp_path / "model.safetensors", volume, "cpu")
    assert predicted["probability"].shape == (15, 2, 40, 44)


def test_the_paper_preset_trains() -> None:
    paper = TrainingConfig.from_preset("paper", features=(4, 8, 8, 8, 8), bootstrap_steps=2, steps=2, patch_size=48)
    _, events = run(resolve_task([stack()], paper))
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize(("thickness", "follows"), [(0.5, True), (100.0, False)])
def test_initial_labels_have_their_say_near_clean_slices(
    thickness: float, follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evidence, "compare", lambda self, steps: self.better.fill(True))  # though it is not
    volume = replace(stack(), spacing=(thickness, 1.0, 1.0))
    results, _ = run(resolve_task([volume], config(bootstrap_steps=1, steps=0)))  # the network knows nothing yet
    beside = [z for z in volume.unlabelled_slices if z - 1 in volume.clean_slices or z + 1 in volume.clean_slices]
    shown, initial = (results["stack"][name][beside] > 0 for name in ("pseudo_labels", "initial_labels"))
    assert initial.any()
    assert (dice(shown, initial) > 0.95) == follows


def test_a_warm_start_goes_on_from_the_model(tmp_path: Path) -> None:
    volume = stack()
    by_itself = {"initial_labels": "network", "steps": 0}
    run(resolve_task([volume], config(bootstrap_steps=60, **by_itself)), save_to=tmp_path / "model.safetensors")
    cold = resolve_task([volume], config(bootstrap_steps=1, **by_itself))
    warm = resolve_task([volume], config(bootstrap_steps=0, **by_itself))
    before, _ = run(cold)
    after, events = run(warm, warm_start=tmp_path / "model.safetensors")
    assert any(isinstance(e, Metrics) and e.values.get("warm_start") == 1 for e in events)
    others = ~volume.clean
    scores = [dice(r["stack"]["pseudo_labels"][others] > 0, volume.labels[others] > 0) for r in (before, after)]
    assert scores[1] > max(0.8, scores[0] + 0.1)


def test_a_model_of_other_classes_is_no_warm_start(tmp_path: Path) -> None:
    run(resolve_task([stack(classes=2)], config()), save_to=tmp_path / "model.safetensors")
    _, events = run(resolve_task([stack()], config()), warm_start=tmp_path / "model.safetensors")
    assert any(isinstance(e, Metrics) and e.values.get("warm_start") == 0 for e in events)


def test_tiles_are_put_together_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network without neighbourhood has no border effects: its tiles must say what the whole slice says."""
    shapes = []
    network = torch.nn.Conv2d(1, 2, 1)
    network.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[-2:]))
    predictor = Predictor(network, config(shape_prior=False), n_views=1)
    image = torch.randn(1, 96, 120, generator=torch.Generator().manual_seed(0))
    expected, _ = predictor([image])
    monkeypatch.setattr("napari_mlbseg.training.inference.needs_tiling", lambda shape: True)
    monkeypatch.setattr("napari_mlbseg.training.inference._TILE", 32)
    tiled, _ = predictor([image])
    assert tuple(shapes[0]) == (96, 120)
    assert all(max(shape) <= 32 for shape in shapes[1:])
    torch.testing.assert_close(tiled, expected, atol=1e-5, rtol=0)


def test_where_neither_a_network_nor_anything_else_knows_labels_the_training_fails(tmp_path: Path) -> None:
    no_time = {"time_budget": 5, "steps": None, "bootstrap_steps": None}
    task = resolve_task([stack()], config(initial_labels="network", **no_time))
    results, model = MemoryResults(task), tmp_path / "model.safetensors"
    with pytest.raises(TaskError, match="No training step was made, so there is nothing to show: allow more time"):
        list(train(task, "cpu", results=results, save_to=model, start=time.monotonic() - 5))
    others = np.setdiff1d(np.arange(15), CLEAN)
    assert not results["stack"]["pseudo_labels"][others].any()
    assert np.array_equal(results["stack"]["pseudo_labels"][CLEAN[1]], stack().labels[CLEAN[1]])
    assert not list(tmp_path.iterdir())


def test_a_model_that_has_learnt_nothing_is_not_written(tmp_path: Path) -> None:
    task = resolve_task([stack()], config(initial_labels="interpolation", bootstrap_steps=0, steps=0))
    _, events = run(task, save_to=tmp_path / "model.safetensors")
    assert isinstance(events[-1], Finished)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TaskError, match="There is no model in"):
        list(predict(task, model=tmp_path / "model.safetensors"))


@pytest.mark.parametrize("source", ["auto", "propagation"])
def test_initial_labels_of_large_slices_stand_where_they_used_the_time_up(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_mlbseg.method.normalisation.WHOLE_SIDE", 32)
    volume = stack()
    task = resolve_task([volume], config(time_budget=5, steps=None, bootstrap_steps=None, initial_labels=source))
    results, events = run(task, start=time.monotonic() - 5)
    assert isinstance(events[-1], Finished)
    assert events[-1].steps == 0
    notes = [str(e.values.get("note_evidence", "")) for e in events if isinstance(e, Metrics)]
    assert "No training step was made" in "".join(notes)
    shown = results["stack"]["pseudo_labels"]
    assert all(np.array_equal(shown[z], volume.labels[z]) for z in CLEAN)
    assert all(shown[z].any() for z in range(CLEAN[0], CLEAN[-1] + 1))
    assert np.array_equal(shown, results["stack"]["initial_labels"])


def test_a_disk_that_is_full_is_said_of_the_model_too(monkeypatch, tmp_path):
    def fill_the_disk(*arguments):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("napari_mlbseg.training.checkpoint.save_file", fill_the_disk)
    model = Model(torch.nn.Linear(1, 1), TrainingConfig(), (0, 1), 1)
    with pytest.raises(OSError, match=r"No space left.*model\.safetensors") as caught:
        save_model(tmp_path / "model.safetensors", model)
    assert caught.value.errno == 28
    assert not list(tmp_path.iterdir())
