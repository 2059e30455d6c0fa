"""Pairs checked for what spoils a translator, and split: told with row numbers before training.

Variants of one source stay on one side of the split, so that nothing is held out whose answer was
learned.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.audit import Finding, make_finding, name_rows
from seqtool.config import PairConfig
from seqtool.errors import ConfigError, DataError
from seqtool.images import are_names
from seqtool.pairs import SMOOTH, Pairs, read_pairs
from seqtool.splits import Indices, fit_memory, hold_out, text_keys

Mask = npt.NDArray[np.bool_]

# Held out: a tenth of few pairs, no more than is needed of many. 8 sqrt(n) is 310 of 1,500 pairs,
# 1,400 of 30,000; with 3,000 the interval of a share is 2 points wide at most.
SHARE, ROOTS, MOST = 0.1, 8.0, 3000
OUTLYING = 6.0  # robust standard deviations of the logarithm of a length ratio
LEAST_RATIO = 3.0  # a ratio nearer to the usual one is never called out of the ordinary
# UTF-8 that was read as Latin-1 or Windows-1252 and written again (the first byte of a letter
# beside one that only goes on), or bytes replaced for good.
_GOES_ON = bytes(range(0x80, 0xC0))
_SEEN = re.escape(_GOES_ON.decode("latin-1") + _GOES_ON.decode("cp1252", "ignore"))
MOJIBAKE = re.compile(f"[\u00c2-\u00d1\u00e2][{_SEEN}]|\ufffd")


@dataclass(frozen=True)
class PairSplit:
    """Pairs to learn from and pairs held out."""

    train: Pairs
    held_out: Pairs | None
    findings: tuple[Finding, ...]
    note: str  # how they were split, for people
    source: dict[str, Any]  # what the model's card keeps: names, hash, columns, counts


def read_split(
    data: str,
    target: str | None,
    valid: str | None,
    valid_target: str | None,
    config: PairConfig,
    seed: int,
) -> PairSplit:
    """Read pairs, check them, leave out what has an empty side, and hold some out.

    Args:
        data: A table, or with ``target`` the file of the sources.
        target: The file of the targets.
        valid: Other pairs to hold out, given in the same way.
        valid_target: The targets of ``valid``, if it is the file of sources.
        config: Columns, encodings and the part to hold out.
        seed: Of the choice.

    Raises:
        ConfigError: If an option does not fit.
        DataError: If they cannot be read, or nothing is left.
    """
    if valid_target is not None and valid is None:
        raise ConfigError(f"--valid-target {valid_target} needs the sources, named by --valid")
    all_pairs, drawn = fit_memory(_read(data, target, config), [], seed)
    pairs, findings = _checked(all_pairs)
    card: dict[str, Any] = {
        **{"name": data, "target": target, "valid": valid, "valid_target": valid_target},
        **{"sha256": pairs.sha256, "source_column": pairs.columns.texts[0]},
        **{"target_column": ",".join(pairs.columns.texts[1:]), "valid_sha256": None},
    }
    if valid is not None:
        others, _ = fit_memory(_read(valid, valid_target, config, like=pairs), [], seed)
        apart, more = _checked(others)
        apart = apart.select(_shuffled(len(apart), seed).tolist())
        train, note = pairs, f"{valid} held out, {len(apart):,} pairs"
        findings = (*findings, *more, *find_leaks(pairs, apart))
        card |= {"valid_sha256": apart.sha256}
    elif config.valid_fraction == 0:
        train, apart, note = pairs, None, "nothing held out"
    else:
        part = config.valid_fraction or choose_fraction(len(pairs))
        kept, held = hold_out(pairs.keys(), [], part, seed, pairs.name)
        train = pairs.select(kept.tolist())
        # In random order: an evaluation may look at the first ones only.
        apart = pairs.select(held[_shuffled(len(held), seed)].tolist())
        note = f"{len(apart):,} pairs held out ({len(apart) / len(pairs):.1%})"
    card |= {"pairs": len(train), "held_out": len(apart) if apart is not None else 0}
    return PairSplit(train, apart, findings, drawn + note, card)


def choose_fraction(count: int) -> float:
    """What part of so many pairs is held out unless the user says."""
    return min(SHARE * count, ROOTS * math.sqrt(count), MOST) / count


def check_pairs(pairs: Pairs) -> tuple[Finding, ...]:
    """Look for what spoils a translator: each kind of problem with its rows."""
    sources, targets = list(pairs.sources), list(pairs.targets)
    both = list(zip(sources, targets, strict=True))
    pictures = are_names(sources)  # whose names are as long as they happen to be
    filled = _mask(bool(s.strip() and t.strip()) for s, t in both)
    same = _mask(" ".join(s.split()) == " ".join(t.split()) for s, t in both)
    keys = text_keys(both)
    again = np.ones(len(keys), np.bool_)
    again[np.unique(keys, return_index=True)[1]] = False
    tests: list[tuple[Any, Mask, Callable[[str], str]]] = [
        ("empty-side", ~filled, lambda rows: f"an empty side in {rows}; left out"),
        ("duplicate", again & filled, lambda rows: f"an earlier pair again in {rows}"),
        ("copied", same & filled, lambda rows: f"source and target are the same in {rows}"),
        (
            "length-ratio",
            odd_lengths(sources, targets) & filled & (not pictures),
            lambda rows: (
                f"one side is far longer than usual beside the other in {rows}; see "
                "whether they belong together"
            ),
        ),
        *(
            (
                "wrong-encoding",
                _mask(MOJIBAKE.search(text) is not None for text in texts),
                lambda rows, side=side: (
                    f"the {side} looks like UTF-8 read in another encoding in "
                    f"{rows}; repair the file, or name the right one with --encoding"
                ),
            )
            for side, texts in (("source", sources), ("target", targets))
        ),
    ]
    found = []
    for problem, mask, say in tests:
        rows = np.flatnonzero(mask).tolist()
        if rows:
            found.append(make_finding(problem, pairs, rows, say(name_rows(pairs, rows))))
    return tuple(found)


def odd_lengths(sources: Sequence[str], targets: Sequence[str]) -> Mask:
    """Whose ratio of lengths in characters lies far from that of most pairs, (n,)."""
    sizes = [np.fromiter(map(len, side), float) + SMOOTH for side in (sources, targets)]
    ratio = np.log(sizes[1] / sizes[0])
    away = np.abs(ratio - np.median(ratio))
    spread = 1.4826 * float(np.median(away))  # the standard deviation, were they normal
    odd: Mask = away > max(OUTLYING * spread, np.log(LEAST_RATIO))
    return odd


def find_leaks(train: Pairs, held_out: Pairs) -> tuple[Finding, ...]:
    """Pairs held out whose source is also learned from; with how many targets the same."""
    rows = np.flatnonzero(np.isin(held_out.keys(), train.keys())).tolist()
    if not rows:
        return ()
    whole = int(np.isin(text_keys(held_out.select(rows).texts), text_keys(train.texts)).sum())
    message = (
        f"a source that also stands in {train.name} in {name_rows(held_out, rows)}, "
        f"{whole:,} of them with the same target: scores on them mean little"
    )
    return (make_finding("leak", held_out, rows, message),)


def _read(data: str, target: str | None, config: PairConfig, like: Pairs | None = None) -> Pairs:
    columns = [config.source_column, config.target_column]
    if like is not None and target is None and columns == ["", ""]:
        columns = ["", ""] if like.columns.texts == ("source", "target") else _names(like)
    return read_pairs(
        data,
        target=target,
        source_column="" if target else columns[0],
        target_column="" if target else columns[1],
        separator=config.separator,
        encoding=config.encoding,
        target_encoding=config.target_encoding if target else "",
    )


def _names(pairs: Pairs) -> list[str]:
    return [pairs.columns.texts[0], ",".join(pairs.columns.texts[1:])]


def _checked(pairs: Pairs) -> tuple[Pairs, tuple[Finding, ...]]:
    """The pairs without those that have an empty side, and all that is wrong with them."""
    findings = check_pairs(pairs)
    if any(finding.problem == "empty-side" for finding in findings):
        filled = [i for i, texts in enumerate(pairs.texts) if all(map(str.strip, texts))]
        if not filled:
            raise DataError(f"{pairs.name}: every pair has an empty side, nothing can be learned")
        pairs = pairs.select(filled)
    return pairs, findings


def _mask(values: Iterable[bool]) -> Mask:
    return np.fromiter(values, np.bool_)


def _shuffled(count: int, seed: int) -> Indices:
    return np.random.default_rng(seed).permutation(count)
