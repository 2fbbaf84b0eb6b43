"""Which volume has which role in the left-atrium protocol, and how it is read."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.cases import N_LABELLED, find_split, read_case

TRAIN = [f"train{number:02}" for number in (3, 1, 7, 0, 2, 9, 4, 5, 8, 6)]  # lists are not sorted
TEST = ["test1", "test0"]


def names(cases) -> list[str]:
    return [case.name for case in cases]


def test_the_first_of_the_list_are_labelled(make_cases):
    split = find_split(make_cases([*TRAIN, *TEST], lists=(TRAIN, TEST)))
    assert names(split.labelled) == TRAIN[:N_LABELLED]
    assert names(split.unlabelled) == TRAIN[N_LABELLED:]
    assert names(split.test) == TEST
    assert "part of the protocol" not in split.note


def test_a_subset_takes_the_first_of_each(make_cases):
    split = find_split(make_cases([*TRAIN, *TEST], lists=(TRAIN, TEST)), (1, 2, 1))
    assert (names(split.labelled), names(split.unlabelled), names(split.test)) == (TRAIN[:1], TRAIN[1:3], TEST[:1])
    assert "A part of the protocol" in split.note


def test_without_lists_the_order_of_the_names_serves_and_is_said(make_cases):
    folder = make_cases(["c", "a", "d", "b", "e"])
    split = find_split(folder, (1, 2, 1))
    assert (names(split.labelled), names(split.unlabelled), names(split.test)) == (["a"], ["b", "c"], ["e"])
    assert "not the published split" in split.note
    assert names(find_split(folder, (1, 0, 1)).test) == ["e"], "who changes the training keeps the test"
    with pytest.raises(SystemExit, match="--subset"):
        find_split(folder)


@pytest.mark.parametrize("subset", [(9, 2, 1), (1, 1, 3), (-1, 1, 1)])
def test_more_than_there_are_is_refused(make_cases, subset):
    with pytest.raises(SystemExit, match="smaller --subset"):
        find_split(make_cases([*TRAIN, *TEST], lists=(TRAIN, TEST)), subset)


def test_what_is_missing_is_named(make_cases):
    folder = make_cases(["a"], lists=(["a", "gone"], ["a"]))
    with pytest.raises(SystemExit, match="gone"):
        find_split(folder, (1, 1, 1))
    (folder / "test.list").unlink()
    with pytest.raises(SystemExit, match=r"test\.list"):
        find_split(folder, (1, 1, 1))


def test_h5_and_nifti_give_the_same_slices(make_cases):
    lists = (["a"], ["b"])
    nifti = find_split(make_cases(["a", "b"], lists=lists), (1, 0, 1))
    split = find_split(make_cases(["a", "b"], kind="h5", lists=lists), (1, 0, 1))
    for case, other in ((split.labelled[0], nifti.labelled[0]), (split.test[0], nifti.test[0])):
        assert case.path.name == "mri_norm2.h5"
        volume, expected = read_case(case), read_case(other)
        assert volume.shape == expected.shape == (10, 34, 38)
        assert volume.name == expected.name == case.name
        np.testing.assert_array_equal(volume.image, expected.image)
        np.testing.assert_array_equal(volume.labels, expected.labels)
        assert not volume.clean.any()
        assert (volume.unit, expected.unit) == ("pixel", "mm")
    known = read_case(split.test[0], (0.5, 1.0, 1.0))
    assert (known.unit, known.spacing) == ("mm", (0.5, 1.0, 1.0))


def test_cases_may_lie_in_a_folder_below(make_cases):
    folder = make_cases(["a", "b"], kind="h5", lists=(["a"], ["b"]))
    (folder / "2018LA").mkdir()
    for name in ("a", "b"):
        (folder / name).rename(folder / "2018LA" / name)
    assert read_case(find_split(folder, (1, 0, 1)).labelled[0]).n_slices == 10


def test_without_h5py_a_sentence_says_what_to_do(make_cases, monkeypatch):
    split = find_split(make_cases(["a", "b"], kind="h5", lists=(["a"], ["b"])), (1, 0, 1))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit, match=r"napari-mlbseg\[bench\]"):
        read_case(split.labelled[0])


def test_another_h5_file_is_refused(make_cases):
    h5py = pytest.importorskip("h5py")
    split = find_split(make_cases(["a", "b"], kind="h5", lists=(["a"], ["b"])), (1, 0, 1))
    with h5py.File(split.test[0].path, "w") as file:
        file["raw"] = np.zeros((4, 4, 4))
    with pytest.raises(SystemExit, match="no 'image'"):
        read_case(split.test[0])
