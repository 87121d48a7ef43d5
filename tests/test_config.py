import dataclasses
import json

import pytest

from cvae_tf.config import ABOUT_PRESETS, PRESETS, Config, load_config
from cvae_tf.errors import InputError


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_survives_json(preset, tmp_path):
    config = Config(**{**PRESETS[preset], "preset": preset})
    (tmp_path / "config.json").write_text(config.to_json())
    assert load_config(tmp_path / "config.json") == config


def test_every_preset_has_its_line_of_help():
    assert ABOUT_PRESETS.keys() == PRESETS.keys()


def test_json_is_the_flags():
    assert json.loads(Config().to_json()).keys() == {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("text, message", [("{", "not a configuration"), ('{"colour": 1}', "colour"),
                                           ('{"lr": "fast"}', "lr")])
def test_a_damaged_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "config.json")


def test_a_refusal_is_a_value_error():
    with pytest.raises(ValueError, match="num_epoch.* at least 1.* received 0"):
        Config(num_epoch=0)
