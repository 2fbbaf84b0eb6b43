"""The phantom is hard in the ways a real scan is, and sample data fit the viewer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage

from napari_mlbseg.io import samples
from napari_mlbseg.io.image_file import ImageFileError
from napari_mlbseg.io.phantom import make_phantom


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_phantom_is_no_matter_of_a_threshold(seed):
    made = make_phantom(seed=seed)
    truth = made.labels > 0
    assert made.image.shape == made.labels.shape == (64, 112, 128)
    assert made.image.dtype == np.uint16
    slices = np.flatnonzero(truth.any(axis=(1, 2)))
    assert 0.55 < len(slices) / 64 < 0.9
    assert ndimage.label(truth)[1] == 1
    areas = truth.sum(axis=(1, 2))[slices]
    assert areas.max() > 8 * areas.min()  # the shape changes along the stack
    best = max(
        2 * np.count_nonzero(truth & (made.image > t)) / (np.count_nonzero(made.image > t) + truth.sum())
        for t in np.percentile(made.image, np.arange(50, 100, 2))
    )
    assert best < 0.6  # on real scans, about the same


def test_the_same_seed_gives_the_same_phantom():
    first, second, other = make_phantom((16, 28, 32)), make_phantom((16, 28, 32)), make_phantom((16, 28, 32), seed=1)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_the_phantom_sample_is_an_image_with_its_hidden_truth():
    (image, image_options, kind), (labels, label_options, label_kind) = samples.phantom()
    assert (kind, label_kind) == ("image", "labels")
    assert image.shape == labels.shape
    assert label_options["visible"] is False
    for key in ("scale", "units", "axis_labels"):
        assert image_options[key] == label_options[key]


@pytest.mark.slow
def test_mni152_has_grey_and_white_matter():
    pytest.importorskip("nilearn")
    (image, _, _), (labels, options, kind) = samples.mni152()
    assert kind == "labels"
    assert image.shape == labels.shape
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert image[labels == 2].mean() > 1.2 * image[labels == 1].mean() > image[labels == 0].mean()
    assert options["translate"] == [-72.0, -134.0, -98.0]


def test_without_nilearn_the_sample_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ImageFileError, match=r"pip install napari-mlbseg\[samples\]"):
        samples.mni152()
