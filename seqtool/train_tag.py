"""The ``train`` command for tagged sentences: the tagger, its data and what is chosen for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqtool.annotator import check_saved
from seqtool.checkpoint import Saved
from seqtool.config import TaggerConfig, TrainConfig
from seqtool.console import Console
from seqtool.lexicon import TokenLexicon, fold, frequent_words, hash_text
from seqtool.places import COUNTS
from seqtool.runs import TrainRequest
from seqtool.settings import Settings
from seqtool.tagged import TaggedSplit, numbers, read_split, summary, words
from seqtool.tasks import OF_STREAMS, Allowance, Choice, Task, by_passes, configs, reader_rows
from seqtool.tensorfile import Tensors

if TYPE_CHECKING:
    import torch

    from seqtool.annotating import Annotating


class TagTask(Task):
    """Learn to label every word."""

    name = "tag"
    unused = OF_STREAMS

    split: TaggedSplit
    lexicon: TokenLexicon

    def read(self, request: TrainRequest, settings: Settings, console: Console) -> Settings:
        """Read the sentences, hold some out, and see whether their labels mark spans."""
        _, data, train = configs(self, settings)
        self.split = split = read_split(request.data, request.valid, data, train.seed)
        console.table(split.train.name, summary(split))
        if split.held_out is None:
            console.warn("nothing is held out, so probabilities are not calibrated")
        for finding in split.findings:
            console.warn(finding.message)
        folded = (map(fold, sentence) for sentence in words(split.train))
        vocabulary = frequent_words(folded, data.vocab_size)
        self.lexicon = TokenLexicon("token", vocabulary, lower=True, buckets=0)
        return settings.add({"crf": bool(split.scheme)}, "seen from the data")

    def read_again(self, request: TrainRequest, saved: Saved, console: Console) -> None:
        """Read the sentences, with the words of the run."""
        card, where = saved.card, str(request.out)
        self.split = read_split(request.data, request.valid, card.data, card.train.seed)
        check_saved(saved, where)
        self.lexicon = TokenLexicon.from_json(
            saved.tokenizer_json, where, buckets=0, size=card.vocab_size
        )

    def source(self, request: TrainRequest) -> dict[str, Any]:
        """Name, hash, labels, sizes and columns."""
        split = self.split
        bank, held_out = split.train, split.held_out
        counts = np.bincount(numbers(bank, split.labels), minlength=len(split.labels))
        columns = bank.columns
        return {
            "name": bank.name,
            "sha256": bank.sha256,
            "valid": request.valid,
            "valid_sha256": held_out.sha256 if held_out is not None and request.valid else None,
            "classes": list(split.labels),
            "class_counts": counts.tolist(),
            "scheme": split.scheme,
            "conllu": columns.conllu,
            "token_column": columns.token + 1,
            "label_column": None if columns.tag is None else columns.tag + 1,
            "train_rows": len(bank),
            "valid_rows": 0 if held_out is None else len(held_out),
        }

    def choose(self, settings: Settings, allowed: Allowance, console: Console) -> Choice:
        """Sizes, rates and the longest run that helps, by ``plan_tag``."""
        from seqtool.plan_tag import choose_tagger, most_steps

        bank = self.split.train
        plan = choose_tagger(
            sentences=len(bank),
            tokens=bank.num_tokens,
            seconds=allowed.seconds,
            gflops=allowed.gflops,
            given=settings.values,
        )
        settings = settings.add(plan.model | plan.train, "chosen by seqtool")
        batch = min(settings.values["batch_size"], len(bank))
        most = most_steps(len(bank), batch)
        settings = by_passes(settings, len(bank) / batch, allowed, most=most)
        return Choice(settings, plan.reasons, most, frozenset({"eval_tokens"}))

    def objective(
        self, model: TaggerConfig, train: TrainConfig, device: "torch.device", console: Console
    ) -> "Annotating":
        """The labels, of a fresh tagger."""
        import torch

        from seqtool.annotating import Annotating, TaggedSentences
        from seqtool.tagger import Tagger

        split, names = self.split, self.split.names
        vocabulary = [*self.lexicon.ids]
        lexicon = TokenLexicon("token", vocabulary, lower=True, buckets=model.part_buckets)
        texts = [lexicon.encode_words(words(bank)) for bank in split.parts]
        sets = [
            TaggedSentences(text, numbers(bank, names), lexicon.table)
            for text, bank in zip(texts, split.parts, strict=True)
        ]
        torch.manual_seed(train.seed % 2**64)
        tagger = Tagger(model, len(split.labels), vocab_size=lexicon.size).to(device)
        held_out = sets[1] if len(sets) > 1 else None
        return Annotating(tagger, sets[0], held_out, train, names, split.scheme)

    def rows(
        self,
        objective: "Annotating",
        train: TrainConfig,
        settings: Settings,
        seconds: float | None,
        reasons: Sequence[str],
    ) -> list[tuple[str, str]]:
        """Network and training, a star on what the user did not fix."""
        labels = "chosen together, as a chain" if objective.model.chain else "chosen one by one"
        return reader_rows(objective.model, train, settings, seconds, reasons, [("labels", labels)])

    @property
    def vocab_size(self) -> int:
        """Words with an id, and one for the others."""
        return self.lexicon.size

    def tokenizer_json(self) -> str:
        """What is kept of the lexicon."""
        return self.lexicon.to_json()

    def parts(self) -> dict[str, Tensors]:
        """The label that each word has most often, by which models are measured."""
        return {COUNTS: most_frequent(self.split)}

    def prepare(
        self, objective: "Annotating", train: TrainConfig, announce: Callable[[], None]
    ) -> None:
        """Compile the loops of the recurrent layers."""
        objective.model.stack.prepare(train.batch_size, 64, announce, padded=True)

    def closing(self, best: Mapping[str, Any]) -> str:
        """How many labels are found."""
        if "valid_accuracy" not in best:
            return ""
        spans = f", span F1 {best['valid_span_f1']:.4f}" if "valid_span_f1" in best else ""
        return f"accuracy {best['valid_accuracy']:.4f}{spans} on what was held out"


def most_frequent(split: TaggedSplit) -> dict[str, np.ndarray]:
    """Every word of training by its hash, (W,) sorted, and the label it has most often, (W,).

    Of equally frequent labels the first in the alphabet.
    """
    tokens = (hash_text(word) for sentence in words(split.train) for word in sentence)
    hashes = np.fromiter(tokens, np.int64, split.train.num_tokens)
    known, rows = np.unique(hashes, return_inverse=True)
    counts = np.zeros((len(known), len(split.labels)), np.int64)
    np.add.at(counts, (rows, numbers(split.train, split.labels)), 1)
    return {"words": known, "labels": counts.argmax(axis=1)}
