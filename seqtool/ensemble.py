"""Several networks that answer together: their logits are averaged.

Normalised, that is the geometric mean of their probabilities, a logarithmic opinion pool in which
all count alike: it errs less by what is chance in each (Hansen & Salamon 1990,
doi:10.1109/34.58871).
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from seqtool.decode import State, Steps

Array = npt.NDArray[Any]
Model = TypeVar("Model", bound=Steps)


class Ensemble(Generic[Model]):
    """Models of one shape that write together; their state is that of all, one after the other."""

    def __init__(self, models: Sequence[Model]) -> None:
        """Take the models, one at least, whose states have equally many parts."""
        self.models = models
        self.vocab_size = models[0].vocab_size

    def each(self, state: State) -> Iterator[tuple[Model, State]]:
        """Every model with its part of the state."""
        parts = len(state) // len(self.models)
        for number, model in enumerate(self.models):
            yield model, state[number * parts : (number + 1) * parts]

    def step(self, ids: Array, state: State) -> tuple[Array, State]:
        """Read one token per row, ids (B,); gives the mean logits of the next, (B, V) float32."""
        made = [model.step(ids, own) for model, own in self.each(state)]
        return together([logits for logits, _ in made]), joined(after for _, after in made)


def joined(states: Iterable[State]) -> State:
    """The state of an ensemble, from those of its models."""
    return tuple(chain.from_iterable(states))


def together(said: Sequence[Array]) -> Array:
    """The mean of what several models say, arrays of one shape; of one it is what that says."""
    return said[0] if len(said) == 1 else np.asarray(np.mean(said, axis=0, dtype=np.float32))
