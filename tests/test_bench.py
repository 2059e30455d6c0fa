"""The benchmark's machinery in its smallest form, and that both sides of it compute the same."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import generation, steps
from bench.__main__ import main
from bench.generation import draw, make_model
from bench.learning import Transformer, held_out_loss, reached
from bench.measure import OURS, Case, Effort, Side, spread
from bench.peers import TorchPeer
from bench.results import load, readme_table, store

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CELLS = ("lstm", "gru", "rnn")
needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")),
    reason="needs the extra `bench`",
)


@pytest.mark.parametrize("cell", CELLS)
def test_torch_peer_gives_the_engines_logits(cell: Any) -> None:
    generation.check(make_model(cell=cell, hidden_size=20, num_layers=2))


@pytest.mark.parametrize("cell", CELLS)
@needs_onnx
def test_onnx_peer_keeps_its_state_and_gives_torchs_logits(cell: Any) -> None:
    from bench.peers import OnnxPeer

    model = make_model(cell=cell, hidden_size=20, num_layers=2)
    ids = np.arange(10).reshape(5, 2)
    peer = OnnxPeer(model, threads=1, batch=2)
    with torch.inference_mode():
        expected = TorchPeer(model)(torch.from_numpy(ids.T.copy()))[0].numpy()
    for step, row in enumerate(ids):
        np.testing.assert_allclose(peer.step(row), expected[:, step], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_torch_peer_gives_our_gradients(cell: Any) -> None:
    model = make_model(cell=cell, hidden_size=64, num_layers=2)  # the compiled loops' least
    ids = torch.randint(generation.VOCAB, (2, 8, 17))
    steps.check(model, TorchPeer(model), *ids)


@pytest.mark.parametrize("cell", CELLS)
def test_keras_peer_gives_torchs_gradients(cell: Any) -> None:
    pytest.importorskip("keras", reason="a peer that users may have")
    pytest.importorskip("tensorflow", reason="a peer that users may have")
    from bench.peers import keras_training

    model = make_model(cell=cell, hidden_size=12, num_layers=2)
    ids = torch.randint(generation.VOCAB, (2, 3, 5))
    run = keras_training(model, *ids.numpy())
    steps.check_keras(run, cell, TorchPeer(model), *ids)


def test_a_side_that_computes_something_else_is_found() -> None:
    model = make_model(hidden_size=16)
    peer = TorchPeer(model)
    with torch.no_grad():
        peer.output.bias[0] += 0.1
    ids = torch.randint(generation.VOCAB, (2, 2, 4))
    with pytest.raises(AssertionError):
        steps.check(model, peer, *ids)


def test_draw_follows_the_distribution() -> None:
    weights = np.array([0.1, 0.2, 0.7])
    logits = np.tile(np.log(weights) * generation.DECODE.temperature, (20_000, 1))
    ids = draw(logits, np.random.default_rng(1))
    np.testing.assert_allclose(np.bincount(ids) / len(ids), weights, atol=0.02)


def test_a_case_compares_each_side_with_the_first() -> None:
    calls: list[str] = []
    sides = [Side(OURS, 4, lambda: calls.append("a")), Side("peer", 2, lambda: calls.append("b"))]
    row = Case("x", "train", "things/s", sides).measure(Effort(3, 0.0))
    assert set(row["rates"]) == {OURS, "peer"}
    assert set(row["ratios"]) == {"peer"}
    assert {"a", "b"} == set(calls)
    assert calls.count("a") >= 3 <= calls.count("b")


def test_spread_is_median_and_quartiles() -> None:
    assert spread(np.array([1.0, 2, 3, 4, 100])) == {"q1": 2, "median": 3, "q3": 4}


def test_a_new_line_takes_the_place_of_its_cases_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    store(path, [{"case": "a", "n": 1}, {"case": "b", "n": 1}])
    store(path, [{"case": "a", "n": 2}])
    assert list(load(path).values()) == [{"case": "a", "n": 2}, {"case": "b", "n": 1}]


@pytest.mark.slow
def test_every_group_runs_and_writes_its_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    main(["machine", "generate", "train", "update", "score", "scale", "--smoke", "-o", str(path)])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    printed = capfd.readouterr().out
    assert {row["group"] for row in rows} == {
        *("machine", "generate", "train", "update", "score", "scale")
    }
    for row in rows:
        assert row["case"] in printed
        assert all(rate["median"] > 0 for rate in row["rates"].values())
        if row["group"] != "machine":
            assert any(side.startswith("limit: ") for side in row["ratios"])
            assert any(side.startswith("torch.nn") for side in row["ratios"])


@pytest.mark.slow
def test_whole_commands_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    main(["start", "learn", "--smoke", "-o", str(path)])
    start, learned = load(path).values()
    assert start["seconds"][OURS]["median"] > 0
    assert learned["case"].startswith("learn harbour.txt"), "a text, not the largest table"
    *ours, theirs = learned["final"]
    assert theirs == "transformer"
    assert all(name.startswith(OURS) for name in ours)
    assert learned["seconds_to_target"].keys() == learned["final"].keys()


def test_unknown_groups_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "no group nonsense; there are machine" in capsys.readouterr().err


def test_transformer_sees_no_future_and_its_loss_counts_every_position() -> None:
    torch.manual_seed(1)
    model = Transformer(11)
    ids = torch.randint(11, (1, 30))
    changed = ids.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 11
    with torch.inference_mode():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])
    assert held_out_loss(model, torch.randint(11, (1000,))) == pytest.approx(np.log(11), abs=0.1)


def test_seconds_to_a_loss() -> None:
    curve = [(1.0, 3.0), (2.0, 2.0), (3.0, 2.5)]
    assert reached(curve, 2.0) == 2.0
    assert reached(curve, 1.9) is None


def test_picture_is_drawn_from_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `bench`")
    from bench.plot import draw as draw_picture

    rates = {side: {"q1": 1.0, "median": 2.0, "q3": 3.0} for side in (OURS, "torch.nn, 1 threads")}
    point = {"group": "scale", "action": "train", "axis": "hidden", "rates": rates}
    picture = tmp_path / "scaling.svg"
    draw_picture([{**point, "size": size} for size in (64, 128)], picture)
    drawn = picture.read_text(encoding="utf-8")
    assert "training: units" in drawn
    assert "torch.nn" in drawn
    with pytest.raises(SystemExit, match="no sweep"):
        draw_picture([], picture)


def test_readme_shows_the_committed_results() -> None:
    assert "\n".join(readme_table()) in README
