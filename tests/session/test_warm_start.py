"""Which earlier model the next round starts from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from napari_mlbseg.config import NETWORK_FIELDS
from napari_mlbseg.session.round_history import RoundHistory

from .conftest import train

OTHERS = {"architecture": "unet", "features": (8, 16), "norm": "instance", "context": 1, "shape_prior": False}


@pytest.fixture
def past(saved, fake_jobs):
    """A round that left a model."""
    saved.config = saved.config.from_preset("quick")
    past = train(saved)
    past.job.folder.model_file.touch()
    return past


@pytest.fixture
def history(past) -> RoundHistory:
    history = RoundHistory()
    history.rounds.append(past)
    return history


def test_the_next_round_starts_from_the_last_model(history, past):
    assert history.warm_for(past.task) is past
    past.job.folder.model_file.unlink()
    assert history.warm_for(past.task) is None


def test_every_parameter_that_forms_the_network_is_tried():
    assert set(OTHERS) == set(NETWORK_FIELDS)


@pytest.mark.parametrize("field", OTHERS)
def test_a_model_of_another_network_is_not_started_from(history, past, field):
    assert getattr(past.task.config, field) != OTHERS[field]
    other = replace(past.task, config=past.task.config.updated(**{field: OTHERS[field]}))
    assert history.warm_for(other) is None


def test_nor_is_one_of_other_classes(history, past):
    assert history.warm_for(replace(past.task, class_values=(0, 7))) is None
