"""Volumes of which nothing is ever held whole: the same answers, part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_mlbseg.config import TrainingConfig
from napari_mlbseg.events import Finished, FinishReason, Preview, Stage
from napari_mlbseg.initial_labels import interpolation, known
from napari_mlbseg.initial_labels.interpolation import Interpolation
from napari_mlbseg.initial_labels.known import known_labels
from napari_mlbseg.method.shape_prior import ShapePrior
from napari_mlbseg.task import SegmentationTask, Volume, resolve_task
from napari_mlbseg.training.dataset import SliceSampler
from napari_mlbseg.training.results import MemoryResults
from napari_mlbseg.training.slices import SliceStore
from napari_mlbseg.training.trainer import train
from napari_mlbseg.training.weight_maps import WeightMaps

CPU = torch.device("cpu")


class LazyImage:
    """An image that says which part of it was read, and cannot be read whole."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim
        self.largest = 0

    def __getitem__(self, key: object) -> np.ndarray:
        part = self._data[key]
        self.largest = max(self.largest, part.size)
        return part

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("the whole image was asked for")


def stack(side: int = 800, depth: int = 9, *, given: bool = False) -> Volume:
    """A bright disc that wanders over a large slice."""
    y, x = np.mgrid[:side, :side]
    middle, radius = 3 * side // 8, side // 12
    discs = [(y - middle - radius * z // 8) ** 2 + (x - middle - radius) ** 2 < radius**2 for z in range(depth)]
    labels = np.stack(discs).astype(np.uint8)
    noise = np.random.default_rng(0).normal(size=(depth, side, side))
    image = (1000 + 500.0 * labels + 80 * noise).astype(np.uint16)
    clean = np.zeros(depth, bool)
    clean[[0, depth // 2, depth - 1]] = True
    return Volume("stack", LazyImage(image), labels, clean, initial_labels=labels if given else None)


def task(volume: Volume, **changes: object) -> SegmentationTask:
    return resolve_task([volume], TrainingConfig.from_preset("quick", **changes))


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that small, quick volumes are above them."""
    monkeypatch.setattr(known, "_MOST_VOXELS", 1000)
    monkeypatch.setattr("napari_mlbseg.method.normalisation.WHOLE_SIDE", 150)
    monkeypatch.setattr("napari_mlbseg.training.dataset._TILE_SIDE", 96)
    monkeypatch.setattr("napari_mlbseg.training.inference._TILE", 96)
    monkeypatch.setattr("napari_mlbseg.training.weight_maps._TILE", 64)


@pytest.mark.parametrize("given", [False, True])
def test_labels_made_when_asked_for_are_those_made_at_once(given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = stack(given=given)
    at_once = known_labels(task(volume), volume, "auto")
    assert isinstance(at_once, np.ndarray)
    monkeypatch.setattr(known, "_MOST_VOXELS", 1000)
    later = known_labels(task(volume), volume, "auto")
    assert not isinstance(later, np.ndarray)
    for z in (8, 0, 3, 4):
        assert np.array_equal(later[z], at_once[z])


def test_an_interpolation_of_nothing_painted_is_background() -> None:
    between = Interpolation(np.zeros((2, 20, 30), np.uint8), [0, 4], (20, 30), 2)
    assert between[2].shape == (20, 30)
    assert not between[2].any()


def test_a_window_is_that_part_of_the_slice() -> None:
    volume = stack()
    store = SliceStore(volume, 1, CPU)
    rows, columns = slice(100, 260), slice(300, 480)
    assert torch.equal(store.window(4, rows, columns), store[4][:, rows, columns])


@pytest.mark.parametrize(("rows", "columns"), [(slice(200, 424), slice(300, 524)), (slice(0, 224), slice(576, 800))])
def test_the_prior_of_a_window_is_that_part_of_the_whole_prior(rows: slice, columns: slice) -> None:
    prior = ShapePrior(TrainingConfig(), 2, reach=12.0)
    labels = stack().labels[0]
    assert torch.equal(prior.window(labels, rows, columns, CPU), prior(labels, labels.shape, CPU)[:, rows, columns])


def test_patches_and_pieces_read_no_whole_slice() -> None:
    volume = stack()
    sampler = SliceSampler(task(volume), CPU, torch.Generator().manual_seed(0))
    sampler.set_initial_labels([known_labels(task(volume), volume, "interpolation")], [True])
    volume.image.largest = 0
    sampler.draw_clean(2, augment=True)
    sampled = sampler.draw_unlabelled(2)
    tiles = list(sampler.tiles((0, 3)))
    assert 0 < volume.image.largest < 800 * 800 / 2
    for batch, key in [(sampled.batch, sampled.keys[0]), *((piece, (0, 3)) for piece in tiles)]:
        top, left = batch.corners[0]
        rows, columns = (int(batch.mask[0, 0].any(axis).sum()) for axis in (1, 0))
        here = slice(top, top + rows), slice(left, left + columns)
        expected = sampler.stores[0][key[1]][:, *here]
        assert torch.equal(batch.image[0][:, :rows, :columns], expected)
        assert torch.equal(
            batch.labels[0, 1, :rows, :columns], torch.from_numpy(sampler.initial_slice(key)[here]).float()
        )
    covered = np.zeros((800, 800), int)
    for piece in tiles:
        top, left = piece.corners[0]
        rows, columns = (int(piece.mask[0, 0].any(axis).sum()) for axis in (1, 0))
        covered[top : top + rows, left : left + columns] += 1
    assert len(tiles) == sampler.n_tiles(0)
    assert (covered == 1).all()


def test_weight_maps_of_large_slices_are_kept_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_mlbseg.training.weight_maps._MOST_BYTES", 2**20)
    maps, shape = WeightMaps(), (900, 1000)
    random = torch.Generator().manual_seed(0)
    sums, visits = np.zeros((2, *shape)), np.zeros(shape)
    for corner in [(0, 0), (100, 300), (650, 800), (650, 0), (200, 400)]:
        patch = torch.rand(2, 300, 300, generator=random)
        maps.add((0, 7), shape, corner, *patch)
        here = slice(corner[0], min(corner[0] + 300, 900)), slice(corner[1], min(corner[1] + 300, 1000))
        part = patch[:, : here[0].stop - here[0].start, : here[1].stop - here[1].start].numpy()
        sums[:, *here] += part
        visits[here] += 1
    initial, pseudo = maps.mean((0, 7))
    np.testing.assert_allclose(np.stack([initial, pseudo]), sums / np.maximum(visits, 1), rtol=1e-6)
    assert not maps.covers((0, 7))
    maps.add((0, 7), shape, (0, 0), torch.zeros(shape), torch.zeros(shape))
    assert maps.covers((0, 7))


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("source", ["auto", "network"])
def test_a_large_volume_is_trained_on_and_predicted(source: str) -> None:
    volume = stack(200, depth=7)
    config = {"time_budget": None, "bootstrap_steps": 4, "steps": 2, "features": "8,16", "n_views_predict": 1}
    large = task(volume, initial_labels=source, find_label_errors=False, batch_size=1, clean_batch_size=1, **config)
    results = MemoryResults(large)
    events = list(train(large, "cpu", results=results))
    assert isinstance(events[-1], Finished)
    assert events[-1].unreached == 0
    final = [z for e in events if isinstance(e, Preview) and e.stage is Stage.PREDICT for z in e.slices]
    assert sorted(final) == list(range(7))
    assert all(results["stack"]["weight_initial"][z].any() for z in range(7))
    # a slice is read whole when it is predicted, never two at once
    assert volume.image.largest == 200 * 200


@pytest.mark.usefixtures("everything_is_large")
def test_what_the_time_does_not_suffice_for_is_said_and_keeps_its_initial_labels() -> None:
    volume = stack(200, depth=900)
    large = task(volume, time_budget=6.0, find_label_errors=False)
    results = MemoryResults(large)
    events = list(train(large, "cpu", results=results))
    assert events[-1].unreached > 0
    assert events[-1].reason is FinishReason.TIME  # how well it is kept: benchmarks.accuracy
    predicted = {z for e in events if isinstance(e, Preview) and e.stage is Stage.PREDICT for z in e.slices}
    assert 900 - len(predicted) == events[-1].unreached
    shown = {z for e in events if isinstance(e, Preview) for z in e.slices}
    assert len(shown) > len(predicted)
    left = sorted(shown - predicted)[-1]
    assert np.array_equal(results["stack"]["pseudo_labels"][left], known_labels(large, volume, "auto")[left])


@pytest.mark.usefixtures("everything_is_large")
def test_where_nothing_is_learnt_the_initial_labels_come_after_the_predictions(tmp_path) -> None:
    volume, model = stack(200, depth=9), tmp_path / "model.safetensors"
    learnt = {"time_budget": None, "bootstrap_steps": 2, "steps": 0, "features": "8,16", "find_label_errors": False}
    for _ in train(task(volume, **learnt), "cpu", save_to=model):
        pass
    rest = task(volume, **{**learnt, "bootstrap_steps": 0}, n_views_predict=1)
    results = MemoryResults(rest)
    previews = [e for e in train(rest, "cpu", results=results, warm_start=model) if isinstance(e, Preview)]
    predicted = [e for e in previews if e.stage is Stage.PREDICT]
    before, after = previews[: previews.index(predicted[0])], previews[previews.index(predicted[-1]) + 1 :]
    assert sorted(z for e in predicted for z in e.slices) == list(range(9))
    assert before == [], "an earlier round's predictions are seen until then"
    assert sorted(z for e in after for z in e.slices) == list(range(9))
    assert {e.arrays for e in after} == {("initial_labels",)}
    assert not any("weight_initial" in e.arrays for e in predicted), "they stay those of the training"
    known = known_labels(rest, volume, "auto")
    assert all(np.array_equal(results["stack"]["initial_labels"][z], known[z]) for z in range(9))


def test_distances_are_computed_once_for_slices_on_both_sides_of_the_one_in_view(monkeypatch) -> None:
    asked: list[int] = []
    distances = interpolation.per_class_sdf
    monkeypatch.setattr(interpolation, "per_class_sdf", lambda *args: asked.append(1) or distances(*args))
    planes = [np.pad(np.ones((4, 4), np.uint8), 4) for _ in range(4)]
    lazy = Interpolation(planes, (0, 10, 20, 30), (12, 12), 2)
    for step in range(1, 10):
        assert lazy[10 - step].any()
        assert lazy[20 + step].any()
    assert len(asked) == 4
