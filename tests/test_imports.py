"""Who may import whom, and what the commands must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seqtool

PACKAGE = Path(seqtool.__file__).parent
BASIC = {"errors", "config"}

# For each module the modules of seqtool that it may import: down only.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "distributed": {"errors"},
    "hashing": set(),
    "backoff": {"errors"},
    "baselines": set(),
    "copies": set(),
    "console": set(),
    "display": {"console"},
    "config": {"errors"},
    "output": {"distributed", "errors"},
    "settings": BASIC,
    "text": {*BASIC, "distributed"},
    "tokenizer": BASIC,
    "unseen": {*BASIC, "tokenizer"},
    "cells": {*BASIC, "compiled", "kernels"},
    "kernels": {"__init__", "loops", "pointwise", "tiles"},
    "loops": {"compiled", "pointwise", "tiles"},
    "pointwise": {"compiled"},
    "tiles": {"compiled", "vectors"},
    "decode": BASIC,
    "beam": {"config", "decode"},
    "ensemble": {"decode"},
    "devices": {*BASIC, "memory"},
    "memory": set(),
    "plan": {"config"},
    "optim": {"distributed", "config", "ngrams"},
    "ngrams": {"hashing"},
    "files": {"errors"},
    "places": {"errors", "files"},
    "tensorfile": set(),
    "checkpoint": {*BASIC, "__init__", "files", "places", "tensorfile"},
    "cache": {"files"},
    "idfiles": {"errors"},
    "census": {"text", "tokenizer"},
    "alphabet": {"census", "tokenizer"},
    "longtexts": {*BASIC, "alphabet", "cache", "census", "files", "idfiles", "text", "tokenizer"},
    "data": {*BASIC, "census", "idfiles", "longtexts", "memory", "text", "tokenizer"},
    "counting": {"backoff", "compiled"},
    "mixture": {"backoff", "checkpoint", "decode", "errors", "places"},
    "numpy_engine": {"config", "decode", "hashing"},
    "engine": {
        *(*BASIC, "compiled", "choosing", "counting", "decode", "mixture", "numpy_engine"),
        *("memory", "quantize", "recurrence", "team"),
    },
    "compiled": {"cache", "errors"},
    "team": set(),
    "units": set(),
    "vectors": set(),
    "choosing": {"compiled", "vectors"},
    "products": {"compiled", "tiles", "vectors"},
    "network": {"compiled", "hashing", "pointwise", "products", "tiles", "vectors"},
    "recurrence": {"choosing", "compiled", "counting", "network", "products", "tiles"},
    "transducer": {"compiled", "products", "vectors"},
    "memories": {"compiled", "network", "pointwise", "products", "transducer", "vectors"},
    "transduction": {"compiled", "network", "products", "transducer", "vectors"},
    "translator": {
        *(
            "beam",
            "compiled",
            "config",
            "decode",
            "ensemble",
            "pointwise",
            "quantize",
            "shapes",
            "team",
            "transduction",
        ),
        *("memories", "transducer"),
    },
    "translation": {
        *(*BASIC, "batches", "beam", "checkpoint", "claims", "scans", "shapes", "spelling"),
        *("tokenizer", "translator"),
    },
    "quantize": {"config", "network", "pointwise", "products", "tiles"},
    "surprisal": {"decode"},
    "columns": {"errors"},
    "storage": {"memory"},
    "splits": {"errors"},
    "audit": {"errors", "splits"},
    "images": {"errors", "splits", "text"},
    "treebank": {"errors", "splits", "storage", "text"},
    "delimited": {"columns", "errors", "text"},
    "hub": {"errors", "text"},
    "formats": {"columns", "delimited", "errors", "hub", "text"},
    "tables": {"columns", "delimited", "errors", "formats", "splits", "storage", "text"},
    "sides": {"columns", "errors", "images"},
    "scans": {"config", "errors", "images", "lexicon", "pixels"},
    "pairs": {
        *("columns", "delimited", "errors", "formats", "images", "sides", "splits", "storage"),
        *("tables", "text"),
    },
    "bitext": {"images", "audit", "config", "errors", "pairs", "splits"},
    "spelling": {"unseen", "columns", "config", "errors", "lexicon", "pairs", "tokenizer"},
    "dictionary": {"config", "errors", "lexicon", "pairs"},
    "resampling": set(),
    "metrics": {"columns", "resampling"},
    "dense": set(),
    "losses": {"dense"},
    "models": {*BASIC, "cells", "dense", "losses", "ngrams"},
    "tape": {"cells"},
    "gates": {"tape"},
    "jacobians": {"cells", "tape"},
    "dependence": set(),
    "neurons": {"dependence"},
    "horizon": {"evaluation", "mixture", "models"},
    "findings": {"neurons"},
    "looking": {
        *("batches", "classifier", "diagnostics", "evaluation", "findings", "gates"),
        *("horizon", "jacobians", "judging", "mixture", "models", "neurons", "tagger", "tape"),
    },
    "look_translate": {
        *("diagnostics", "encdec", "evaluation", "findings", "looking", "neurons", "tape"),
    },
    "specimens": {
        *("annotator", "pixels", "scans", "treebank", "unseen"),
        *(*BASIC, "census", "checkpoint", "console", "data", "delimited", "findings", "images"),
        *("formats", "judge", "judging", "labelled", "pipes", "tables", "text", "tokenizer"),
        "translation",
    },
    "microscope": {
        *(*BASIC, "annotator", "checkpoint", "classifier", "console", "devices", "encdec"),
        *("findings", "judge", "judging", "look_translate", "looking", "mixture", "models"),
        *("shapes", "specimens", "tagger", "tokenizer", "translation"),
    },
    "summary": {"checkpoint"},
    "probes": {"cells", "config", "tape", "trainer"},
    "remedies": {
        *("cells", "config", "data", "diagnostics", "language", "models", "probes", "tape"),
        "trainer",
    },
    "sheet": {"console", "display", "output"},
    "figures": {
        *("console", "diagnostics", "errors", "findings", "gates", "horizon", "remedies"),
        "summary",
    },
    "page": {"errors", "figures", "files"},
    "marking": {"findings", "neurons", "page"},
    "report": {"figures", "findings", "marking", "page", "summary"},
    "racing": {"figures", "page", "remedies"},
    "views": {
        *("console", "diagnostics", "findings", "gates", "horizon", "neurons", "sheet"),
        "summary",
    },
    "diagnostics": {"cells", "gates", "jacobians", "models", "tape"},
    "states": {"decode", "errors", "files"},
    "evaluation": {*BASIC, "decode", "models", "surprisal"},
    "trainer": {"distributed", "batches", "config", "devices", "optim"},
    "language": {
        "distributed",
        *(
            "errors",
            "backoff",
            "config",
            "cells",
            "data",
            "diagnostics",
            "evaluation",
            "mixture",
            "models",
            "trainer",
        ),
    },
    "budget": {"distributed", "optim", "trainer"},
    "train": {"distributed", *BASIC, "budget", "checkpoint", "models", "optim", "trainer"},
    "lexicon": {*BASIC, "idfiles", "tokenizer"},
    "batches": {"lexicon"},
    "calibration": set(),
    "linear": {"calibration", "errors", "labelsets", "lexicon", "memory", "shapes"},
    "classifier": {"cells", "config", "dense", "models", "ngrams", "shapes"},
    "judging": {
        *("batches", "calibration", "classifier", "config", "distributed", "labelsets"),
        *("lexicon", "pixels", "trainer"),
    },
    "pixels": {"config"},
    "claims": {"checkpoint", "errors", "places"},
    "judge": {
        *(
            "batches",
            "checkpoint",
            "claims",
            "compiled",
            "config",
            "ensemble",
            "errors",
            "hashing",
            "labelsets",
        ),
        *("layers", "lexicon", "linear", "pixels", "shapes", "team"),
    },
    "attention": {"config", "dense"},
    "encdec": {"attention", "cells", "config", "dense", "losses", "models", "shapes"},
    "spans": set(),
    "viterbi": {"spans"},
    "crf": set(),
    "tagger": {"cells", "classifier", "config", "crf", "dense"},
    "annotator": {
        *(
            "batches",
            "checkpoint",
            "claims",
            "compiled",
            "config",
            "judge",
            "layers",
            "lexicon",
            "shapes",
            "spans",
        ),
        *("team", "viterbi"),
    },
    "annotating": {
        "distributed",
        *("batches", "calibration", "classifier", "config", "judging", "lexicon", "spans"),
        *("tagger", "trainer", "viterbi"),
    },
    "plan_translate": {"config", "plan"},
    "subwords": {"lexicon", "splits"},
    "teacher": {
        "scans",
        "distributed",
        "batches",
        "beam",
        "config",
        "encdec",
        "ensemble",
        "lexicon",
        "subwords",
        "trainer",
    },
    "layers": {"config", "loops", "pointwise", "team", "tiles"},
    "shapes": {*BASIC, "places", "tensorfile"},
    "comparing": {"errors", "resampling"},
    "labels": {"errors"},
    "conditional": {
        *("batches", "cells", "config", "distributed", "evaluation", "lexicon", "models"),
        *("tokenizer", "trainer"),
    },
    "rowtexts": {
        *("columns", "config", "errors", "labelled", "lexicon", "tables", "tokenizer"),
    },
    "train_rows": {
        *("audit", "checkpoint", "conditional", "config", "console", "decode", "errors"),
        *("labelled", "labels", "models", "overview", "places", "plan", "rowtexts", "runs"),
        *("settings", "tasks", "tensorfile", "tokenizer", "train_text"),
    },
    "rowscoring": {
        *("backoff", "checkpoint", "console", "decode", "distributed", "engine", "errors"),
        "labelled",
        *("lexicon", "output", "resampling", "rowtexts", "scorecard", "scoring", "shapes"),
        *("surprisal", "tables", "tokenizer", "units"),
    },
    "pipes": {"errors", "text"},
    "labelled": {*BASIC, "audit", "checkpoint", "images", "splits", "tables", "labels"},
    "embeddings": {"errors", "text"},
    "labelsets": {"calibration"},
    "pretrained": {"checkpoint", "classifier", "embeddings", "lexicon", "shapes", "tokenizer"},
    "examples": {
        *("checkpoint", "classifier", "config", "embeddings", "images", "judging"),
        *("labelled", "lexicon", "linear", "pixels", "pretrained"),
        "audit",
    },
    "plan_classify": {"config", "plan"},
    "plan_tag": {"config", "plan", "plan_classify"},
    "tagged": {*BASIC, "audit", "labelled", "spans", "splits", "treebank", "labels"},
    "runs": {
        *BASIC,
        *("budget", "checkpoint", "console", "devices", "display", "output", "settings"),
        *("train", "trainer"),
    },
    "overview": {"config", "console", "data", "settings"},
    "receipts": {"__init__", "checkpoint"},
    "reproducing": {
        *(*BASIC, "checkpoint", "console", "output", "receipts", "runs", "settings", "states"),
        "tasks",
    },
    "tasks": {
        *(*BASIC, "budget", "checkpoint", "console", "devices", "distributed", "files"),
        *("memory", "models", "output", "places", "plan", "receipts", "runs", "settings"),
        *("shapes", "tensorfile", "train", "trainer"),
    },
    "options": {"distributed", "config", "console", "settings"},
    "guessing": {
        *(*BASIC, "formats", "hub", "images", "pairs", "tables", "text", "train_classify"),
        *("train_rows", "train_tag", "train_text", "train_translate", "treebank"),
    },
    "architecture": {"config", "options"},
    "cli_train": {
        *(*BASIC, "__init__", "architecture", "checkpoint", "guessing", "options", "places"),
        *("reproducing", "runs", "settings", "tasks"),
    },
    "scorecard": {"checkpoint", "console", "errors", "output"},
    "cli_lines": {
        *(*BASIC, "classifying", "options", "settings", "tagging", "translating", "translation"),
    },
    "cli_use": {
        *BASIC,
        "appraising",
        "checkpoint",
        "grading",
        "options",
        "rating",
        "rowscoring",
        "scorecard",
        "scoring",
        "settings",
        "translation",
        "writing",
    },
    "cli_inspect": {*BASIC, "curing", "inspection", "microscope", "options", "settings"},
    "cli": {
        *(*BASIC, "__init__", "cli_inspect", "cli_lines", "cli_selftest", "cli_train"),
        *("cli_use", "distributed", "output", "settings"),
    },
    "agreement": {
        *("annotator", "checkpoint", "classifier", "encdec", "engine", "ensemble", "judge"),
        *("judging", "models", "tagger", "translation"),
    },
    "selftest": {"agreement", "checkpoint", "console", "errors", "judge", "output"},
    "cli_selftest": {"options", "selftest"},
    "__main__": {"cli"},
}
# Each is one command: anything but the others.
COMMANDS = {
    *("train_text", "train_classify", "train_tag", "train_translate", "writing", "classifying"),
    *("tagging", "scoring", "grading", "rating", "appraising", "translating"),
    *("inspection", "curing"),
}
# What typer is for.
TOP = {
    "architecture",
    "cli_selftest",
    "options",
    "cli_inspect",
    "cli_lines",
    "cli_train",
    "cli_use",
    "cli",
    "__main__",
}

# Heavy libraries, and the modules that exist for them. Others may load them inside a function.
HEAVY = {
    "torch": {
        *(
            "annotating",
            "cells",
            "classifier",
            "conditional",
            "crf",
            "devices",
            "evaluation",
            "judging",
            "kernels",
            "language",
        ),
        *("losses", "models", "ngrams", "optim", "plan", "train", "trainer"),
        *("tape", "gates", "jacobians", "diagnostics", "looking", "look_translate", "horizon"),
        *("attention", "dense", "encdec", "teacher", "probes", "remedies", "tagger"),
    },
    "tokenizers": set(),
    "datasets": set(),
    "pyarrow": set(),
    "PIL": set(),
    "numba": {"compiled", "loops", "pointwise", "products", "tiles", "vectors"},
    "rich": set(),
    "typer": TOP - {"__main__"},
}


def imports(module: str, *, top_only: bool = False) -> set[str]:
    """The full names that a module imports, also inside functions, but not only for types."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    nodes = tree.body if top_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def used_modules(module: str) -> set[str]:
    parts = [name.split(".") for name in imports(module) if name.split(".")[0] == "seqtool"]
    return {part[1] if len(part) > 1 else "__init__" for part in parts}


