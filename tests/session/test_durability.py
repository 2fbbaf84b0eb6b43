"""What survives a power cut: a file and the names that lead to it are on the disk before a write returns."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_mlbseg._util.files import atomic_path, write_atomically
from napari_mlbseg.session.persistence.folder import SessionFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor belongs to")


@pytest.fixture
def synchronised(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files and folders that the system was asked to write to the disk, in order."""
    asked, fsync = list[Path](), os.fsync

    def noted(number: int) -> None:
        asked.append(Path(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    return asked


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_painted_slice_is_on_the_disk_when_its_write_returns(tmp_path, synchronised, slice_axis):
    array = SessionFolder(tmp_path / "x.mlbseg").array("annotations/heart.zarr", slice_axis)
    array.create((4, 5, 6), np.uint8)
    before = set((tmp_path / "x.mlbseg").rglob("*"))
    shape = [n for axis, n in enumerate((4, 5, 6)) if axis != slice_axis]
    array.write(2, np.ones(shape, np.uint8))
    new = set((tmp_path / "x.mlbseg").rglob("*")) - before
    assert any(path.is_file() for path in new)
    assert new <= set(synchronised)
    assert {path.parent for path in new} <= set(synchronised)


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, synchronised, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    synchronised.clear()
    replace = Path.replace

    def replaced(source: Path, target: Path) -> Path:
        assert synchronised == [source]
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert synchronised[-1] == tmp_path


def test_what_was_there_stays_where_writing_fails(tmp_path):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
