"""Whether the card of a model says what using it relies on: types, sizes and ranges.

The card's own checksum finds what was damaged; this finds what never came from training.
"""

from collections.abc import Callable, Mapping
from typing import Any

from seqtool.checkpoint import Card
from seqtool.errors import CheckpointError
from seqtool.places import CONFIG, COPY_AGAIN

Right = Callable[[Any], bool]  # whether any value that JSON knows is as it must be

MOST = 1e9  # far more than any power, score or brightness that training finds


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def number(value: Any) -> bool:
    """A number that can be reckoned with."""
    return type(value) in (int, float) and abs(value) < MOST


def whole(least: int) -> Right:
    """A whole number, not below the least."""
    return lambda value: type(value) is int and value >= least


def optional(right: Right) -> Right:
    """That, or nothing."""
    return lambda value: value is None or right(value)


def each(right: Right, count: int | None = None) -> Right:
    """A list of such values, and of that length."""
    return lambda value: (
        isinstance(value, list) and count in (None, len(value)) and all(map(right, value))
    )


def check(
    values: Mapping[str, Any], needed: Mapping[str, Right], where: str, *, partly: bool = False
) -> None:
    """See that values of a card are as they must be.

    Args:
        values: By name; others may be among them.
        needed: How each must be.
        where: Names the model.
        partly: Some may be missing.

    Raises:
        CheckpointError: Naming the first that is not.
    """
    for name, right in needed.items():
        if not (right(values[name]) if name in values else partly):
            found = f"{name} is {values[name]!r}" if name in values else f"no {name}"
            raise CheckpointError(
                f"{where}: {CONFIG}: {found}, as training never leaves it; {COPY_AGAIN}"
            )


def check_data(card: Card, needed: Mapping[str, Right], where: str) -> list[str]:
    """See that a card says of its data what every model of labels has to know, and its own kind.

    Gives the names of the classes.

    Raises:
        CheckpointError: As ``check``.
    """
    check(card.source, {"classes": lambda value: each(text)(value) and len(value) > 1}, where)
    classes: list[str] = card.source["classes"]
    common: dict[str, Right] = {
        "classes": lambda names: len(set(names)) == len(names),
        "class_counts": lambda counts: each(whole(0), len(classes))(counts) and any(counts),
        "train_rows": whole(1),
        "name": text,
        "sha256": text,
        "valid": optional(text),
    }
    check(card.source, common | dict(needed), where)
    return classes


def check_pairs(card: Card, where: str) -> None:
    """See that a card says of the pairs what training says; that of an older model lacks some.

    Raises:
        CheckpointError: As ``check``.
    """
    texts = dict.fromkeys(("name", "sha256", "source_column", "target_column"), text)
    names = dict.fromkeys(("target", "valid", "valid_target"), optional(text))
    lengths: dict[str, Right] = {"longest": lambda value: isinstance(value, dict)}
    check(card.source, {**texts, **names, **lengths}, where, partly=True)
    sizes = {"ratio": number, "source": whole(1), "target": whole(1)}
    check(card.source.get("longest", {}), sizes, where, partly=True)


def check_fitted(card: Card, needed: Mapping[str, Right], where: str) -> None:
    """See to what was fitted on data held out; what is not there was never fitted.

    Raises:
        CheckpointError: As ``check``.
    """
    check(card.extra.get("best") or {}, needed, where, partly=True)
