"""The ``train`` command for labelled data: the classifier, its data and what is chosen for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seqtool.audit import count_classes
from seqtool.checkpoint import Saved, load, load_counts
from seqtool.config import ClassifierConfig, LabelConfig, TrainConfig
from seqtool.console import Console
from seqtool.errors import ConfigError
from seqtool.examples import Examples
from seqtool.images import Images
from seqtool.judge import check_saved
from seqtool.labelled import Split, class_counts, read_split, shares, strings
from seqtool.lexicon import SHORT_TEXT, Lexicon, case_tells, mean_words
from seqtool.pixels import pixel_statistics, step_count
from seqtool.places import COUNTS
from seqtool.plan_classify import choose_members, choose_pieces
from seqtool.pretrained import shape_of
from seqtool.runs import TrainRequest, enough_memory, inherit
from seqtool.settings import Settings
from seqtool.tasks import (
    OF_STREAMS,
    Allowance,
    Choice,
    Task,
    by_passes,
    configs,
    reader_rows,
    starred,
)
from seqtool.tensorfile import Tensors

if TYPE_CHECKING:
    import torch

    from seqtool.judging import Judging


class LabelTask(Task):
    """Learn to judge as labels do."""

    name = "classify"
    unused = OF_STREAMS

    embeddable = True
    examples: Examples
    linear: Mapping[str, Any] = {}  # the linear classifier of a run that goes on

    def settle(self, request: TrainRequest) -> Settings:
        """The settings asked for; a language model may be the start."""
        return request.settings

    def read(self, request: TrainRequest, settings: Settings, console: Console) -> Settings:
        """Read the examples, hold some out, and see what an element of a sequence is."""
        _, data, config = configs(self, settings)
        split = read_split(request.data, request.valid, data, config.seed)
        if isinstance(split.train, Images) and (request.init_from or request.embeddings):
            given = "--init-from" if request.init_from else "--embeddings"
            raise ConfigError(f"{given} is for texts, {split.train.name} holds images")
        parent = None
        if request.init_from is not None:
            parent, origin = load(request.init_from, "generate"), f"--init-from {request.init_from}"
            settings = inherit(settings, shape_of(parent.card), origin)
            settings = settings.add({"part_buckets": 0}, origin)  # its tokens have no parts
            console.notice(f"starting from {request.init_from}, whose tokens are read")
        settings = _unit(settings, split, console)
        self.examples = Examples(split, configs(self, settings)[1], parent=parent)
        _show(split, data, self.examples.described(), console)
        if request.embeddings is not None:
            settings = self._take_vectors(request, settings, console)
        return settings

    def _take_vectors(
        self, request: TrainRequest, settings: Settings, console: Console
    ) -> Settings:
        """Start words from the vectors of --embeddings, whose width is then the model's."""
        unit = settings.values["tokenizer"]
        if request.init_from is not None or unit not in ("word", "char"):
            other = f"--tokenizer {unit}" if request.init_from is None else "--init-from"
            raise ConfigError(f"--embeddings has vectors of words and does not go with {other}")
        assert request.embeddings is not None
        console.status(f"reading {request.embeddings}")
        note = self.examples.take_vectors(request.embeddings)
        console.notice(f"{request.embeddings}: {note}")
        assert self.examples.vectors is not None
        width = {"embed_size": self.examples.vectors.width}
        return inherit(settings, width, f"--embeddings {request.embeddings}")

    def read_again(self, request: TrainRequest, saved: Saved, console: Console) -> None:
        """Read the examples with the words of the run, and its linear classifier."""
        card, where = saved.card, str(request.out)
        split = read_split(request.data, request.valid, card.data, card.train.seed)
        check_saved(saved, where)
        lexicon = None
        if not isinstance(split.train, Images):
            lexicon = Lexicon.from_json(
                saved.tokenizer_json, where, buckets=card.model.part_buckets, size=card.vocab_size
            )
        self.examples = Examples(split, card.data, lexicon)
        self.examples.take_ngrams(card.model.ngram_order)
        self.linear = load_counts(request.out) if card.model.ngram_order else {}

    def source(self, request: TrainRequest) -> dict[str, Any]:
        """Name, hash, classes, sizes; the columns of texts, the shape of images."""
        split = self.examples.split
        data, held_out = split.train, split.held_out
        found: dict[str, Any] = {
            "name": data.name,
            "sha256": data.sha256,
            "valid": request.valid,
            "valid_sha256": held_out.sha256 if held_out is not None and request.valid else None,
            "classes": list(split.classes),
            "class_counts": class_counts(split.labels(data), len(split.classes)).tolist(),
            "train_rows": len(data),
            "valid_rows": 0 if held_out is None else len(held_out),
        }
        if isinstance(data, Images):
            mean, deviation = pixel_statistics(data.pixels)
            shape = list(data.pixels.shape[1:])
            return found | {"image_shape": shape, "pixel_mean": mean, "pixel_deviation": deviation}
        columns = data.columns
        return found | {"text_columns": list(columns.texts), "label_column": columns.label}

    def choose(self, settings: Settings, allowed: Allowance, console: Console) -> Choice:
        """Sizes, rates and the longest run that helps, by ``plan_classify``."""
        from seqtool.plan_classify import choose_classifier, most_steps

        lengths, unit = self.examples.lengths, settings.values["tokenizer"]
        plan = choose_classifier(
            examples=len(lengths),
            tokens=int(lengths.sum()),
            unit=unit,
            seconds=allowed.seconds,
            gflops=allowed.gflops,
            given=settings.values,
        )
        settings = settings.add(plan.model | plan.train, "chosen by seqtool")
        batch = min(settings.values["batch_size"], len(lengths))
        most = most_steps(len(lengths), batch, unit)
        settings = by_passes(settings, len(lengths) / batch, allowed, most=most)
        return Choice(settings, plan.reasons, most, frozenset({"eval_tokens"}))

    def fill(
        self,
        settings: Settings,
        device: "torch.device",
        left: Callable[[], float],
        console: Console,
    ) -> Settings:
        """As many networks as the time is enough for, by timed updates that are thrown away."""
        if "members" in settings.values:
            return settings
        from seqtool.budget import time_run
        from seqtool.trainer import Trainer

        model, _, train = configs(self, settings)
        with enough_memory(model, train):
            objective = self.objective(model, train, device, console)
            self.prepare(objective, train, console.compiling)
            console.status("timing a few updates")
            seconds = time_run(Trainer(objective, train))
        return settings.add({"members": choose_members(seconds, left())}, "chosen by seqtool")

    def objective(
        self,
        model: ClassifierConfig,
        train: TrainConfig,
        device: "torch.device",
        console: Console,
    ) -> "Judging":
        """The labels, of a fresh classifier beside a trained linear one."""
        if not self.linear:
            self.examples.take_parts(model.part_buckets)
            if model.ngram_order:
                console.status("training the linear classifier")
            self.linear = self.examples.fit_linear(model.ngram_order)
        return self.examples.objective(model, train, device, self.linear)

    def rows(
        self,
        objective: "Judging",
        train: TrainConfig,
        settings: Settings,
        seconds: float | None,
        reasons: Sequence[str],
    ) -> list[tuple[str, str]]:
        """Networks and training, a star on what the user did not fix."""
        network = objective.networks[0]
        order, star = network.config.ngram_order, starred(settings, "ngram_order")
        beside = f"linear classifier of n-grams up to {order}{star}" if order else "nothing"
        extra = [("beside it", beside)]
        return reader_rows(network, train, settings, seconds, reasons, extra)

    @property
    def vocab_size(self) -> int:
        """Words with an id and one for the others; 0 for images."""
        return self.examples.vocab_size

    def tokenizer_json(self) -> str:
        """What is kept of the lexicon."""
        return self.examples.tokenizer_json()

    def parts(self) -> dict[str, Tensors]:
        """The linear classifier."""
        return {COUNTS: self.linear} if self.linear else {}

    def prepare(
        self, objective: "Judging", train: TrainConfig, announce: Callable[[], None]
    ) -> None:
        """Compile the loops of the recurrent layers."""
        objective.networks[0].onward.prepare(train.batch_size, 64, announce)

    def closing(self, best: Mapping[str, Any]) -> str:
        """Accuracy and calibration."""
        if "valid_micro_f1" in best:
            return (
                f"micro-F1 {best['valid_micro_f1']:.4f} on what was held out, the whole set right "
                f"{best['valid_accuracy']:.4f}, calibration error {best['valid_ece']:.3f}"
            )
        if "valid_accuracy" not in best:
            return ""
        return (
            f"accuracy {best['valid_accuracy']:.4f} on what was held out, expected calibration "
            f"error {best['valid_ece']:.3f}"
        )


