"""State files: exact, tied to one model, and never half-written."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from seqtool.errors import CheckpointError, ConfigError, SeqtoolError
from seqtool.states import Place, check_place, fingerprint, load_place, save_place

PLACE = Place(
    (np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.array([[[3, 1], [0, 2]]])),
    np.array([4, 9]),
    np.array([7], dtype=np.int64),
    [dict(np.random.default_rng(seed).bit_generator.state) for seed in (1, 2)],
    [[1, 2, 3], []],
)


def test_a_place_comes_back_exactly(tmp_path: Path) -> None:
    save_place(tmp_path / "s", PLACE, "model")
    found = load_place(tmp_path / "s", "model")
    for part, same in zip(found.state, PLACE.state, strict=True):
        np.testing.assert_array_equal(part, same, strict=True)
    np.testing.assert_array_equal(found.last_ids, PLACE.last_ids, strict=True)
    np.testing.assert_array_equal(found.pending, PLACE.pending, strict=True)
    assert (found.rngs, found.tails) == (PLACE.rngs, PLACE.tails)
    assert os.listdir(tmp_path) == ["s"]


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    save_place(tmp_path / "s", PLACE, "model")
    with pytest.raises(CheckpointError, match="of another model"):
        load_place(tmp_path / "s", "other")


def test_damage_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s"
    save_place(path, PLACE, "model")
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 41), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="--state"):
            load_place(path, "model")
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="--state"):
            load_place(path, "model")


def test_what_is_no_state_file_is_refused(tmp_path: Path) -> None:
    for content in (b"text\n" * 9, save({}), save({}, {"seqtool_state": json.dumps([1])})):
        (tmp_path / "s").write_bytes(content)
        with pytest.raises(CheckpointError, match="--state"):
            load_place(tmp_path / "s", "model")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match="--save-state"):
            load_place(path, "model")


def test_a_place_where_nothing_can_be_saved_is_found_before_the_work(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "s", Path(""), Path("/dev/null")):
        with pytest.raises(ConfigError, match="--save-state"):
            check_place(path)
    check_place(tmp_path / "new")


def test_a_failed_save_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"earlier")

    def fail(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(SeqtoolError, match="No space left"):
        save_place(path, PLACE, "model")
    assert os.listdir(tmp_path) == ["s"]
    assert path.read_bytes() == b"earlier"


def test_a_fingerprint_sees_names_and_values() -> None:
    one = {"a": np.array([1.0, 2.0]), "b": np.array([3.0])}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    assert fingerprint(one) != fingerprint({"a": np.array([1.0, 2.5]), "b": np.array([3.0])})
    assert fingerprint(one) != fingerprint({"c": np.array([1.0, 2.0]), "b": np.array([3.0])})
    # A view in another memory order is the same array.
    matrix = np.arange(6.0).reshape(2, 3)
    assert fingerprint({"a": matrix}) == fingerprint({"a": np.asfortranarray(matrix)})
