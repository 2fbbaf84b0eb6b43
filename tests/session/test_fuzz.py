"""A random session: strokes, undos, accepts, rejects, marks, rounds, quits, crashes, deleted and restored annotations.

Nothing that was painted is lost or changed, and the session gains no volume.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from napari.layers import Labels

from napari_mlbseg.session import AnnotatedVolume, SegmentationSession, SessionState
from napari_mlbseg.session.clean_slices import combined_digest, slice_digest
from napari_mlbseg.session.persistence.loader import load_session
from napari_mlbseg.task import TaskError
from napari_mlbseg.viewer.controllers.accept_prediction import AcceptedVoxels, put_back, put_prediction

from .conftest import FakeJob

SHAPE = (5, 8, 9)
slices = st.integers(0, SHAPE[0] - 1)


class Annotating(RuleBasedStateMachine):
    """A person at work. `truth` is what they painted, written down beside the layer, independently of the session."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp())
        self.folder = self.home / "heart.mlbseg"
        self.image = np.random.default_rng(0).random(SHAPE).astype(np.float32)
        self.session = SegmentationSession(self.folder)
        self.layer = Labels(np.zeros(SHAPE, np.uint8))
        self.session.set_volume(AnnotatedVolume(name="heart", image=self.image, annotation=self.layer.data))
        self.truth = self.layer.data.copy()
        self.stack: list[np.ndarray] = []  # what undo goes back to
        self.redo_stack: list[np.ndarray] = []
        self.forget_accepted()
        self.recent = [{p.tobytes()} for p in self.truth]  # what each slice held since all was saved
        self.session.mark_dirty("heart")
        self.settle()  # the image, which has no file, is copied: this is about what is painted

    # -- what a person does ----------------------------------------------------------------------------------------

    def forget_accepted(self) -> None:
        self.accepted = [AcceptedVoxels() for _ in range(SHAPE[0])]
        self.origin = np.full(SHAPE, -1)  # what was there before an accept; -1 where a person painted

    def change(self, z: int | None, before: np.ndarray) -> None:
        """Something was painted: tell the session and the review, as a layer's event does."""
        self.session.mark_dirty("heart", z)
        self.origin[self.truth != before] = -1
        for here, accepted in enumerate(self.accepted):
            accepted.forget_changed(self.layer.data[here])
        self.note_recent()

    def note_recent(self) -> None:
        for here, plane in enumerate(self.truth):
            self.recent[here].add(plane.tobytes())

    @rule(z=slices, y=st.integers(0, SHAPE[1] - 1), x=st.integers(0, SHAPE[2] - 1), label=st.integers(0, 3))
    def stroke(self, z: int, y: int, x: int, label: int) -> None:
        before = self.truth.copy()
        self.layer.data_setitem((np.array([z]), np.array([y]), np.array([x])), label)
        self.truth[z, y, x] = label
        if not np.array_equal(before, self.truth):
            self.stack.append(before)
            self.redo_stack.clear()
        self.change(z, before)

    @precondition(lambda self: self.stack)
    @rule()
    def undo(self) -> None:
        self.redo_stack.append(self.truth.copy())
        self.truth = self.stack.pop()
        self.layer.undo()
        self.change(None, self.redo_stack[-1])

    @precondition(lambda self: self.redo_stack)
    @rule()
    def redo(self) -> None:
        self.stack.append(self.truth.copy())
        self.truth = self.redo_stack.pop()
        self.layer.redo()
        self.change(None, self.stack[-1])

    @rule(z=slices, clean=st.booleans())
    def mark(self, z: int, clean: bool) -> None:
        self.session.set_clean("heart", z, clean)

    @precondition(lambda self: any(past.has_results for past in self.session.rounds))
    @rule(z=slices, over=st.booleans())
    def accept(self, z: int, over: bool) -> None:
        shown = self.session.shown_round
        prediction = np.asarray(shown.job.folder.results("heart")["pseudo_labels"][z])
        old, before = self.truth.copy(), slice_digest(self.truth[z])
        expected = prediction if over else np.where(self.truth[z] == 0, prediction, self.truth[z])
        changed = put_prediction(self.layer, prediction, 0, z, over_painted=over, noted=self.accepted[z])
        assert changed == np.count_nonzero(expected != self.truth[z])
        if changed:
            self.truth[z] = expected
            self.stack.append(old)
            self.redo_stack.clear()
            self.session.note_accepted("heart", z, shown.number, before, slice_digest(self.layer.data[z]))
            written = expected != old[z]
            self.origin[z] = np.where(written & (self.origin[z] < 0), old[z], self.origin[z])
            self.note_recent()

    @precondition(lambda self: any(past.has_results for past in self.session.rounds))
    @rule(z=slices)
    def reject(self, z: int) -> None:
        """What was accepted and left as it was is taken back; what is painted stays. Of a clean slice, nothing is."""
        if z in self.session.volume("heart").clean:
            return
        old, is_accepted = self.truth.copy(), self.origin[z] >= 0
        changed = put_back(self.layer, self.accepted[z], 0, z)
        assert changed == np.count_nonzero(is_accepted)
        self.truth[z][is_accepted] = self.origin[z][is_accepted]
        if changed:
            self.stack.append(old)
            self.redo_stack.clear()
            self.change(z, old)
        self.session.set_rejected("heart", z)

    @precondition(lambda self: self.truth.any() or self.session.volume("heart").clean)
    @rule(reopens=st.booleans(), anew=st.booleans())
    def delete_and_restore(self, reopens: bool, anew: bool) -> None:
        """The annotation's layer is deleted, perhaps another one painted and napari quit; then it is brought back."""
        uid, clean = self.uid, set(self.session.volume("heart").clean)
        bare = AnnotatedVolume(
            name="heart", image=self.session.volume("heart").image, annotation=np.zeros_like(self.truth)
        )
        self.session.set_volumes([replace(bare, is_annotated=anew)])
        if anew:
            bare.annotation[0, 0, 0] = 1
            self.session.mark_dirty("heart", 0)
        if reopens:
            self.session.close()
            self.open()
        removed = next(each for each in self.session.removed_annotations("heart") if each.uid == uid)
        restored = removed.read()
        self.session.take_back(restored, self.session.volume("heart"))
        again = replace(bare, uid=uid, annotation=restored.pixels, marks=restored.marks[0], is_annotated=True)
        self.session.set_volumes([replace(again, image=self.session.volume("heart").image)])
        self.show()
        assert np.array_equal(self.layer.data, self.truth)
        assert self.session.volume("heart").clean == clean
        self.save()

    # -- what the session does -------------------------------------------------------------------------------------

    @rule(label=st.integers(0, 3), meanwhile=st.none() | slices, stops=st.booleans())
    def train(self, label: int, meanwhile: int | None, stops: bool) -> None:
        """Press Train, perhaps go on painting or think better of it before the worker is there."""
        painted, before = self.truth.copy(), len(self.session.rounds)
        try:
            self.session.begin()
        except TaskError:
            return
        if meanwhile is not None:
            self.stroke(meanwhile, 1, 1, label)
            if stops:
                self.session.stop()
        while self.session._starter is not None:
            self.session.poll()
        if meanwhile is not None and stops and len(self.session.rounds) == before:
            assert self.session.state is SessionState.IDLE
            return
        started = self.session.rounds[-1]
        digest = combined_digest([slice_digest(plane) for plane in painted])
        assert started.record.checksums[self.uid] == digest, "the round knows what was painted when it began"
        folder = started.job.folder
        labels = folder.open_task(folder.read_request()).volumes[0].labels
        assert np.array_equal(labels[:], painted), "and learns from nothing else"
        for z, plane in enumerate(painted):  # saved at the click; what came after is on its way
            self.recent[z] = {plane.tobytes(), self.truth[z].tobytes()}
        known = {0, *started.task.class_values}
        started.job.predict(label if label in known else 0, range(SHAPE[0]))
        while self.session.state is not SessionState.IDLE:
            self.session.poll()

    @rule()
    def poll(self) -> None:
        self.session.poll()

    @rule()
    def save(self) -> None:
        self.session.save()
        self.all_is_saved()

    @rule(deserted=st.booleans())
    def close_and_open(self, deserted: bool) -> None:
        if deserted:  # a viewer may take its layers away before its window goes
            self.session.set_volumes([])
        self.session.close()
        self.reopen()
        assert np.array_equal(self.layer.data, self.truth), "closing saves everything"
        self.all_is_saved()

    @rule(settled=st.booleans())
    def crash(self, settled: bool) -> None:
        """The process dies: what is not on the disk is gone. Seconds after a stroke, everything is."""
        if settled:
            self.settle()
        saver = self.session._autosave
        assert saver is not None
        saver.background.flush(10)  # what the disk was given before the crash
        saver.folder.unlock()  # as the next process finds it: whoever held it is dead
        self.reopen()
        for z, plane in enumerate(self.layer.data):
            assert plane.tobytes() in self.recent[z], "each slice as it was at some moment since the last save"
        if settled:
            assert np.array_equal(self.layer.data, self.truth)
        self.truth = self.layer.data.copy()
        self.all_is_saved()

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def the_layer_holds_what_was_painted(self) -> None:
        assert np.array_equal(self.layer.data, self.truth)

    @property
    def uid(self) -> str:
        return self.session.volume("heart").uid

    def all_is_saved(self) -> None:
        self.recent = [{p.tobytes()} for p in self.truth]

    def settle(self) -> None:
        end = time.monotonic() + 20
        saver = self.session._autosave
        assert saver is not None
        while saver.has_user_changes and not (
            saver.is_saved and saver.background.is_idle and all(kept.is_copied for kept in saver.registry)
        ):
            self.session.poll()
            assert time.monotonic() < end, "it was not saved in time"
            time.sleep(0.001)

    def open(self) -> None:
        loaded = load_session(self.folder)
        self.session = SegmentationSession()
        self.session.load(loaded)
        assert len(self.session) == 1, "no volume was gained"
        assert not self.session.read_only

    def reopen(self) -> None:
        self.open()
        self.show()

    def show(self) -> None:
        """A layer of what the session holds; it has nothing to undo."""
        volume = self.session.volume("heart")
        self.layer = Labels(volume.annotation)
        assert self.layer.data is volume.annotation
        assert np.array_equal(volume.image, self.image)
        assert volume.marks.clean <= set(range(SHAPE[0]))
        self.stack.clear()
        self.redo_stack.clear()
        self.forget_accepted()

    def teardown(self) -> None:
        self.session.close()
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("napari_mlbseg.session.launcher.LocalJob", FakeJob)
    monkeypatch.setattr("napari_mlbseg.session.rounds.LocalJob", FakeJob)
    monkeypatch.setattr("napari_mlbseg.session.persistence.autosave._SETTLE_SECONDS", 0.0)


@pytest.mark.slow
def test_nothing_is_lost():
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Annotating,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,  # 2,000 steps in all
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],  # shrinking would take longer than a person waits
        ),
    )
