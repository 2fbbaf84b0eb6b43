"""An image that somebody wrote into, or put another in the place of, is kept as it is shown, not as its file was."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from napari_mlbseg.io.read_pixels import ReadPixels, pixel_digest
from napari_mlbseg.session import SegmentationSession
from napari_mlbseg.session.volume import ImageSource

from .conftest import make_volume, reopen, train


@pytest.fixture
def from_file(tmp_path):
    """A session of a volume whose image is in a file: (session, volume)."""
    volume = make_volume(clean={1})
    tifffile.imwrite(tmp_path / "heart.tif", volume.image, imagej=True)
    volume.source = ImageSource("file", tmp_path / "heart.tif", digest=pixel_digest(volume.image))
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    session.set_volume(volume)
    session.mark_dirty("heart", 1)
    session.save()
    yield session, volume
    session.close()


def kinds(session):
    return [volume.image.kind for volume in session._autosave.folder.read().volumes]


def check_reopened(session, shown):
    path = session.folder
    session.close()
    with closing(reopen(path)) as again:
        assert np.array_equal(again.volume("heart").image, shown)
        again.save()
    with closing(reopen(path)) as again:
        assert np.array_equal(again.volume("heart").image, shown)


def test_an_image_as_its_file_is_stays_there(from_file):
    session, volume = from_file
    assert kinds(session) == ["file"]
    session.set_volumes([replace(volume)])
    session.save()
    assert kinds(session) == ["file"]
    assert not list((session.folder / "images").glob("*"))
    check_reopened(session, volume.image)


@pytest.mark.parametrize("when", ["save", "train", "close"])
def test_an_image_that_was_written_into_is_copied(from_file, when, fake_jobs):
    session, volume = from_file
    volume.image[3, 2:5] += 1  # as a filter in place does, of which no event tells
    if when == "save":
        session.save()
    if when == "train":
        train(session)
    check_reopened(session, volume.image)


def test_another_image_in_its_place_is_copied(from_file):
    session, volume = from_file
    flipped = replace(volume, image=volume.image[:, ::-1].copy(), source=None)
    session.set_volumes([flipped])
    session.save()
    assert kinds(session) == ["embedded"]
    back = replace(volume)
    session.set_volumes([back])
    session.save()
    assert kinds(session) == ["file"], "the file is right again"
    session.set_volumes([flipped])
    check_reopened(session, flipped.image)


def test_the_copy_of_an_image_without_a_file_follows_it(saved, settle):
    volume = saved.volume("heart")
    saved.mark_dirty("heart")
    settle(saved)
    saved._autosave.flush(images=True)
    volume.image[2] = 0.5
    saved.save()
    saved.set_volumes([replace(volume, image=volume.image * 2)])
    shown = saved.volume("heart").image
    check_reopened(saved, shown)


def test_a_fingerprint_tells_pixels_and_not_how_they_lie_in_memory():
    pixels = np.random.default_rng(0).integers(0, 999, (4, 5, 6)).astype("<u2")
    same = [np.asfortranarray(pixels), pixels.astype(">u2"), np.repeat(pixels, 2, axis=2)[..., ::2]]
    assert {pixel_digest(other) for other in same} == {pixel_digest(pixels)}
    others = [pixels[:, ::-1], pixels.T, pixels.astype("u4"), pixels.reshape(4, 30), pixels + 1]
    assert len({pixel_digest(other) for other in [pixels, *others]}) == 6


def test_what_was_read_lies_where_the_file_says_or_not():
    place = {"scale": (2, 1, 1), "translate": (0, 0, 5), "units": ("mm",) * 3}
    read = ReadPixels(np.zeros((2, 2, 2)), place)
    layer = {**place, "units": ("millimeter",) * 3, "rotate": np.eye(3), "shear": np.zeros(3), "affine": np.eye(4)}
    assert read.lies_at(layer)
    quarter = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    moved = ({"scale": (1, 1, 1)}, {"translate": (0, 0, 4)}, {"units": ("um",) * 3}, {"rotate": quarter})
    for change in moved:
        assert not read.lies_at(layer | change), change
