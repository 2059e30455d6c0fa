"""Tagged sentences, checked and split into what is learned from and what is held out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from seqtool.audit import (
    Finding,
    Problem,
    count_classes,
    find_copies,
    find_leaks,
    make_finding,
    name_rows,
    unseen_rate,
)
from seqtool.config import TreebankConfig
from seqtool.errors import DataError
from seqtool.labelled import shares, shuffled
from seqtool.labels import listed
from seqtool.spans import Scheme, find_scheme, misplaced, take_apart
from seqtool.splits import hold_out
from seqtool.treebank import Treebank, read_treebank

SENTENCE = ("sentence", "lines ")  # what messages call a row of a treebank and its place


@dataclass(frozen=True)
class TaggedSplit:
    """Tagged sentences, to train on and held out."""

    train: Treebank
    held_out: Treebank | None
    labels: tuple[str, ...]  # of those to train on; the model gives these
    scheme: Scheme  # of the spans that labels mark
    findings: tuple[Finding, ...]  # what is odd about them, for people
    note: str  # how they were split, for people

    @property
    def parts(self) -> list[Treebank]:
        """Those to train on, and those held out if there are some."""
        return [self.train, *([] if self.held_out is None else [self.held_out])]

    @property
    def names(self) -> tuple[str, ...]:
        """All labels: those the model knows, and behind them those of sentences held out alone."""
        return all_labels(self.labels, self.parts[-1])


def all_labels(known: Sequence[str], bank: Treebank) -> tuple[str, ...]:
    """Known labels, and behind them those that only a treebank has."""
    return (*known, *(tag for tag in bank.tags if tag not in known))


def numbers(bank: Treebank, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The numbers of the labels of all words, one sentence after the other, (n,)."""
    number = {name: i for i, name in enumerate(names)}
    tags = chain.from_iterable(sentence.tags for sentence in bank.sentences)
    return np.fromiter((number[tag] for tag in tags), np.int64, bank.num_tokens)


def words(bank: Treebank) -> Iterator[tuple[str, ...]]:
    """The sentences as words alone."""
    return (sentence.tokens for sentence in bank.sentences)


def read_split(source: str, valid: str | None, config: TreebankConfig, seed: int) -> TaggedSplit:
    """Read tagged sentences, check them, and hold some out.

    Raises:
        DataError: If they cannot be read, or there is but one label.
    """
    bank = read(source, config.token_column, config.label_column, config.encoding)
    if len(bank.tags) < 2:
        raise DataError(
            f"{bank.name}: every word has the label {bank.tags[0]!r}, but at least two are needed "
            "to learn to tell them apart; see whether --label-column is the right one"
        )
    scheme = find_scheme(sentence.tags for sentence in bank.sentences)
    findings = check(bank, scheme)
    if valid is not None:
        held_out = read(valid, config.token_column, config.label_column, config.encoding)
        findings += (*check(held_out, scheme), *compare(bank, held_out))
        held_out = held_out.select(shuffled(len(held_out), seed).tolist())
        return TaggedSplit(bank, held_out, bank.tags, scheme, findings, f"{held_out.name} held out")
    if config.valid_fraction == 0:
        return TaggedSplit(bank, None, bank.tags, scheme, findings, "nothing held out")
    kept, held = hold_out(bank.keys(), [], config.valid_fraction, seed, bank.name)
    note = f"{config.valid_fraction:.0%} held out"
    # In random order: an evaluation may look at the first ones only.
    apart = bank.select(held[shuffled(len(held), seed)].tolist())
    train = bank.select(kept.tolist())
    return TaggedSplit(train, apart, bank.tags, scheme, findings, note)


def read(source: str, token_column: str, label_column: str, encoding: str) -> Treebank:
    """Read tagged sentences from the columns named, or where nothing is named the usual ones."""
    return read_treebank(
        source,
        token_column=token_column or None,
        tag_column=label_column or None,
        encoding=encoding,
    )


def check(bank: Treebank, scheme: Scheme) -> tuple[Finding, ...]:
    """Look for problems within one treebank."""
    tags = [sentence.tags for sentence in bank.sentences]
    _, conflicts = find_copies(bank.keys(), tags)
    wrong = [row for row, labels in enumerate(tags) if misplaced(labels, scheme)]
    return _findings(
        bank,
        ("conflict", conflicts, "the same words with different labels in"),
        ("misplaced-label", wrong, f"labels that must not follow each other in {scheme} in"),
    )


def compare(train: Treebank, held_out: Treebank) -> tuple[Finding, ...]:
    """Look for problems between two treebanks: sentences of both, labels of only one."""
    new = {tag for tag in held_out.tags if tag not in train.tags}
    unknown = [row for row, s in enumerate(held_out.sentences) if not new.isdisjoint(s.tags)]
    named = (
        f"{len(new)} labels ({listed(sorted(new))})"
        if len(new) > 1
        else f"label {min(new, default='')!r}"
    )
    return _findings(
        held_out,
        (
            "leak",
            find_leaks(train.keys(), held_out.keys()),
            f"words that also stand in {train.name} in",
        ),
        ("unseen-label", unknown, f"{named} never met in {train.name}, so never given, in"),
    )


def _findings(bank: Treebank, *found: tuple[Problem, list[int], str]) -> tuple[Finding, ...]:
    return tuple(
        make_finding(problem, bank, rows, f"{message} {name_rows(bank, rows, *SENTENCE)}")
        for problem, rows, message in found
        if rows
    )


def summary(split: TaggedSplit) -> list[tuple[str, str]]:
    """What the data hold and how they are split, as rows of a table."""
    bank = split.train
    counts = count_classes(tag for s in bank.sentences for tag in s.tags)
    rows = [
        ("columns", bank.columns.reason),
        ("sentences", f"{len(bank):,} with {bank.num_tokens:,} words"),
        ("labels", shares(counts, bank.num_tokens)),
    ]
    if split.scheme:
        kinds = {take_apart(label).kind for label in split.labels} - {""}
        rows.append(("spans", f"{len(kinds)} types, marked as in {split.scheme}"))
    apart = split.held_out
    rows.append(("held out", f"{0 if apart is None else len(apart):,} sentences ({split.note})"))
    if apart is not None:
        rate = unseen_rate(words(bank), words(apart))
        rows.append(("", f"{rate:.1%} of their words never seen in training"))
    return rows
