"""The same networks in the peers' words: torch.nn, ONNX Runtime and Keras, from our weights.

Each library is loaded when first asked for; ``missing`` tells whether it can be.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqtool.models import LanguageModel, to_arrays

OPSET = 17
# Where the gates of torch.nn stand in ONNX: i f g o -> i o f c, r z n -> z r h.
ONNX_GATES = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
# And in Keras: i f c o as in torch; z r h.
KERAS_GATES = {"rnn": [0], "lstm": [0, 1, 2, 3], "gru": [1, 0, 2]}


INSTALL = {"onnx": "'.[bench]'", "onnxruntime": "'.[bench]'"}  # others by their own name


def library(name: str) -> Any:
    """Load a peer; by name, because it need not be installed where types are checked."""
    return importlib.import_module(name)


def missing(name: str) -> str | None:
    """What to say of a library that is not installed; None if it is."""
    if importlib.util.find_spec(name):
        return None
    return f"{name}: not installed, left out; python3 -m pip install {INSTALL.get(name, name)}"


class TorchPeer(nn.Module):
    """A language model of torch.nn alone, with the weights of one of ours, tables left out."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        shape = model.config
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[shape.cell]
        self.embedding = nn.Embedding(model.vocab_size, shape.embed_size)
        self.stack = kind(shape.embed_size, shape.hidden_size, shape.num_layers, batch_first=True)
        self.output = nn.Linear(shape.hidden_size, model.vocab_size)
        weights = {name: torch.from_numpy(array) for name, array in to_arrays(model).items()}
        weights.pop("ngrams.weight", None)
        self.load_state_dict(weights)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Ids (B, T) to logits (B, T, V) and the new state."""
        output, state = self.stack(self.embedding(ids), state)
        return self.output(output), state


def regated(array: np.ndarray, order: list[int]) -> np.ndarray:
    """Blocks of rows (G*H, ...) in another order of gates."""
    return np.concatenate([np.split(array, len(order))[gate] for gate in order])


def onnx_step(model: LanguageModel) -> bytes:
    """One time step as an ONNX model: id (1, B), state_i (L, B, H) to logits (B, V), next_i."""
    onnx = library("onnx")
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    shape, weights = model.config, to_arrays(model)
    layers, size = shape.num_layers, shape.hidden_size
    kind, order = shape.cell.upper(), ONNX_GATES[shape.cell]
    states = ["h", "c"] if shape.cell == "lstm" else ["h"]
    constants = {
        "embedding": weights["embedding.weight"],
        "output": weights["output.weight"],
        "bias": weights["output.bias"],
        "first": np.array([0], np.int64),
    }
    nodes = [helper.make_node("Gather", ["embedding", "id"], ["x0"])]  # (1, B, E)
    nodes += [
        helper.make_node("Split", [s], [f"{s}_{layer}" for layer in range(layers)], axis=0)
        for s in states
    ]
    for layer in range(layers):
        names = [f"{part}{layer}" for part in "WRB"]
        for name, part in zip(names, ("ih", "hh"), strict=False):
            constants[name] = regated(weights[f"stack.weight_{part}_l{layer}"], order)[None]
        biases = [regated(weights[f"stack.bias_{part}_l{layer}"], order) for part in ("ih", "hh")]
        constants[names[2]] = np.concatenate(biases)[None]
        inputs = [f"x{layer}", *names, "", *(f"{s}_{layer}" for s in states)]
        outputs = [f"y{layer}", *(f"next_{s}_{layer}" for s in states)]
        options = {"linear_before_reset": 1} if shape.cell == "gru" else {}
        nodes.append(helper.make_node(kind, inputs, outputs, hidden_size=size, **options))
        # (T, directions, B, H) to (T, B, H), T and directions being 1
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", "first"], [f"x{layer + 1}"]))
    for s in states:
        parts = [f"next_{s}_{layer}" for layer in range(layers)]
        nodes.append(helper.make_node("Concat", parts, [f"next_{s}"], axis=0))
    nodes.append(helper.make_node("Squeeze", [f"x{layers}", "first"], ["top"]))  # (B, H)
    nodes.append(helper.make_node("Gemm", ["top", "output", "bias"], ["logits"], transB=1))
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("id", onnx.TensorProto.INT64, [1, "B"])]
        + [helper.make_tensor_value_info(s, floats, [layers, "B", size]) for s in states],
        [helper.make_tensor_value_info("logits", floats, ["B", model.vocab_size])]
        + [helper.make_tensor_value_info(f"next_{s}", floats, [layers, "B", size]) for s in states],
        [to_tensor(np.ascontiguousarray(a), n) for n, a in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    made.ir_version = 9
    onnx.checker.check_model(made)
    serialized: bytes = made.SerializeToString()
    return serialized


class OnnxPeer:
    """A session of ONNX Runtime for one time step; the state stays in its memory, bound once."""

    def __init__(self, model: LanguageModel, threads: int, batch: int = 1) -> None:
        """Make a session of so many threads for so many texts, in the zero state."""
        ort = library("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(
            onnx_step(model), options, providers=["CPUExecutionProvider"]
        )
        shape = model.config
        states = ["h", "c"] if shape.cell == "lstm" else ["h"]
        zeros = np.zeros((shape.num_layers, batch, shape.hidden_size), np.float32)
        self.ids = np.zeros((1, batch), np.int64)
        self.logits = np.zeros((batch, model.vocab_size), np.float32)
        value = ort.OrtValue.ortvalue_from_numpy
        self._ids = value(self.ids)
        # Two sets of states that are input and output in turns.
        sets = [[value(zeros.copy()) for _ in states] for _ in range(2)]
        self._logits = value(self.logits)
        self._bindings = []
        for before, after in (sets, sets[::-1]):
            binding = self.session.io_binding()
            binding.bind_ortvalue_input("id", self._ids)
            binding.bind_ortvalue_output("logits", self._logits)
            for name, old, new in zip(states, before, after, strict=True):
                binding.bind_ortvalue_input(name, old)
                binding.bind_ortvalue_output(f"next_{name}", new)
            self._bindings.append(binding)
        self._turn = 0

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Read one id for each text, (B,); gives the logits of the next, (B, V)."""
        self._ids.update_inplace(np.ascontiguousarray(ids[None], dtype=np.int64))
        self.session.run_with_iobinding(self._bindings[self._turn])
        self._turn = 1 - self._turn
        logits: np.ndarray = self._logits.numpy()
        return logits


