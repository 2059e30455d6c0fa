"""A linear classifier of n-grams: the method that recurrent networks have to beat on small data.

Which n-grams stand in a text, each weighted by a logistic regression whose features are scaled by
the naive Bayes log-count ratios (Wang & Manning 2012, "Baselines and bigrams", section 2.3, for any
number of classes one against the rest). Where a text may have several labels, each is a logistic
regression of its own. It is trained by itself, to its optimum, and then serves as
the second opinion beside the recurrent one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.calibration import fit_powers, nll, pool
from seqtool.checkpoint import MOST_WEIGHT
from seqtool.errors import CheckpointError
from seqtool.labelsets import fit_label_powers, label_nll, probabilities
from seqtool.lexicon import Texts

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed
MAX_WEIGHTS = 1 << 23  # the most frequent n-grams are kept, 32 MB of weights at most
PRIOR = 0.1  # every feature's factor before anything is learned: a tenth of naive Bayes
# Of the pull towards that, tried in this order as long as held-out texts become more probable:
# short texts want a strong one, long texts, which name each thing many times, a weak one.
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
USUAL = 3.0  # the strength where nothing is held out
ITERATIONS = 20  # of L-BFGS


def ngram_keys(hashes: Array, texts: Texts, order: int) -> tuple[Array, Array]:
    """All n-grams up to an order.

    Args:
        hashes: Of the words of the lexicon's table, (W,).
        texts: N rows.
        order: Longest n-gram, at least 1.

    Returns:
        Keys, (K,) uint64, each n-gram of a text once, and the row of each, sorted by row and key.
    """
    word = hashes.astype(np.uint64)[texts.words]
    row = np.repeat(np.arange(len(texts)), texts.lengths)
    keys, rows = [word], [row]
    key = word
    for _ in range(order - 1):
        # Word i joins the n-gram that ends at i - 1, if that is in the same text.
        key = (key[:-1] * MULTIPLIER) ^ word[-len(key) + 1 :] if len(key) > 1 else key[:0]
        key = key ^ (key >> np.uint64(29))
        start, end = row[: len(key)], row[len(row) - len(key) :]
        keys.append(key[start == end])
        rows.append(end[start == end])
    all_keys, all_rows = np.concatenate(keys), np.concatenate(rows)
    place = np.lexsort((all_keys, all_rows))
    all_keys, all_rows = all_keys[place], all_rows[place]
    first = np.ones(len(all_keys), bool)
    first[1:] = (all_keys[1:] != all_keys[:-1]) | (all_rows[1:] != all_rows[:-1])
    return all_keys[first], all_rows[first]


def check_linear(arrays: Arrays, classes: int, where: str) -> None:
    """See that arrays from a file are a linear classifier.

    Raises:
        CheckpointError: If not.
    """
    keys, weight, bias = (arrays.get(name, np.zeros(0)) for name in ("keys", "weight", "bias"))
    right = keys.dtype == np.uint64 and {weight.dtype, bias.dtype} == {np.dtype(np.float32)}
    right = right and weight.shape == (*keys.shape, classes) and bias.shape == (classes,)
    if not (right and all(np.abs(a).max(initial=0) < MOST_WEIGHT for a in (weight, bias))):
        raise CheckpointError(
            f"{where}: its linear classifier is damaged; copy the whole model directory again"
        )


def look_up(known: Array, keys: Array, rows: Array) -> tuple[Array, Array]:
    """Places of keys among the sorted known ones, and their rows; the unknown are left out."""
    if len(known) == 0:
        return np.zeros(0, np.int64), rows[:0]
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    found = known[places] == keys
    return places[found], rows[found]


def score(arrays: Arrays, keys: Array, rows: Array, count: int) -> Array:
    """Logits of ``count`` texts, (N, C) float32, from the n-grams that stand in them."""
    places, rows = look_up(arrays["keys"], keys, rows)
    weight = arrays["weight"]  # (F, C)
    logits = np.stack(
        [np.bincount(rows, weight[places, c], minlength=count) for c in range(weight.shape[1])],
        axis=1,
    )
    return (logits + arrays["bias"]).astype(np.float32)


def ratios(places: Array, labels: Array, features: int, classes: int) -> Array:
    """Naive Bayes log-count ratios of each class against all others, (F, C).

    Args:
        places: Feature of each n-gram in a text, (K,).
        labels: Class of that text, (K,), or for each class whether the text has it, (K, C).
        features: F.
        classes: C.
    """
    if labels.ndim == 2:
        columns = [np.bincount(places, labels[:, c], minlength=features) for c in range(classes)]
        counts = np.stack(columns, axis=1)
    else:
        counts = np.bincount(places * classes + labels, minlength=features * classes)
        counts = counts.reshape(features, classes).astype(np.float64)
    inside = counts + 1  # as if every n-gram had been seen once more with each class
    outside = np.bincount(places, minlength=features)[:, None] - counts + 1
    shares = inside / inside.sum(axis=0), outside / outside.sum(axis=0)
    return np.asarray(np.log(shares[0]) - np.log(shares[1]))


def fit(
    features: tuple[Array, Array],
    labels: Array,
    weights: Array,
    classes: int,
    held_out: tuple[Array, Array],
    held_out_labels: Array,
) -> Arrays:
    """Train on some texts, with the strength of penalty that suits some others.

    Args:
        features: Keys and rows of N texts, from ``ngram_keys``.
        labels: Of these texts, (N,), or 1 for each that a text has, (N, C).
        weights: How much each text counts, or each of its labels; as ``labels``.
        classes: C.
        held_out: Keys and rows of M other texts; with M = 0 the usual strength is taken.
        held_out_labels: Of those, (M,) or (M, C).

    Returns:
        ``keys`` (F,) uint64, sorted; ``weight`` (F, C) and ``bias`` (C,).
    """
    known, counts = np.unique(features[0], return_counts=True)
    most = max(1, MAX_WEIGHTS // classes)
    if len(known) > most:
        known = np.sort(known[np.argsort(-counts, kind="stable")[:most]])
    places, rows = look_up(known, *features)
    scale = ratios(places, labels[rows], len(known), classes)
    best: Arrays = {}
    lowest = np.inf
    for strength in STRENGTHS if len(held_out_labels) else (USUAL,):
        factors, bias = _factors(places, rows, labels, weights, scale, strength)
        found = {"keys": known, "weight": (scale * factors).astype(np.float32), "bias": bias}
        if not len(held_out_labels):
            return found
        loss = _calibrated_loss(score(found, *held_out, len(held_out_labels)), held_out_labels)
        if loss >= lowest:
            break
        best, lowest = found, loss
    return best


def _calibrated_loss(logits: Array, labels: Array) -> float:
    """How improbable labels are by logits (M, C), once these are no longer too sure of themselves.

    That is what the logits are for: they are pooled with others', and calibrated then.
    """
    if labels.ndim == 2:
        powers = fit_label_powers([logits], labels)
        return label_nll(probabilities([logits], powers), labels)
    return nll(pool([logits], fit_powers([logits], labels)), labels)


def _factors(
    places: Array, rows: Array, labels: Array, weights: Array, scale: Array, strength: float
) -> tuple[Array, Array]:
    """What each scaled feature is multiplied with, (F, C), and a bias, (C,): the penalised optimum.

    Minimises sum_n w_n nll_n + strength/2 |factors - prior|^2 by L-BFGS.
    """
    import torch
    from torch.nn import functional

    starts = torch.from_numpy(np.searchsorted(rows, np.arange(len(labels))))
    indices, targets = torch.from_numpy(places), torch.from_numpy(labels)
    share = torch.from_numpy(weights / len(labels)).float()
    ratio = torch.from_numpy(scale).float()
    factors = torch.full_like(ratio, PRIOR, requires_grad=True)
    bias = torch.zeros(ratio.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [factors, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        logits = functional.embedding_bag(indices, ratio * factors, starts, mode="sum") + bias
        if targets.ndim == 2:
            losses = functional.binary_cross_entropy_with_logits(
                logits, targets.float(), reduction="none"
            )
        else:
            losses = functional.cross_entropy(logits, targets, reduction="none")
        penalty = strength / 2 / len(labels) * (factors - PRIOR).square().sum()
        loss = (losses * share).sum() + penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return factors.detach().numpy(), bias.detach().numpy()