def _unit(settings: Settings, split: Split, console: Console) -> Settings:
    """Whether rows of pixels, words or characters are read, unless the user said."""
    unit = settings.values.get("tokenizer")
    if isinstance(split.train, Images):
        if unit not in (None, "row"):
            raise ConfigError(f"--tokenizer {unit} is for texts, {split.train.name} holds images")
        return settings.add({"tokenizer": "row"}, "seen from the data")
    by = settings.values.get("by", LabelConfig.by)
    if unit == "row" or by != LabelConfig.by:
        given = "--tokenizer row" if unit == "row" else f"--by {by}"
        raise ConfigError(f"{given} is for images, {split.train.name} holds texts")
    if unit is None:
        mean = mean_words(strings(split.train)[:2000])
        unit = "word" if mean >= SHORT_TEXT else "char"
        if unit == "char":
            console.notice(f"texts of {mean:.1f} words on average: read by characters")
    if unit in ("byte", "bpe") and settings.values.get("lower"):
        raise ConfigError(f"--tokenizer {unit} reads texts as they are; leave --lower out")
    if unit == "bpe":
        characters = sum(map(len, strings(split.train)))
        settings = settings.add({"vocab_size": choose_pieces(characters)}, "chosen by seqtool")
    lower = unit == "word" or (unit == "char" and not case_tells(strings(split.train)))
    return settings.add({"tokenizer": unit, "lower": lower}, "seen from the data")


def _show(
    split: Split, config: LabelConfig, described: list[tuple[str, str]], console: Console
) -> None:
    """What the data hold, and how they are split; what else is known of them."""
    data, held_out = split.train, split.held_out
    apart = 0 if held_out is None else len(held_out)
    if isinstance(data, Images):
        height, width, channels = data.pixels.shape[1:]
        kind = "colour" if channels == 3 else "grey"
        steps = f"{step_count(data.pixels.shape[1:], config.by)} steps of a {config.by} each"
        rows = [("images", f"{height} x {width} pixels, {kind}: {steps}")]
        rows += [("", note) for note in data.notes]
        both = [*data.skipped, *(held_out.skipped if isinstance(held_out, Images) else ())]
        for broken in dict.fromkeys(both):
            console.warn(f"left out: {broken}")
    else:
        rows = [("columns", data.columns.reason)]
    rows.append(("classes", shares(count_classes(data.labels), len(data))))
    rows.append(("split", f"{len(data)} to train on, {apart} held out ({split.note})"))
    rows += described
    console.table(data.name, rows)
    if held_out is None:
        console.warn("nothing is held out, so probabilities are not calibrated")
    for finding in split.findings:
        console.warn(finding.message)
