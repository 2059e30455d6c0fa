"""``train --reproduce``: a run made once more from what its model says, and both compared."""

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from seqtool.checkpoint import load, load_last
from seqtool.console import Console
from seqtool.errors import CheckpointError, ConfigError
from seqtool.output import emit
from seqtool.receipts import difference, versions
from seqtool.runs import TrainRequest
from seqtool.settings import Settings
from seqtool.states import fingerprint
from seqtool.tasks import Task, train, used


def reproduce(task: Task, model: Path, request: TrainRequest, console: Console) -> int:
    """Train once more what made a model; gives 0 if the weights are the same to the bit, else 1.

    Args:
        task: Of the model, made anew.
        model: Its directory.
        request: Of the new run; what names data may be empty, then it is as it was before.
        console: Where to tell what is not as it was.

    Raises:
        CheckpointError: If the model does not say how it was made.
        ConfigError: If its run is not finished, or a setting was given, which would be another run.
        SeqtoolError: As ``train``.
    """
    saved = load(model, task.name)
    kept = _receipt(saved.card.extra, model)
    _check(request, model, saved.card.train.steps)
    for name, version in versions().items():
        before = kept["versions"].get(name)
        if before != version:
            console.warn(f"made with {name} {before}, this is {version}: the last bits may differ")
    card = saved.card
    values = asdict(card.model) | asdict(card.data) | asdict(card.train)
    init_from = kept.get("init_from")
    with ExitStack() as stack:
        out = request.out
        if out == Path():
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seqtool-"))) / "m"
        again = replace(
            request,
            data=request.data or kept["data"],
            out=out,
            init_from=Path(init_from) if init_from else None,
            seconds=None,
            epochs=None,
            threads=request.threads or kept.get("threads"),
            settings=used(task, Settings().add(values, f"{model}")),
            reproduces=model,
            embeddings=request.embeddings or kept.get("embeddings"),
            valid=request.valid or kept.get("valid"),
            target=request.target or kept.get("target"),
            valid_target=request.valid_target or kept.get("valid_target"),
        )
        status = train(task, again, console)
        if status:
            return status
        found = difference(saved, load(out, task.name))
    sha256 = fingerprint(saved.weights)
    if request.json:
        event = {"event": "reproduced", "equal": not found, "difference": found, "sha256": sha256}
        emit(json.dumps(event) + "\n")
    elif found:
        emit(f"{model}: not reproduced; the first difference is in {found}\n")
    else:
        emit(f"{model}: reproduced, all weights equal to the bit (sha256 {sha256[:16]})\n")
    return 1 if found else 0


def _receipt(extra: dict[str, Any], model: Path) -> dict[str, Any]:
    kept = extra.get("receipt")
    if not isinstance(kept, dict) or not {"data", "versions"} <= kept.keys():
        raise CheckpointError(f"{model}: does not say how it was made; it is from an older seqtool")
    return kept


def _check(request: TrainRequest, model: Path, steps: int) -> None:
    if request.settings.values or request.seconds or request.epochs or request.init_from:
        raise ConfigError(
            f"--reproduce {model} takes every setting from there; leave the others out"
        )
    if request.resume or request.show_config:
        raise ConfigError("--reproduce makes a whole run; leave --resume and --show-config out")
    try:
        done = load_last(model)[1]["now"]["step"]
    except CheckpointError:  # deleted, to share the model: then nobody can know
        return
    if done < steps:
        raise ConfigError(
            f"--reproduce {model}: its run stands at step {done} of {steps}; end it with --resume"
        )
