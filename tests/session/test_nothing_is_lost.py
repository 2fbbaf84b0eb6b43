"""Ways in which strokes were once lost, one test each: none may come back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_mlbseg.session import Provenance, SegmentationSession, SessionError, SliceMarks
from napari_mlbseg.session.clean_slices import slice_digest
from napari_mlbseg.session.persistence.folder import SessionFolder, SliceArray
from napari_mlbseg.session.persistence.loader import load_session
from napari_mlbseg.session.persistence.session_paths import unsaved_sessions

from .conftest import make_volume, reopen, train


def painted_of(path, name="heart"):
    """What a session folder holds of an annotation, its volume attached or not."""
    record = SessionFolder(path).read()
    entry = next(volume for volume in record.volumes if volume.name == name)
    return SliceArray(path / entry.annotation, entry.slice_axis).open()[:]


def test_layers_that_go_before_the_session_take_nothing_along(sessions_home):
    """A viewer that closes clears its layers first."""
    session = SegmentationSession()
    volume = make_volume()
    session.set_volume(volume)
    session.mark_dirty("heart", 1)
    volume.annotation[5, 5, 5] = 3  # the last stroke, of which no event told
    session.set_volumes([])
    session.close()
    (kept,) = unsaved_sessions()
    again = reopen(kept)
    assert np.array_equal(again.volume("heart").annotation, volume.annotation)
    again.close()
    assert kept.exists(), "looked at, not touched"


def test_what_is_taken_out_stays_in_the_folder_and_in_the_record(saved, settle):
    first = saved.volume("heart")
    saved.mark_dirty("heart")
    settle(saved)
    second = make_volume("heart")
    second.annotation[:] = 0
    saved.set_volumes([second])
    saved.mark_dirty("heart", 2)
    second.annotation[2, 2, 2] = 1
    settle(saved)
    path = saved.folder
    saved.close()
    record = load_session(path).record
    assert {volume.uid: volume.attached for volume in record.volumes} == {second.uid: True, first.uid: False}
    again = reopen(path)
    assert [volume.uid for volume in again] == [second.uid]
    again.mark_dirty("heart", 0)
    again.save()
    kept = next(volume for volume in again._autosave.folder.read().volumes if not volume.attached)
    assert np.array_equal(SliceArray(path / kept.annotation, 0).open()[:], first.annotation)
    again.close()


def test_strokes_made_while_a_volume_was_out_are_noticed(saved, settle):
    volume = saved.volume("heart")
    saved.mark_dirty("heart")
    settle(saved)
    saved.set_volumes([])
    volume.annotation[0, 0, 0] = 9
    saved.set_volumes([volume])
    path = saved.folder
    saved.close()
    assert painted_of(path)[0, 0, 0] == 9


def test_a_change_without_any_event_is_saved_at_the_latest_at_the_end(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    saved.volume("heart").annotation[3, 3, 3] = 4
    path = saved.folder
    saved.close()
    assert painted_of(path)[3, 3, 3] == 4


@pytest.mark.parametrize("dtype", [">u2", "<i4", "i8", "bool"])
def test_any_byte_order_and_type_is_kept(tmp_path, settle, dtype):
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    volume = make_volume()
    volume.annotation = volume.annotation.astype(dtype)
    session.set_volume(volume)
    for z in (0, 2):
        volume.annotation[z, 1, 1] = 1
        session.mark_dirty("heart", z)
        settle(session)
    session.close()
    assert np.array_equal(painted_of(tmp_path / "heart.mlbseg"), volume.annotation)


def test_while_an_annotation_is_written_in_another_form_the_record_names_the_old_one(saved, settle, monkeypatch):
    saved.mark_dirty("heart")
    settle(saved)
    volume = saved.volume("heart")
    expected = volume.annotation.copy()
    real, written = SliceArray.write, []

    def stop_after_one(self, z, plane, **options):
        if written:
            raise OSError(5, "the process dies here")
        written.append(z)
        real(self, z, plane, **options)

    monkeypatch.setattr(SliceArray, "write", stop_after_one)
    saved.set_volumes([replace(volume, slice_axis=2, marks=SliceMarks())])
    with pytest.raises(OSError, match="dies"):
        saved.save()
    assert np.array_equal(painted_of(saved.folder), expected)
    monkeypatch.undo()
    saved.save()
    saved.save()
    assert np.array_equal(painted_of(saved.folder), expected)
    assert saved._autosave.folder.read().volumes[0].annotation != "annotations/heart.zarr"


def test_a_write_that_fails_before_the_slice_axis_changes_harms_nothing(saved, settle, monkeypatch):
    saved.mark_dirty("heart")
    settle(saved)
    volume = saved.volume("heart")

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SliceArray, "write", refuse)
    volume.annotation[5, 1, 1] = 3
    saved.mark_dirty("heart", 5)
    with pytest.raises(OSError, match="No space"):
        saved.save()
    saved.set_volumes([replace(volume, slice_axis=1, marks=SliceMarks())])
    monkeypatch.undo()
    saved.save()
    saved.save()
    assert np.array_equal(painted_of(saved.folder), volume.annotation)


def test_one_folder_belongs_to_one_session(saved, settle, tmp_path):
    saved.mark_dirty("heart")
    settle(saved)
    other = SegmentationSession()
    other.load(load_session(saved.folder))
    assert "open in this program already" in other.read_only
    other.close()
    first, second = SegmentationSession(), SegmentationSession()
    for session in (first, second):
        session.set_volume(make_volume())
        session.mark_dirty("heart", 1)
    assert first.folder != second.folder, "begun in the same minute, on the same image"
    first.close()
    second.close()


def test_a_session_can_be_saved_elsewhere_when_its_own_disk_is_full(saved, settle, monkeypatch, tmp_path):
    saved.mark_dirty("heart")
    settle(saved)
    old, real = saved.folder, SliceArray.write

    def full(self, z, plane, **options):
        if old in self.path.parents:
            raise OSError(28, "No space left on device")
        real(self, z, plane, **options)

    monkeypatch.setattr(SliceArray, "write", full)
    saved.volume("heart").annotation[3, 3, 3] = 8
    saved.mark_dirty("heart", 3)
    saved.save_as(tmp_path / "elsewhere.mlbseg")
    assert painted_of(tmp_path / "elsewhere.mlbseg")[3, 3, 3] == 8
    with pytest.raises(SessionError, match="within the session itself"):
        saved.save_as(saved.folder / "inner.mlbseg")


def test_a_session_that_cannot_be_loaded_is_left_as_it_is(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    path = saved.folder
    saved.close()
    before = (path / "session.json").read_text()
    broken = load_session(path)

    def fail():
        raise RuntimeError("the window could not make its layers")

    session = SegmentationSession()
    with pytest.raises(RuntimeError, match="layers"):
        session.load(broken, fail)
    session.close()
    assert (path / "session.json").read_text() == before
    values = json.loads(before)
    values["config"]["of_another_version"] = 1
    (path / "session.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="of_another_version"):
        SegmentationSession().load(load_session(path))
    assert len(json.loads((path / "session.json").read_text())["volumes"]) == 1


def test_a_folder_that_somebody_deleted_is_written_anew(saved, settle):
    import shutil

    saved.mark_dirty("heart")
    settle(saved)
    shutil.rmtree(saved.folder)
    saved.mark_dirty("heart", 1)
    saved.save()
    path = saved.folder
    saved.close()
    again = reopen(path)
    assert np.array_equal(again.volume("heart").annotation, make_volume().annotation)
    again.close()


def test_an_image_that_nobody_paints_on_is_kept_too(tmp_path, settle):
    session = SegmentationSession(tmp_path / "two.mlbseg")
    other = make_volume("other")
    other.annotation, other.is_annotated = np.broadcast_to(np.uint8(0), (6, 16, 20)), False
    session.set_volumes([make_volume("heart"), other])
    session.mark_dirty("heart", 1)
    session.close()
    again = reopen(tmp_path / "two.mlbseg")
    assert np.array_equal(again.volume("other").image, other.image)
    assert not again.volume("other").is_annotated
    again.close()


def test_a_drive_that_is_away_for_a_moment_is_not_forgotten(tmp_path, settle):
    from napari_mlbseg.session.volume import ImageSource

    volume = make_volume()
    volume.source = ImageSource("file", tmp_path / "heart.nii.gz")
    session = SegmentationSession(tmp_path / "heart.mlbseg")
    session.set_volume(volume)
    session.mark_dirty("heart", 1)
    session.set_volumes([replace(volume, source=None)])
    session.save()
    assert session._autosave.folder.read().volumes[0].image.kind == "file"
    session.close()


def test_images_with_names_that_differ_only_in_case_have_arrays_of_their_own(tmp_path, settle):
    session = SegmentationSession(tmp_path / "two.mlbseg")
    session.set_volumes([make_volume("Scan", clean={1}), make_volume("scan")])
    session.mark_dirty("Scan", 1)
    session.save()
    paths = [volume.annotation.casefold() for volume in session._autosave.folder.read().volumes]
    assert len(set(paths)) == 2
    with pytest.raises(ValueError, match="rename one"):
        session.start()
    session.close()


@pytest.mark.usefixtures("fake_jobs")
def test_rounds_whose_files_are_away_keep_their_place(saved, settle):
    train(saved)
    settle(saved)
    path = saved.folder
    saved.close()
    request = path / "rounds" / "001" / "request.json"
    request.rename(path / "away.json")
    again = reopen(path)
    assert again.rounds == []
    again.mark_dirty("heart", 0)
    again.close()
    (path / "away.json").rename(request)
    third = reopen(path)
    assert [past.number for past in third.rounds] == [1]
    third.close()


@pytest.mark.usefixtures("fake_jobs")
def test_who_only_looks_does_not_end_a_training(saved, settle):
    started = saved.start()
    settle(saved)
    saved.close(stop_job=False)
    assert started.outcome is None
    assert not started.job.folder.cancel_file.exists()


def test_turning_the_slice_axis_there_and_back_keeps_the_provenance(saved, settle):
    volume = saved.volume("heart")
    settle(saved)
    volume.annotation[3, 2:8, 2:8] = 2
    saved.note_accepted("heart", 3, 1, "", slice_digest(volume.annotation[3]))
    volume.annotation[3, 2, 2] = 0
    saved.mark_dirty("heart", 3)
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.CORRECTED
    saved.set_volumes([replace(volume, slice_axis=2, marks=SliceMarks())])
    settle(saved)
    saved.set_volumes([volume])
    settle(saved)
    assert saved.provenance("heart", 3) is Provenance.CORRECTED


def test_a_flat_image_is_no_reason_to_stumble(tmp_path, settle):
    session = SegmentationSession(tmp_path / "flat.mlbseg")
    flat = make_volume("flat")
    flat.image, flat.annotation = flat.image[0], flat.annotation[1]
    session.set_volume(flat)
    session.mark_dirty("flat", 0)
    settle(session)
    session.close()


def test_a_mark_without_a_stroke_is_an_answer_too(tmp_path):
    """Two images, one clean slice with nothing painted; the window closes and takes its layers away first."""
    session = SegmentationSession(tmp_path / "two.mlbseg")
    volumes = [make_volume("a"), make_volume("b")]
    for volume in volumes:
        volume.annotation[:] = 0
    session.set_volumes(volumes)
    session.set_clean("a", 3, True)
    session.save()
    session.set_volumes([])
    session.close()
    again = reopen(tmp_path / "two.mlbseg")
    assert [volume.name for volume in again] == ["a", "b"]
    assert again.volume("a").clean == {3}
    again.close()


def test_a_session_of_which_everything_was_taken_out_opens_all_of_it(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    saved.set_volumes([])
    path = saved.folder
    saved.close()
    again = reopen(path)
    assert again.volume("heart").annotation[1].any()
    again.close()


def test_opening_a_session_brings_nothing_of_the_one_before(tmp_path, settle):
    for name in ("first", "second"):
        session = SegmentationSession(tmp_path / f"{name}.mlbseg")
        session.set_volume(make_volume(name, clean={1}))
        session.mark_dirty(name, 1)
        session.close()
    session = reopen(tmp_path / "first.mlbseg")
    session.load(load_session(tmp_path / "second.mlbseg"))
    session.mark_dirty("second", 1)
    session.save()
    path = session.folder
    session.close()
    assert [volume.name for volume in SessionFolder(path).read().volumes] == ["second"]
    assert [folder.name for folder in (path / "annotations").iterdir()] == ["second.zarr"]
    assert [volume.name for volume in SessionFolder(tmp_path / "first.mlbseg").read().volumes] == ["first"]


def test_a_change_without_an_event_is_part_of_the_task(saved):
    """A class that a script painted is told of."""
    saved.mark_dirty("heart")
    saved.save()
    saved.volume("heart").annotation[5, 2, 2] = 9
    assert "Label 9 (slice 5 of 'heart') occurs on no clean slice" in saved.resolve().note


def test_a_window_that_cannot_show_a_session_lets_go_of_it(saved, settle):
    saved.mark_dirty("heart")
    settle(saved)
    path = saved.folder
    saved.close()
    before = (path / "session.json").read_text()
    session = SegmentationSession()

    def fail():
        raise RuntimeError("the window could not make its layers")

    with pytest.raises(RuntimeError, match="layers"):
        session.load(load_session(path), fail)
    session.set_volume(make_volume("another"))
    session.mark_dirty("another", 1)
    session.save()
    assert session.folder != path
    assert (path / "session.json").read_text() == before
    session.close()
