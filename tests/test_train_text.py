"""The train command, through the real entry point: what it reads, chooses, says, saves, resumes."""

import gzip
import json
import lzma
import os
import re
import shlex
import shutil
import signal
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, error_line, train_tiny

from seqtool import runs
from seqtool.checkpoint import LAST, ModelDir, load, load_last
from seqtool.config import NGRAM_LOGITS_VOCABULARY
from seqtool.display import TrainingDisplay
from seqtool.errors import SeqtoolError
from seqtool.runs import _signals
from seqtool.trainer import Look, Trainer

TIMES = ("seconds", "seconds_left", "tokens_per_s")  # no two runs share them


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return load(path).weights


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


def events_of(path: Path) -> list[dict[str, object]]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def test_standard_output_is_the_path_of_the_model(
    run: Run, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a b"
    code, shown, err = run("train", text_file, *TINY, "--steps", 3, "-o", out)
    assert (code, shown) == (0, f"{out}\n")
    parts = ("characters", "entries (char)", "held out", "3 steps", "end  ")
    reasons = (r"1 x 16 units, dropout 0\*", r"\* chosen +dropout 0 for about 0.0 epochs; learning")
    assert all(re.search(reason, err) for reason in reasons)
    for part in parts:
        assert part in err
    names = {"config.json", "tokenizer.json", "model.safetensors", "last.safetensors"}
    names |= {"metrics.jsonl", "text.safetensors", "counts.safetensors"}
    assert set(os.listdir(out)) == names
    again = run("train", text_file, *TINY, "--steps", 3, "-o", out, "--force", "-q")
    assert again == (0, f"{out}\n", "")


def test_json_lines_are_the_events_of_the_run(run: Run, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "m"
    code, shown, err = run("train", text_file, *TINY, "--steps", 5, "-o", out, "--json", "-q")
    assert (code, err) == (0, "")
    assert shown == (out / "metrics.jsonl").read_text()
    kinds = [json.loads(line)["event"] for line in shown.splitlines()]
    assert kinds[-1] == "end"
    assert {"report", "eval", "sample"} <= set(kinds)


def test_rare_and_strange_characters_are_pointed_out(run: Run, text: str, tmp_path: Path) -> None:
    data = tmp_path / "t.txt"
    data.write_text(f"\u200bq{text}\x07\x07", encoding="utf-8")
    _, _, err = run("train", data, *TINY, "--steps", 1, "-o", tmp_path / "m")
    assert re.search(r"strange +2 characters: U\+0007 x2, U\+200B x1", err)
    assert re.search(r"rare +\d+ characters: .*q x1", err)


def test_a_text_shorter_than_a_batch_shrinks_it(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "t.txt"
    data.write_text("The cat sat on the mat.\n")
    options = ("train", data, "--steps", 2, "--hidden-size", 8, "-o", tmp_path / "m")
    code, _, err = run(*options, "--batch-size", 50, "--bptt", 100)
    assert code == 0
    assert "only 22 training tokens: batch size 1 and bptt 22 instead of 50 and 100" in err
    # The same command goes on with it.
    code, _, err = run(*options, "--batch-size", 50, "--bptt", 100, "--resume")
    assert (code, "is finished" in err) == (0, True)
    code, _, err = run(*options, "--batch-size", 50, "--bptt", 7, "--resume", "-q")
    assert "contradicts the saved run" in error_line(err)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"a", "1 character"),
        (b"caf\xe9 " * 99, "--encoding latin-1"),
        (("The cat" * 99).encode("utf-16"), "--encoding utf-16"),
        (("The cat" * 99).encode("utf-16-le"), "--encoding utf-16-le"),
        (b"\0\1\2\3" * 99, "binary"),
        (gzip.compress(b"The cat" * 99, mtime=0)[:-9], "damaged or cut short"),
    ],
)
def test_a_text_that_cannot_be_used_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    data, out = tmp_path / "t.txt", tmp_path / "m"
    if content is not None:
        data.write_bytes(content)
    code, shown, err = run("train", data, *TINY, "--steps", 1, "-o", out, "-q")
    assert (code, shown) == (1, "")
    assert expected in error_line(err)
    assert str(data) in err
    assert not out.exists()


