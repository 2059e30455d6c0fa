"""Configs as they come back from files: strictly, in words that say what was needed."""

from dataclasses import asdict
from typing import Any

import pytest

from seqtool.config import DataConfig, DecodeConfig, ModelConfig, TrainConfig, from_dict
from seqtool.errors import ConfigError

CONFIGS = [ModelConfig(), DataConfig(), TrainConfig(), DecodeConfig()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_survives_a_dict(config: Any) -> None:
    assert from_dict(type(config), asdict(config), "here") == config


def test_a_whole_number_will_do_for_a_number_and_what_is_missing_has_its_default() -> None:
    assert from_dict(ModelConfig, {"dropout": 0}, "here") == ModelConfig(dropout=0)
    assert from_dict(ModelConfig, {"ngram_output": None}, "here") == ModelConfig()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"hidden_size": "512"}, "here: hidden_size must be a whole number, got '512'"),
        ({"hidden_size": 1e9}, "hidden_size must be a whole number, got 1000000000.0"),
        ({"hidden_size": None}, "hidden_size must be a whole number, got None"),
        ({"hidden_size": True}, "hidden_size must be a whole number, got True"),
        ({"hidden_size": 0}, "--hidden-size must be at least 1, got 0"),
        ({"dropout": "none"}, "dropout must be a number, got 'none'"),
        ({"tied": 1}, "tied must be true or false, got 1"),
        ({"ngram_output": 0}, "ngram_output must be true or false, got 0"),
        ({"cell": ["lstm"]}, "cell must be one text in quotes, got ['lstm']"),
        ({"cell": "lstmm"}, "--cell must be one of rnn, lstm, gru, got lstmm"),
        ({"size": 3}, "here: unknown setting size; known are backoff_order, cell, dropout"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(ModelConfig, values, "here")
    assert expected in str(error.value)
