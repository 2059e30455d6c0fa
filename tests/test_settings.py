"""Spellings, durations, settings files, and the record of where each value came from."""

import tomllib
from pathlib import Path

import pytest
from conftest import Run, error_line
from hypothesis import given
from hypothesis import strategies as st

from seqtool.errors import ConfigError
from seqtool.settings import (
    ALIASES,
    Settings,
    canonical,
    check_single_dash,
    default_out,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("45", 45), ("1.5 min", 90)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5m", "abc", "5x", "5m!", "1e5", "inf", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget must be a time such as 90s"):
        parse_duration(text)


def test_old_spellings_lead_to_options_that_exist(run: Run) -> None:
    commands = ("train", "generate", "evaluate", "translate")
    shown = "".join(run(command, "--help")[1] for command in commands)
    for name in set(ALIASES.values()):
        assert f"--{name}" in shown, name
    for name in ALIASES:
        assert f"--{name} " not in shown, name


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("rnn_size", "hidden-size"),
        ("nhid", "hidden-size"),
        ("max_new_tokens", "length"),
        ("hidden_size", "hidden-size"),
        ("lr", "lr"),
        ("sample", "generate"),
    ],
)
def test_spellings_of_other_tools_are_known(name: str, option: str) -> None:
    assert canonical(name) == option


@pytest.mark.parametrize("argument", ["-rnn_size", "-nhid=3", "-learning_rate", "-hidden-size"])
def test_one_dash_before_a_long_option_is_refused_with_the_right_one(argument: str) -> None:
    name = canonical(argument.strip("-").split("=")[0])
    with pytest.raises(ConfigError, match=f"two dashes; use --{name}"):
        check_single_dash(["train", argument])


@pytest.mark.parametrize("arguments", [["-b", "4"], ["-l", "20"], ["--", "-rnn_size"], ["-qv"]])
def test_short_options_pass(arguments: list[str]) -> None:
    check_single_dash(arguments)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *(("a/book.txt.gz", "book"), ("-", "text"), ("/", "text"), (".x", "text")),
        (300 * "x", 60 * "x"),
    ],
)
def test_the_default_place_is_named_after_the_text(data: str, name: str) -> None:
    assert default_out(data) == Path("runs", name)


def test_what_was_set_first_is_stronger() -> None:
    settings = Settings().add({"lr": 1.0}, "flag").add({"lr": 2.0, "bptt": 3}, "default")
    assert settings.values == {"lr": 1.0, "bptt": 3}
    assert settings.origins == {"lr": "flag", "bptt": "default"}


values = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(_[a-z]{1,8})?", fullmatch=True), values))
def test_what_is_shown_is_toml_that_says_the_same(values: dict[str, object]) -> None:
    shown = tomllib.loads(Settings().add(values, "flag").toml())
    assert shown == {name.replace("_", "-"): value for name, value in values.items()}


def test_every_line_shown_names_an_origin() -> None:
    lines = Settings().add({"lr": 0.1, "cell": "gru"}, "flag").toml().splitlines()
    assert [line.split("# ")[1] for line in lines] == ["flag", "flag"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lenght = 3", "unknown setting lenght; did you mean length?"),
        ("zzz = 3", "unknown setting zzz"),
        ("config = 'x'", "unknown setting config"),
        ("c = 'x'", "unknown setting c"),
        ("length = 1.5", "length must be a whole number, got 1.5"),
        ("length = true", "length must be a whole number, got true"),
        ("length = '3'", 'length must be a whole number, got "3"'),
        ("temperature = 'hot'", 'temperature must be a number, got "hot"'),
        ("greedy = 1", "greedy must be true or false, got 1"),
        ("prompt = 3", "prompt must be one text in quotes, got 3"),
        ("stop = [1]", "stop must be one text in quotes, got 1"),
        ("length = [3]", "length must be a whole number"),
        ("[generate]\nlength = 3", "unknown setting generate"),
        ("length = 3\nmax_new_tokens = 4", "max_new_tokens is there twice"),
        ("length = ", "not valid TOML"),
        ("length = -3", "--length must be at least 0, got -3"),
        ('state = "a\\u0000"', 'state must not hold a NUL character, got "a\\u0000"'),
    ],
)
def test_a_wrong_settings_file_is_refused(
    run: Run, tmp_path: Path, content: str, expected: str
) -> None:
    path = tmp_path / "s.toml"
    path.write_text(content)
    code, out, err = run("generate", "nothing", "--config", path)
    assert (code, out) == (2, "")
    assert expected in error_line(err)


def test_a_settings_file_that_cannot_be_read_is_refused(run: Run, tmp_path: Path) -> None:
    binary = tmp_path / "s.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "none", binary):
        code, _, err = run("generate", "nothing", "--config", path)
        assert code == 2
        assert str(path) in error_line(err)


def test_a_settings_file_takes_every_spelling(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('max_new_tokens = 9\nprompt = "The"\njson = true\nstop = ["zq", "zv"]\nt = 1\n')
    path.write_text(path.read_text().replace("t = 1\n", "temp = 1\n"))
    code, out, _ = run("generate", model, "--config", path, "-q")
    assert (code, '"tokens": 9' in out) == (0, True)


def test_flags_beat_the_environment_beats_the_file(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.toml"
    path.write_text("length = 3\n")

    def tokens(*flags: object) -> int:
        code, out, _ = run("generate", model, "-q", "--json", "--config", path, *flags)
        assert code == 0
        return int(out.split('"tokens": ')[1].split(",")[0])

    assert tokens() == 3
    monkeypatch.setenv("SEQTOOL_LENGTH", "5")
    assert tokens() == 5
    assert tokens("-l", 7) == 7


def test_a_stop_text_in_the_environment_may_hold_spaces(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("generate", model, "-l", 200, "-q")[1]
    stop = next(whole[i : i + 3] for i in range(9, len(whole)) if whole[i + 1] == " ")
    monkeypatch.setenv("SEQTOOL_STOP", stop)
    assert run("generate", model, "-l", 200, "-q")[1] == whole.partition(stop)[0]
    assert run("generate", model, "-l", 200, "-q", "--stop", "\u20ac")[1] == whole


def test_a_bad_value_in_the_environment_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQTOOL_LENGTH", "many")
    code, _, err = run("generate", "nothing")
    assert code == 2
    assert "--length" in error_line(err)
