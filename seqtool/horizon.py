"""How much of the past a language model uses, and what surprises it: its losses, taken apart.

The gradient (diagnostics) tells how far back a model can learn; here is how far back it looks once
it has learned. Ids come in and nats go out, as in evaluation.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seqtool.evaluation import MAX_LOGITS, evaluating
from seqtool.mixture import Partner
from seqtool.models import LanguageModel

PLACES = 256  # tokens predicted at each length of the past
TOLERANCE = 0.01  # nats per token that are nothing
CERTAIN = 2.0  # standard errors of a difference beyond which it is taken for real


@dataclass(frozen=True)
class Horizon:
    """The loss on the same tokens as the visible past is cut to 1, 2, 3, 4, 6, 8, ... tokens.

    Of the network alone: what counts are mixed in know a few tokens and need no --bptt.
    """

    lengths: tuple[int, ...]
    losses: tuple[float, ...]  # nats per token
    errors: tuple[float, ...]  # standard error of each one's distance from the last
    places: int  # how many tokens were predicted
    knee: int  # the shortest past with which the loss is as low as with all that were tried
    mixed: "Horizon | None" = None  # the same of the network mixed with counts, if it is

    @property
    def ended(self) -> bool:
        """Whether the loss stopped falling before the longest past tried."""
        return self.knee < self.lengths[-1]

    @property
    def bptt(self) -> int:
        """A fitting --bptt: twice the memory, so that most tokens see all of it in their chunk."""
        return max(8, 2 * self.knee)

    @property
    def hint(self) -> str:
        """What the curve says for training, in one sentence."""
        reach = f"{self.knee} token" + "s" * (self.knee > 1)
        best = min(range(len(self.losses)), key=self.losses.__getitem__)
        if self.losses[-1] - self.losses[best] > max(TOLERANCE, CERTAIN * self.errors[best]):
            some = f"{self.lengths[best]} token" + "s" * (self.lengths[best] > 1)
            return f"more past than {some} misleads the model: this text is unlike what it learned"
        if self.ended:
            return f"--bptt {self.bptt} is enough: past {reach} the loss stops falling"
        return f"the loss still falls at {reach}: try --bptt {2 * self.knee} or more"


def memory_horizon(
    model: LanguageModel,
    ids: np.ndarray,
    lengths: tuple[int, ...],
    *,
    places: int = PLACES,
    partner: Partner | None = None,
) -> Horizon:
    """Measure how far back the text matters to the model.

    Before the visible tokens the model is in its zero state, as at the start of a text.

    Args:
        model: Neither its weights nor its mode are changed.
        ids: The text, (n,), n above the longest length.
        lengths: How many tokens to show, rising.
        places: Tokens to predict, spread evenly over the text.
        partner: What is mixed into the network, if anything.

    Raises:
        ValueError: If the text is too short.
    """
    longest = lengths[-1]
    if len(ids) <= longest:
        raise ValueError(f"{len(ids)} tokens are too few to show {longest} and predict the next")
    targets = np.unique(np.linspace(longest, len(ids) - 1, places).astype(np.int64))
    nll = np.array([_losses(model, ids, targets, length) for length in lengths])  # (K, P)
    mixed = None
    if partner is not None:
        pasts = (ids[targets[:, None] + np.arange(-length, 0)] for length in lengths)
        costs = [
            partner.mix_windows(row, seen, ids[targets])
            for row, seen in zip(nll, pasts, strict=True)
        ]
        mixed = _curve(lengths, np.array(costs))
    return replace(_curve(lengths, nll), mixed=mixed)


def _curve(lengths: tuple[int, ...], nll: np.ndarray) -> Horizon:
    """What costs (K, P) of the same P tokens at each of K lengths show."""
    places = nll.shape[1]
    gaps = nll - nll[-1]
    errors = gaps.std(axis=1) / math.sqrt(places)
    small = gaps.mean(axis=1) <= np.maximum(TOLERANCE, CERTAIN * errors)
    # From here on all are as good as the longest: after the last one that is not.
    knee = 0 if small.all() else int(np.flatnonzero(~small)[-1]) + 1
    means, deviations = nll.mean(axis=1).tolist(), errors.tolist()
    return Horizon(lengths, tuple(means), tuple(deviations), places, lengths[knee])


def _losses(model: LanguageModel, ids: np.ndarray, targets: np.ndarray, length: int) -> np.ndarray:
    """Nll in nats of the tokens at ``targets`` (P,) given the ``length`` tokens before each."""
    device = model.embedding.weight.device
    seen = torch.from_numpy(ids[targets[:, None] + np.arange(-length, 0)].astype(np.int64))
    wanted = torch.from_numpy(ids[targets].astype(np.int64))
    few = max(1, MAX_LOGITS // (length * model.vocab_size))
    found = []
    with evaluating(model), torch.inference_mode():
        for chunk, target in zip(torch.split(seen, few), torch.split(wanted, few), strict=True):
            logits, _ = model(chunk.to(device))
            found.append(
                functional.cross_entropy(logits[:, -1], target.to(device), reduction="none")
            )
    nll: np.ndarray = torch.cat(found).double().numpy(force=True)
    return nll


class Surprise(NamedTuple):
    """How a token was predicted by the model as it is used."""

    token: int
    bits: float  # -log2 of the probability it was given
    alternatives: tuple[tuple[int, float], ...]  # likeliest tokens and their probabilities
    network: float | None = None  # bits for the network alone, if counts are mixed in


def surprises(
    logits: Tensor, targets: np.ndarray, *, top: int = 3, network: Tensor | None = None
) -> list[Surprise]:
    """The surprisal of each token of a text, and what was expected in its place.

    Args:
        logits: Before each token, (n, V); log-probabilities are logits too.
        targets: The tokens, (n,).
        top: How many alternatives to name, the likeliest first.
        network: Logits of the network alone, (n, V), if the others are of more than that.
    """
    logs = functional.log_softmax(logits.double(), dim=-1)
    best = logs.topk(min(top, logs.shape[-1]), dim=-1)
    alone = [None] * len(targets) if network is None else _bits(network, targets)
    return [
        Surprise(token, bits, tuple(zip(tokens, chances, strict=True)), network_bits)
        for token, bits, tokens, chances, network_bits in zip(
            targets.tolist(),
            _bits(logits, targets),
            best.indices.tolist(),
            best.values.exp().tolist(),
            alone,
            strict=True,
        )
    ]


def _bits(logits: Tensor, targets: np.ndarray) -> list[float]:
    """-log2 of the probability of each target, (n,), under logits (n, V)."""
    wanted = torch.from_numpy(targets.astype(np.int64)).to(logits.device)
    nats = functional.cross_entropy(logits.double(), wanted, reduction="none")
    found: list[float] = (nats / math.log(2)).tolist()
    return found
