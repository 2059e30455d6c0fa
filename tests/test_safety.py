"""Nothing that is read is executed, nothing is fetched, and nothing steers the terminal."""

import ast
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, Trained, error_line
from examples import EXAMPLES, write_csv

import seqtool
from seqtool.hub import hub_name
from seqtool.output import complain

PACKAGE = Path(seqtool.__file__).parent
# What runs code that it is given, or turns bytes into any object at all.
RUNNING = {"eval", "exec", "compile", "__import__", "execfile", "runpy", "os.system", "os.popen"}
RUNNING |= {"importlib.import_module", "torch.load", "torch.save", "np.load", "numpy.load"}
UNPACKING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
# Torch pickles what the processes of one run send each other, and nothing else may use it.
SENDING = {"gather_object", "all_gather_object", "broadcast_object_list", "scatter_object_list"}
STEERING = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066"} - {"\n", "\t"}
WILD = "\x1b[31mred\x1b]0;title\x07\u202e\x9b2J"
MARKUP = "</script><svg/onload=hit()>"

TREES = {
    path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.glob("*.py"))
}


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("module", TREES)
def test_no_module_can_run_what_it_reads(module: str) -> None:
    tree = TREES[module]
    assert not calls(tree) & RUNNING
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.keyword):
            assert node.arg not in ("trust_remote_code", "allow_pickle", "shell")
    assert not modules & UNPACKING
    assert module == "selftest" or "subprocess" not in modules  # it starts seqtool itself
    sent = {name.rpartition(".")[2] for name in calls(tree)} & SENDING
    assert module == "distributed" or not sent


def test_the_search_finds_what_it_searches() -> None:
    tree = ast.parse("import torch\nx = eval(input())\nmodel.eval()\ntorch.load('m')")
    assert calls(tree) & RUNNING == {"eval", "torch.load"}


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No way out: whoever looks up a name or connects is told, and noted."""
    tried: list[str] = []

    def refuse(what: str) -> Callable[..., None]:
        def refused(*arguments: object, **named: object) -> None:
            tried.append(f"{what} {arguments[1:] if what.startswith('socket') else arguments}")
            raise OSError("the network is cut off")

        return refused

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse(f"socket.{name}"))
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse(name))
    return tried


USES: dict[str, list[tuple[object, ...]]] = {
    "generate": [
        ("generate", "M", "-l", 3),
        ("evaluate", "M", "D"),
        ("inspect", "M", "D", "--html", "PAGE"),
    ],
    "classify": [("classify", "M", "D"), ("evaluate", "M", "D"), ("inspect", "M", "D")],
    "tag": [("tag", "M", "D"), ("evaluate", "M", "D"), ("inspect", "M")],
    "translate": [
        ("translate", "M", "one two"),
        ("evaluate", "M", "D", "--beam-size", 1),
        ("inspect", "M", "one two"),
    ],
}


@pytest.mark.parametrize("task", USES)
def test_no_command_reaches_for_the_network(
    run: Run, trained: Trained, tmp_path: Path, cut_off: list[str], task: str
) -> None:
    model, data = trained(task)
    few = tmp_path / data.name
    few.write_text("".join(data.read_text("utf-8").splitlines(keepends=True)[:60]), "utf-8")
    train = EXAMPLES[task].train(few, tmp_path / "m", "--steps", 2, "-q")
    files = {"M": model, "D": few, "PAGE": tmp_path / "page.html"}
    for words in (train, *USES[task]):
        code, _, err = run(*(files.get(str(word), word) for word in words))
        assert code == 0, err
    assert cut_off == []


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_offline_a_name_from_the_hub_is_one_line(
    run: Run, trained: Trained, tmp_path: Path, cut_off: list[str], command: str
) -> None:
    """conftest sets HF_HUB_OFFLINE=1."""
    name = "nobody-at-all/nothing-here"
    assert hub_name(name)
    argv: tuple[object, ...] = ("evaluate", trained("classify")[0], name)
    if command == "train":
        argv = ("train", name, "-o", tmp_path / "m", "--task", "classify", "--steps", 1)
    code, _, err = run(*argv, "-q")
    assert code == 1
    assert error_line(err).startswith(f"{name}: no such file, and not to be had from the Hugging")
    assert cut_off == []
    assert not (tmp_path / "m").exists()


def test_a_model_cannot_name_what_is_fetched(
    run: Run, trained: Trained, tmp_path: Path, cut_off: list[str]
) -> None:
    """The name of the training data in a card is somebody else's word; no pipe is waited for."""
    from seqtool.checkpoint import ModelDir, load

    for task in ("classify", "tag"):
        model, data = trained(task)
        for name in ("nobody-at-all/nothing-here", "/dev/zero"):
            out = tmp_path / f"{task}{len(name)}"
            out.mkdir()
            for file in model.iterdir():
                (out / file.name).write_bytes(file.read_bytes())
            card = load(out).card
            card.source["name"] = name
            ModelDir.resume(out).save_card(card)
            code, _, err = run("evaluate", out, data)
            assert code == 0, err
            assert f"{name} is not here" in err
    assert cut_off == []


