"""The ``train`` command for pairs of texts: the encoder-decoder, its pairs, what is chosen."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqtool.bitext import PairSplit, read_split
from seqtool.checkpoint import Saved
from seqtool.config import PairConfig, TrainConfig, TranslatorConfig
from seqtool.console import Console
from seqtool.dictionary import learn_dictionary
from seqtool.errors import ConfigError, DataError
from seqtool.images import are_names
from seqtool.metrics import bleu, choose_unit, edits, exact
from seqtool.pairs import Pairs
from seqtool.places import DICTIONARY
from seqtool.runs import TrainRequest
from seqtool.scans import (
    Scanner,
    Scans,
    beside,
    choose_height,
    measure,
    scan,
    survey,
)
from seqtool.settings import Settings
from seqtool.spelling import (
    Side,
    Spelling,
    choose_lines,
    choose_spelling,
    learn_lines,
    learn_spelling,
)
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

    from seqtool.plan_translate import Sizes
    from seqtool.subwords import Splitter
    from seqtool.teacher import Bitext, Teacher
    from seqtool.trainer import Trainer

Array = npt.NDArray[Any]

WIDEST = 16  # pixels of an image for each token that a text may have
STEPS = 32  # time steps of a batch that is compiled for; the code serves all


class TranslateTask(Task):
    """Learn to rewrite one sequence into another."""

    name = "translate"
    unused = OF_STREAMS - {"sample_every"}

    split: PairSplit
    spelling: Spelling
    scanner: Scanner | None = None  # how sources are read that are images
    sets: "list[Bitext]"  # to train on and, if there is any, held out

    def read(self, request: TrainRequest, settings: Settings, console: Console) -> Settings:
        """Read the pairs, hold some out, learn how they are spelled."""
        _, data, config = configs(self, settings)
        places = request.data, request.target, request.valid, request.valid_target
        self.split = read_split(*places, data, config.seed)
        train = self.split.train
        pictures = are_names(train.sources)
        if pictures:
            chosen, reason = choose_lines(train, settings.values), "sources are images"
        else:
            chosen, reason = choose_spelling(train, settings.values)
        settings = settings.add(chosen, "seen from the data")
        _, data, _ = configs(self, settings)
        console.status("learning the vocabulary")
        self.spelling = (learn_lines if pictures else learn_spelling)(train, data)
        self._encode(data, console)
        self._show(reason, console)
        return settings

    def read_again(self, request: TrainRequest, saved: Saved, console: Console) -> None:
        """Read the pairs with the vocabulary of the run."""
        data, config = saved.card.data, saved.card.train
        places = request.data, request.target, request.valid, request.valid_target
        self.split = read_split(*places, data, config.seed)
        self.spelling = Spelling.from_json(saved.tokenizer_json, str(request.out))
        self.scanner = Scanner.of(saved.card.source, str(request.out))
        self._encode(data, console)

    def _encode(self, config: PairConfig, console: Console) -> None:
        """Both parts as ids, or as pictures and ids; pairs with a side too long are left out."""
        from seqtool.teacher import Bitext

        longest = config.max_length
        self.sets = []
        for pairs in (self.split.train, self.split.held_out):
            if pairs is None:
                continue
            scans = None
            if self.spelling.source is None:
                console.status("reading the images")
                pairs, scans = self._scan(pairs, config, console)
                sources, what = scans.texts, "image wider, or a text longer, than"
            else:
                console.status("encoding the pairs")
                sources, what = self.spelling.source.encode_all(pairs.sources), "side of more than"
            targets = self.spelling.target.encode_all(pairs.targets)
            # A letter is several columns wide.
            most = longest if scans is None else WIDEST * longest
            fits = np.flatnonzero((sources.lengths <= most) & (targets.lengths <= longest))
            if len(fits) < len(pairs):
                units = f"{longest} tokens" if scans is None else f"{most} pixels, {longest} tokens"
                console.warn(
                    f"{pairs.name}: {len(pairs) - len(fits):,} of {len(pairs):,} pairs have a "
                    f"{what} {units} and are left out; see --max-length"
                )
                sources, targets = sources.select(fits), targets.select(fits)
                pairs = pairs.select(fits.tolist())
            if not len(pairs):
                raise DataError(f"{pairs.name}: no pair of at most {longest} tokens a side is left")
            self.sets.append(Bitext(sources, targets, scans, self.scanner))
            if len(self.sets) > 1:
                self.judged = pairs

    def _scan(self, pairs: Pairs, config: PairConfig, console: Console) -> tuple[Pairs, Scans]:
        """The images of sources, all brought to what those to train on are like."""
        paths = beside(pairs.origin, pairs.sources)
        good, heights, coloured = survey(paths, pairs.where, skip_bad=config.skip_bad)
        if len(good) < len(pairs):
            console.warn(
                f"{pairs.name}: {len(pairs) - len(good):,} of {len(pairs):,} images cannot be read "
                "and are left out"
            )
            pairs, paths = pairs.select(good), [paths[row] for row in good]
        if self.scanner is not None:
            return pairs, scan(paths, self.scanner.height, self.scanner.channels)
        size = config.image_height or choose_height(heights), 3 if coloured else 1
        scans = scan(paths, *size)
        self.scanner = measure(scans, *size)
        return pairs, scans

    def source(self, request: TrainRequest) -> dict[str, Any]:
        """Names, hashes, columns, counts, and how long targets are."""
        train = self.sets[0]
        targets, sources = train.targets.lengths + 1, train.sources.lengths + 1
        longest = {
            "ratio": float((targets / sources).max()),
            "target": int(targets.max()),
            "source": int(sources.max()) - 1,
        }
        found = {"valid_sha256": None} | self.split.source | {"longest": longest}
        return found | ({"scanner": self.scanner.as_dict()} if self.scanner else {})

    def choose(self, settings: Settings, allowed: Allowance, console: Console) -> Choice:
        """Sizes, rates and the longest run that helps, by ``plan_translate``."""
        from seqtool.batches import ShuffledPairs
        from seqtool.plan_translate import choose_translator, most_steps

        given = settings.values | ({"epochs": allowed.epochs} if allowed.epochs is not None else {})
        if given.get("tying") == "all" and not self.spelling.joint:
            raise ConfigError(
                "--tying all needs one vocabulary for both sides; use --tying target, or --joint"
            )
        plan = choose_translator(
            self._sizes(), seconds=allowed.seconds, gflops=allowed.gflops, given=given
        )
        settings = settings.add(plan.model | plan.train, "chosen by seqtool")
        train = self.sets[0]
        lengths = train.sources.lengths + 1, train.targets.lengths + 1
        batches = ShuffledPairs(*lengths, settings.values["batch_size"], seed=0).per_epoch()
        most = most_steps(batches)
        settings = by_passes(settings, batches, allowed, most=most)
        return Choice(settings, plan.reasons, most, frozenset({"eval_tokens"}))

    def _sizes(self) -> "Sizes":
        from seqtool.plan_translate import Sizes

        train = self.sets[0]
        return Sizes(
            pairs=len(train),
            source_tokens=int(train.sources.lengths.sum()) + len(train),
            target_tokens=int(train.targets.lengths.sum()) + len(train),
            source_vocabulary=self._source_size,
            target_vocabulary=self.spelling.target.vocab_size,
            joint=self.spelling.joint,
            pictures=self.scanner is not None,
        )

    @property
    def _sides(self) -> list[Side]:
        """What is spelled: the targets, and the sources unless they are images."""
        return [*filter(None, (self.spelling.source, self.spelling.target))]

    @property
    def _source_size(self) -> int:
        """Ids of the source's vocabulary, or numbers of a column of its images."""
        if self.scanner is not None:
            return self.scanner.width
        assert self.spelling.source is not None, "neither text nor images"
        return self.spelling.source.vocab_size

    def objective(
        self,
        model: TranslatorConfig,
        train: TrainConfig,
        device: "torch.device",
        console: Console,
    ) -> "Teacher":
        """The targets, of a fresh encoder-decoder."""
        import torch

        from seqtool.encdec import build_translators
        from seqtool.teacher import Teacher

        torch.manual_seed(train.seed % 2**64)
        source, target = self.spelling.source, self.spelling.target
        networks = build_translators(
            model,
            self._source_size,
            target.vocab_size,
            source_unknown=source.unknown_id if source else None,
            pictures=source is None,
        )
        held_out = self.sets[1] if len(self.sets) > 1 else None
        banned = () if target.unknown_id is None else (target.unknown_id,)
        rating = rater(self.spelling, self.judged) if held_out is not None else None
        return Teacher(
            [network.to(device) for network in networks],
            self.sets[0],
            held_out,
            train,
            rating=rating,
            banned_ids=banned,
            splitters=(
                self._splitter(source, model.subword_dropout, train.seed),
                self._splitter(target, model.subword_dropout, train.seed + 1),
            ),
        )

    def _splitter(self, side: Side | None, rate: float, seed: int) -> "Splitter | None":
        """What draws segmentations of a side that is made of pieces of words."""
        from seqtool.subwords import Splitter

        if side is None or side.kind != "bpe" or not rate:
            return None
        return Splitter(side.tokenizer.merged_from(), rate, seed)

    def rows(
        self,
        objective: "Teacher",
        train: TrainConfig,
        settings: Settings,
        seconds: float | None,
        reasons: Sequence[str],
    ) -> list[tuple[str, str]]:
        """Network and training, a star on what the user did not fix."""
        star = partial(starred, settings)
        model = objective.networks[0].config
        extra = [
            (
                "attention",
                f"{model.attention}{star('attention')}"
                + (", input feeding" if model.input_feeding else ""),
            ),
            (
                "also dropped",
                f"source words {model.source_word_dropout:g}{star('source_word_dropout')}"
                + (
                    f", subwords {model.subword_dropout:g}{star('subword_dropout')}"
                    if model.subword_dropout
                    else ""
                )
                + f"; label smoothing {model.label_smoothing:g}{star('label_smoothing')}",
            ),
        ]
        return reader_rows(objective.networks[0], train, settings, seconds, reasons, extra)

    @property
    def vocab_size(self) -> int:
        """Of the targets."""
        return self.spelling.target.vocab_size

    def tokenizer_json(self) -> str:
        """One tokenizer, or one for each side."""
        return self.spelling.to_json()

    def parts(self) -> dict[str, Tensors]:
        """The word-by-word dictionary that ``evaluate`` compares with."""
        if self.scanner is not None:
            return {}
        return {DICTIONARY: learn_dictionary(self.split.train).arrays()}

    def prepare(
        self, objective: "Teacher", train: TrainConfig, announce: Callable[[], None]
    ) -> None:
        """Compile the loops of the recurrent layers."""
        model = objective.networks[0]
        rows = max(1, train.batch_size // STEPS)
        model.encoder.prepare(rows, STEPS, announce, padded=True)
        for stack in (model.query, model.reader):
            stack.prepare(rows, STEPS, announce)

    def sampler(self, trainer: "Trainer") -> Callable[[], str] | None:
        """Translates the first source held out, as the averaged weights do it."""
        if len(self.sets) < 2:
            return None
        teacher: Any = trainer.objective
        source, target = self.judged.sources[0], self.judged.targets[0]

        def write() -> str:
            with trainer.updater.averaged():
                said = self.spelling.target.decode(teacher.translate(1)[0])
            return f"source: {source}\nmodel:  {said}\nright:  {target}"

        return write

    def closing(self, best: Mapping[str, Any]) -> str:
        """Scores of what was held out."""
        told = {
            "valid_bleu": ("BLEU", ".1f"),
            "valid_per": ("phoneme error rate", ".4f"),
            "valid_cer": ("character error rate", ".4f"),
            "valid_exact": ("rightly translated", ".4f"),
        }
        scores = [f"{name} {best[key]:{form}}" for key, (name, form) in told.items() if key in best]
        if not scores:
            return ""
        return f"{' and '.join(scores)} on pairs held out, the likeliest word always taken"

    def _show(self, reason: str, console: Console) -> None:
        """What the pairs hold, and how they are split and spelled."""
        split, data = self.split, self.split.train
        kinds = dict.fromkeys(f"{side.kind}, {side.vocab_size:,} entries" for side in self._sides)
        train = self.sets[0]
        mean = train.sources.lengths.mean(), train.targets.lengths.mean()
        rows = [
            ("columns", data.columns.reason),
            ("tokens", f"{' and '.join(kinds)} ({reason})"),
            ("lengths", f"{mean[0]:.1f} and {mean[1]:.1f} tokens a text"),
            *self._show_pictures(),
            ("split", f"{len(train):,} pairs to train on, {split.note}"),
        ]
        console.table(data.name, rows)
        if split.held_out is None:
            console.warn("nothing is held out, so the last weights are kept, not the best")
        for finding in split.findings:
            console.warn(finding.message)

    def _show_pictures(self) -> list[tuple[str, str]]:
        if self.scanner is None:
            return []
        kind = "colour" if self.scanner.channels == 3 else "grey"
        return [("images", f"{self.scanner.height} pixels high, {kind}; a column is a step")]


def rater(spelling: Spelling, pairs: Pairs) -> Callable[[Sequence[Array]], dict[str, float]]:
    """How good translations of the first pairs are: exact ones, and what ``evaluate`` would show.

    That is BLEU of sentences, the phoneme error rate of sounds, the character error rate of others.
    Every target that stands beside the same source is a right answer.
    """
    answers: dict[str, dict[str, None]] = {}
    for source, target in zip(pairs.sources, pairs.targets, strict=True):
        answers.setdefault(source, {})[target] = None
    references = [tuple(answers[source]) for source in pairs.sources]
    unit = choose_unit(references, pairs.sources)

    def rate(found: Sequence[Array]) -> dict[str, float]:
        texts = [spelling.target.decode(ids) for ids in found]
        right = references[: len(texts)]
        scores = {"val_exact": float(exact(texts, right).mean())}
        if unit == "word":
            return scores | {"val_bleu": bleu(texts, right).value}
        wrong, sizes = edits(texts, right, unit)
        name = "val_per" if unit == "sound" else "val_cer"
        return scores | {name: float(wrong.sum() / max(1, sizes.sum()))}

    return rate