def test_a_directory_without_text_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("train", tmp_path, "-q", "-o", tmp_path / "m")
    assert code == 1
    assert "no .txt file" in error_line(err)


def test_what_is_in_the_way_stays(run: Run, text_file: Path, model: Path, tmp_path: Path) -> None:
    file, folder, old = tmp_path / "file", tmp_path / "folder", tmp_path / "old"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    shutil.copytree(model, old)
    for out, options, expected in (
        (file, (), "a file is in the way"),
        (folder, ("--force",), "not even --force"),
        (old, (), "add --resume, or --force"),
        (old, ("--force", "--resume"), "give one"),
    ):
        code, shown, err = run("train", text_file, *TINY, "-o", out, "-q", *options)
        assert (code, shown) == (2, "")
        assert expected in error_line(err)
    assert file.read_text() == (folder / "mine.txt").read_text() == "mine"
    assert_same(weights_of(old), weights_of(model))


@pytest.mark.parametrize("form", ["gz", "xz", "stdin", "directory"])
def test_every_way_to_give_a_text_trains_the_same(
    run: Run, text_file: Path, model: Path, tmp_path: Path, form: str
) -> None:
    content, data, stdin = text_file.read_bytes(), tmp_path / "data", b""
    if form == "directory":
        data.mkdir()
        (data / "a.txt").write_bytes(content)
    elif form == "stdin":
        data, stdin = Path("-"), content
    else:
        data.write_bytes((gzip if form == "gz" else lzma).compress(content))
    out = tmp_path / "m"
    code, _, err = run("train", data, *TINY, "--steps", 30, "-o", out, "-q", stdin=stdin)
    assert (code, err) == (0, "")
    assert_same(weights_of(out), weights_of(model))


def test_several_files_are_several_documents(run: Run, text: str, tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "ignored.csv"):
        (tmp_path / name).write_text(text)
    _, _, err = run("train", tmp_path, *TINY, "--steps", 1, "-o", tmp_path / "m")
    assert "in 2 files" in err


