"""Rounds: what each was given, its honest score, the way back to it, and finding one that still runs."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from napari_mlbseg.events import Failed, Finished, FinishReason, HeldOut, Preview, Stage
from napari_mlbseg.session import SegmentationSession, SessionState
from napari_mlbseg.session.clean_slices import combined_digest, slice_digest
from napari_mlbseg.session.persistence.schema import SliceScore
from napari_mlbseg.session.scores import advice, score_slice
from napari_mlbseg.task import TaskError

from .conftest import make_volume, reopen, train

pytestmark = pytest.mark.usefixtures("fake_jobs")


def test_a_round_keeps_what_it_was_given(saved, settle):
    started = train(saved)
    annotation = saved.volume("heart").annotation
    labels = started.job.folder.open_task(started.job.folder.read_request()).volumes[0].labels
    assert np.array_equal(labels[:], annotation), "also slices that are painted but not clean"
    expected = combined_digest([slice_digest(plane) for plane in annotation])
    assert list(started.record.checksums.values()) == [expected]
    assert started.n_clean == 1
    settle(saved)
    record = json.loads((saved.folder / "session.json").read_text())["rounds"][0]
    assert record["outcome"] == "finished"
    assert record["seconds"] == 2.5
    assert record["base"] is None


def test_the_next_round_starts_from_the_last_or_the_restored_model(saved):
    first, second = train(saved), train(saved)
    for past in (first, second):
        past.job.folder.model_file.write_bytes(b"weights")
    assert train(saved).record.base == 2
    saved.restore(1)
    assert saved.shown_round is first
    assert train(saved).record.base == 1
    assert saved.restored is None
    assert saved.shown_round is saved.rounds[-1]
    saved.warm_start = False
    assert train(saved).record.base is None


def test_restoring_brings_back_the_config_and_leaves_the_annotation(saved, settle):
    train(saved)
    saved.config = saved.config.updated(n_views=7)
    annotation = saved.volume("heart").annotation.copy()
    shown = []
    saved.round_shown.connect(shown.append)
    saved.restore(1)
    assert shown == [saved.rounds[0]]
    assert saved.config.n_views != 7
    assert np.array_equal(saved.volume("heart").annotation, annotation)
    assert saved.volume("heart").clean == {1}
    settle(saved)
    path = saved.folder
    saved.close()
    again = reopen(path)
    assert again.restored is again.rounds[0]
    again.close()


def test_a_deleted_round_is_gone_and_its_number_is_not_used_again(saved, settle):
    train(saved), train(saved)
    shown = []
    saved.round_shown.connect(shown.append)
    folder = saved.rounds[1].job.folder.path
    saved.delete_round(2)
    settle(saved)
    assert not folder.exists()
    assert [past.number for past in saved.rounds] == [1]
    assert shown == [saved.rounds[0]], "the other one is seen now"
    with pytest.raises(KeyError, match="no round 2"):
        saved.round(2)


def test_images_of_rounds_share_their_room(saved, settle):
    train(saved), train(saved)
    first, second = (past.job.folder.path / "inputs/0/image.npy" for past in saved.rounds)
    assert first.stat().st_ino == second.stat().st_ino
    saved.volume("heart").image[0, 0, 0] += 1
    third = train(saved).job.folder.path / "inputs/0/image.npy"
    assert third.stat().st_ino != second.stat().st_ino, "another image is not shared"
    settle(saved)
    assert all(past.bytes_used > 1000 for past in saved.rounds)


def test_a_slice_that_the_round_had_not_seen_scores_it(saved, settle):
    train(saved, value=2)  # predicts label 2 everywhere
    heard = []
    saved.scores_changed.connect(lambda: heard.append(saved.rounds[0].held_out_dice))
    saved.set_clean("heart", 4, True)
    settle(saved)
    annotation = saved.volume("heart").annotation[4]
    share = (annotation == 2).mean()
    assert saved.rounds[0].held_out_dice == pytest.approx(2 * share / (1 + share))
    assert saved.rounds[0].held_out_hd95 > 0
    annotation[:] = 2  # corrected after it was marked
    saved.mark_dirty("heart", 4)
    settle(saved)
    assert saved.rounds[0].held_out_dice == 1
    assert len(heard) == 2
    saved.set_clean("heart", 4, False)
    assert saved.rounds[0].held_out_dice is None
    saved.set_clean("heart", 1, False)
    saved.set_clean("heart", 1, True)
    settle(saved)
    assert saved.rounds[0].held_out_dice is None, "it had seen that one"


def test_a_score_is_kept_and_never_changed_by_later_rounds(saved, settle):
    train(saved, value=2)
    saved.set_clean("heart", 4, True)
    settle(saved)
    score = saved.rounds[0].held_out_dice
    train(saved, value=0)
    saved.volume("heart").annotation[4] = 0
    saved.mark_dirty("heart", 4)
    settle(saved)
    assert saved.rounds[0].held_out_dice == score
    path = saved.folder
    saved.close()
    again = reopen(path)
    assert [past.held_out_dice for past in again.rounds] == [score, None]
    again.close()


def test_scores_are_means_over_classes_in_physical_units():
    painted = np.zeros((20, 20), int)
    painted[5:10, 5:10] = 1
    painted[12:16, 5:10] = 2
    prediction = painted.copy()
    prediction[5, 5:10] = 0  # a row of 2 mm is missing
    score = score_slice(prediction, painted, (2.0, 0.5), volume="v", z=3, unit="mm", unchanged=False)
    assert score.dice == pytest.approx((2 * 20 / 45 + 1) / 2)
    assert 0 < score.hd95 <= 2.0
    empty = np.zeros((4, 4), int)
    assert score_slice(empty, empty, (1, 1), volume="v", z=0, unit="mm", unchanged=False).dice == 1.0
    missed = score_slice(empty, np.ones((4, 4), int), (1, 1), volume="v", z=0, unit="mm", unchanged=False)
    assert (missed.dice, missed.hd95) == (0.0, None)


def test_advice_comes_when_further_slices_stop_helping():
    def rounds(*dice):
        return [
            [SliceScore(volume="v", slice=z, dice=d, hd95=1.0, unit="mm") for z, d in enumerate(of_round)]
            for of_round in dice
        ]

    assert advice([]) == ""
    assert advice(rounds([0.8], [0.9])) == ""
    assert "stopped helping: held-out Dice 0.900, 0.902, 0.899" in advice(rounds([0.8], [0.9], [0.902], [], [0.899]))
    assert advice(rounds([0.8], [0.9], [0.92])) == ""
    assert "0.975" in advice(rounds([0.8], [], [0.97, 0.98]))
    assert advice(rounds([0.8], [], [1.0])) == "", "one slice proves little"


def test_leaving_one_out_is_no_round_and_needs_three_slices(saved, settle):
    with pytest.raises(TaskError, match="at least 3 clean slices"):
        saved.start_check()
    for z in (4, 5):
        saved.set_clean("heart", z, True)
    saved.start_check()
    job = saved.run.job
    assert saved.state is SessionState.RUNNING
    assert job.folder.path == saved.folder / "checks" / "001"
    assert job.folder.read_request().kind == "leave_one_out"
    job.say(HeldOut(volume="heart", slice=4, dice=0.75, hd95=2.5))
    job.kill()
    saved.poll()
    assert saved.state is SessionState.IDLE
    assert saved.rounds == []
    assert [(score.slice, score.dice, score.hd95) for score in saved.left_out] == [(4, 0.75, 2.5)]
    settle(saved)
    path = saved.folder
    saved.close()
    again = reopen(path)
    assert isinstance(again.left_out[0], SliceScore)
    again.close()


def test_statistics_of_previews_make_the_suggestions(saved):
    saved.set_clean("heart", 4, True)
    started = saved.start()
    wrong = (None, 1.0, 90.0, 9.0, 1.0, 1.0)
    shown = (0.0, 100.0, 100.0, 100.0, 100.0, 100.0)
    started.job.say(
        Preview(
            volume="heart",
            slices=tuple(range(6)),
            arrays=("pseudo_labels",),
            stage=Stage.TRAIN,
            statistics={"uncertainty": wrong, "foreground": shown},
        )
    )
    saved.poll()
    assert saved.suggestions("heart")[0].slice == 2
    doubt = started.doubt("heart")
    assert np.isnan(doubt[0])
    assert doubt[2] == pytest.approx(90 / 290)
    saved.skip("heart", 2)
    assert saved.suggestions("heart")[0].slice != 2
    saved.set_rejected("heart", 5)
    first = saved.suggestions("heart")[0]
    assert first.slice == 5
    assert "rejected" in first.reason


def test_the_checksum_of_the_voxels_is_the_same_after_ten_rounds(saved, settle):
    before = saved.volume("heart").annotation.copy()
    for number in range(10):
        train(saved, value=2 * (number % 2))
    settle(saved)
    assert np.array_equal(saved.volume("heart").annotation, before)
    sums = {checksum for past in saved.rounds for checksum in past.record.checksums.values()}
    assert sums == {combined_digest([slice_digest(plane) for plane in before])}


@pytest.mark.slow
def test_a_round_outlives_a_killed_session_and_is_found_again(tmp_path, monkeypatch, settle):
    """Another process paints, trains and is killed with -9: its worker goes on, and we take over."""
    monkeypatch.undo()  # the real worker
    path = tmp_path / "heart.mlbseg"
    script = f"""
        import os, signal, sys, time
        sys.path.insert(0, {str(tmp_path)!r})
        from volumes import make_volume
        from napari_mlbseg.session import SegmentationSession
        session = SegmentationSession({str(path)!r})
        session.config = session.config.updated(time_budget=120, device="cpu", preview_interval=0.3)
        volume = make_volume(clean=(1, 4))
        session.set_volume(volume)
        session.start()
        volume.annotation[5, 2, 2] = 2
        session.mark_dirty("heart", 5)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            session.poll()
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    source = tmp_path / "volumes.py"
    source.write_text(
        "import numpy as np\nfrom napari_mlbseg.session import AnnotatedVolume, SliceMarks\n"
        + textwrap.dedent(inspect.getsource(make_volume))
    )
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert answer.returncode == -9, answer.stderr
    session = reopen(path)
    assert session.state is SessionState.RUNNING, "the worker lives"
    assert session.volume("heart").annotation[5, 2, 2] == 2, "painted three seconds before the end"
    end = time.monotonic() + 120
    while not session.rounds[0].has_results:
        session.poll()
        assert time.monotonic() < end
        time.sleep(0.05)
    session.stop()
    while session.state is not SessionState.IDLE:
        session.poll()
        assert time.monotonic() < end
        time.sleep(0.05)
    assert session.rounds[0].outcome.type == "cancelled"
    session.close()


