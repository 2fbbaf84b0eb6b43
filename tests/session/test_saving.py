"""What is kept of a session, and that nothing painted is lost: autosave, reopening, full and locked folders."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_mlbseg.session import Provenance, SegmentationSession, SessionError
from napari_mlbseg.session.persistence import schema as records_module
from napari_mlbseg.session.persistence.folder import SessionFolder
from napari_mlbseg.session.persistence.loader import load_session, missing_images
from napari_mlbseg.session.persistence.session_paths import recent_sessions, unsaved_sessions

from .conftest import make_volume, reopen, train


def stored(session, name="heart"):
    """The painted voxels in the folder, read by hand."""
    import zarr

    record = json.loads((session.folder / "session.json").read_text())
    entry = next(volume for volume in record["volumes"] if volume["name"] == name)
    return zarr.open_array(session.folder / entry["annotation"], mode="r")[:]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_strokes_are_in_the_folder_soon_one_chunk_a_slice(tmp_path, settle, axis):
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    volume = make_volume(slice_axis=axis)
    session.set_volume(volume)
    session.poll()
    assert not session.folder.exists(), "looking alone makes no folder"
    volume.annotation[volume.slice_index(5)][2:4, 2:4] = 7
    session.mark_dirty("heart", 5)
    settle(session)
    assert np.array_equal(stored(session), volume.annotation)
    chunks = {path.name for path in (session.folder / "annotations" / "heart.zarr" / "c").iterdir()}
    assert len([p for p in (session.folder / "annotations/heart.zarr/c").rglob("*") if p.is_file()]) == 3
    assert chunks == ({"1", "4", "5"} if axis == 0 else {"0"})
    volume.annotation[volume.slice_index(5)][:] = 0
    session.mark_dirty("heart", 5)
    settle(session)
    assert np.array_equal(stored(session), volume.annotation), "erased again"
    session.close()


def test_only_the_slice_that_changed_is_written(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    times = {p: p.stat().st_mtime_ns for p in (saved.folder / "annotations").rglob("*") if p.is_file()}
    saved.volume("heart").annotation[4, 0, 0] = 1
    saved.mark_dirty("heart", 4)
    settle(saved)
    changed = [p for p, before in times.items() if p.stat().st_mtime_ns != before]
    assert [p.parts[-3] for p in changed] == ["4"]


def test_a_stroke_while_another_is_written_is_not_lost(saved, settle):
    volume = saved.volume("heart")
    for z in range(6):
        volume.annotation[z, 0, z] = 3
        saved.mark_dirty("heart", z)
        saved.poll()
    settle(saved)
    assert np.array_equal(stored(saved), volume.annotation)


def test_a_reopened_session_is_the_same(saved, settle, fake_jobs):
    volume = saved.volume("heart")
    saved.config = saved.config.updated(n_views=4, seed=9)
    saved.set_clean("heart", 4, True)
    saved.set_rejected("heart", 2)
    saved.skip("heart", 3)
    train(saved)
    saved.set_rejected("heart", 2)
    settle(saved)
    path = saved.folder
    saved.close()
    again = reopen(path)
    back = again.volume("heart")
    assert back.uid == volume.uid
    assert back.marks.clean == {1, 4}
    assert back.marks.rejected == {2}
    assert back.marks.skipped == {3}
    assert np.array_equal(back.annotation, volume.annotation)
    assert back.annotation.dtype == volume.annotation.dtype
    assert np.array_equal(back.image, volume.image), "an image without a file is kept in the folder"
    assert again.config.n_views == 4
    assert again.config.seed == 9
    assert [past.number for past in again.rounds] == [1]
    assert again.rounds[0].outcome.type == "finished"
    assert again.rounds[0].n_clean == 2
    assert again.shown_round is again.rounds[0]
    again.close()
    assert not (path / "lock").exists()


def test_provenance_tells_painted_accepted_and_corrected(saved, settle):
    from napari_mlbseg.session.clean_slices import slice_digest

    volume = saved.volume("heart")
    assert saved.provenance("heart", 1) is Provenance.PAINTED
    assert saved.provenance("heart", 3) is Provenance.NOTHING
    settle(saved)
    before = slice_digest(volume.annotation[3])
    volume.annotation[3, 2:8, 2:8] = 2  # what an accept does
    saved.note_accepted("heart", 3, 1, before, slice_digest(volume.annotation[3]))
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.ACCEPTED
    assert saved.accepted_slices("heart") == {3}
    volume.annotation[3, 2, 2] = 0
    saved.mark_dirty("heart", 3)
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.CORRECTED
    record = json.loads((saved.folder / "session.json").read_text())
    assert record["volumes"][0]["provenance"] == {"1": "painted", "3": "corrected", "4": "painted"}
    volume.annotation[3, 2, 2] = 2  # undone
    saved.mark_dirty("heart", 3)
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.ACCEPTED
    volume.annotation[3] = 0  # the accept itself is undone
    saved.mark_dirty("heart", 3)
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.NOTHING
    volume.annotation[3, 5, 5] = 1
    saved.mark_dirty("heart", 3)
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.PAINTED, "nothing of the acceptance is left"


def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_lost(saved, settle, monkeypatch):
    heard = []
    saved.saving_changed.connect(heard.append)
    settle(saved)
    volume = saved.volume("heart")
    full = OSError(28, "No space left on device")

    def refuse(*arguments, **options):
        raise full

    monkeypatch.setattr("napari_mlbseg.session.persistence.folder.SliceArray.write", refuse)
    volume.annotation[0, 1, 1] = 9
    saved.mark_dirty("heart", 0)
    with pytest.raises(OSError, match="No space left"):
        saved.save()
    assert "No space left on device" in heard[-1]
    assert "make room" in heard[-1]
    volume.annotation[5, 1, 1] = 9  # painting goes on
    saved.mark_dirty("heart", 5)
    monkeypatch.undo()
    saved.save()
    assert heard[-1] == ""
    assert np.array_equal(stored(saved), volume.annotation)


def test_saving_elsewhere_moves_what_nobody_saved_and_copies_the_rest(sessions_home, tmp_path, settle, fake_jobs):
    session = SegmentationSession()
    session.set_volume(make_volume(clean={1}))
    train(session)
    settle(session)
    first = session.folder
    assert unsaved_sessions() == [first]
    assert session.is_unsaved
    session.save_as(tmp_path / "mine")
    assert session.folder == tmp_path / "mine.mlbseg"
    assert not first.exists()
    assert not session.is_unsaved
    assert recent_sessions() == [tmp_path / "mine.mlbseg"]
    assert session.rounds[0].job.folder.path == tmp_path / "mine.mlbseg" / "rounds" / "001"
    assert session.rounds[0].job.folder.results("heart")["pseudo_labels"][0].max() == 2
    session.volume("heart").annotation[2, 2, 2] = 5
    session.mark_dirty("heart", 2)
    session.save_as(tmp_path / "copy.mlbseg")
    assert (tmp_path / "mine.mlbseg" / "session.json").exists()
    session.volume("heart").annotation[2, 2, 3] = 5
    session.mark_dirty("heart", 2)
    settle(session)
    assert stored(session)[2, 2, 3] == 5
    old = reopen(tmp_path / "mine.mlbseg")
    assert old.volume("heart").annotation[2, 2, 2] == 5
    assert old.volume("heart").annotation[2, 2, 3] == 0, "the copy does not share what changes"
    old.close()
    with pytest.raises(SessionError, match="there already"):
        session.save_as(tmp_path / "mine.mlbseg")
    session.close()


def test_a_session_in_which_nothing_was_done_leaves_nothing(sessions_home, settle):
    session = SegmentationSession()
    session.set_volume(make_volume())
    session.poll()
    session.close()
    assert list(sessions_home.iterdir()) == []


def test_an_unsaved_session_with_strokes_is_kept(sessions_home, settle):
    session = SegmentationSession()
    session.set_volume(make_volume())
    session.mark_dirty("heart", 1)
    session.close()
    (kept,) = unsaved_sessions()
    again = reopen(kept)
    assert again.volume("heart").annotation[1].any()
    again.close()


def test_a_newer_session_is_refused_and_an_older_one_migrated(saved, settle, monkeypatch):
    saved.mark_dirty("heart")
    settle(saved)
    file = saved.folder / "session.json"
    saved.close()
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(SessionError, match=r"newer napari-mlbseg \(format 99.*update"):
        load_session(file.parent)
    old = {key: value for key, value in values.items() if key != "left_out"}
    file.write_text(json.dumps({**old, "schema_version": 0, "leave_one_out": []}))
    with pytest.raises(SessionError, match="unknown format 0"):
        load_session(file.parent)

    def from_zero(record):
        return {**{k: v for k, v in record.items() if k != "leave_one_out"}, "left_out": record["leave_one_out"]}

    monkeypatch.setitem(records_module.MIGRATIONS, 0, from_zero)
    assert load_session(file.parent).record.schema_version == 1
    file.write_text("{ half")
    with pytest.raises(SessionError, match="damaged"):
        load_session(file.parent)


def test_another_slice_axis_keeps_what_was_painted(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    volume = saved.volume("heart")
    from dataclasses import replace

    turned = replace(volume, slice_axis=2, marks=type(volume.marks)(clean={5}))
    saved.set_volumes([turned])
    saved.mark_dirty("heart")
    settle(saved)
    assert np.array_equal(stored(saved), volume.annotation)
    path = saved.folder
    saved.close()
    again = reopen(path)
    assert again.volume("heart").slice_axis == 2
    assert {axis: marks.clean for axis, marks in again.marks_of(volume.uid).items()} == {0: {1}, 2: {5}}
    assert (path / "annotations" / "heart.zarr").exists(), "the first array is left where it was"
    again.close()


def test_images_by_reference_are_found_again_when_both_moved(tmp_path, settle):
    from napari_mlbseg.io.nifti import nifti_grid_with_affine, read_nifti, write_nifti
    from napari_mlbseg.session.volume import ImageSource

    volume = make_volume(clean={1})
    file = tmp_path / "data" / "heart.nii.gz"
    file.parent.mkdir()
    grid = nifti_grid_with_affine(file, volume.image.T.shape, np.diag([1.0, 1.0, 2.0, 1.0]), "mm")
    write_nifti(file, volume.image.T, "IJK", grid)
    volume.source, volume.grid = ImageSource("file", file), read_nifti(file).grid
    session = SegmentationSession(tmp_path / "data" / "heart.mlbseg")
    session.set_volume(volume)
    session.mark_dirty("heart", 1)
    settle(session)
    settle(session)
    session.close()
    assert not (tmp_path / "data" / "heart.mlbseg" / "images").exists()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "heart.mlbseg"
    loaded = load_session(moved)
    assert np.array_equal(loaded.volumes[0].volume.image, volume.image)
    assert loaded.notes == ()
    image = tmp_path / "elsewhere" / "heart.nii.gz"
    image.rename(tmp_path / "heart.nii.gz")
    folder, record = SessionFolder(moved), SessionFolder(moved).read()
    (lost,) = missing_images(folder, record)
    with pytest.raises(SessionError, match="missing"):
        load_session(moved)
    found = {lost: tmp_path / "heart.nii.gz"}
    assert missing_images(folder, record, found) == []
    assert np.array_equal(load_session(moved, found).volumes[0].volume.image, volume.image)
    write_nifti(tmp_path / "heart.nii.gz", volume.image.T + 1, "IJK", grid)
    assert "not the file of then" in load_session(moved, found).notes[0]
    write_nifti(tmp_path / "heart.nii.gz", volume.image.T[:, :, :4], "IJK", grid)
    with pytest.raises(SessionError, match="has shape 4 x 16 x 20 now"):
        load_session(moved, found)


def test_a_folder_that_is_read_only_can_be_opened_and_says_so(saved, settle, monkeypatch):
    saved.mark_dirty("heart")
    settle(saved)
    path = saved.folder
    saved.close()

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("napari_mlbseg.session.persistence.folder.write_atomically", refuse)
    again = reopen(path)
    heard = []
    again.saving_changed.connect(heard.append)
    assert again.volume("heart").annotation[1].any()
    again.volume("heart").annotation[3, 3, 3] = 1
    again.mark_dirty("heart", 3)
    with pytest.raises(PermissionError):
        again.save()
    assert "Permission denied" in heard[-1]
    monkeypatch.undo()
    again.save()
    assert stored(again)[3, 3, 3] == 1
    again.close()


def test_classes_are_known_without_searching_the_whole_annotation(saved, settle):
    volume = saved.volume("heart")
    settle(saved)
    saved.poll()
    assert saved.known_classes() == [2]
    volume.annotation[5, 0, 0] = 7
    saved.mark_dirty("heart", 5)
    settle(saved)
    assert saved.known_classes() == [2, 7]
    volume.annotation[5] = 0
    saved.mark_dirty("heart", 5)
    settle(saved)
    assert saved.known_classes() == [2]
