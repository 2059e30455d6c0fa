"""The ``train`` command for texts with labels to write for: one to many."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.audit import count_classes
from seqtool.checkpoint import Saved, load
from seqtool.config import DecodeConfig, ModelConfig, TrainConfig
from seqtool.console import Console
from seqtool.decode import Generation, row_rngs
from seqtool.errors import ConfigError
from seqtool.labelled import shares
from seqtool.labels import label_ids
from seqtool.overview import listed
from seqtool.places import TEXT
from seqtool.rowtexts import RowTexts, read_rows
from seqtool.runs import TrainRequest
from seqtool.settings import Settings
from seqtool.tasks import Allowance, Choice, configs
from seqtool.tensorfile import Tensors
from seqtool.tokenizer import Tokenizer
from seqtool.train_text import KEEP_TEXT_TOKENS, SAMPLE_LENGTH, TextTask, inherit_shape, new_model

if TYPE_CHECKING:
    import torch

    from seqtool.conditional import RowWriting
    from seqtool.trainer import Trainer

SAMPLES = 4  # labels that a sample is written for
FEWEST_STEPS = 20  # updates of an epoch, at least: of fewer and larger ones less is learned


class RowTask(TextTask):
    """Learn to write such texts as stand beside a label."""

    # A network reads the label at every token; counts would forget it after a few.
    unused = frozenset({"restart", "backoff_order"})

    texts: RowTexts

    def read(self, request: TrainRequest, settings: Settings, console: Console) -> Settings:
        """Read the rows; with --init-from, shape and vocabulary are the parent's."""
        if request.init_from is not None:
            self.parent = load(request.init_from, "generate")
            settings = inherit_shape(settings, self.parent.card, request.init_from)
        _, data, train = configs(self, settings)
        tokenizer, note = None, ""
        if self.parent is not None:
            tokenizer = Tokenizer.from_json(self.parent.tokenizer_json, str(request.init_from))
            note = f"starting from the weights of {request.init_from}"

        def read(tokenizer: Tokenizer | None) -> RowTexts:
            return read_rows(
                request.data, data, valid=request.valid, seed=train.seed, tokenizer=tokenizer
            )

        self.texts = read(tokenizer)
        if tokenizer is not None and self.texts.unknown:
            new = self.texts.unknown
            self.texts = read(tokenizer.extend(new))
            note += f"; {len(new)} new characters extend its vocabulary: {listed(new)}"
        if self.parent is not None:
            self._check_parent(self.parent, request)
        self._show(console)
        if note:
            console.notice(note)
        return settings

    def _check_parent(self, parent: Saved, request: TrainRequest) -> None:
        """Labels are the last ids: nothing can come between or behind those of the parent."""
        classes = parent.card.source.get("classes")
        if classes is None:
            return
        before = parent.card.vocab_size
        if classes != list(self.texts.split.classes) or self.texts.vocab_size != before:
            raise ConfigError(
                f"--init-from {request.init_from}: it writes for other labels, or with other "
                "characters; start from a model without labels, or train anew"
            )

    def _show(self, console: Console) -> None:
        split, texts = self.texts.split, self.texts
        lengths = texts.train.lengths - 1
        rows = [
            ("columns", texts.columns.reason),
            ("labels", shares(count_classes(split.train.labels), len(split.train))),
            ("texts", f"{lengths.mean():.1f} tokens each, {lengths.max()} at most"),
            (
                "vocabulary",
                f"{texts.tokenizer.vocab_size} entries ({texts.tokenizer.kind}) and "
                f"{len(split.classes)} labels",
            ),
            (
                "split",
                f"{len(texts.train)} to train on, {len(texts.valid)} held out ({split.note})",
            ),
        ]
        console.table(split.train.name, rows)
        for finding in split.findings:
            if finding.problem != "conflict":  # a text may be one of several kinds
                console.warn(finding.message)

    def read_again(self, request: TrainRequest, saved: Saved, console: Console) -> None:
        """Read the rows with the tokens of the run."""
        tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.out))
        card = saved.card
        self.texts = read_rows(
            request.data, card.data, valid=request.valid, seed=card.train.seed, tokenizer=tokenizer
        )

    def source(self, request: TrainRequest) -> dict[str, Any]:
        """Name, hash, labels, columns and sizes."""
        texts, split = self.texts, self.texts.split
        held_out = split.held_out
        count = np.bincount(split.labels(split.train), minlength=len(split.classes))
        return {
            "name": split.train.name,
            "sha256": split.train.sha256,
            "valid": request.valid,
            "valid_sha256": held_out.sha256 if held_out is not None and request.valid else None,
            "classes": list(split.classes),
            "class_counts": count.tolist(),
            "text_columns": list(texts.columns.texts),
            "label_column": texts.columns.label,
            "train_rows": len(texts.train),
            "valid_rows": len(texts.valid),
            "train_tokens": len(texts.train.words),
            "train_chars": texts.train_chars,
            "valid_tokens": len(texts.valid.words),
            "valid_chars": texts.valid_chars,
        }

    def as_before(self, values: dict[str, Any], card: Any) -> dict[str, Any]:
        """What was given: a batch is of whole rows, and never shrunk."""
        return values

    def choose(self, settings: Settings, allowed: Allowance, console: Console) -> Choice:
        """Sizes and rates by ``plan``; as many rows in a batch as make one of its tokens."""
        from seqtool.plan import choose, rhythm

        rows = self.texts.train
        tokens = len(rows.words)
        plan = choose(
            tokens=tokens,
            vocab_size=self.vocab_size,
            seconds=allowed.seconds,
            gflops=allowed.gflops,
            given=settings.values | ({"epochs": allowed.epochs} if allowed.epochs else {}),
        )
        model = {name: v for name, v in plan.model.items() if name not in self.unused}
        bptt = int(settings.values.get("bptt") or plan.train["bptt"])
        train = plan.train
        if "batch_size" in train:
            wanted = train["batch_size"] * bptt / min(bptt, tokens / len(rows))
            train |= {"batch_size": max(1, min(round(wanted), len(rows) // FEWEST_STEPS))}
        settings = settings.add(model | train, "chosen by seqtool")
        chunks = float((-(-rows.lengths // bptt)).mean()) * len(rows)
        settings = allowed.in_passes(settings, chunks / settings.values["batch_size"])
        if allowed.seconds is None:
            steps = settings.values.get("steps", TrainConfig.steps)
            settings = settings.add(rhythm(steps), "chosen by seqtool")
        else:  # the real number comes from timed steps; until then any will do
            settings = settings.add({"steps": 10**9}, "to be measured")
        return Choice(settings, plan.reasons)

    def objective(  # type: ignore[override]
        self, model: ModelConfig, train: TrainConfig, device: "torch.device", console: Console
    ) -> "RowWriting":
        """Rows begun by labels, of a fresh language model or of one with the parent's weights."""
        from seqtool.conditional import RowWriting

        texts = self.texts
        made = new_model(model, train, self.vocab_size, texts.tokenizer.unknown_id, self.parent).to(
            device
        )
        per_char = len(texts.train.words) / max(1, texts.train_chars)
        return RowWriting(made, texts.train, texts.valid, train, tokens_per_char=per_char)

    @property
    def vocab_size(self) -> int:
        """Tokens, with the special ones and the labels."""
        return self.texts.vocab_size

    def tokenizer_json(self) -> str:
        """The tokenizer in the Hugging Face format; labels are not in it."""
        return self.texts.tokenizer.to_json()

    def parts(self) -> dict[str, Tensors]:
        """The training text, unless it is very long."""
        if len(self.texts.train.words) > KEEP_TEXT_TOKENS:
            return {}
        return {TEXT: {"ids": self.texts.joined()}}

    def sampler(self, trainer: "Trainer") -> Callable[[], str]:
        """Writes a text for each of some labels, always from the same seed."""
        return _sampler(trainer, self.texts)


def _sampler(trainer: "Trainer", texts: RowTexts) -> Callable[[], str]:
    from seqtool.models import Stepper

    model: Any = trainer.model
    tokenizer, classes = texts.tokenizer, texts.split.classes
    chosen = np.unique(np.linspace(0, len(classes) - 1, SAMPLES).round().astype(int))
    labels = label_ids(tokenizer.vocab_size, classes)
    unknown = [] if tokenizer.unknown_id is None else [tokenizer.unknown_id]

    def write() -> str:
        stepper = Stepper(model)
        with trainer.updater.averaged():
            logits, state = stepper.step(labels[chosen], stepper.init_state(len(chosen)))
            generation = Generation(
                stepper,
                DecodeConfig(),
                logits=logits,
                state=state,
                rngs=row_rngs(trainer.config.seed, len(chosen)),
                banned_ids=[*unknown, *labels.tolist()],
            )
            length = SAMPLE_LENGTH // len(chosen)
            ids = np.stack([generation.next() for _ in range(length)], axis=1)
        lines = []
        for label, row in zip(chosen, ids.tolist(), strict=True):
            ended = row.index(tokenizer.start_id) if tokenizer.start_id in row else length
            lines.append(f"{classes[label]}: {tokenizer.decode(row[:ended])}")
        return "\n".join(lines)

    return write