def keras_model(model: LanguageModel) -> Any:
    """A Keras model, ids (B, T) to logits (B, T, V), from the zero state."""
    keras = library("keras")
    shape, weights = model.config, to_arrays(model)
    kinds: dict[str, Any] = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
    kind = kinds.get(shape.cell, keras.layers.SimpleRNN)
    layers = [kind(shape.hidden_size, return_sequences=True) for _ in range(shape.num_layers)]
    embedding = keras.layers.Embedding(model.vocab_size, shape.embed_size)
    output = keras.layers.Dense(model.vocab_size)
    made = keras.Sequential([embedding, *layers, output])
    made.build((None, None))
    embedding.set_weights([weights["embedding.weight"]])
    output.set_weights([weights["output.weight"].T, weights["output.bias"]])
    for index, layer in enumerate(layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        order = KERAS_GATES[shape.cell]
        ih, hh, *biases = (regated(weights[f"stack.{n}_l{index}"], order) for n in names)
        # The GRU has both biases, one of them inside the reset; the others have their sum.
        bias = np.stack(biases) if shape.cell == "gru" else biases[0] + biases[1]
        layer.set_weights([ih.T, hh.T, bias])
    return made


def keras_training(model: LanguageModel, ids: np.ndarray, targets: np.ndarray) -> Callable[[], Any]:
    """Forward and backward as a compiled TensorFlow function; gives the loss and the gradients.

    Args:
        model: Ours, for shape and weights.
        ids: (B, T).
        targets: (B, T).
    """
    keras, tf = library("keras"), library("tensorflow")
    made = keras_model(model)
    inputs, labels = tf.constant(ids), tf.constant(targets)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def run() -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, made(inputs, training=True))
        return loss, tape.gradient(loss, made.trainable_variables)

    compiled: Callable[[], Any] = tf.function(run)
    return compiled
