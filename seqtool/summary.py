"""What a model directory tells about itself, without running the model and without torch."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqtool.checkpoint import Saved

Event = dict[str, Any]
Points = tuple[tuple[int, float], ...]  # (step, value), in the order of training

# What the first part of a weight's name means to a reader.
PARTS = {
    "embedding": "embedding",
    "stack": "recurrent layers",
    "ngrams": "n-gram tables",
    "output": "output layer",
    "vectors": "word vectors",
    "onward": "layers reading onward",
    "back": "layers reading back",
    "chain": "chain of labels",
    "source_embedding": "source embedding",
    "target_embedding": "target embedding",
    "query": "decoder below attention",
    "reader": "decoder above attention",
    "bridge": "encoder to decoder",
    "deep": "before the output",
    **dict.fromkeys(("memory_norm", "deep_norm"), "layer norms"),
}

# What a network of a task is besides layers of units.
SHAPES = {
    "classify": ", each reading onward and back",
    "tag": ", each reading onward and back",
    "translate": " in the encoder, each way, and above the attention of the decoder",
}


@dataclass(frozen=True)
class Summary:
    """A model as its files describe it."""

    name: str
    task: str
    network: str
    parameters: dict[str, int]  # by part
    shapes: dict[str, tuple[int, ...]]
    source: dict[str, Any]  # the training data: name, sizes, hash
    settings: dict[str, Any]  # every field of every config
    origins: dict[str, str]  # where each came from; {} if the run did not record it
    scores: dict[str, Any]  # of the weights that are kept
    train_curve: Points  # loss in nats
    valid_curve: Points
    flow: tuple[Event, ...]  # the gradient flow recorded at evaluations, with their steps
    events: dict[str, int]  # how many of each kind
    receipt: dict[str, str]  # how it was made; {} if the run did not record it
    broken: str  # what is wrong with the weights or with the run; "" if nothing is

    @property
    def trained(self) -> bool:
        """Whether any update was ever reported."""
        return bool(self.train_curve)

    def as_dict(self) -> dict[str, Any]:
        """Values fit for JSON."""
        return asdict(self) | {"trained": self.trained}


def summarise(name: str, saved: Saved, events: Sequence[Event]) -> Summary:
    """Gather what the card, the weights and the events of a model say."""
    card = saved.card
    model = card.model
    cell = model.cell.upper() + (f" ({model.nonlinearity})" if model.cell == "rnn" else "")
    layers = "layer" if model.num_layers == 1 else "layers"
    network = f"{cell}, {model.num_layers} {layers} of {model.hidden_size} units"
    network += SHAPES.get(card.task, "")
    members = getattr(model, "members", 1)
    if members > 1:
        network = f"the mean of {members} networks: {network}"
    counts: Counter[str] = Counter()
    for key, weight in saved.weights.items():
        part = key.split(".")[members > 1]
        counts[PARTS.get(part, part)] += weight.size
    configs = asdict(card.model) | asdict(card.data) | asdict(card.train)
    return Summary(
        name=name,
        task=card.task,
        network=network,
        parameters=dict(counts),
        shapes={key: tuple(weight.shape) for key, weight in saved.weights.items()},
        source=card.source,
        settings=configs,
        origins=_texts(card.extra.get("origins")),
        scores=card.extra.get("best") or {},
        train_curve=_curve(events, "report", "loss"),
        valid_curve=_curve(events, "eval", "val_loss"),
        flow=tuple(
            event["gradient"] | {"step": event["step"]}
            for event in events
            if event.get("event") == "eval"
            and {"verdict", "evidence"} <= _texts(event.get("gradient")).keys()
        ),
        events=dict(Counter(str(event.get("event")) for event in events)),
        receipt=_receipt(card.extra.get("receipt")),
        broken=_broken(saved, events),
    )


def _receipt(values: object) -> dict[str, str]:
    """A card's receipt as texts: the command, the versions, the system."""
    kept = values if isinstance(values, dict) else {}
    words = kept.get("command")
    versions = _texts(kept.get("versions"))
    found = {
        "command": " ".join(map(str, words)) if isinstance(words, list) else "",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "system": str(kept.get("system", "")),
    }
    return {name: value for name, value in found.items() if value}


def _texts(values: object) -> dict[str, str]:
    """The texts by name that something from a file holds."""
    items = values.items() if isinstance(values, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def _curve(events: Sequence[Event], kind: str, key: str) -> Points:
    return tuple(
        (event["step"], event[key])
        for event in events
        if event.get("event") == kind and isinstance(event.get(key), int | float)
    )


def _broken(saved: Saved, events: Sequence[Event]) -> str:
    """Which weights are not finite, and since when the run was out of hand."""
    bad = [name for name, weight in saved.weights.items() if not np.isfinite(weight).all()]
    if not bad:
        return ""
    share = sum(int((~np.isfinite(saved.weights[name])).sum()) for name in bad)
    total = sum(weight.size for weight in saved.weights.values())
    when = "the run recorded no step at which it happened"
    reports = [event for event in events if event.get("event") == "report"]
    lost = [event["step"] for event in reports if event.get("loss") is None]
    sound = [step for step, loss in _curve(events, "report", "loss") if math.isfinite(loss)]
    if lost:
        when = f"the loss is not finite from step {lost[0]} on"
    elif sound:
        when = f"the loss was last reported finite at step {sound[-1]}"
    return (
        f"{share} of {total} weights are not finite ({', '.join(bad[:3])}"
        f"{', ...' if len(bad) > 3 else ''}); {when}"
    )
