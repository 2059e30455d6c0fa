"""The evaluate command, through the real entry point, on tiny models."""

import gzip
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, error_line, train_tiny

from seqtool import scoring
from seqtool.backoff import NGram
from seqtool.checkpoint import load, load_text
from seqtool.mixture import load_partner
from seqtool.models import build_model
from seqtool.scoring import SPELLING_NATS
from seqtool.tokenizer import Tokenizer


def evaluate(run: Run, *argv: object, stdin: str = "") -> dict[str, Any]:
    code, out, err = run("evaluate", *argv, "--json", "-q", stdin=stdin)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def per_token(run: Run, *argv: object) -> list[tuple[str, str]]:
    """Text and bits, as printed, of each token."""
    code, out, _ = run("evaluate", *argv, "--per-token", "--no-baselines", "-q")
    assert code == 0
    lines, table = out.split("\n\n")
    assert "nats/token" in table
    rows = [line.split("\t") for line in lines.splitlines()]
    return [(json.loads(token), bits) for bits, token in rows]


@pytest.fixture(scope="session")
def other_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "other.txt"
    path.write_text("The hen sat.\nA cat fell on the mat and the hens saw the rain.\n" * 9)
    return path


def test_the_score_is_that_of_one_plain_pass(run: Run, model: Path, other_text: Path) -> None:
    saved = load(model)
    tokenizer = Tokenizer.from_json(saved.tokenizer_json, "")
    net = build_model(saved.card.model, saved.card.vocab_size, unknown_id=1, weights=saved.weights)
    text = other_text.read_text()
    ids = torch.from_numpy(np.array([0, *tokenizer.encode(text)]))
    with torch.inference_mode():
        logits, _ = net.eval()(ids[None, :-1])
    nll = torch.nn.functional.cross_entropy(logits[0].double(), ids[1:], reduction="sum").item()
    found = evaluate(run, model, other_text)
    # float32 logits, summed over some 600 tokens
    assert found["network"]["nats_per_token"] == pytest.approx(nll / len(text), rel=1e-5)
    logits, nll = logits[0].double().numpy(), 0.0
    partner = load_partner(saved, model)
    assert partner is not None
    contexts = partner.ngram.start()[None]
    for place in range(len(text)):  # both distributions of every token, mixed as written down
        contexts = partner.ngram.advance(contexts, ids[place : place + 1].numpy())
        counted, depth = partner.ngram.distribution(contexts)
        network = np.exp(logits[place]) / np.exp(logits[place]).sum()
        weight = partner.weights[depth[0]]
        mixed = (1 - weight) * network + weight * counted[0]
        nll -= math.log(mixed[ids[place + 1]])
    assert found["scores"]["nats_per_token"] == pytest.approx(nll / len(text), rel=1e-5)
    assert found["scores"]["perplexity"] == pytest.approx(math.exp(nll / len(text)), rel=1e-5)
    bits = nll / math.log(2) / len(text)
    assert found["scores"]["bits_per_char"] == pytest.approx(bits, rel=1e-5)
    assert (found["task"], found["tokens"], found["characters"]) == (
        "generate",
        len(text),
        len(text),
    )


def test_the_baselines_stand_beside_it(run: Run, model: Path, other_text: Path) -> None:
    found = evaluate(run, model, other_text)
    tokenizer = Tokenizer.from_json(load(model).tokenizer_json, "")
    train_ids = load_text(model)
    assert train_ids is not None
    ids = tokenizer.encode(other_text.read_text())
    nll = NGram(train_ids, tokenizer.vocab_size).nll(ids, np.array([0])).mean()
    assert found["baselines"]["ngram"]["nats_per_token"] == pytest.approx(nll)
    assert 0 < found["baselines"]["xz"]["bits_per_char"] < 8
    assert evaluate(run, model, other_text, "--no-baselines")["baselines"] == {}
    _, out, err = run("evaluate", model, other_text)
    names = [line.split("  ")[0] for line in out.splitlines()[2:]]
    assert names == ["model", "network alone", "n-gram model", "xz"]
    assert "an n-gram model predicts this text better" in err


