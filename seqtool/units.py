"""The units of a score: how much a text surprised a model, per token, character and byte."""

import math
import sys


def nats_to_bits(nats: float) -> float:
    """The same amount of information in bits."""
    return nats / math.log(2)


def bits_per_char(total_nll: float, num_chars: int) -> float:
    """Average code length of a text.

    Args:
        total_nll: Summed negative log-likelihood of the whole text, in nats.
        num_chars: Length of that text in Unicode code points, not in tokens.

    Returns:
        Bits per character; comparable between tokenizers, lower is better.

    Raises:
        ValueError: If num_chars is 0.
    """
    return nats_to_bits(_mean(total_nll, num_chars, "characters"))


def bits_per_byte(total_nll: float, num_bytes: int) -> float:
    """Average code length of a text, comparable between scripts and with compressors.

    Args:
        total_nll: Summed negative log-likelihood of the whole text, in nats.
        num_bytes: Length of that text in UTF-8.

    Returns:
        Bits per byte, lower is better.

    Raises:
        ValueError: If num_bytes is 0.
    """
    return nats_to_bits(_mean(total_nll, num_bytes, "bytes"))


def perplexity(total_nll: float, num_tokens: int) -> float:
    """Among how many equally likely tokens the model hesitates on average.

    Args:
        total_nll: Summed negative log-likelihood of the whole text, in nats.
        num_tokens: Number of tokens that sum is over; not comparable between tokenizers.

    Returns:
        exp of the mean nll; infinite if that is beyond a float.

    Raises:
        ValueError: If num_tokens is 0.
    """
    mean = _mean(total_nll, num_tokens, "tokens")
    return math.exp(mean) if mean < math.log(sys.float_info.max) else math.inf


def scores(
    total_nll: float, *, num_tokens: int, num_chars: int, num_bytes: int
) -> dict[str, float]:
    """The score of a text in all its units, under the names that ``evaluate --json`` prints.

    Args:
        total_nll: Summed negative log-likelihood of the whole text, in nats.
        num_tokens: Length of that text in tokens, without document boundaries.
        num_chars: In Unicode code points.
        num_bytes: In bytes of UTF-8.

    Raises:
        ValueError: If a length is 0.
    """
    return {
        "nats_per_token": _mean(total_nll, num_tokens, "tokens"),
        "perplexity": perplexity(total_nll, num_tokens),
        "bits_per_char": bits_per_char(total_nll, num_chars),
        "bits_per_byte": bits_per_byte(total_nll, num_bytes),
    }


def _mean(total: float, count: int, unit: str) -> float:
    if count < 1:
        raise ValueError(f"a text of {count} {unit} has no mean score")
    return total / count