def test_bytes_that_are_no_text_are_learned_as_bytes(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "a.bin"
    data.write_bytes(bytes(range(256)) * 8)
    argv = ("train", data, *TINY, "--steps", 2, "-o", tmp_path / "m", "-q")
    assert "train with --tokenizer byte" in error_line(run(*argv)[2])
    assert run(*argv, "--tokenizer", "byte") == (0, f"{tmp_path / 'm'}\n", "")


@pytest.mark.parametrize("kind", ["byte", "word", "bpe"])
def test_every_tokenizer_works_end_to_end(
    run: Run, text_file: Path, tmp_path: Path, kind: str
) -> None:
    options = ("--tokenizer", kind, "--vocab-size", 320, "--steps", 4)
    path = train_tiny(text_file, tmp_path / "m", *options)
    code, out, _ = run("generate", path, "-p", "The caté😀", "-l", 9, "-q")
    assert code == 0
    assert out.startswith("The caté😀")
    _, out, _ = run("evaluate", path, text_file, "--json", "-q")
    found = json.loads(out)
    assert found["characters"] == len(text_file.read_text())
    assert (found["tokens"] < found["characters"]) == (kind != "byte")


def test_epochs_are_exact_and_repeatable(text_file: Path, tmp_path: Path) -> None:
    paths = [train_tiny(text_file, tmp_path / name, "--epochs", 0.5) for name in "ab"]
    saved = load(paths[0])
    tokens = saved.card.source["train_tokens"]
    assert saved.card.train.steps == round(0.5 * tokens / (4 * 16))
    assert events_of(paths[0])[-1]["step"] == saved.card.train.steps
    assert_same(saved.weights, weights_of(paths[1]))
    assert events_of(paths[0]) == events_of(paths[1])


def test_another_text_can_be_held_out(run: Run, text: str, text_file: Path, tmp_path: Path) -> None:
    valid, out = tmp_path / "v.txt", tmp_path / "m"
    valid.write_text("The rain fell.\n" * 9)
    options = ("train", text_file, *TINY, "--steps", 3, "-o", out, "--valid", valid)
    code, _, err = run(*options)
    assert code == 0
    assert "all to train on; 135 characters of --valid" in err
    assert load(out).card.source["train_chars"] == len(text)
    code, _, err = run("train", text_file, "-o", out, "--resume", "-q")
    assert code == 1
    assert f"resume with --valid {valid}" in error_line(err)


def test_new_characters_extend_the_vocabulary_of_a_parent(
    run: Run, model: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "t.txt", tmp_path / "m"
    data.write_text("Ünd the cat säß.\n" * 30)
    options = ("train", data, "--init-from", model, "--steps", 1, "--lr", 1e-9, "-o", out)
    code, _, err = run(*options)
    assert code == 0
    assert "3 new characters extend its vocabulary: Ü x30, ß x30, ä x30" in err
    assert "1 x 16 units" in err  # no star: the size is the parent's, not chosen
    before, after = load(model), load(out)
    assert after.card.vocab_size == before.card.vocab_size + 3
    assert after.card.model.hidden_size == 16
    # A step at almost no learning rate leaves the old rows where they were.
    rows = after.weights["embedding.weight"][: before.card.vocab_size]
    np.testing.assert_allclose(rows, before.weights["embedding.weight"], atol=1e-6)


@pytest.mark.parametrize("options", [(), ("--no-ngram-output",)])
def test_a_vocabulary_may_grow_past_the_size_for_which_a_new_model_has_logit_tables(
    run: Run, text_file: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    parent = train_tiny(text_file, tmp_path / "parent", *options)
    data, out = tmp_path / "t.txt", tmp_path / "m"
    data.write_text("".join(map(chr, range(0x4E00, 0x4E00 + NGRAM_LOGITS_VOCABULARY))) * 2)
    code, _, err = run("train", data, "--init-from", parent, "--steps", 2, "-o", out, "-q")
    assert (code, err) == (0, "")
    before, after = load(parent), load(out)
    assert after.card.vocab_size == before.card.vocab_size + NGRAM_LOGITS_VOCABULARY
    width = after.weights["ngrams.weight"].shape[1] - after.card.model.embed_size
    assert width == (0 if options else after.card.vocab_size)
    assert run("generate", out, "-l", 5)[0] == 0
    # Without a parent, so large a vocabulary gets none, unless asked for.
    code, shown, _ = run("train", data, "--steps", 2, "--show-config", "-q")
    assert tomllib.loads(shown)["ngram-output"] is False


@pytest.mark.parametrize(
    "flag", [("--hidden-size", 17), ("--tokenizer", "byte"), ("--cell", "gru")]
)
def test_a_flag_that_does_not_fit_the_parent_is_refused(
    run: Run, text_file: Path, model: Path, tmp_path: Path, flag: tuple[object, ...]
) -> None:
    out = tmp_path / "m"
    code, _, err = run("train", text_file, "--init-from", model, "-o", out, "-q", *flag)
    assert code == 2
    assert f"{flag[0]} {flag[1]} does not fit --init-from" in error_line(err)


def stop_at_event(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something when the run shows an event of this number, counted from 0."""
    show, seen = TrainingDisplay.show, [0]

    def counted(display: TrainingDisplay, event: dict[str, object]) -> None:
        show(display, event)
        if seen[0] == number:
            act()
        seen[0] += 1

    monkeypatch.setattr(TrainingDisplay, "show", counted)


@pytest.mark.parametrize(("name", "number"), [("SIGINT", 0), ("SIGTERM", 7), ("SIGHUP", 3)])
def test_an_interrupted_run_goes_on_to_the_bit(
    run: Run,
    text_file: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
) -> None:
    out = tmp_path / "it's a model"  # the command must be fit for a shell
    stop = getattr(signal, name)
    if name == "SIGHUP":
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)  # as without nohup
    with monkeypatch.context() as patch:
        stop_at_event(patch, number, lambda: os.kill(os.getpid(), stop))
        code, shown, err = run("train", text_file, *TINY, "--steps", 30, "-o", out)
    assert (code, shown) == (128 + stop, "")
    last = err.splitlines()[-1]
    step = int(re.search(r"saved after step (\d+)", last)[1])  # type: ignore[index]
    assert 0 < step < 30
    words = shlex.split(last.split("go on with: ")[1])
    assert words[0] == "seqtool"
    assert run(*words[1:], "-q") == (0, f"{out}\n", "")
    assert_same(weights_of(out), weights_of(model))
    assert_same(load_last(out)[0], load_last(model)[0])
    assert events_of(out) == events_of(model)


def test_a_run_goes_on_on_the_device_where_it_began(
    run: Run, text_file: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although ``auto`` would now be a GPU, of which nothing works here."""
    out = tmp_path / "m"
    shutil.copytree(stopped, out)
    found = "cuda"
    monkeypatch.setattr(
        "seqtool.devices.torch_device",
        lambda device: torch.device(found if device == "auto" else device),
    )
    code, _, err = run("train", text_file, "-o", out, "--resume")
    assert (code, "was trained on" in err) == (0, False)


def test_a_run_whose_device_is_gone_says_so(
    run: Run, text_file: Path, stopped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    shutil.copytree(stopped, out)
    card = load(out).card
    ModelDir.resume(out).save_card(replace(card, extra=card.extra | {"device": "cuda"}))
    code, _, err = run("train", text_file, "-o", out, "--resume", "-q")
    assert code == 0
    assert "was trained on cuda so far, this goes on on cpu" in err


def test_a_run_that_stopped_early_is_finished(
    run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "evaluate", lambda trainer: Look(1.0, {"val_loss": 1.0}))
    options = ("train", text_file, *TINY, "--steps", 400, "-o", tmp_path / "m")
    code, _, err = run(*options, "--patience", 2)
    assert code == 0
    assert "early stop" in err
    code, shown, err = run("train", text_file, "-o", tmp_path / "m", "--resume")
    assert (code, shown) == (0, f"{tmp_path / 'm'}\n")
    line = err.splitlines()[-1]
    assert "stopped early, at step 45, after 2 evaluations without a better one" in line
    assert "--init-from" in line


@pytest.mark.parametrize("kind", ["end", "path"])
def test_a_finished_run_whose_output_is_lost_says_that_it_is_finished(
    run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(text: str) -> None:
        if kind == "path" or '"end"' in text:
            raise SeqtoolError("standard output: full")

    out = tmp_path / "m"
    monkeypatch.setattr(runs, "emit", fail)
    options = ("--json",) if kind == "end" else ()
    code, _, err = run("train", text_file, *TINY, "--steps", 3, "-o", out, "-q", *options)
    assert code == 1
    assert error_line(err) == f"standard output: full; the model is complete in {out}\n"


def test_a_second_signal_closes_the_display_and_quits(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr("os._exit", done.append)
    before = signal.getsignal(signal.SIGTERM)
    with _signals(lambda: done.append("closed")) as interrupted:
        assert interrupted() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupted() == "SIGTERM"
        assert done == []
        os.kill(os.getpid(), signal.SIGINT)
        assert done == ["closed", 130]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        with _signals(lambda: None) as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupted() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("lost", [BrokenPipeError(), SeqtoolError("standard output: full")])
def test_a_run_whose_output_is_lost_is_saved(
    run: Run,
    text_file: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: Exception,
) -> None:
    def fail(text: str) -> None:
        raise lost

    out, options = tmp_path / "m", ("train", text_file, *TINY, "--steps", 30, "--json", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "emit", fail)
        code, shown, err = run(*options, "-o", out)
    assert (code, shown) == (1, "")
    if isinstance(lost, BrokenPipeError):
        assert err == ""
    else:
        assert "go on with: seqtool train" in error_line(err)
    assert run(*options, "-o", out, "--resume")[0] == 0
    assert_same(weights_of(out), weights_of(model))


@pytest.fixture(scope="module")
def stopped(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted; tests only read it."""
    out = tmp_path_factory.mktemp("models") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        stop_at_event(patch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(AssertionError):  # it does not end with 0
            train_tiny(text_file, out)
    return out


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (("--hidden-size", 17), "--hidden-size 17 (flag) contradicts the saved run, which has 16"),
        (("--layers", 2), "--layers 2 (flag) contradicts the saved run, which has 1"),
        (("--lr", 0.5), "--lr 0.5 (flag) contradicts"),
        (("--steps", 31), "--steps 31 (flag) contradicts the saved run, which has 30"),
        (("--budget", "9s"), "--budget 9s contradicts the saved run, which has --steps 30"),
        (("--epochs", 2), "--epochs 2 contradicts the saved run, which has --steps 30"),
        (("--valid-fraction", 0.2), "--valid-fraction 0.2"),
        (("--init-from", "x"), "--init-from starts a new one"),
    ],
)
def test_a_flag_that_contradicts_the_saved_run_is_refused(
    run: Run, text_file: Path, stopped: Path, flag: tuple[object, ...], expected: str
) -> None:
    code, shown, err = run("train", text_file, "-o", stopped, "--resume", "-q", *flag)
    assert (code, shown) == (2, "")
    assert expected in error_line(err)


def test_the_environment_may_not_contradict_the_saved_run(
    run: Run, text_file: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQTOOL_BPTT", "5")
    code, _, err = run("train", text_file, "-o", stopped, "--resume", "-q")
    assert code == 2
    assert "--bptt 5 (environment) contradicts" in error_line(err)


def test_another_text_cannot_be_resumed_with(
    run: Run, text: str, stopped: Path, tmp_path: Path
) -> None:
    data = tmp_path / "t.txt"
    data.write_text(f"{text[:-1]}!")
    code, _, err = run("train", data, "-o", stopped, "--resume", "-q")
    assert code == 1
    assert "not the data that" in error_line(err)


def test_resuming_a_finished_run_only_says_so(run: Run, text_file: Path, model: Path) -> None:
    code, shown, err = run("train", text_file, "-o", model, "--resume")
    assert (code, shown) == (0, f"{model}\n")
    assert "is finished (30 of 30 steps)" in err.splitlines()[-1]


@pytest.mark.parametrize("there", ["nothing", "an empty directory"])
def test_resuming_where_nothing_is_begins(
    run: Run, text_file: Path, model: Path, tmp_path: Path, there: str
) -> None:
    out = tmp_path / "m"
    if there != "nothing":
        out.mkdir()
    code, shown, err = run("train", text_file, *TINY, "--steps", 30, "-o", out, "--resume")
    assert (code, shown) == (0, f"{out}\n")
    assert f"nothing to resume in {out} yet: the run begins" in err
    assert_same(weights_of(out), weights_of(model))


def test_a_model_without_its_last_state_cannot_be_resumed(
    run: Run, text_file: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m"
    shutil.copytree(model, out)
    (out / LAST).unlink()
    code, _, err = run("train", text_file, "-o", out, "--resume", "-q")
    assert code == 1
    assert "no last.safetensors" in error_line(err)


@pytest.mark.parametrize(
    "options",
    [
        ("--steps", 7, "--cell", "gru"),
        ("--epochs", 2, "--layers", 2),
        ("--budget", "1m", "--eval-every", 5),
        (),
    ],
)
def test_settings_shown_are_a_file_that_asks_for_them(
    run: Run, text_file: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    out = tmp_path / "m"
    code, shown, err = run("train", text_file, "-o", out, "--show-config", "-q", *options)
    assert (code, err, out.exists()) == (0, "", False)
    values = tomllib.loads(shown)
    assert all(" # " in line for line in shown.splitlines())
    assert len({"budget", "epochs", "steps"} & values.keys()) == 1
    for name, value in zip(options[::2], options[1::2], strict=True):
        shown_name = {"layers": "num-layers"}.get(str(name)[2:], str(name)[2:])
        line = next(line for line in shown.splitlines() if line.startswith(f"{shown_name} = "))
        assert line.endswith("# flag")
        assert values[shown_name] == ("1m" if name == "--budget" else value)
    path = tmp_path / "s.toml"
    path.write_text(shown)
    code, again, err = run("train", text_file, "--config", path, "--show-config", "-q")
    assert (code, err) == (0, "")
    assert tomllib.loads(again) == values
    # A flag that sets the length in another way beats the file's.
    _, again, _ = run("train", text_file, "-c", path, "--steps", 9, "--show-config", "-q")
    assert {"budget", "epochs", "steps"} & tomllib.loads(again).keys() == {"steps"}


def test_a_text_and_a_part_to_hold_out_take_the_place_of_each_other(
    run: Run, text_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.toml"
    asked = ("train", text_file, "--steps", 3, "--show-config", "-q", "-o", tmp_path / "m")
    path.write_text(run(*asked, "--valid", text_file)[1])
    values = tomllib.loads(path.read_text())
    assert values["valid"] == str(text_file)
    assert "valid-fraction" not in values
    assert tomllib.loads(run(*asked, "-c", path)[1]) == values
    changed = tomllib.loads(run(*asked, "-c", path, "--valid-fraction", 0.25)[1])
    assert "valid" not in changed
    assert changed["valid-fraction"] == 0.25


def test_a_settings_file_trains_what_the_flags_do(
    run: Run, text_file: Path, model: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "s.toml", tmp_path / "m"
    options = (*TINY, "--steps", 30, "-o", out)
    path.write_text(run("train", text_file, *options, "--show-config", "-q")[1])
    assert run("train", text_file, "--config", path, "-q") == (0, f"{out}\n", "")
    assert_same(weights_of(out), weights_of(model))


def test_the_settings_of_a_saved_run_are_shown(run: Run, text_file: Path, stopped: Path) -> None:
    code, shown, _ = run("train", text_file, "-o", stopped, "--resume", "--show-config", "-q")
    assert code == 0
    assert tomllib.loads(shown)["hidden-size"] == 16
    assert all(line.endswith("# saved run") for line in shown.splitlines())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (10**9, "not enough memory to train with --hidden-size 1000000000, --layers 1"),
        (2**31 - 1, "not enough memory"),
        (10**22, "--hidden-size must be below 2147483648, got 1"),
    ],
)
def test_a_model_larger_than_memory_is_one_line(
    run: Run, text_file: Path, tmp_path: Path, size: int, expected: str
) -> None:
    options = ("--steps", 1, "--hidden-size", size, "-o", tmp_path / "m", "-q")
    code, _, err = run("train", text_file, *options)
    assert code == 2
    assert expected in error_line(err)


@pytest.mark.parametrize("refused", [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_a_refusal_of_memory_while_training_is_one_line_and_keeps_the_model(
    run: Run,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[[], object],
) -> None:
    update = Trainer.update

    def refuse(trainer: Trainer) -> tuple[float, float]:
        if trainer.step == 20:
            refused()
        return update(trainer)

    monkeypatch.setattr(Trainer, "update", refuse)
    out = tmp_path / "m"
    code, _, err = run("train", text_file, *TINY, "--steps", 30, "-o", out, "-q")
    assert code == 2
    assert "--batch-size 4 and --bptt 16; lower one of them" in error_line(err)
    assert load(out).card.extra["best"]["step"] == 15


def test_any_seed_will_do(text_file: Path, tmp_path: Path) -> None:
    train_tiny(text_file, tmp_path / "m", "--seed", 2**80)


@pytest.mark.parametrize("sizes", [("--hidden-size", 12), ("--embed-size", 12)])
def test_one_size_is_enough_for_tied_weights(
    run: Run, text_file: Path, tmp_path: Path, sizes: tuple[object, ...]
) -> None:
    out = tmp_path / "m"
    code, _, err = run("train", text_file, "-o", out, "--steps", 2, "--tied", "-q", *sizes)
    assert code == 0, err
    shape = load(out).card.model
    assert shape.tied
    assert shape.embed_size == shape.hidden_size == 12
