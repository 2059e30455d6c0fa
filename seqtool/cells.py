"""Recurrent cells as their equations, and the stack of layers that runs them.

A cell is one function: what the input adds at time t, and the state at t-1, give the state at t.
Everything else (layers, directions, dropout, starting weights) is RecurrentStack. Weights have the
names and the layout of torch.nn.RNN, LSTM and GRU. Here there are no embeddings, output layers or
losses; those are in models. The same equations as compiled loops are in kernels.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqtool.config import GATES, Cell, Nonlinearity

# What a recurrent layer remembers: (h,) or, for the LSTM, (h, c). Each is (B, H) inside a cell and
# (L*D, B, H) for a stack of L layers in D directions, ordered as in torch.nn: layer by layer, the
# forward direction first. Always passed in and returned, never kept on a module.
State = tuple[Tensor, ...]

# What runs recurrent layers: (input (B, T, E), state before) -> output (B, T, H), state after.
Stack = Callable[[Tensor, State], tuple[Tensor, State]]

# A cell: (W_ih x_t + b_ih, state at t-1, W_hh, b_hh) -> state at t.
Step = Callable[[Tensor, State, Tensor, Tensor], State]

# How a stack computes: "plain" runs the equations below, "fused" torch's own kernels, "compiled"
# the loops of kernels.
Path = Literal["plain", "fused", "compiled"]


# Le et al. 2015: the identity start needs inputs that hardly disturb what it accumulates.
IDENTITY_INPUT_STD = 1e-3


def stochastic(a: Tensor) -> Tensor:
    """Draw binary units that are 1 with probability sigmoid(a).

    A draw has no useful derivative, so the gradient goes straight through it to the probability:
    the straight-through estimator in the form that keeps the slope of the sigmoid. (Without that
    slope, at most 1/4, gradients through time explode.) Units are drawn in training and in use
    alike, from torch's global generator.

    Source: Bengio, Leonard & Courville 2013, arXiv:1308.3432.

    Args:
        a: Activation, any shape.

    Returns:
        Zeros and ones, shape and dtype of a.
    """
    p = torch.sigmoid(a)
    return p + (torch.bernoulli(p) - p).detach()


def rnn_step(
    ux: Tensor, state: State, weight: Tensor, bias: Tensor, activation: Callable[[Tensor], Tensor]
) -> State:
    """Advance a simple recurrent layer by one time step.

        s_t = activation(U x_t + W s_{t-1} + b)

    Source: Elman 1990, doi:10.1207/s15516709cog1402_1.

    Args:
        ux: What the input adds, U x_t + b_ih, (B, H).
        state: (s_{t-1},), (B, H).
        weight: W, (H, H).
        bias: b_hh, (H,); redundant beside b_ih, kept because torch.nn has both.
        activation: The nonlinearity, applied to each unit.

    Returns:
        (s_t,), (B, H).
    """
    (s,) = state
    s = activation(ux + functional.linear(s, weight, bias))
    return (s,)


def lstm_step(ux: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
    """Advance a long short-term memory layer, with forget gate and no peepholes, by one time step.

        i_t = sigmoid(U_i x_t + W_i h_{t-1} + b_i)      input gate: what to write
        f_t = sigmoid(U_f x_t + W_f h_{t-1} + b_f)      forget gate: what to keep
        g_t = tanh(U_g x_t + W_g h_{t-1} + b_g)         candidate memory
        o_t = sigmoid(U_o x_t + W_o h_{t-1} + b_o)      output gate: what to show
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; the forget gate is from
    Gers, Schmidhuber & Cummins 2000, doi:10.1162/089976600300015015.

    Args:
        ux: What the input adds to the gates i, f, g, o: U x_t + b_ih, (B, 4H).
        state: (h_{t-1}, c_{t-1}), each (B, H).
        weight: W_i, W_f, W_g, W_o one below the other, (4H, H).
        bias: b_hh in the same order, (4H,).

    Returns:
        (h_t, c_t), each (B, H).
    """
    h, c = state
    i, f, g, o = (ux + functional.linear(h, weight, bias)).chunk(4, dim=-1)  # 4 x (B, H)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, c


def gru_step(ux: Tensor, state: State, weight: Tensor, bias: Tensor) -> State:
    """Advance a gated recurrent unit layer by one time step.

        r_t = sigmoid(U_r x_t + W_r h_{t-1} + b_r)              reset gate
        z_t = sigmoid(U_z x_t + W_z h_{t-1} + b_z)              update gate: what to keep
        n_t = tanh(U_n x_t + b_in + r_t * (W_n h_{t-1} + b_hn)) candidate state
        h_t = z_t * h_{t-1} + (1 - z_t) * n_t

    Source: Cho et al. 2014, arXiv:1406.1078, equations 5 to 8, with one change: the published
    equation 8 resets before the product, W_n (r_t * h_{t-1}). Here, as in torch.nn, in cuDNN and in
    the paper's first version on arXiv, the reset gate comes after it: one product then serves all
    three gates. This is why b_hn, inside the reset, is not redundant beside b_in.

    Args:
        ux: What the input adds to r, z, n: U x_t + b_ih, (B, 3H).
        state: (h_{t-1},), (B, H).
        weight: W_r, W_z, W_n one below the other, (3H, H).
        bias: b_hh in the same order, (3H,).

    Returns:
        (h_t,), (B, H).
    """
    (h,) = state
    ux_r, ux_z, ux_n = ux.chunk(3, dim=-1)  # 3 x (B, H)
    wh_r, wh_z, wh_n = functional.linear(h, weight, bias).chunk(3, dim=-1)  # 3 x (B, H)
    r = torch.sigmoid(ux_r + wh_r)
    z = torch.sigmoid(ux_z + wh_z)
    n = torch.tanh(ux_n + r * wh_n)
    h = z * h + (1 - z) * n
    return (h,)


STEPS: dict[str, Step] = {
    "rnn_tanh": partial(rnn_step, activation=torch.tanh),
    "rnn_relu": partial(rnn_step, activation=torch.relu),
    "rnn_sigmoid": partial(rnn_step, activation=torch.sigmoid),
    "rnn_stochastic": partial(rnn_step, activation=stochastic),
    "lstm": lstm_step,
    "gru": gru_step,
}

# torch's kernels for whole sequences: oneDNN or ATen on a CPU, cuDNN on a GPU.
FUSED = {"rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu, "gru": torch.gru}
FUSED_KINDS = frozenset({*FUSED, "lstm"})  # torch.lstm has a signature of its own
COMPILED_KINDS = frozenset(STEPS) - {"rnn_stochastic"}
# Below this many units, or rows times steps, torch's kernels are as fast and need no compiling.
COMPILED_UNITS = 64
COMPILED_ROWS = 128
# An LSTM of few sequences is faster in oneDNN: there threads share the units of a layer, here the
# sequences, and each reads all weights for its own. Measured on two cores: 1 x 256 units .4 times
# its speed with one sequence, .67 with 4; with 16 .98, but .75 at 2048 units.
FEW_SEQUENCES = 8
MANY_UNITS = 1024  # with as many units, twice as many sequences are few


def detach(state: State) -> State:
    """The same numbers without their history: truncated BPTT stops gradients here."""
    return tuple(part.detach() for part in state)


def reset(state: State, restart: Tensor) -> State:
    """Put the sequences that start afresh back to the zero state.

    Args:
        state: Each (L*D, B, H).
        restart: Which sequences begin anew, (B,) bool.

    Returns:
        A new state; no gradient flows into the part that was zeroed.
    """
    return tuple(part.masked_fill(restart[None, :, None], 0.0) for part in state)


class Weights(NamedTuple):
    """One layer in one direction, its G gates one below the other: as torch.nn has them."""

    weight_ih: Tensor  # (G*H, E)
    weight_hh: Tensor  # (G*H, H)
    bias_ih: Tensor  # (G*H,)
    bias_hh: Tensor  # (G*H,)


def run_plain(
    step: Step,
    x: Tensor,
    state: State,
    weights: Weights,
    *,
    backward: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one cell over a sequence by its equations.

    Args:
        step: The cell.
        x: Input, (B, T, E).
        state: State before the first step taken, each (B, H).
        weights: Of this layer and direction.
        backward: Read from the last time step to the first.
        lengths: Steps that each row really has, (B,); all T if not given. In the rest its state
            stays as it is and its output is zero.

    Returns:
        h at every time, (B, T, H), in the order of x, and the state after the last step taken.
    """
    # What the input adds does not depend on the state: one product for all time steps.
    ux = functional.linear(x.transpose(0, 1), weights.weight_ih, weights.bias_ih)  # (T, B, G*H)
    outputs = []
    times = range(len(ux) - 1, -1, -1) if backward else range(len(ux))
    for t in times:
        after = step(ux[t], state, weights.weight_hh, weights.bias_hh)
        if lengths is None:
            state = after
            outputs.append(state[0])
        else:
            inside = (t < lengths)[:, None]  # (B, 1)
            state = tuple(torch.where(inside, *parts) for parts in zip(after, state, strict=True))
            outputs.append(state[0] * inside)
    if backward:
        outputs.reverse()
    return torch.stack(outputs, dim=1), state


