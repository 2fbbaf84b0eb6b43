"""The parameters: bounds, presets, text from a command line, and sentences for what does not fit."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from napari_mlbseg.config import PRESETS, TrainingConfig, field_group, field_unit


def test_a_config_is_frozen():
    with pytest.raises(ValidationError):
        TrainingConfig().seed = 3


def test_every_parameter_has_a_help_and_a_group():
    for name, field in TrainingConfig.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field_group(field), name


def test_units_are_told():
    assert field_unit(TrainingConfig.model_fields["time_budget"]) == "s"
    assert field_unit(TrainingConfig.model_fields["seed"]) == ""


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_and_remember_their_name(preset):
    config = TrainingConfig.from_preset(preset)
    assert config.preset == preset
    for name, value in PRESETS[preset].items():
        assert getattr(config, name) == value


def test_the_defaults_are_those_of_the_standard_preset():
    assert TrainingConfig() == TrainingConfig.from_preset("standard")


def test_the_paper_preset_is_the_papers():
    config = TrainingConfig.from_preset("paper")
    assert (config.architecture, config.features) == ("unet++", (64, 128, 256, 512, 1024))
    assert (config.optimiser, config.learning_rate, config.momentum) == ("sgd", 0.005, 0.9)
    assert (config.weight_decay, config.gradient_clip, config.learning_rate_schedule) == (5e-4, 0.2, "paper")
    assert (config.batch_size, config.clean_batch_size, config.n_views, config.patch_size) == (1, 2, 5, 144)
    assert (config.ema_decay, config.teacher_noise, config.meta_gradient) == (0.99, 0.02, "virtual")
    assert (config.initial_labels, config.pseudo_labels_from, config.shape_prior) == ("network", "student", False)


def test_overrides_win_and_text_is_parsed():
    config = TrainingConfig.from_preset("quick", n_views="4", features="8,16", augment="false", time_budget="12.5")
    assert (config.n_views, config.features, config.augment, config.time_budget) == (4, (8, 16), False, 12.5)


@pytest.mark.parametrize("text", ["", "none", " None "])
def test_no_limit_may_be_written(text):
    assert TrainingConfig.from_preset("quick", time_budget=text).time_budget is None


@pytest.mark.parametrize("text", ["[0.5, 0.75]", "(0.5,0.75)", "0.5,0.75"])
def test_ranges_may_be_written(text):
    assert TrainingConfig().updated(zoom_out=text).zoom_out == (0.5, 0.75)


def test_updating_leaves_the_original_alone():
    config = TrainingConfig()
    assert config.updated(seed=7).seed == 7
    assert config.seed == 0


def test_json_and_back():
    config = TrainingConfig.from_preset("paper", seed=3)
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"views": 3}, "There is no parameter 'views': the parameters are device, cluster"),
        ({"n_views": 0}, "'n_views' cannot be 0: .*greater than or equal to 1"),
        ({"n_views": "many"}, "'n_views' cannot be 'many'"),
        ({"learning_rate": 0}, "'learning_rate' cannot be 0: .*greater than 0"),
        ({"time_budget": 1}, "'time_budget' cannot be 1"),
        ({"seed": -1}, "'seed' cannot be -1"),
        ({"device": "tpu"}, "'device' cannot be 'tpu': .*'cpu'"),
        ({"initial_labels": "guess"}, "'initial_labels' cannot be 'guess'"),
        ({"zoom_in": (1.4, 1.1)}, "zoom_in must be a range"),
        ({"zoom_out": (0.1, 0.5)}, "zoom_out must be a range"),
        ({"features": (16,)}, "'features' cannot be"),
        ({"features": (16, 0)}, "features must be positive"),
        ({"ema_decay": 1}, "'ema_decay' cannot be 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(values, words):
    for make in (TrainingConfig.parse, lambda v: TrainingConfig().updated(**v)):
        with pytest.raises(ValueError, match=words) as caught:
            make(values)
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")


def test_an_unknown_preset_is_one_sentence():
    with pytest.raises(ValueError, match="There is no preset 'fast': choose one of quick, standard, paper"):
        TrainingConfig.from_preset("fast")


def test_a_parameter_of_an_earlier_version_is_left_out_of_what_was_stored_but_refused_where_a_person_gives_it():
    stored = {**TrainingConfig().model_dump(mode="json"), "nproc": 1}
    assert TrainingConfig.parse(stored) == TrainingConfig()
    renamed = {"look_again": stored.pop("find_label_errors")}
    assert TrainingConfig.parse({**stored, **renamed}) == TrainingConfig()
    assert not TrainingConfig.parse({**stored, "look_again": False}).find_label_errors
    with pytest.raises(ValueError, match="no parameter 'nproc'"):
        TrainingConfig.parse({"nproc": "2"})
