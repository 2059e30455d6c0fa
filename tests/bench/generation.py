"""How fast text is written, beside torch.nn and ONNX Runtime. ``python -m tests.bench.generation``.

One text, a character at a time. All sides have the same weights, take turns in one run, and draw
from the softmax at the default temperature. The share of bandwidth is what the engine reads of
weights per second against what a plain loop of the same threads reads of as large an array.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from seqtool.compiled import compiled
from seqtool.config import DecodeConfig, ModelConfig, Precision
from seqtool.decode import Generation, row_rngs
from seqtool.engine import Engine
from seqtool.models import to_arrays
from seqtool.recurrence import meet
from seqtool.team import Team
from seqtool.vectors import add_products, load, store, totals, zero

from .__main__ import TOKENIZER, VOCAB, Peer, make_model

PASSAGE = 64  # characters of one call of the engine
TEMPERATURE = DecodeConfig.temperature
CASES = [("lstm", 128), ("lstm", 512), ("lstm", 1024), ("gru", 512), ("rnn", 512)]
ORDER = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "rnn": [0]}  # of ONNX's gates in torch's


def onnx_model(config: ModelConfig, weights: dict[str, np.ndarray]) -> bytes:
    """A model of one step: an id and a state in, logits and the state out."""
    from onnx import TensorProto, helper, numpy_helper

    parts = ["h", "c"] if config.cell == "lstm" else ["h"]
    size, nodes, outputs = config.hidden_size, [], []
    constants = {"embedding": weights["embedding.weight"], "bias": weights["output.bias"]}
    constants["output"] = weights["output.weight"].T.copy()
    nodes.append(helper.make_node("Gather", ["embedding", "id"], ["x0"]))
    inputs = [helper.make_tensor_value_info("id", TensorProto.INT64, [1, 1])]
    for layer in range(config.num_layers):

        def gates(name: str, layer: int = layer) -> np.ndarray:
            order = ORDER[config.cell]
            parts = np.split(weights[f"stack.{name}_l{layer}"], len(order))
            return np.concatenate([parts[i] for i in order])

        constants[f"w{layer}"] = gates("weight_ih")[None]
        constants[f"r{layer}"] = gates("weight_hh")[None]
        constants[f"b{layer}"] = np.concatenate([gates("bias_ih"), gates("bias_hh")])[None]
        shape = [1, 1, size]
        for part in parts:
            inputs.append(helper.make_tensor_value_info(f"{part}{layer}", TensorProto.FLOAT, shape))
            outputs.append(
                helper.make_tensor_value_info(f"new_{part}{layer}", TensorProto.FLOAT, shape)
            )
        options: dict[str, Any] = {"linear_before_reset": 1} if config.cell == "gru" else {}
        nodes.append(
            helper.make_node(
                config.cell.upper(),
                [f"x{layer}", f"w{layer}", f"r{layer}", f"b{layer}", ""]
                + [f"{part}{layer}" for part in parts],
                ["", *(f"new_{part}{layer}" for part in parts)],
                hidden_size=size,
                **options,
            )
        )
        nodes.append(helper.make_node("Identity", [f"new_h{layer}"], [f"x{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"x{config.num_layers}", "output"], ["products"]))
    nodes.append(helper.make_node("Add", ["products", "bias"], ["logits"]))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, VOCAB])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "step", inputs, [logits, *outputs], tensors)
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        ).SerializeToString()
    )


def runtime(model: bytes, threads: int, expected: np.ndarray) -> Callable[[], object]:
    """ONNX Runtime, a character a call; its first logits must be the expected ones."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()[1:]]
    shapes = [item.shape for item in session.get_inputs()[1:]]
    rng = np.random.default_rng(1)

    def step(token: int, state: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        feeds = dict(zip(names, state, strict=True)) | {"id": np.array([[token]])}
        logits, *state = session.run(None, feeds)
        return logits[0, 0], state

    logits, state = step(TOKENIZER.start_id, [np.zeros(s, np.float32) for s in shapes])
    np.testing.assert_allclose(logits, expected, atol=1e-4)

    def write() -> None:
        nonlocal logits, state
        mass = np.cumsum(np.exp((logits - logits.max()) / TEMPERATURE))
        logits, state = step(int(np.searchsorted(mass, rng.random() * mass[-1])), state)

    return write


def torch_loop(peer: Peer, expected: np.ndarray) -> Callable[[], object]:
    """A step loop of torch.nn."""
    with torch.inference_mode():
        logits, carried = peer(torch.tensor([[TOKENIZER.start_id]]))
    np.testing.assert_allclose(logits[0, 0].numpy(), expected, atol=1e-4)

    @torch.inference_mode()
    def write() -> None:
        nonlocal logits, carried
        probs = torch.softmax(logits[:, -1] / TEMPERATURE, dim=-1)
        logits, carried = peer(torch.multinomial(probs, 1), carried)

    return write


@compiled
def read_all(array: Any, thread: int, threads: int, counter: Any, repeats: int, out: Any) -> int:
    """Add up a thread's share of a float32 array again and again, as fast as it can be read."""
    size = len(array) // (64 * threads) * 64
    a, b, c, d = zero(array), zero(array), zero(array), zero(array)
    one = load(array, 0)
    for _ in range(repeats):
        for i in range(thread * size, (thread + 1) * size, 64):
            a = add_products(add_products(a, load(array, i), one), load(array, i + 8), one)
            b = add_products(add_products(b, load(array, i + 16), one), load(array, i + 24), one)
            c = add_products(add_products(c, load(array, i + 32), one), load(array, i + 40), one)
            d = add_products(add_products(d, load(array, i + 48), one), load(array, i + 56), one)
        meet(counter, threads)
    store(out, 4 * thread, totals(a, b, c, d))
    return 0


def reader(nbytes: int, threads: int) -> Callable[[], object]:
    """Reads as many bytes as the weights have, ``PASSAGE`` times."""
    array, out = np.ones(nbytes // 4, np.float32), np.zeros(64, np.float32)
    counter, team = np.zeros(1, np.int64), Team(threads)

    def job(thread: int, number: int) -> int:
        return read_all(array, thread, number, counter, PASSAGE, out)

    return lambda: team._run(job, team.threads)


def engine_loop(engine: Engine) -> tuple[Callable[[], object], np.ndarray]:
    """The engine, a passage a call, and its first logits."""
    first = np.array([TOKENIZER.start_id])
    logits, state = engine.step(first, engine.init_state(1))
    writer = Generation(engine, DecodeConfig(), logits=logits, state=state, rngs=row_rngs(1, 1))
    return lambda: writer.write(PASSAGE), logits[0]


def measure(cell: str, size: int, rounds: int) -> dict[str, Any]:
    """Characters per second of every side: medians over rounds in which they take turns."""
    model = make_model(cell=cell, hidden_size=size, num_layers=2)
    weights = to_arrays(model)
    sides: dict[str, tuple[Callable[[], object], int, int]] = {}  # action, characters, repeats
    engines = {}
    precisions: tuple[Precision, ...] = ("float32", "int8")
    for precision in precisions:
        engines[precision] = Engine(model.config, VOCAB, weights, precision=precision)
        write, logits = engine_loop(engines[precision])
        sides[precision] = (write, PASSAGE, 8)
        if precision == "float32":
            expected = logits
    onnx = onnx_model(model.config, weights)
    for threads in (1, 2):
        sides[f"onnxruntime, {threads} threads"] = (runtime(onnx, threads, expected), 1, 100)
    sides["torch.nn"] = (torch_loop(Peer(model).eval(), expected), 1, 5)
    for precision in precisions:
        nbytes = engines[precision].nbytes
        for threads in (1, 2):
            sides[f"reading {precision}, {threads} threads"] = (reader(nbytes, threads), PASSAGE, 2)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, rounds):  # the first is to warm up
        for name, (action, amount, repeats) in list(sides.items())[:: 1 if turn % 2 else -1]:
            if turn < 0 and name in precisions:
                repeats = 64  # until the number of threads has been chosen
            began = time.perf_counter()
            for _ in range(repeats):
                action()
            if turn >= 0:
                rates[name].append(repeats * amount / (time.perf_counter() - began))
    row: dict[str, Any] = {"cell": cell, "hidden_size": size, "layers": 2, "rounds": rounds}
    row |= {name: float(f"{np.median(found):.4g}") for name, found in rates.items()}
    best = max(row["onnxruntime, 1 threads"], row["onnxruntime, 2 threads"])
    for precision in precisions:
        row[f"{precision} / onnxruntime"] = round(row[precision] / best, 2)
        row[f"{precision} / torch.nn"] = round(row[precision] / row["torch.nn"], 1)
        fastest = max(row[f"reading {precision}, {n} threads"] for n in (1, 2))
        row[f"{precision} share of bandwidth"] = round(row[precision] / fastest, 2)
    return row


def main() -> None:
    """Measure all cases, or those named, and print a JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("cases", nargs="*", metavar="CELL-SIZE", help="e.g. lstm-512")
    options = parser.parse_args()
    for cell, size in CASES:
        if not options.cases or f"{cell}-{size}" in options.cases:
            print(json.dumps(measure(cell, size, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
