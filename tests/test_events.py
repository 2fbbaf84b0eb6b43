"""Events: one line of JSON each, and exactly three kinds end a job."""

from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from napari_mlbseg.events import (
    Cancelled,
    Failed,
    Finished,
    FinishReason,
    HeldOut,
    Losses,
    Metrics,
    Preview,
    Progress,
    Stage,
    Started,
    from_json,
    is_terminal,
    to_json,
)

EVENTS = [
    Started(device="CPU, 2 threads", seed=3, pid=17, version="1"),
    Progress(stage=Stage.TRAIN, fraction=0.5, step=10, seconds=3.5, seconds_left=4, message="two\nlines, ü"),
    Losses(stage=Stage.BOOTSTRAP, step=4, values={"clean": 0.25, "prior": None}),
    Preview(volume="heart", slices=(3, 1), arrays=("pseudo_labels",), stage=Stage.PREDICT, seconds=1),
    Preview(
        volume="heart",
        slices=(3, 1),
        arrays=(),
        stage=Stage.TRAIN,
        statistics={"uncertainty": (2.5, 0.0), "weight": (None, 0.75)},
    ),
    Metrics(values={"steps": 3, "device": "CPU", "dice": 0.5, "none": None}),
    HeldOut(volume="heart", slice=4, dice=0.9, hd95=None, classes={1: (0.9, 2.5), 7: (0.0, None)}),
    Finished(reason=FinishReason.TIME, steps=9, seconds=60.5),
    Cancelled(steps=2, seconds=1),
    Failed(message="It died.", advice="Try again.", returncode=-9, log_tail="a\nb"),
]
by_kind = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)


@by_kind
def test_every_event_is_one_line_and_comes_back(event):
    line = to_json(event)
    assert "\n" not in line
    assert from_json(line) == event
    assert from_json(line.encode()) == event


@by_kind
def test_three_kinds_are_terminal(event):
    assert is_terminal(event) == (event.type in ("finished", "cancelled", "failed"))


@by_kind
def test_an_event_is_frozen(event):
    with pytest.raises(ValidationError):
        event.type = "other"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_does_not_know_is_null(value):
    line = to_json(Losses(stage=Stage.TRAIN, step=1, values={"clean": value}))
    assert json.loads(line)["values"] == {"clean": None}
    assert from_json(line).values == {"clean": None}


def test_a_field_of_a_later_version_is_ignored():
    line = json.dumps({"type": "cancelled", "steps": 3, "mood": "good"})
    assert from_json(line) == Cancelled(steps=3)


def test_a_preview_of_an_earlier_version_has_no_statistics():
    line = '{"type": "preview", "volume": "heart", "slices": [1], "arrays": [], "stage": "train"}'
    assert from_json(line).statistics == {}


BEYOND_THE_END = '{"type": "progress", "stage": "train", "fraction": 2}'


@pytest.mark.parametrize("line", ["", "{}", '{"type": "other"}', BEYOND_THE_END])
def test_what_is_no_event_is_refused(line):
    with pytest.raises(ValidationError):
        from_json(line)
