"""Arrays that do not fit into memory together."""

import numpy as np
import pytest

from napari_mlbseg._util.disk_cache import DiskCache


def test_what_does_not_fit_is_kept_with_its_changes():
    arrays = DiskCache(limit=3 * 400)
    for key in range(10):
        arrays[key] = np.full((2, 50), key, np.float32)
    for key in range(10):
        arrays[key][1] += 100
    assert arrays._bytes <= 3 * 400
    for key in range(10):
        assert arrays[key].tolist() == [[key] * 50, [key + 100] * 50]


def test_an_array_larger_than_the_limit_is_held_alone():
    arrays = DiskCache(limit=10)
    arrays["a"], arrays["b"] = np.arange(100), np.arange(50)
    assert "a" in arrays
    assert arrays["a"][99] == 99
    assert arrays["b"][49] == 49


def test_what_was_never_put_in_is_missing():
    arrays = DiskCache(limit=10)
    assert not arrays
    assert "a" not in arrays
    with pytest.raises(KeyError):
        arrays["a"]
