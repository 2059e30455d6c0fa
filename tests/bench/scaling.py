"""How cost grows: one size at a time around a base, training and writing, ours beside torch.nn."""

from collections.abc import Iterator

from .generation import VOCAB, make_model, writing
from .measure import Case
from .steps import training

HIDDEN, BATCH, LENGTH = 256, 16, 64  # where the others stay while one grows
SWEEPS: dict[str, tuple[int, ...]] = {
    "hidden": (64, 128, 256, 512, 1024, 2048),
    "batch": (1, 4, 16, 64, 256),
    "length": (16, 64, 256, 1024, 4096),
    "vocabulary": (VOCAB, 500, 5000, 50000),
}
WRITTEN = ("hidden", "batch", "vocabulary")  # writing knows no length


def scaling_cases(smoke: bool) -> Iterator[Case]:
    """Every sweep, training first; one layer of LSTM."""
    for action in ("train", "generate"):
        for axis, sizes in SWEEPS.items():
            if action == "generate" and axis not in WRITTEN:
                continue
            for size in (16,) if smoke else sizes:
                yield scaling_case(action, axis, size, smoke)


def scaling_case(action: str, axis: str, size: int, smoke: bool) -> Case:
    """One point of a sweep."""
    small = {"hidden": 16, "batch": 2, "length": 8, "vocabulary": VOCAB}
    base = {"hidden": HIDDEN, "batch": BATCH, "length": LENGTH, "vocabulary": VOCAB}
    values = (small if smoke else base) | {axis: size}
    model = make_model(values["vocabulary"], hidden_size=values["hidden"])
    name = f"{action} lstm, {axis} {size}"
    facts = {"action": action, "axis": axis, "size": size}
    if action == "train":
        return training(name, model, values["batch"], values["length"], group="scale", facts=facts)
    batch = size if axis == "batch" else 1
    return writing(name, model, batch=batch, group="scale", facts=facts)