def test_a_round_whose_worker_died_unseen_is_explained(saved, settle, monkeypatch):
    started = saved.start()
    settle(saved)
    path, request = saved.folder, started.job.folder.request_file
    saved._autosave.folder.unlock()
    os.utime(request, (1, 1))  # long ago
    monkeypatch.undo()
    again = reopen(path)
    assert again.state is SessionState.IDLE
    assert isinstance(again.rounds[0].outcome, Failed)
    assert "did not say why" in again.rounds[0].outcome.message
    again.close()


def test_two_volumes_are_scored_apart(tmp_path, settle):
    session = SegmentationSession(tmp_path / "two.mlbseg")
    session.set_volumes([make_volume("a", clean={1}), make_volume("b")])
    train(session)
    session.set_clean("b", 4, True)
    settle(session)
    (key,) = session.rounds[0].scores
    assert key == (session.volume("b").uid, 4)
    session.close()


def test_the_rest_is_predicted_with_the_model_of_the_round_that_is_shown(saved, settle):
    with pytest.raises(RuntimeError, match="train first"):
        saved.begin_rest()
    first, second = train(saved), train(saved)
    for past in (first, second):
        past.job.folder.model_file.write_bytes(b"weights")
    saved.restore(1)
    saved.warm_start = False
    saved.config = chosen = saved.config.updated(steps=40, features=(8, 16))  # of another network, for the next round
    saved.begin_rest()
    while saved.state is SessionState.PREPARING:
        saved.poll()
    rest = saved.rounds[-1]
    assert (rest.record.base, rest.task.config.learns, first.task.config.learns) == (1, False, True)
    assert rest.task.config.features == first.task.config.features
    assert (rest.task.config.time_budget, saved.config) == (None, chosen)
    rest.job.predict(2)
    settle(saved)
    saved.restore(3)
    assert saved.config == chosen, "a config that learns nothing is nobody's choice for the next training"


def test_the_rest_is_not_predicted_by_a_model_that_does_not_know_the_labels(saved):
    first = train(saved)
    with pytest.raises(TaskError, match="files are gone"):
        saved.begin_rest()
    first.job.folder.model_file.write_bytes(b"weights")
    saved.volume("heart").annotation[1, 12:15, 3:9] = 7  # another class, on the clean slice
    with pytest.raises(TaskError, match="round 1 knows other labels"):
        saved.begin_rest()
    first.events[-1] = Finished(reason=FinishReason.TIME, steps=0, seconds=14, unreached=5)
    with pytest.raises(TaskError, match="no time to learn"):
        saved.begin_rest()
    assert saved.state is SessionState.IDLE
    assert saved.rounds == [first]