class RecurrentStack(nn.Module):
    """Layers of one kind of cell, each reading the one below.

    One set of weights and three ways to run it: the equations above ("plain": every cell, the
    reference), torch's kernels ("fused": faster, all but sigmoid and stochastic units) and our own
    ("compiled": faster still on a CPU, all but stochastic units). The fastest for the size is
    taken; assign to ``path`` to decide.

    Parameters are those of torch.nn.RNN, LSTM and GRU: ``weight_ih_l0``, ``weight_hh_l0``,
    ``bias_ih_l0``, ``bias_hh_l0``, then ``_l1`` and so on, ``_reverse`` added for the other
    direction. A state dict of either loads into the other.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: Cell,
        nonlinearity: Nonlinearity = "tanh",
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the layers and draw their starting weights from torch's global generator.

        Args:
            input_size: E, width of the input.
            hidden_size: H, units of each layer in each direction.
            num_layers: L.
            cell: Kind of recurrence.
            nonlinearity: Of the simple RNN; LSTM and GRU have their own.
            dropout: Chance of a unit to be dropped from a layer's output, see ``drop``.
            bidirectional: Also read from the end, and put both outputs side by side.
            dtype: Of the weights, torch's default if not given.
        """
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.kind = f"rnn_{nonlinearity}" if cell == "rnn" else cell  # key of STEPS
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.suffixes = ("", "_reverse") if bidirectional else ("",)  # one for each direction
        self.path: Path | None = None  # the fastest
        rows = GATES[cell] * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * len(self.suffixes)
            shapes = (rows, width), (rows, hidden_size), (rows,), (rows,)
            for suffix in self.suffixes:
                for name, shape in zip(Weights._fields, shapes, strict=True):
                    weight = nn.Parameter(torch.empty(shape, dtype=dtype))
                    self.register_parameter(f"{name}_l{layer}{suffix}", weight)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the starting weights, each gate's block on its own.

        Recurrent blocks are random orthogonal matrices, which keep the length of what they carry
        through time (Saxe, McClelland & Ganguli 2014, arXiv:1312.6120), and input blocks are
        uniform with the variance of Glorot & Bengio 2010, equation 16. Biases are zero but for the
        LSTM's forget gate, which starts at 1, open, so that memory survives the first updates
        (Gers et al. 2000; Jozefowicz, Zaremba & Sutskever 2015). A ReLU layer starts as a plain
        accumulator, the identity with small inputs (Le, Jaitly & Hinton 2015, arXiv:1504.00941).
        """
        for layer in range(self.num_layers):
            for direction in range(len(self.suffixes)):
                weights = self.weights(layer, direction)
                for block in weights.weight_ih.chunk(GATES[self.cell]):
                    if self.kind == "rnn_relu":
                        nn.init.normal_(block, std=IDENTITY_INPUT_STD)
                    else:
                        nn.init.xavier_uniform_(block)
                for block in weights.weight_hh.chunk(GATES[self.cell]):
                    if self.kind == "rnn_relu":
                        nn.init.eye_(block)
                    else:
                        nn.init.orthogonal_(block)
                nn.init.zeros_(weights.bias_ih)
                nn.init.zeros_(weights.bias_hh)
                if self.cell == "lstm":  # gates i, f, g, o; the two biases add up to 1
                    nn.init.ones_(weights.bias_ih[self.hidden_size : 2 * self.hidden_size])

    def weights(self, layer: int, direction: int = 0) -> Weights:
        """The parameters of one layer in one direction (0 forward, 1 backward)."""
        suffix = f"_l{layer}{self.suffixes[direction]}"
        return Weights(*(self.get_parameter(name + suffix) for name in Weights._fields))

    @property
    def may_explode(self) -> bool:
        """Whether a state can grow exponentially: ReLU has no bound, and no gate stands before it.

        Past the chunk that a gradient sees nothing holds it back, so it is not carried to the next
        in training (Krueger & Memisevic 2016, arXiv:1511.08400, on the norms of such states).
        """
        return self.kind == "rnn_relu"

    def init_state(self, batch: int) -> State:
        """The zero state of a batch of sequences, each part (L*D, B, H)."""
        weight = self.get_parameter("weight_hh_l0")
        shape = (self.num_layers * len(self.suffixes), batch, self.hidden_size)
        return tuple(weight.new_zeros(shape) for _ in range(2 if self.cell == "lstm" else 1))

    def fastest(self, x: Tensor, *, padded: bool = False) -> Path:
        """How to run a batch: a rule of its shape alone, so that every run computes the same.

        Args:
            x: Input, (B, T, E).
            padded: Whether the rows differ in length; torch's kernels know no such thing.
        """
        rows = x.shape[0] * x.shape[1]
        few = FEW_SEQUENCES * (2 if self.hidden_size >= MANY_UNITS else 1)
        onednn = self.kind == "lstm" and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        ours = self.hidden_size >= COMPILED_UNITS and rows >= COMPILED_ROWS
        ours = ours and not (onednn and x.shape[0] <= few)
        torch_can = self.kind in FUSED_KINDS and not padded
        can = self.kind in COMPILED_KINDS and x.device.type == "cpu" and x.dtype == torch.float32
        if can and (ours or not torch_can):
            return "compiled"
        return "fused" if torch_can else "plain"

    def forward(
        self, x: Tensor, state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run all layers over a batch of sequences.

        Args:
            x: Input, (B, T, E), T at least 1.
            state: State before the first time step, each (L*D, B, H); zero if not given.
            lengths: Steps that each row really has, (B,); all T if not given. In the rest its state
                stays as it is and its output is zero. Not for the path "fused".

        Returns:
            Output of the last layer, (B, T, H*D), and the state after the last time step. Dropout
            is applied to the former, never to the latter.
        """
        if state is None:
            state = self.init_state(len(x))
        path = self.path or self.fastest(x, padded=lengths is not None)
        finals = []
        starts = zip(*(part.chunk(self.num_layers) for part in state), strict=True)
        for layer, start in enumerate(starts):
            if path == "fused":
                assert lengths is None, "torch's kernels know no lengths"
                x, final = self._run_fused(layer, x, start)
            else:
                x, final = self._run_ours(layer, x, start, lengths, path)
            x = self.drop(x)
            finals.append(final)
        return x, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def prepare(
        self, batch: int, steps: int, announce: Callable[[], None], *, padded: bool = False
    ) -> None:
        """Have the machine code ready that batches of this shape need, so that no update waits.

        Args:
            batch: B.
            steps: T.
            announce: Called if code has to be compiled, which takes seconds, once.
            padded: Whether the rows differ in length.
        """
        x = self.get_parameter("weight_ih_l0").new_zeros(batch, steps, self.input_size)
        if (self.path or self.fastest(x, padded=padded)) != "compiled":
            return
        from seqtool.compiled import announced  # numba, which other paths need not load

        lengths = torch.full((batch,), steps) if padded else None
        learning = self.training
        self.eval()  # no dropout: chance stays where it is
        with announced(announce), torch.enable_grad():
            output, _ = self.forward(x, lengths=lengths)
            torch.autograd.grad(output.sum(), list(self.parameters()))
        self.train(learning)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance all layers by one time step, by the equations: decoding, so without dropout.

        Args:
            x: Input at one time, (B, E).
            state: Each (L, B, H).

        Returns:
            h of the last layer, (B, H), and the new state. Equals ``forward`` on one time step.
        """
        assert not self.bidirectional, "a backward layer cannot be stepped"
        finals = []
        for layer, before in enumerate(zip(*(part.unbind() for part in state), strict=True)):
            weight_ih, weight_hh, bias_ih, bias_hh = self.weights(layer)
            ux = functional.linear(x, weight_ih, bias_ih)
            after = STEPS[self.kind](ux, before, weight_hh, bias_hh)
            x = after[0]
            finals.append(after)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def drop(self, x: Tensor) -> Tensor:
        """Drop units in training, the same ones at every time step of a sequence.

        One mask for each sequence and call: a fresh mask at every time step would be noise that a
        recurrent layer above has to carry along. What is kept is scaled up, so that nothing changes
        in use. Source: Gal & Ghahramani 2016, arXiv:1512.05287, on the outputs of layers only (the
        paper also drops the inputs and the recurrent connections).

        Args:
            x: Output of a layer, (B, T, H*D).
        """
        if not self.training or self.dropout == 0:
            return x
        keep = 1 - self.dropout
        mask = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(keep) / keep
        return x * mask

    def _run_ours(
        self, layer: int, x: Tensor, start: State, lengths: Tensor | None, path: Path
    ) -> tuple[Tensor, State]:
        """One layer by the equations or compiled; start and result state each (D, B, H)."""
        outputs, finals = [], []
        for direction in range(len(self.suffixes)):
            state = tuple(part[direction] for part in start)
            weights, backward = self.weights(layer, direction), direction == 1
            if path == "compiled":
                from seqtool.kernels import run_layer  # numba, which other paths need not load

                output, final = run_layer(
                    self.kind, x, state, weights, backward=backward, lengths=lengths
                )
            else:
                output, final = run_plain(
                    STEPS[self.kind], x, state, weights, backward=backward, lengths=lengths
                )
            outputs.append(output)
            finals.append(final)
        if len(outputs) == 1:
            return outputs[0], tuple(part[None] for part in finals[0])
        return torch.cat(outputs, dim=-1), tuple(map(torch.stack, zip(*finals, strict=True)))

    def _run_fused(self, layer: int, x: Tensor, start: State) -> tuple[Tensor, State]:
        """One layer by torch's kernel; called one at a time so that our dropout sits between."""
        parameters = [
            weight
            for direction in range(len(self.suffixes))
            for weight in self.weights(layer, direction)
        ]
        # torch: has_biases, num_layers, dropout, train (keep what a backward pass needs),
        # bidirectional, batch_first.
        options = (True, 1, 0.0, torch.is_grad_enabled(), self.bidirectional, True)
        if self.cell == "lstm":
            output, h, c = torch.lstm(x, start, parameters, *options)
            return output, (h, c)
        output, h = FUSED[self.kind](x, start[0], parameters, *options)
        return output, (h,)
