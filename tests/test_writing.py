"""The generate command, through the real entry point, on tiny models."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Run, error_line
from hypothesis import given
from hypothesis import strategies as st

from seqtool.checkpoint import load, load_text
from seqtool.tokenizer import Tokenizer
from seqtool.writing import StopFinder


def as_objects(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_standard_output_is_the_text_and_nothing_else(run: Run, model: Path) -> None:
    code, out, err = run("generate", model, "-l", 40, "-p", "The ", "-q")
    assert (code, err) == (0, "")
    assert out.startswith("The ")
    assert 4 < len(out) <= 44
    assert run("generate", model, "-l", 40, "-p", "The ", "-q")[1] == out


def test_the_same_seed_writes_the_same_and_another_does_not(run: Run, model: Path) -> None:
    texts = [run("generate", model, "-l", 60, "--seed", seed)[1] for seed in (3, 3, 2**70)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("length", [0, 1, 7])
def test_length_counts_tokens(run: Run, model: Path, length: int) -> None:
    code, out, _ = run("generate", model, "-l", length, "-p", "The", "--json")
    (text,) = as_objects(out)
    assert (code, text["tokens"], text["ended"]) == (0, length, "length")
    assert run("generate", model, "-l", length, "-p", "The")[1] == f"The{text['text']}"


@pytest.mark.parametrize("seed", range(5))
def test_the_first_of_several_texts_is_the_one_alone(run: Run, model: Path, seed: int) -> None:
    alone = as_objects(run("generate", model, "-l", 50, "--seed", seed, "--json")[1])
    several = as_objects(run("generate", model, "-l", 50, "--seed", seed, "-n", 3, "--json")[1])
    assert len(several) == 3
    assert several[0] == alone[0]
    assert several[1]["text"] != several[0]["text"]


def test_several_texts_are_told_apart(run: Run, model: Path) -> None:
    _, out, err = run("generate", model, "-l", 9, "-n", 2, "-p", "The")
    one, two = out.removeprefix("--- 1\n").split("\n--- 2\n")
    assert one.startswith("The")
    assert two.startswith("The")
    assert [line.split(":")[0] for line in err.splitlines()] == ["text 1", "text 2"]


def test_greedy_is_a_temperature_near_zero(run: Run, model: Path) -> None:
    greedy = run("generate", model, "-l", 40, "--greedy")[1]
    assert greedy == run("generate", model, "-l", 40, "--top-k", 1, "--seed", 9)[1]
    assert greedy == run("generate", model, "-l", 40, "-t", "1e-6")[1]


def test_int8_and_threads_write_too(run: Run, model: Path, tmp_path: Path) -> None:
    texts = [
        run("generate", model, "-l", 60, "--precision", "int8", "--threads", n, "-q")
        for n in (1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0][0] == 0
    assert len(texts[0][1]) > 4
    code, _, err = run("generate", model, "--precision", "int4")
    assert code == 2
    assert "--precision" in error_line(err)


def test_a_prompt_comes_from_standard_input_as_it_does_from_a_flag(run: Run, model: Path) -> None:
    given_text = run("generate", model, "-l", 20, "-p", "The cat")[1]
    assert run("generate", model, "-l", 20, "-p", "-", stdin="The cat")[1] == given_text
    code, out, err = run("generate", model, "-p", "-", stdin="")
    assert (code, out) == (1, "")
    assert "empty" in error_line(err)


def test_a_long_prompt_is_read_to_its_end(run: Run, model: Path) -> None:
    prompt = "The cat sat. " * 200
    code, out, _ = run("generate", model, "-l", 10, "-p", "-", stdin=prompt)
    assert code == 0
    assert out.startswith(prompt)


def test_unknown_characters_are_listed_with_names_and_near_forms(run: Run, model: Path) -> None:
    code, out, err = run("generate", model, "-p", "thé Ж")
    assert (code, out) == (2, "")
    line = error_line(err)
    for part in ("'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE, nearest 'e')", "'Ж' (U+0416"):
        assert part in line


@pytest.mark.parametrize(
    ("policy", "shown"), [("skip", "th "), ("replace", "thé Ж"), ("nearest", "the Ж")]
)
def test_unknown_characters_are_dealt_with(run: Run, model: Path, policy: str, shown: str) -> None:
    code, out, err = run("generate", model, "-p", "thé Ж", "-l", 5, "--on-unknown", policy)
    assert (code, out.startswith(shown)) == (0, True)
    assert "2 unknown characters" in err
    assert "\ufffd" not in out


@pytest.mark.parametrize("stop", ["e", "t ", "\n", "he", "a\u20ac"])
def test_a_stop_text_ends_the_text_before_it(run: Run, model: Path, stop: str) -> None:
    whole = as_objects(run("generate", model, "-l", 200, "--json")[1])[0]
    (text,) = as_objects(run("generate", model, "-l", 200, "--stop", stop, "--json")[1])
    before, found, _ = str(whole["text"]).partition(stop)
    assert text["text"] == before
    assert text["ended"] == ("stop" if found else whole["ended"])


def test_the_first_of_several_stop_texts_counts(run: Run, model: Path) -> None:
    whole = run("generate", model, "-l", 200)[1]
    _, out, _ = run("generate", model, "-l", 200, "--stop", "t", "--stop", "e", "--stop", "\n")
    assert out == whole[: min(whole.find(stop) for stop in "te\n" if stop in whole)]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stops_are_found_across_pieces(text: str, stops: list[str]) -> None:
    finder = StopFinder(tuple(stops))
    shown = "".join(finder.push(character) for character in text) + finder.flush()
    # Character by character: the stop text that is complete first ends the text.
    ends = [end for end in range(len(text) + 1) if text[:end].endswith(tuple(stops) or ("c",))]
    if not ends:
        assert (shown, finder.found) == (text, False)
        return
    longest = max(len(stop) for stop in stops if text[: ends[0]].endswith(stop))
    assert (shown, finder.found) == (text[: ends[0] - longest], True)


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_no_copy_is_longer_than_allowed(run: Run, model: Path, text: str, limit: int) -> None:
    train_ids = load_text(model)
    assert train_ids is not None
    tokenizer = Tokenizer.from_json(load(model).tokenizer_json, "")
    known = tokenizer.decode(train_ids)
    assert text.startswith(known)
    options = ("-l", 150, "-n", 2, "--greedy", "--json", "--max-copy", limit)
    for found in as_objects(run("generate", model, *options)[1]):
        written = str(found["text"])
        longest = max(
            n
            for start in range(len(written))
            for n in range(len(written) - start + 1)
            if written[start : start + n] in known
        )
        assert longest == found["longest_copy"]
        assert longest <= limit


@pytest.mark.parametrize("limit", [3, 8, 30])
@pytest.mark.parametrize("split", [0, 12, 25])
def test_a_run_that_begins_in_the_prompt_counts(
    run: Run, model: Path, text: str, tmp_path: Path, limit: int, split: int
) -> None:
    known = text[: int(len(text) * 0.9)]  # the rest was held out
    prompt, state = known[300:325], tmp_path / "state"
    options = ("--greedy", "--json", "-q", "--max-copy", limit)
    # Whether the prompt is given at once or in two calls.
    run("generate", model, "-l", 0, "-p", prompt[:split], "--save-state", state, "-q")
    rest = ("-p", prompt[split:], "--state", state)
    (found,) = as_objects(run("generate", model, "-l", 40, *options, *rest)[1])
    written = prompt + str(found["text"])
    longest = max(
        n
        for end in range(len(prompt) + 1, len(written) + 1)
        for n in range(end + 1)
        if written[end - n : end] in known
    )
    assert longest == found["longest_copy"]
    assert longest <= limit


def test_without_the_training_text_copies_cannot_be_limited(
    run: Run, model: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "text.safetensors").unlink()
    code, out, err = run("generate", bare, "--max-copy", 5)
    assert (code, out) == (2, "")
    assert "does not hold its training text" in error_line(err)
    state = tmp_path / "state"
    code, _, err = run("generate", bare, "-l", 5, "--save-state", state)
    assert (code, err) == (0, "")
    # Of the same weights, so the state of one goes with the other.
    assert run("generate", model, "-l", 5, "--state", state)[0] == 0
    run("generate", model, "-l", 5, "--save-state", state)
    assert run("generate", bare, "-l", 5, "--state", state)[0] == 0


def test_json_holds_what_was_asked(run: Run, byte_model: Path) -> None:
    _, out, err = run("generate", byte_model, "-n", 2, "-l", 30, "--json", "-q", "--seed", 4)
    assert err == ""
    for found in as_objects(out):
        keys = {"prompt", "text", "tokens", "ended", "seed", "longest_copy", "copied_share"}
        assert found.keys() == keys
        str(found["text"]).encode()  # no lone surrogates


@pytest.mark.parametrize("kind", ["model", "byte_model"])
@pytest.mark.parametrize("cut", [1, 2, 3, 25])
def test_two_calls_write_what_one_does(
    run: Run, request: pytest.FixtureRequest, tmp_path: Path, kind: str, cut: int
) -> None:
    path, state = request.getfixturevalue(kind), tmp_path / "state"
    options = ("generate", path, "-q", "-t", 1.5, "--seed", 5)
    whole = run(*options, "-l", 60, "-p", "The")[1]
    first = run(*options, "-l", cut, "-p", "The", "--save-state", state)[1]
    # The seed is in the state: it need not be given again.
    second = run("generate", path, "-q", "-t", 1.5, "-l", 60 - cut, "--state", state)[1]
    # Half a character may end the first call, so the bytes count.
    parts = [part.encode("utf-8", "surrogateescape") for part in (first, second, whole)]
    assert parts[0] + parts[1] == parts[2]


def test_several_texts_go_on_together(run: Run, model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ("generate", model, "--json")
    whole = as_objects(run(*options, "-n", 3, "-l", 20)[1])
    first = as_objects(run(*options, "-n", 3, "-l", 8, "--save-state", state)[1])
    second = as_objects(run(*options, "-l", 12, "--state", state)[1])
    for one, two, both in zip(first, second, whole, strict=True):
        assert f"{one['text']}{two['text']}" == both["text"]
    code, _, err = run(*options, "-n", 2, "--state", state)
    assert code == 2
    assert "holds 3 texts" in error_line(err)


def test_copies_are_counted_across_calls(run: Run, model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ("generate", model, "--greedy", "--max-copy", 4)
    whole = run(*options, "-l", 60)[1]
    first = run(*options, "-l", 31, "--save-state", state)[1]
    assert first + run(*options, "-l", 29, "--state", state)[1] == whole


def test_a_prompt_may_follow_a_state(run: Run, model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    run("generate", model, "-l", 0, "-p", "The cat", "--save-state", state)
    split = run("generate", model, "-l", 20, "-p", " sat", "--state", state)[1]
    assert f"The cat{split}" == run("generate", model, "-l", 20, "-p", "The cat sat")[1]


def test_the_state_of_another_model_is_refused(
    run: Run, model: Path, byte_model: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    run("generate", model, "-l", 3, "--save-state", state)
    code, out, err = run("generate", byte_model, "--state", state)
    assert (code, out) == (1, "")
    assert "of another model" in error_line(err)


def test_a_place_for_the_state_is_looked_for_before_the_writing(
    run: Run, model: Path, tmp_path: Path
) -> None:
    for path in (tmp_path, tmp_path / "none" / "state"):
        code, out, err = run("generate", model, "--save-state", path)
        assert (code, out) == (2, "")
        assert "--save-state" in error_line(err)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-l", -1), "--length must be at least 0, got -1"),
        (("-n", 0), "--num must be at least 1, got 0"),
        (("-t", 0), "--temperature must be above 0, got 0"),
        (("-t", "nan"), "--temperature must be above 0, got nan"),
        (("--top-k", -1), "--top-k must be at least 0"),
        (("--top-p", 1.5), "--top-p must be above 0 and at most 1, got 1.5"),
        (("--min-p", -0.1), "--min-p must be from 0 to 1, got -0.1"),
        (("--max-copy", -1), "--max-copy must be at least 0"),
        (("--seed", -1), "--seed must be at least 0"),
        (("--stop", ""), "--stop must be a text of at least one character"),
        (("--on-unknown", "explode"), "--on-unknown"),
        (("--threads", 0), "--threads"),
        (("-n", 10**12), "not enough memory"),
        (("--device", "mps"), "--device mps"),
    ],
)
def test_options_out_of_range_are_one_line(
    run: Run, model: Path, options: tuple[object, ...], expected: str
) -> None:
    code, out, err = run("generate", model, *options)
    assert code in (1, 2)
    assert out == ""
    assert expected in error_line(err)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "missing", "directory"])
def test_a_damaged_model_is_one_line(
    run: Run, model: Path, tmp_path: Path, name: str, damage: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    whole = (broken / name).read_bytes()
    (broken / name).unlink()
    if damage == "cut":
        (broken / name).write_bytes(whole[: len(whole) // 2])
    elif damage == "directory":
        (broken / name).mkdir()
    code, out, err = run("generate", broken)
    assert (code, out) == (1, "")
    assert name in error_line(err)


def test_what_is_no_model_is_one_line(run: Run, text_file: Path, tmp_path: Path) -> None:
    for path in (text_file, tmp_path, tmp_path / "none"):
        code, out, err = run("generate", path)
        assert (code, out) == (1, "")
        assert str(path) in error_line(err)