def test_memory_is_given_back_now_and_then(
    run: Run, model: Path, other_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluate(run, model, other_text)
    given: list[int] = []
    monkeypatch.setattr(scoring, "PIECE", 100)
    monkeypatch.setattr(scoring, "GIVE_BACK_EVERY", 250)
    monkeypatch.setattr(scoring, "give_back", lambda: given.append(1))
    after = evaluate(run, model, other_text)
    assert len(given) == (before["tokens"] + 1) // 250
    assert after["scores"]["nats_per_token"] == pytest.approx(before["scores"]["nats_per_token"])


def test_standard_input_scores_as_a_file(run: Run, model: Path, other_text: Path) -> None:
    packed = io.BytesIO(gzip.compress(other_text.read_bytes())).getvalue()
    expected = evaluate(run, model, other_text)
    assert evaluate(run, model, "-", stdin=other_text.read_text()) == expected
    code, out, _ = run("evaluate", model, "-", "--json", "-q", stdin=packed)
    assert (code, json.loads(out)) == (0, expected)


def test_each_token_is_shown_with_its_cost(run: Run, model: Path, other_text: Path) -> None:
    rows = per_token(run, model, other_text)
    assert "".join(token for token, _ in rows) == other_text.read_text()
    mean = sum(float(bits) for _, bits in rows) / len(rows)
    scores = evaluate(run, model, other_text)["scores"]
    assert mean == pytest.approx(scores["bits_per_char"], abs=1e-4)  # printed with four digits
    _, out, _ = run("evaluate", model, other_text, "--per-token", "--json", "-q")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["token"], f"{line['bits']:.4f}") for line in lines[:-1]] == rows
    assert lines[-1]["scores"] == scores


def test_the_scores_follow_the_tokens(run: Run, model: Path, other_text: Path) -> None:
    options = ("evaluate", model, other_text, "--dynamic", "-q")
    table = run(*options)[1]
    assert "model, dynamic" in table
    assert run(*options, "--per-token")[1].endswith(f"\n\n{table}")