@pytest.fixture
def on_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands whose standard output is a terminal."""

    def shown(*argv: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("NO_COLOR", "1")
        return run(*argv, stdin=stdin)

    return shown


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of each task a model of wild labels and words, in a directory with a wild name."""
    from seqtool.cli import main

    place = tmp_path_factory.mktemp("wild") / f"dir{WILD.replace('/', '')}"
    place.mkdir()
    words = [f"w{WILD}", "calm", f"{WILD}x{MARKUP}"]
    rows = [(f"{words[n % 2]} {n % 7} tea", f"l{[WILD, MARKUP][n % 2]}") for n in range(60)]
    sentences = [[*words, f"tea{n}"] for n in range(30)]
    tagged = "".join("".join(f"{w}\t{w[:1]}{WILD}\n" for w in s) + "\n" for s in sentences)
    pairs = [(f"{words[n % 3]} {n}", f"{n} {words[n % 3]}") for n in range(60)]
    data = {
        "generate": place / "text.txt",
        "classify": write_csv(place / "rows.csv", rows),
        "tag": place / "words.conll",
        "translate": write_csv(place / "pairs.csv", pairs, ("source", "target")),
    }
    data["generate"].write_text(f"A line {WILD} of {MARKUP} text.\n" * 60, "utf-8")
    data["tag"].write_text(tagged, "utf-8")
    found = {}
    for task, path in data.items():
        argv = EXAMPLES[task].train(path, place / task, "--task", task, "--steps", 8, "-q")
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        found[task] = place / task, path
    return found


WILD_USES = {
    **USES,
    "tag": [*USES["tag"], ("tag", "M", "D", "--inline"), ("tag", "M", "none")],
    "translate": [*USES["translate"], ("translate", "M", "D"), ("translate", "M", "D/none.txt")],
}


@pytest.mark.parametrize("task", USES)
def test_nothing_steers_the_terminal(
    on_terminal: Run, wild: dict[str, tuple[Path, Path]], tmp_path: Path, task: str
) -> None:
    model, data = wild[task]
    files = {"M": model, "D": data, "PAGE": tmp_path / "page.html", "D/none.txt": data / "none.txt"}
    for words in WILD_USES[task]:
        code, out, err = on_terminal(*(files.get(str(word), word) for word in words))
        assert code in (0, 1, 2)
        assert not STEERING & {*out}, words
        assert not STEERING & {*err}, words


@pytest.mark.parametrize("task", ["generate", "classify", "translate"])
def test_a_page_holds_markup_as_data(
    run: Run, wild: dict[str, tuple[Path, Path]], tmp_path: Path, task: str
) -> None:
    """Nothing that was read opens or closes a tag; what a browser makes of it is in test_page."""
    model, data = wild[task]
    page = tmp_path / "page.html"
    code, _, err = run("inspect", model, data, "--html", page)
    assert code == 0, err
    text = page.read_text("utf-8")
    assert "<svg/onload" not in text
    assert text.count("</script") == text.count("<script")


def test_half_of_a_character_can_be_complained_of(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert complain("--tying must be one of all, none, got \ud800", 2) == 2
    assert capsysbinary.readouterr().err.endswith(b"got \\ud800\n")
