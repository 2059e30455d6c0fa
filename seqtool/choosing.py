"""Choosing a token inside a compiled loop: what decode does with arrays, for one row of logits."""

import math
from typing import Any, NamedTuple

import numpy as np

from seqtool.compiled import arithmetic, inlined
from seqtool.vectors import stay_apart

Array = np.ndarray[Any, Any]

NOT_FINITE = -1  # instead of an id
LEAST = -700.0  # exp of it is a normal number; below it is taken for 0
LOG2E = 1 / math.log(2)
LN2_HIGH = 0.693147180369123816490  # its last 21 bits are 0: its product with n is exact (fdlibm)
LN2_LOW = 1.90821492927058770002e-10
SHIFT = 1.5 * 2.0**52  # added to a float64, leaves its whole part in the lowest bits
ONE = 1023 << 52  # the bits of 1.0
T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13 = (1 / math.factorial(k) for k in range(3, 14))


class Options(NamedTuple):
    """How to choose; fields of DecodeConfig."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    greedy: bool


@inlined
def choose(
    logits: Array,
    first: int,
    allowed: Array,
    first_allowed: int,
    uniform: float,
    options: Options,
    weights: Array,
    heap: Array,
) -> int:
    """Draw the next token; see decode.probabilities for what the options mean.

    Args:
        logits: Flat float32; V of them from ``first`` on are the row's.
        first: See there.
        allowed: Flat bool; those from ``first_allowed`` on say which tokens may be chosen.
        first_allowed: See there.
        uniform: A random number in [0, 1).
        options: How to choose.
        weights: Scratch space, (V,) float64.
        heap: Scratch space, (V,) int64.

    Returns:
        An id, or NOT_FINITE if a logit is nan or infinite, or nothing may be chosen.
    """
    stay_apart()
    size = len(weights)
    best, likeliest = -np.inf, NOT_FINITE
    for i in range(size):
        score = float(logits[first + i])
        if not allowed[first_allowed + i]:
            score = -np.inf
        elif not score < np.inf:
            return NOT_FINITE
        weights[i] = score
        if score > best:
            best, likeliest = score, i
    if options.greedy or likeliest == NOT_FINITE:
        return likeliest
    if 0 < options.top_k < size:
        keep_likeliest(weights, heap, best, options.temperature, options.top_k, np.inf)
    if options.top_p < 1:
        mass = 0.0
        for i in range(size):
            mass += math.exp((weights[i] - best) / options.temperature)
        keep_likeliest(weights, heap, best, options.temperature, size, options.top_p * mass)
    total = weigh(weights, heap, best, options.temperature, options.min_p)
    target, mass = uniform * total, 0.0
    last = likeliest
    for i in range(size):
        mass += weights[i]
        if mass > target:
            return i
        if weights[i] > 0:
            last = i
    return last  # the product was rounded up to the whole mass


@arithmetic
def weigh(scores: Array, bits: Array, best: float, temperature: float, least: float) -> float:
    """Scores to exp((score - best) / temperature), 0 for what is below ``least``; gives the sum.

    2^n e^r with n whole and |r| <= ln(2) / 2, e^r from its Taylor series to the thirteenth power:
    off by 3e-16 of it at most. The library's exp, a call for each token, takes a tenth of the time
    that a batch needs for a token.

    Args:
        scores: (V,) float64, none above ``best``; -inf becomes 0.
        bits: Scratch space, (V,) int64.
        best: See there.
        temperature: See there.
        least: See there.
    """
    powers = bits.view(np.float64)
    for i in range(len(scores)):
        x = (scores[i] - best) / temperature
        x = x if x > LEAST else LEAST
        powers[i] = x * LOG2E + SHIFT
        n = powers[i] - SHIFT
        r = (x - n * LN2_HIGH) - n * LN2_LOW
        series = T13
        series = T11 + r * (T12 + r * series)
        series = T9 + r * (T10 + r * series)
        series = T7 + r * (T8 + r * series)
        series = T5 + r * (T6 + r * series)
        series = T3 + r * (T4 + r * series)
        series = 1.0 + r * (1.0 + r * (0.5 + r * series))
        bits[i] = (bits[i] << 52) + ONE  # the whole part becomes the exponent
        weight = series * powers[i]
        scores[i] = weight if x > LEAST and weight >= least else 0.0
    total = 0.0
    for i in range(len(scores)):
        total += scores[i]
    return total


@inlined
def keep_likeliest(
    scores: Array, heap: Array, best: float, temperature: float, most: int, limit: float
) -> None:
    """Set all scores to -inf but the likeliest: at most so many, until their mass reaches a limit.

    A heap gives the tokens from the likeliest down, equal ones by id, and no more of them than are
    kept. The likeliest always stays.

    Args:
        scores: (V,), ``best`` the largest.
        heap: Scratch space, (V,) int64.
        best: See there; a token's mass is exp((score - best) / temperature).
        temperature: See there.
        most: Tokens to keep, at least 1.
        limit: A token stays if those before it hold less than this.
    """
    size = len(scores)
    for i in range(size):
        heap[i] = i
    for i in range(size // 2 - 1, -1, -1):
        sift(scores, heap, i, size)
    mass, left = 0.0, size
    while size - left < most and (left == size or mass < limit) and left > 0:
        token = heap[0]
        mass += math.exp((scores[token] - best) / temperature)
        left -= 1
        heap[0], heap[left] = heap[left], token  # behind the heap
        sift(scores, heap, 0, left)
    for i in range(left):
        scores[heap[i]] = -np.inf


@inlined
def sift(scores: Array, heap: Array, place: int, size: int) -> None:
    """Let the token at a place of the heap sink until none below it is likelier."""
    token = heap[place]
    while 2 * place + 1 < size:
        below = 2 * place + 1
        if below + 1 < size and likelier(scores, heap[below + 1], heap[below]):
            below += 1
        if not likelier(scores, heap[below], token):
            break
        heap[place] = heap[below]
        place = below
    heap[place] = token


@inlined
def likelier(scores: Array, one: int, other: int) -> bool:
    """Whether one token comes before the other; of equal scores the lower id."""
    return bool(scores[one] > scores[other] or (scores[one] == scores[other] and one < other))