def test_every_module_is_in_the_table() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == ALLOWED.keys() | COMMANDS


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_only_allowed_modules(module: str) -> None:
    assert used_modules(module) <= ALLOWED[module]


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_a_command_imports_no_other_command(module: str) -> None:
    assert not used_modules(module) & (COMMANDS | TOP)


def test_the_table_has_no_cycle() -> None:
    left = dict(ALLOWED)
    while left:
        leaves = {module for module, used in left.items() if not used & left.keys()}
        assert leaves, f"a cycle among {sorted(left)}"
        for module in leaves:
            del left[module]


@pytest.mark.parametrize("library", sorted(HEAVY))
def test_heavy_libraries_are_loaded_at_the_top_only_where_they_belong(library: str) -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    found = {
        module
        for module in modules
        if library in {name.split(".")[0] for name in imports(module, top_only=True)}
    }
    assert found <= HEAVY[library]


def test_only_what_is_drawn_uses_rich() -> None:
    users = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if "rich" in {name.split(".")[0] for name in imports(path.stem)}
    }
    assert users == {"console", "display", "sheet"}


def test_nothing_but_output_prints() -> None:
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
        assert path.stem == "output" or "print" not in calls, path


def loaded(code: str, *libraries: str) -> list[str]:
    """Those of the libraries that some code has loaded in a fresh interpreter."""
    script = f"""
import sys
{code}
print(" ".join(name for name in {libraries!r} if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()


def command(*argv: object) -> str:
    words = [str(word) for word in argv]
    return f"from seqtool.cli import main\ntry: main({words!r})\nexcept SystemExit: pass"


LIBRARIES = ("torch", "numba", "datasets", "tokenizers", "safetensors", "numpy", "rich")


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["train", "--help"], ["--version"], ["train", "x", "--lr", "-1"], ["nonsense"]],
)
def test_help_and_usage_errors_load_nothing_heavy(argv: list[str]) -> None:
    found = loaded(command(*argv), *LIBRARIES)
    # Bad values are found by the configs, after the command's own module is loaded.
    light = {"numpy", "safetensors"} if "--lr" in argv else set()
    assert set(found) <= light


def test_generate_on_a_cpu_loads_no_torch(model: Path) -> None:
    found = loaded(command("generate", model, "-l", 20), *LIBRARIES)
    assert set(found) == {"numpy", "numba", "safetensors"}


def test_evaluate_on_a_cpu_loads_no_torch(model: Path, text_file: Path) -> None:
    found = loaded(command("evaluate", model, text_file, "--no-baselines"), *LIBRARIES)
    assert set(found) == {"numpy", "numba", "safetensors"}


def test_delimited_tables_are_read_without_datasets(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngood,x\nbad,y\n")
    code = f"from seqtool.tables import read_table; read_table({str(tmp_path / 'a.csv')!r})"
    assert loaded(code, "datasets", "pandas", "pyarrow", "torch", "PIL") == []
