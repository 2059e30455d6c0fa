"""The ``train`` command for text: the language model, its text and what is chosen for them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.backoff import MAX_TOKENS, NGram
from seqtool.checkpoint import Card, Saved, load
from seqtool.config import DataConfig, DecodeConfig, ModelConfig, TrainConfig
from seqtool.console import Console
from seqtool.data import Corpus, fit_shape, load_corpus
from seqtool.decode import Generation, Steppable, row_rngs, warm_up
from seqtool.errors import ConfigError
from seqtool.mixture import Mixture
from seqtool.overview import listed, model_rows, show_corpus
from seqtool.places import COUNTS, TEXT
from seqtool.runs import TrainRequest, inherit
from seqtool.settings import Settings
from seqtool.shapes import check_weights
from seqtool.tasks import Allowance, Choice, Task, configs
from seqtool.tensorfile import Tensors
from seqtool.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from seqtool.language import NextToken
    from seqtool.models import LanguageModel
    from seqtool.trainer import Trainer

SAMPLE_LENGTH = 160  # tokens of a sample shown in training
KEEP_TEXT_TOKENS = 64_000_000  # longer training texts are not kept with the model


class TextTask(Task):
    """Learn to write like a text."""

    name = "generate"
    inheritable = True
    unused = frozenset({"text_column", "label_column"})  # of a table: train_rows

    corpus: Corpus
    parent: Saved | None = None  # of --init-from
    ngram: NGram | None = None  # what is mixed in

    def settle(self, request: TrainRequest) -> Settings:
        """With --tied, the embedding and the layers have one width: one given stands for both."""
        settings = request.settings
        if not settings.values.get("tied"):
            return settings
        sizes = [settings.values[n] for n in ("hidden_size", "embed_size") if n in settings.values]
        width = sizes[0] if sizes else ModelConfig.hidden_size
        return settings.add({"hidden_size": width, "embed_size": width}, "equal for --tied")

    def read(self, request: TrainRequest, settings: Settings, console: Console) -> Settings:
        """Read the text; with --init-from, shape and vocabulary are the parent's."""
        note = ""
        if request.init_from is not None:
            self.parent = load(request.init_from, "generate")
            if "classes" in self.parent.card.source:
                raise ConfigError(
                    f"--init-from {request.init_from}: it writes for labels; give a table of texts "
                    "and labels and --label-column, or start from another model"
                )
            settings = inherit_shape(settings, self.parent.card, request.init_from)
        _, data, _ = configs(self, settings)
        tokenizer = None
        if self.parent is not None:
            tokenizer = Tokenizer.from_json(self.parent.tokenizer_json, str(request.init_from))
            note = f"starting from the weights of {request.init_from}"
        self.corpus = self._load(request, data, tokenizer, console)
        if tokenizer is not None and self.corpus.unknown:
            new = self.corpus.unknown
            tokenizer = tokenizer.extend(new)
            self.corpus = self._load(request, data, tokenizer, console)
            note += f"; {len(new)} new characters extend its vocabulary: {listed(new)}"
        show_corpus(self.corpus, console)
        if note:
            console.notice(note)
        return settings

    def read_again(self, request: TrainRequest, saved: Saved, console: Console) -> None:
        """Read the text with the tokens of the run."""
        tokenizer = Tokenizer.from_json(saved.tokenizer_json, str(request.out))
        self.corpus = self._load(request, saved.card.data, tokenizer, console)

    def _load(
        self,
        request: TrainRequest,
        data: DataConfig,
        tokenizer: Tokenizer | None,
        console: Console,
    ) -> Corpus:
        return load_corpus(
            request.data, data, valid=request.valid, tokenizer=tokenizer, tell=console.status
        )

    def source(self, request: TrainRequest) -> dict[str, Any]:
        """The text's name, hash and sizes."""
        corpus = self.corpus
        return {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "valid": request.valid,
            "valid_sha256": corpus.valid_sha256,
            "train_tokens": len(corpus.train),
            "train_chars": corpus.train_chars,
            "valid_tokens": len(corpus.valid),
            "valid_chars": corpus.valid_chars,
        }

    def as_before(self, values: dict[str, Any], card: Card) -> dict[str, Any]:
        """A batch is shrunk to a short text as it was before."""
        shape = {"batch_size": card.train.batch_size, "bptt": card.train.bptt} | values
        tokens = card.source["train_tokens"]
        fitted = fit_shape(tokens, shape["batch_size"], shape["bptt"])
        return values | dict(zip(("batch_size", "bptt"), fitted, strict=True))

    def choose(self, settings: Settings, allowed: Allowance, console: Console) -> Choice:
        """Sizes and rates by ``plan``, the batch not larger than the text."""
        from seqtool.plan import choose

        plan = choose(
            tokens=len(self.corpus.train),
            vocab_size=self.vocab_size,
            seconds=allowed.seconds,
            gflops=allowed.gflops,
            given=settings.values | ({"epochs": allowed.epochs} if allowed.epochs else {}),
        )
        settings = settings.add(plan.model | plan.train, "chosen by seqtool")
        return Choice(_fit_to_text(settings, self.corpus, allowed, console), plan.reasons)

    def objective(
        self, model: ModelConfig, train: TrainConfig, device: "torch.device", console: Console
    ) -> "NextToken":
        """The next token, of a fresh language model or of one with the parent's weights."""
        from seqtool.language import NextToken

        unknown_id = self.corpus.tokenizer.unknown_id
        made = new_model(model, train, self.vocab_size, unknown_id, self.parent).to(device)
        if model.backoff_order:
            console.status("counting n-grams")
            self.ngram = NGram(self.corpus.train, self.vocab_size, order=model.backoff_order)
        return NextToken(made, self.corpus, train, ngram=self.ngram)

    def rows(
        self,
        objective: "NextToken",
        train: TrainConfig,
        settings: Settings,
        seconds: float | None,
        reasons: Sequence[str],
    ) -> list[tuple[str, str]]:
        """Network, n-grams, training."""
        sizes = {name: p.numel() for name, p in objective.model.named_parameters()}
        table = sizes.get("ngrams.weight", 0)
        total, config = sum(sizes.values()), objective.model.config
        counted = self.ngram is not None and len(self.corpus.train) > MAX_TOKENS
        return model_rows(
            total, table, config, train, settings, seconds, reasons, counted * MAX_TOKENS
        )

    @property
    def vocab_size(self) -> int:
        """Tokens, with the special ones."""
        return self.corpus.tokenizer.vocab_size

    def tokenizer_json(self) -> str:
        """The tokenizer in the Hugging Face format."""
        return self.corpus.tokenizer.to_json()

    def parts(self) -> dict[str, Tensors]:
        """The training text, unless it is very long, and its counts."""
        found: dict[str, Tensors] = {}
        if len(self.corpus.train) <= KEEP_TEXT_TOKENS:
            found[TEXT] = {"ids": self.corpus.train}
        if self.ngram is not None:
            found[COUNTS] = self.ngram.to_arrays()
        return found

    def prepare(
        self, objective: "NextToken", train: TrainConfig, announce: Callable[[], None]
    ) -> None:
        """Compile the loops of the recurrent layers."""
        objective.model.stack.prepare(train.batch_size, train.bptt, announce)

    def sampler(self, trainer: "Trainer") -> Callable[[], str]:
        """Writes a short text with the present averaged weights, always from the same seed."""
        return _sampler(trainer)


