"""Cards that say what training never would are refused before anything relies on them."""

from typing import Any

import pytest

from seqtool.checkpoint import Card
from seqtool.claims import (
    check_data,
    check_fitted,
    check_pairs,
    each,
    number,
    optional,
    text,
    whole,
)
from seqtool.config import TaggerConfig, TrainConfig, TreebankConfig
from seqtool.errors import CheckpointError

SOUND: dict[str, Any] = {
    "name": "a.csv",
    "sha256": "0f",
    "valid": None,
    "train_rows": 3,
    "classes": ["bad", "good"],
    "class_counts": [3, 0],
}


def card(source: dict[str, Any], best: object = None) -> Card:
    configs = TaggerConfig(), TreebankConfig(), TrainConfig()
    return Card("tag", *configs, vocab_size=9, source=source, extra={"best": best})


def test_a_sound_card_gives_its_classes():
    more = {"column": optional(whole(1))}
    assert check_data(card(SOUND | {"column": 1}), more, "m") == ["bad", "good"]
    assert check_data(card(SOUND | {"column": None}), more, "m") == ["bad", "good"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("name", 1), ("sha256", None), ("valid", 0), ("train_rows", 0), ("train_rows", True)),
        *(("classes", "ab"), ("classes", ["a"]), ("classes", ["a", "a"]), ("classes", ["a", 1])),
        *(("class_counts", [3]), ("class_counts", [0, 0]), ("class_counts", [4, -1])),
        *(("column", 0), ("column", 1.0)),
    ],
)
def test_a_wrong_type_size_or_range_is_named(name: str, value: object):
    source = SOUND | {"column": 1, name: value}
    with pytest.raises(CheckpointError, match=rf"^m: config.json: {name} is "):
        check_data(card(source), {"column": whole(1)}, "m")


@pytest.mark.parametrize("name", [*SOUND, "column"])
def test_what_is_missing_is_named(name: str):
    source = {key: value for key, value in (SOUND | {"column": 1}).items() if key != name}
    with pytest.raises(CheckpointError, match=f"no {name}"):
        check_data(card(source), {"column": whole(1)}, "m")


def test_what_was_never_fitted_is_not_asked_for():
    needed = {"power": number, "names": each(text, 2)}
    for best in (None, {}, {"power": 0.5}, {"power": 1, "names": ["a", "b"], "step": 4}):
        check_fitted(card(SOUND, best), needed, "m")
    for best in ({"power": float("nan")}, {"power": 10**30}, {"power": "1"}, {"names": ["a"]}):
        with pytest.raises(CheckpointError, match="training never"):
            check_fitted(card(SOUND, best), needed, "m")


PAIRS: dict[str, Any] = {
    **{"name": "a.tsv", "sha256": "0f", "source_column": "en", "target_column": "de,fr"},
    **{"target": None, "valid": None, "valid_target": "b.de"},
    "longest": {"ratio": 1.5, "source": 9, "target": 7},
}


def test_a_sound_card_of_pairs_passes_also_without_what_older_ones_lack():
    check_pairs(card(PAIRS), "m")
    check_pairs(card({}), "m")
    check_pairs(card({"longest": {}}), "m")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": None}, {"sha256": 1}, {"source_column": ["en"]}, {"target_column": {}}),
        *({"target": 0}, {"valid": []}, {"valid_target": False}, {"longest": []}),
        *({"longest": {"ratio": "1"}}, {"longest": {"source": 0}}, {"longest": {"target": 1.5}}),
    ],
)
def test_what_training_never_says_of_pairs_is_named(wrong: dict[str, Any]):
    ((name, value),) = wrong.items()
    if isinstance(value, dict) and value:
        (name,) = value
    with pytest.raises(CheckpointError, match=rf"^m: config.json: {name} is "):
        check_pairs(card(PAIRS | wrong), "m")