def test_bytes_that_are_no_characters_are_shown_as_json_escapes(
    run: Run, byte_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.txt"
    path.write_text("aé漢\n")
    shown = per_token(run, byte_model, path)
    assert [token for token, _ in shown][:3] == ["a", "\udcc3", "\udca9"]
    spelled = "".join(token for token, _ in shown).encode("utf-8", "surrogateescape")
    assert spelled == path.read_bytes()
    _, out, _ = run("evaluate", byte_model, path, "--per-token", "--json", "-q")
    assert '{"token": "\\udcc3", ' in out


def test_the_held_out_end_is_the_tail_cut_by_hand(
    run: Run, model: Path, text: str, text_file: Path, tmp_path: Path
) -> None:
    tail = tmp_path / "tail.txt"
    tail.write_bytes(text[int(len(text) * 0.9) :].encode())
    assert evaluate(run, model, text_file, "--held-out") == evaluate(run, model, tail)
    code, out, err = run("evaluate", model, tail, "--held-out")
    assert (code, out) == (1, "")
    assert "not the text that" in error_line(err)


def test_a_model_that_held_nothing_out_says_so(
    run: Run, text_file: Path, other_text: Path, tmp_path: Path
) -> None:
    all_of_it = train_tiny(text_file, tmp_path / "a", "--valid-fraction", 0)
    beside = train_tiny(text_file, tmp_path / "b", "--valid", other_text)
    for path, expected in ((all_of_it, "held nothing out"), (beside, "--valid")):
        code, _, err = run("evaluate", path, text_file, "--held-out")
        assert code == 2
        assert expected in error_line(err)


def test_dynamic_is_shown_beside_static(run: Run, model: Path, other_text: Path) -> None:
    static = evaluate(run, model, other_text)
    both = evaluate(run, model, other_text, "--dynamic")
    assert both["scores"] == static["scores"]
    # The same few lines again and again: learning them pays.
    assert both["dynamic"]["nats_per_token"] < static["scores"]["nats_per_token"]
    _, out, _ = run("evaluate", model, other_text, "--dynamic", "-q")
    assert re.search(r"^model  .*\nnetwork alone  .*\nmodel, dynamic  ", out, re.MULTILINE)


def test_int8_is_shown_beside_float32(run: Run, model: Path, other_text: Path) -> None:
    exact = evaluate(run, model, other_text)
    both = evaluate(run, model, other_text, "--precision", "int8")
    assert both["scores"] == exact["scores"]
    cost = both["int8"]["bits_per_char"] - exact["scores"]["bits_per_char"]
    assert 0 < abs(cost) < 0.01
    _, out, _ = run("evaluate", model, other_text, "--precision", "int8", "--dynamic", "-q")
    assert re.search(
        r"^model  .*\nnetwork alone  .*\nmodel, int8  .*\nmodel, dynamic  ", out, re.MULTILINE
    )


def test_unknown_characters_are_counted_and_cost(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("The cat Ж sat.\n")
    found = evaluate(run, model, path)
    assert found["unknown_characters"] == 1
    rows = per_token(run, model, path)
    assert rows[8][0] == "\ufffd"
    assert float(rows[8][1]) > SPELLING_NATS / math.log(2)
    mean = sum(float(bits) for _, bits in rows) / len(rows)
    assert found["scores"]["bits_per_char"] == pytest.approx(mean, abs=1e-4)
    assert "not in the model's vocabulary: 'Ж'" in run("evaluate", model, path)[2]


def test_unknown_characters_are_treated_as_asked(run: Run, model: Path, tmp_path: Path) -> None:
    path, plain = tmp_path / "t.txt", tmp_path / "p.txt"
    path.write_text("Thé cat Ж sat.\n")
    plain.write_text("Th cat  sat.\n")
    code, out, err = run("evaluate", model, path, "--on-unknown", "error", "-q")
    assert (code, out) == (2, "")
    assert "U+0416" in error_line(err)
    skipped = evaluate(run, model, path, "--on-unknown", "skip")
    assert skipped["unknown_characters"] == 2
    assert skipped["scores"] == evaluate(run, model, plain)["scores"]
    # What has no near form stays unknown and is paid for.
    near = evaluate(run, model, path, "--on-unknown", "nearest")
    plain.write_text("The cat Ж sat.\n")
    assert near["scores"] == evaluate(run, model, plain)["scores"]


def test_nothing_left_to_score_is_an_error(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("ЖЖ")
    code, out, err = run("evaluate", model, path, "--on-unknown", "skip", "-q")
    assert (code, out) == (1, "")
    assert "no text to score" in error_line(err)


def test_documents_are_scored_each_from_its_start_mark(
    run: Run, model: Path, tmp_path: Path
) -> None:
    for name, content in (("a.txt", "The cat sat.\n"), ("b.txt", "A hen.\n"), ("c.txt", "")):
        (tmp_path / name).write_text(content)
    found = evaluate(run, model, tmp_path)
    assert (found["tokens"], found["characters"]) == (20, 20)
    rows = per_token(run, model, tmp_path)
    assert "".join(token for token, _ in rows) == "The cat sat.\nA hen.\n"
    assert rows[:13] == per_token(run, model, tmp_path / "a.txt")


@pytest.mark.parametrize("cut", [1, 100, 256, 300])
def test_two_calls_score_what_one_does(
    run: Run, model: Path, other_text: Path, tmp_path: Path, cut: int
) -> None:
    text, state = other_text.read_text(), tmp_path / "state"
    parts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    parts[0].write_text(text[:cut])
    parts[1].write_text(text[cut:])

    def costs(*argv: object) -> list[str]:
        code, out, _ = run("evaluate", model, *argv, "--per-token", "--no-baselines", "-q")
        assert code == 0
        return out.split("\n\n")[0].splitlines()  # the table follows

    first = costs(parts[0], "--save-state", state)
    assert first + costs(parts[1], "--state", state) == costs(other_text)


def test_writing_goes_on_after_scoring(run: Run, model: Path, tmp_path: Path) -> None:
    state, path = tmp_path / "state", tmp_path / "t.txt"
    prompt = "The cat sat on the red mat.\n" * 11  # more than a block
    path.write_text(prompt)
    run("evaluate", model, path, "--save-state", state)
    written = run("generate", model, "--state", state, "-l", 30)[1]
    assert prompt + written == run("generate", model, "-p", prompt, "-l", 30)[1]


def test_the_state_of_several_texts_is_refused(
    run: Run, model: Path, other_text: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    run("generate", model, "-n", 2, "-l", 3, "--save-state", state)
    code, _, err = run("evaluate", model, other_text, "--state", state)
    assert code == 2
    assert "several texts" in error_line(err)
    code, _, err = run("evaluate", model, other_text, "--state", state, "--dynamic")
    assert code == 2
    assert "--dynamic" in error_line(err)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"caf\xe9\n", "--encoding latin-1"),
        ("The".encode("utf-16"), "--encoding utf-16"),
        (b"\0\1\2\3" * 9, "binary"),
        (gzip.compress(b"The cat" * 99, mtime=0)[:-9], "damaged or cut short"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(
    run: Run, model: Path, tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    code, out, err = run("evaluate", model, path, "-q")
    assert (code, out) == (1, "")
    assert expected in error_line(err)


def test_an_encoding_can_be_named(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("The cat".encode("utf-16"))
    assert evaluate(run, model, path, "--encoding", "utf-16")["characters"] == 7
    code, _, err = run("evaluate", model, path, "--encoding", "utf-99")
    assert code == 2
    assert "utf-99" in error_line(err)


def test_bytes_that_are_no_text_are_scored(run: Run, byte_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(bytes(range(256)))
    found = evaluate(run, byte_model, path)
    assert found["tokens"] == found["bytes"] == 256
