"""Trainings from the dock: progress in plain words, and one sentence for every mistake."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mlbseg.events import Cancelled, Failed, Finished, FinishReason, Metrics, Progress, Stage
from napari_mlbseg.session import SessionState
from tests.gui.gui_actions import make_ready, press_train, until_begun

pytestmark = [pytest.mark.gui, pytest.mark.usefixtures("fake_jobs")]


def test_progress_in_plain_words(heart, wait_for):
    _viewer, dock, annotation = heart
    job = make_ready(dock, annotation)
    assert dock.train.button.text() == "S&top"
    assert dock.train.bar.isVisible()
    job.say(Progress(stage=Stage.INITIAL_LABELS, fraction=0, seconds=0))
    wait_for(lambda: "first guess" in dock.train.stage.text())
    assert dock.train.bar.maximum() == 0, "busy: nobody knows yet for how long"
    job.say(Metrics(values={"device": "CPU, 2 threads"}))
    job.say(Progress(stage=Stage.BOOTSTRAP, fraction=0.3, seconds=10, seconds_left=42))
    wait_for(lambda: dock.train.stage.text() == "Learning from 1 clean slice… 0:42 left")
    assert dock.train.bar.value() == 300
    assert dock.train.device.text() == "On CPU, 2 threads"
    job.say(Finished(reason=FinishReason.TIME, steps=5, seconds=58))
    wait_for(lambda: dock.train.button.text() == "&Train")
    assert dock.train.stage.text().startswith("Done in 0:58")
    assert not dock.train.bar.isVisible()


def test_a_budget_that_is_too_short_to_train_is_said(heart, wait_for):
    _viewer, dock, annotation = heart
    job = make_ready(dock, annotation)
    job.say(Finished(reason=FinishReason.TIME, steps=0, seconds=14, unreached=5))
    wait_for(lambda: "raise the time budget" in dock.train.stage.text())
    assert not dock.train.rest.isVisible(), "its network knows nothing"


def test_stop_keeps_what_is_there(heart, wait_for):
    _viewer, dock, annotation = heart
    job = make_ready(dock, annotation)
    dock.train.button.click()
    assert job.cancelled
    assert not dock.train.button.isEnabled()
    job.say(Cancelled())
    wait_for(lambda: dock.train.button.isEnabled())
    assert "kept" in dock.train.stage.text()


def test_a_failure_is_a_sentence_and_the_next_training_works(heart, wait_for):
    _viewer, dock, annotation = heart
    job = make_ready(dock, annotation)
    job.say(
        Failed(message="The worker was killed.", advice="Press Train.", log_tail="Traceback (most recent call last)")
    )
    wait_for(lambda: dock.train.complaint.text() == "The worker was killed. Press Train.")
    press_train(dock)
    assert dock.controller.session.state is SessionState.RUNNING
    assert dock.train.complaint.text() == ""


def _nothing(viewer, dock):
    pass


def _no_annotation(viewer, dock):
    viewer.add_image(np.ones((5, 32, 32)))


def _new(viewer, dock, image, **options):
    viewer.add_image(image, name="heart", **options)
    dock.data.volume_rows[0].new.click()
    return viewer.layers["heart annotation"].data


def _no_clean_slice(viewer, dock):
    _new(viewer, dock, np.ones((5, 32, 32)))[2, 4:9, 4:9] = 1


def _nothing_painted(viewer, dock):
    _new(viewer, dock, np.ones((5, 32, 32)))
    dock.controller.mark_clean(True, 2)


def _all_nan(viewer, dock):
    _new(viewer, dock, np.full((5, 32, 32), np.nan, dtype=np.float32), contrast_limits=(0, 1))[2, 4:9, 4:9] = 1
    dock.controller.mark_clean(True, 2)


def _one_slice(viewer, dock):
    _new(viewer, dock, np.ones((1, 32, 32)))[0, 4:9, 4:9] = 1
    dock.controller.workspace.set_slices(0, False)
    dock.controller.mark_clean(True, 0)


def _two_axes(viewer, dock):
    _new(viewer, dock, np.ones((32, 32)))


def _four_axes(viewer, dock):
    _new(viewer, dock, np.ones((2, 5, 32, 32)))


def _labels_of_another_shape(viewer, dock):
    image = viewer.add_image(np.ones((5, 32, 32)), name="heart")
    labels = viewer.add_labels(np.ones((5, 30, 32), dtype=int))
    dock.controller.workspace.set_layers([(image, labels)])
    dock.controller.mark_clean(True, 2)


def _negative_labels(viewer, dock):
    image = viewer.add_image(np.ones((5, 32, 32)), name="heart")
    labels = viewer.add_labels(np.full((5, 32, 32), -2))
    dock.controller.workspace.set_layers([(image, labels)])
    dock.controller.mark_clean(True, 2)


def _given_labels_missing(viewer, dock):
    _new(viewer, dock, np.ones((5, 32, 32)))[2, 4:9, 4:9] = 1
    dock.controller.mark_clean(True, 2)
    dock.controller.session.config = dock.controller.session.config.updated(initial_labels="given")


def _folder_not_writable(viewer, dock):
    _new(viewer, dock, np.ones((5, 32, 32)))[2, 4:9, 4:9] = 1
    dock.controller.mark_clean(True, 2)
    folder = dock.controller.session.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where a folder should be")


@pytest.mark.parametrize(
    ("make_mistake", "words"),
    [
        (_nothing, "There is no image"),
        (_no_annotation, "press New"),
        (_no_clean_slice, "No slice is marked clean"),
        (_nothing_painted, "Nothing is painted"),
        (_all_nan, "only NaN"),
        (_one_slice, "only one slice"),
        (_two_axes, "2 spatial axes"),
        (_four_axes, "4 spatial axes"),
        (_labels_of_another_shape, "There is no annotation layer"),
        (_negative_labels, "negative number -2"),
        (_given_labels_missing, "choose a layer"),
        (_folder_not_writable, "make room there"),
    ],
)
def test_a_mistake_gets_one_sentence_in_the_dock(open_dock, make_mistake, words):
    viewer, dock = open_dock()
    make_mistake(viewer, dock)
    press_train(dock)
    sentence = dock.train.complaint.text()
    assert words in sentence
    assert "Traceback" not in sentence
    assert "\n" not in sentence
    assert ":" in sentence, "says what is wrong: and what to do"
    assert dock.controller.session.state is SessionState.IDLE
    assert dock.train.button.isEnabled()


def test_slices_that_there_was_no_time_for_are_predicted_on_demand(heart, wait_for):
    _viewer, dock, annotation = heart
    session = dock.controller.session
    job = make_ready(dock, annotation)
    assert not dock.train.rest.isVisible()
    job.folder.model_file.touch()
    job.write("heart", (3,), pseudo_labels=1)
    job.say(Finished(reason=FinishReason.TIME, steps=5, seconds=60, unreached=1011))
    wait_for(lambda: dock.train.rest.isVisible())
    assert dock.train.rest.text() == "Predict the other 1,011 slices"
    assert "1011 slices still show an earlier guess" in dock.train.stage.text()
    config = session.config
    dock.train.rest.click()
    until_begun(dock)
    assert session.state is SessionState.RUNNING
    assert not dock.train.rest.isVisible()
    assert session.config == config, "what the person has chosen for the next training stays"
    request = session.current_round.job.folder.read_request()
    assert request.previous == str(job.folder.path)
    assert (request.config.bootstrap_steps, request.config.steps, request.config.time_budget) == (0, 0, None)
    session.current_round.job.write("heart", (3,), pseudo_labels=1)
    session.current_round.job.say(Finished(reason=FinishReason.NOTHING_TO_TRAIN, steps=0, seconds=600))
    wait_for(lambda: session.state is SessionState.IDLE)
    assert not dock.train.rest.isVisible()
    assert dock.train.stage.text().startswith("Every slice is predicted, in 10:00")
