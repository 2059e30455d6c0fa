"""A linear classifier of n-grams: the method that recurrent networks have to beat on small data.

Which n-grams stand in a text, each weighted by a logistic regression whose features are scaled by
the naive Bayes log-count ratios (Wang & Manning 2012, "Baselines and bigrams", section 2.3, for any
number of classes one against the rest). Where a text may have several labels, each is a logistic
regression of its own. It is trained by itself, to its optimum, and then serves as the second
opinion beside the recurrent one.

There are two ways to do that, and held-out texts choose. In short texts every word counts, and
what is learned is best pulled towards naive Bayes. In long ones words come by chance: they count
the more the rarer they are, the features of a text are brought to length 1, so that it is no surer
of itself for being long, and naive Bayes only scales. (Its ratios are counted on the texts that are
learned from. A long text has so many n-grams of its own that to start from the ratios is to know it
by heart before anything is learned: 1 % worse on film reviews.)
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqtool.calibration import fit_powers, nll, pool
from seqtool.errors import CheckpointError
from seqtool.labelsets import fit_label_powers, label_nll, probabilities
from seqtool.lexicon import Texts
from seqtool.memory import give_back
from seqtool.shapes import MOST_WEIGHT

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Pair = tuple[Array, Array]
Part = tuple[Array, Array, int]  # keys and rows of some texts, from ngram_keys, and how many texts
Parts = Callable[[], Iterable[Part]]  # all texts, part after part, as often as is asked

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed
MAX_WEIGHTS = 5 << 19  # the most frequent n-grams are kept; 140 bytes each while it is trained
MOST_COUNTED = 1 << 22  # different n-grams counted at once, some 50 bytes each
BEGIN, END = np.uint64(1), np.uint64(2)  # stand around a text: what begins or ends it may tell


class Way(NamedTuple):
    """One of the two ways."""

    prior: float  # every feature's factor before anything is learned, as a share of naive Bayes
    to_length: bool  # whether features count by rarity and those of a text are brought to length 1
    # Of the penalty, tried in this order as long as held-out texts become more probable.
    strengths: tuple[float, ...]


WAYS = (
    Way(0.1, False, (10.0, 3.0, 1.0, 0.3, 0.1)),
    Way(0.0, True, (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)),
)
USUAL = Way(0.1, False, (3.0,))  # where nothing is held out
GAIN = 0.5  # nats by which held-out texts, all together, must gain from another way or penalty
ITERATIONS = 20  # of L-BFGS
# Of its steps, how many are kept, each twice as large as the weights. Three to seven are as good as
# more (Liu & Nocedal 1989, "On the limited memory BFGS method for large scale optimization").
HISTORY = 4
TEXTS_AT_ONCE = 10_000  # whose features are weighed together
PLACES_AT_ONCE = 1 << 20  # that are counted together: NumPy makes 8 bytes of the 4 of each


class Standing(NamedTuple):
    """Which of the known n-grams stand in each of N texts.

    Both arrays are int32, since scipy would copy both to the wider type of the two.
    """

    places: Array  # (K,), those of a text in a row, ascending; K is at most 2^31 - 1
    starts: Array  # (N + 1,), where the places of each text start, and where the last end

    def rows(self) -> Array:
        """The text that each stands in, (K,) int32."""
        count = len(self.starts) - 1
        return np.repeat(np.arange(count, dtype=np.int32), np.diff(self.starts))


def ngram_keys(hashes: Array, texts: Texts, order: int) -> tuple[Array, Array]:
    """All n-grams up to an order.

    Args:
        hashes: Of the words of the lexicon's table, (W,).
        texts: N rows.
        order: Longest n-gram, at least 1; from two on, the borders of a text are part of some.

    Returns:
        Keys, (K,) uint64, each n-gram of a text once, and the row of each, (K,) int32, sorted by
        row and key.
    """
    row = np.repeat(np.arange(len(texts), dtype=np.int32), texts.lengths + 2)
    inner = np.ones(len(row), bool)
    first = texts.offsets[:-1] + 2 * np.arange(len(texts))
    inner[first] = inner[first + texts.lengths + 1] = False
    word = np.full(len(row), END)
    word[first] = BEGIN
    word[inner] = hashes.astype(np.uint64)[texts.words]
    keys, rows = [word[inner]], [row[inner]]
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
    rarity = arrays.get("rarity", np.zeros(len(keys), np.float32))
    numbers = weight, bias, rarity
    right = keys.dtype == np.uint64 and {a.dtype for a in numbers} == {np.dtype(np.float32)}
    right = right and weight.shape == (*keys.shape, classes) and bias.shape == (classes,)
    right = right and rarity.shape == keys.shape
    if not (right and all(np.abs(a).max(initial=0) < MOST_WEIGHT for a in numbers)):
        raise CheckpointError(
            f"{where}: its linear classifier is damaged; copy the whole model directory again"
        )


def look_up(known: Array, keys: Array, rows: Array) -> tuple[Array, Array]:
    """Places of keys among the sorted known ones, and their rows; the unknown are left out."""
    if len(known) == 0:
        return np.zeros(0, np.int32), rows[:0]
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1).astype(np.int32)
    found = known[places] == keys
    return places[found], rows[found]


def frequent(parts: Iterable[Part], most: int) -> Array:
    """The n-grams that stand in most texts, at most ``most`` of them, (F,) uint64, sorted.

    Where there are more different ones than MOST_COUNTED, the rarer half is forgotten, as often as
    that is so: what comes back later is counted afresh.
    """
    known, counts = np.zeros(0, np.uint64), np.zeros(0, np.int32)
    waiting = list[Array]()
    for keys, _, _ in parts:
        waiting.append(keys)
        # Not one part at a time: to make room among those known costs as much as they are.
        if sum(map(len, waiting)) > MOST_COUNTED // 4:
            known, counts = _added(known, counts, np.concatenate(waiting))
            waiting.clear()
            if len(known) > MOST_COUNTED:
                known, counts = _most_frequent(known, counts, max(most, MOST_COUNTED // 2))
    if waiting:
        known, counts = _added(known, counts, np.concatenate(waiting))
    return _most_frequent(known, counts, most)[0]


def _added(known: Array, counts: Array, keys: Array) -> Pair:
    """Sorted keys and how often each was met, once more keys are counted with them."""
    new, times = np.unique(keys, return_counts=True)
    places = np.searchsorted(known, new)
    old = np.zeros(len(new), bool)
    inside = places < len(known)
    old[inside] = known[places[inside]] == new[inside]
    counts[places[old]] += times[old].astype(np.int32)
    places, new, times = places[~old], new[~old], times[~old]
    return np.insert(known, places, new), np.insert(counts, places, times)


def _most_frequent(known: Array, counts: Array, most: int) -> Pair:
    """The keys with the highest counts, as many as there may be; of equal ones the first."""
    if len(known) <= most:
        return known, counts
    kept = np.sort(np.argsort(-counts, kind="stable")[:most])
    return known[kept], counts[kept]


def standing(known: Array, parts: Iterable[Part]) -> Standing:
    """Where the known n-grams stand.

    That is in fewer places than int32 can count: with 2^31 of them the keys alone, from which they
    are looked up, would be 16 GB, and those who call give a sample of what is so large.
    """
    places, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for keys, rows, count in parts:
        # In the order of the keys they are found three times as fast: neighbours are near.
        order = np.argsort(keys)
        found = np.full(len(keys), -1, np.int32)
        some, where = look_up(known, keys[order], order)
        found[where] = some
        places.append(found[found >= 0])
        lengths.append(np.bincount(rows[found >= 0], minlength=count))
    starts = np.cumsum(np.concatenate(lengths))
    assert starts[-1] <= np.iinfo(np.int32).max  # a sample has far fewer
    return Standing(np.concatenate(places), starts.astype(np.int32))


def score(arrays: Arrays, keys: Array, rows: Array, count: int) -> Array:
    """Logits of ``count`` texts, (N, C) float32, from the n-grams that stand in them."""
    return _logits(arrays, *look_up(arrays["keys"], keys, rows), count)


def _logits(arrays: Arrays, places: Array, rows: Array, count: int) -> Array:
    """As ``score``, of n-grams that are looked up."""
    weight = arrays["weight"]  # (F, C)
    sums = [np.bincount(rows, weight[places, c], minlength=count) for c in range(weight.shape[1])]
    logits: Array = np.stack(sums, axis=1)
    if "rarity" in arrays:  # models made before there was one did without
        logits = logits / _lengths(arrays["rarity"][places], rows, count)[:, None]
    return (logits + arrays["bias"]).astype(np.float32)


def _lengths(values: Array, rows: Array, count: int) -> Array:
    """Of the vectors of ``count`` texts, (N,); their values in any order, (K,), and rows, (K,)."""
    squares: Array = np.bincount(rows, values**2, minlength=count)
    return np.asarray(np.sqrt(np.where(squares > 0, squares, 1)))


def ratios(texts: Standing, labels: Array, features: int, classes: int) -> Array:
    """Naive Bayes log-count ratios of each class against all others, (F, C) float32.

    Args:
        texts: What stands in N texts.
        labels: Class of each text, (N,), or for each class whether the text has it, (N, C).
        features: F.
        classes: C.
    """
    found = np.zeros((features, classes), np.float32)
    having = _counted(texts.places, features)
    lengths = np.diff(texts.starts)
    for c in range(classes):
        has = labels == c if labels.ndim == 1 else labels[:, c] > 0
        counts = _counted(texts.places[np.repeat(has, lengths)], features)
        # As if every n-gram had been seen once more with each class.
        inside, outside = counts + 1, having - counts + 1
        found[:, c] = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
    return found


def _counted(places: Array, features: int) -> Array:
    """How often each feature is among some places, (F,)."""
    found = np.zeros(features, np.int64)
    for first in range(0, len(places), PLACES_AT_ONCE):
        found += np.bincount(places[first : first + PLACES_AT_ONCE], minlength=features)
    return found


def fit(
    parts: Parts,
    labels: Array,
    weights: Array,
    classes: int,
    held_out: Parts,
    held_out_labels: Array,
) -> Arrays:
    """Train on some texts, in the way and with the strength of penalty that suit some others.

    Args:
        parts: N texts.
        labels: Of these texts, (N,), or 1 for each that a text has, (N, C).
        weights: How much each text counts, or each of its labels; as ``labels``.
        classes: C.
        held_out: M other texts; with M = 0 the usual way is taken.
        held_out_labels: Of those, (M,) or (M, C).

    Returns:
        ``keys`` (F,) uint64, sorted; ``weight`` (F, C) and ``bias`` (C,); ``rarity`` (F,) if the
        texts are brought to length 1.
    """
    from scipy.sparse import csr_array

    known = frequent(parts(), max(1, MAX_WEIGHTS // classes))
    texts, others = standing(known, parts()), standing(known, held_out())
    shape = len(labels), len(known)
    scale = ratios(texts, labels, len(known), classes)
    give_back()  # what was freed while n-grams were counted
    best: Arrays = {}
    lowest, least = np.inf, GAIN / max(1, len(held_out_labels))
    for way in WAYS if len(held_out_labels) else (USUAL,):
        arrays: Arrays = {"keys": known}
        if way.to_length:
            arrays["rarity"] = _rarity(texts.places, *shape)
        features = csr_array(
            (_values(texts, arrays.get("rarity")), texts.places, texts.starts), shape=shape
        )
        factors, bias = np.full_like(scale, way.prior), np.zeros(classes, np.float32)
        before = np.inf
        for strength in way.strengths:
            pull = strength, way.prior
            factors, bias = _factors(features, labels, weights, scale, pull, (factors, bias))
            weight = scale * factors * arrays.get("rarity", np.ones(1, np.float32))[:, None]
            found = arrays | {"weight": weight, "bias": bias.copy()}
            if not len(held_out_labels):
                return found
            logits = _logits(found, others.places, others.rows(), len(held_out_labels))
            loss = _calibrated_loss(logits, held_out_labels)
            if loss < lowest - least:
                best, lowest = found, loss
            if loss >= before - least:
                break
            before = loss
        del features  # before the next are made: they are as large as the places
        give_back()
    return best


def _rarity(places: Array, texts: int, features: int) -> Array:
    """Of every feature, (F,): log of how many texts there are for one that has it, and 1.

    Source: the inverse document frequency of Sparck Jones 1972, smoothed as in scikit-learn.
    """
    shares = (1 + _counted(places, features)) / (1 + texts)
    return np.asarray(1 - np.log(shares), np.float32)


def _values(texts: Standing, rarity: Array | None) -> Array:
    """Of all features of all texts, (K,): 1, or their rarity where texts are of length 1."""
    values: Array = np.ones(len(texts.places), np.float32)
    if rarity is None:
        return values
    for first in range(0, len(texts.starts) - 1, TEXTS_AT_ONCE):
        starts = texts.starts[first : first + TEXTS_AT_ONCE + 1]
        places = texts.places[starts[0] : starts[-1]]
        some = Standing(places, starts - starts[0])
        rows, found = some.rows(), rarity[places]
        values[starts[0] : starts[-1]] = found / _lengths(found, rows, len(starts) - 1)[rows]
    return values


def _calibrated_loss(logits: Array, labels: Array) -> float:
    """How improbable labels are by logits (M, C), once these are no longer too sure of themselves.

    That is what the logits are for: they are pooled with others', and calibrated then.
    """
    if labels.ndim == 2:
        powers = fit_label_powers([logits], labels)
        return label_nll(probabilities([logits], powers), labels)
    return nll(pool([logits], fit_powers([logits], labels)), labels)


def _factors(
    texts: Any,
    labels: Array,
    weights: Array,
    scale: Array,
    pull: tuple[float, float],
    start: Pair,
) -> Pair:
    """What each scaled feature is multiplied with, (F, C), and a bias, (C,): the penalised optimum.

    Minimises sum_n w_n nll_n + strength/2 |factors - prior|^2 by L-BFGS.

    Args:
        texts: A sparse array (N, F) of features.
        labels: (N,) or (N, C).
        weights: As ``labels``.
        scale: Of the features, (F, C) float32.
        pull: Strength and prior of the penalty.
        start: Factors and bias to begin with; what is found is written over them.
    """
    import torch
    from torch.nn import functional

    targets = torch.from_numpy(labels)
    share = torch.from_numpy(weights / len(labels)).float()
    factors, bias = (torch.from_numpy(part) for part in start)
    strength, prior = pull[0] / len(labels), pull[1]
    optimizer = torch.optim.LBFGS(
        [factors, bias], max_iter=ITERATIONS, history_size=HISTORY, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        factors.grad = None
        sums = torch.from_numpy(texts @ (scale * factors.numpy())).requires_grad_()
        logits = sums + bias
        if targets.ndim == 2:
            losses = functional.binary_cross_entropy_with_logits(
                logits, targets.float(), reduction="none"
            )
        else:
            losses = functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * share).sum()
        (slope,) = torch.autograd.grad(loss, sums)
        away = factors - prior
        penalty = strength / 2 * float(away.square().sum())
        factors.grad = torch.from_numpy(texts.T @ slope.numpy()).mul_(torch.from_numpy(scale))
        factors.grad += away.mul_(strength)
        bias.grad = slope.sum(dim=0)
        return float(loss.detach()) + penalty

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    # Many times the weights, and torch keeps the first one alive, with what it loads for it.
    optimizer.state.clear()
    return factors.numpy(), bias.numpy()