def new_model(
    config: ModelConfig,
    train_config: TrainConfig,
    vocab_size: int,
    unknown_id: int | None,
    parent: Saved | None,
) -> "LanguageModel":
    """A model with fresh weights from the seed, or with those of ``--init-from``."""
    import torch

    from seqtool.models import build_model, copy_grown, shapes

    torch.manual_seed(train_config.seed % 2**64)
    model = build_model(config, vocab_size, unknown_id=unknown_id)
    if parent is not None:
        before = parent.card.vocab_size
        check_weights(parent.weights, shapes(model, before), "--init-from")
        copy_grown(model, parent.weights)
    return model


def inherit_shape(settings: Settings, card: Card, path: Path) -> Settings:
    """With ``--init-from``, shape and vocabulary are the parent's; a flag may not differ."""
    free = ("dropout", "ngram_dropout", "backoff_order")  # of training, not of the shape
    shape = {name: value for name, value in asdict(card.model).items() if name not in free}
    shape |= {"tokenizer": card.data.tokenizer, "vocab_size": card.data.vocab_size}
    shape["ngram_output"] = card.model.ngram_logits(card.vocab_size)
    return inherit(settings, shape, f"--init-from {path}")


def _fit_to_text(
    settings: Settings, corpus: Corpus, allowed: Allowance, console: Console
) -> Settings:
    """Shrink the batch to a short text, and turn epochs into steps."""
    wanted = {"batch_size": 0, "bptt": 0}
    wanted = {name: settings.values.get(name, getattr(TrainConfig, name)) for name in wanted}
    fitted = fit_shape(len(corpus.train), wanted["batch_size"], wanted["bptt"])
    if fitted != tuple(wanted.values()):
        console.notice(
            f"the text has only {len(corpus.train)} training tokens: batch size {fitted[0]} and "
            f"bptt {fitted[1]} instead of {wanted['batch_size']} and {wanted['bptt']}"
        )
        kept = {n: v for n, v in settings.values.items() if n not in wanted}
        settings = Settings(kept, settings.origins).add(
            {"batch_size": fitted[0], "bptt": fitted[1]}, "shrunk to the text"
        )
    settings = allowed.in_passes(settings, len(corpus.train) / (fitted[0] * fitted[1]))
    if allowed.seconds is None:
        from seqtool.plan import rhythm

        steps = settings.values.get("steps", TrainConfig.steps)
        return settings.add(rhythm(steps), "chosen by seqtool")
    # The real number comes from timed steps; until then the schedule is flat, so any will do.
    return settings.add({"steps": 10**9}, "to be measured")


def _sampler(trainer: "Trainer") -> Callable[[], str]:
    from seqtool.language import NextToken
    from seqtool.models import Stepper

    objective = trainer.objective
    assert isinstance(objective, NextToken)
    tokenizer = objective.corpus.tokenizer
    banned = [tokenizer.start_id]
    if tokenizer.unknown_id is not None:
        banned.append(tokenizer.unknown_id)

    def write() -> str:
        stepper: Steppable = Stepper(objective.model)
        if objective.ngram is not None:
            stepper = Mixture(stepper, objective.ngram, objective.mixture)
        with trainer.updater.averaged():
            logits, state = warm_up(stepper, np.array([tokenizer.start_id]), stepper.init_state(1))
            generation = Generation(
                stepper,
                DecodeConfig(),
                logits=logits,
                state=state,
                rngs=row_rngs(trainer.config.seed, 1),
                banned_ids=banned,
            )
            ids = [int(generation.next()[0]) for _ in range(SAMPLE_LENGTH)]
        return tokenizer.decode(ids)

    return write
