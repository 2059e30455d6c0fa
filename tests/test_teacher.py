"""What a translator learns: targets held out, greedy translations, and a place to go on from."""

import json

import numpy as np
import pytest
import torch
from conftest import check_each_learns_alone
from torch.nn import functional

from seqtool.beam import search
from seqtool.config import BeamConfig, TrainConfig, TranslatorConfig
from seqtool.encdec import EncDecStepper, build_translators
from seqtool.lexicon import Texts
from seqtool.subwords import Splitter
from seqtool.teacher import Bitext, Teacher
from seqtool.trainer import Trainer

V = 9
SMALL = {"hidden_size": 24, "embed_size": 16, "dropout": 0.0, "source_word_dropout": 0.0}


def texts(rows) -> Texts:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Texts(np.concatenate([*rows, []]).astype(np.int32), offsets)


def reversals(count: int, seed: int) -> Bitext:
    """Random strings of up to five symbols and what they are from their end."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(2, V, rng.integers(0, 6)) for _ in range(count)]
    return Bitext(texts(rows), texts([row[::-1] for row in rows]))


def make(
    *, held_out: Bitext | None = None, rating=None, splitters=(None, None), **options
) -> Teacher:
    torch.manual_seed(1)
    config = TranslatorConfig(**(SMALL | options))
    train = TrainConfig(batch_size=200, lr=1e-2, warmup=10, steps=150, eval_tokens=10_000)
    networks = build_translators(config, V, V)
    return Teacher(networks, reversals(400, 1), held_out, train, rating=rating, splitters=splitters)


def run(teacher: Teacher, steps: int) -> Trainer:
    config = TrainConfig(batch_size=200, lr=1e-2, warmup=10, steps=steps, average=0)
    trainer = Trainer(teacher, config)
    while trainer.step < steps:
        trainer.update()
    return trainer


def test_held_out_loss_is_the_mean_over_all_tokens_one_pair_at_a_time():
    held_out = reversals(30, 2)
    teacher = make(held_out=held_out)
    costs = []
    for row in range(len(held_out)):
        source, length, target, _ = teacher._batch(held_out, np.array([row]))
        logits, _ = teacher.model(source, length, target)
        scores = logits[0].detach()
        cost = functional.cross_entropy(scores, target[0], label_smoothing=0.1, reduction="none")
        costs.append(cost)
    look = teacher.evaluate(10_000)
    assert look.loss == pytest.approx(float(torch.cat(costs).mean()), rel=1e-5)
    assert look.scores == {"val_loss": look.loss}
    assert look.card == {"valid_loss": look.loss}


def test_a_look_reads_no_more_than_it_may():
    held_out = reversals(30, 2)
    first = Bitext(held_out.sources.select(np.arange(7)), held_out.targets.select(np.arange(7)))
    limit = int((first.targets.lengths + 1).sum())
    assert make(held_out=held_out).evaluate(limit).loss == make(held_out=first).evaluate(999).loss


def test_with_nothing_held_out_there_is_no_loss():
    assert make().evaluate(100).loss is None


def test_what_is_rated_is_what_each_source_alone_becomes():
    held_out, seen = reversals(12, 3), []

    def rating(found):
        seen.extend(found)
        return {"val_count": float(len(found))}

    teacher = make(held_out=held_out, rating=rating)
    run(teacher, 20)
    look = teacher.evaluate(10_000)
    assert look.scores["val_count"] == look.card["valid_count"] == 12
    steps = EncDecStepper(teacher.model)
    for row in range(12):
        state = steps.encode(*teacher._sources(held_out, np.array([row])))
        most = 2 * held_out.targets.lengths[row : row + 1] + 5
        config = BeamConfig(beam_size=1)
        alone = search(steps, state, config, start_id=0, end_id=0, max_lengths=most)
        assert seen[row].tolist() == alone[0][0].ids.tolist()


def test_steps_on_arrays_are_those_of_the_model():
    teacher = make(attention="additive", input_feeding=True)
    source, lengths, target, _ = teacher._batch(teacher.train, np.arange(5))
    teacher.model.eval()
    logits, _ = teacher.model(source, lengths, target)
    steps = EncDecStepper(teacher.model)
    state = steps.encode(source.numpy(), lengths.numpy())
    found, state = steps.step(np.zeros(5, np.int64), state)
    np.testing.assert_allclose(found, logits[:, 0].detach(), rtol=1e-4, atol=1e-5)
    found, _ = steps.step(target[:, 0].numpy(), state)
    np.testing.assert_allclose(found, logits[:, 1].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"attention": "none", "reverse_source": True}])
def test_short_strings_are_learned(options):
    teacher = make(held_out=reversals(50, 4), **options)
    before = teacher.evaluate(10_000).loss
    run(teacher, 120)
    after = teacher.evaluate(10_000).loss
    assert before is not None
    assert after is not None
    assert after < 0.6 * before
    assert teacher.epoch == teacher.batches.num_rows / 400 > 10


def halves() -> Splitter:
    """Splits any of the symbols 4 to 8 into two smaller ones, now and then."""
    merged = np.array([[0, 0]] * 4 + [[k // 2, k - k // 2] for k in range(4, V)])
    return Splitter(merged, 0.3, 5)


def test_pairs_are_learned_as_they_are_spelled_in_each_epoch():
    teacher = make(splitters=(halves(), halves()))
    teacher.model.eval()
    epochs = {}
    while teacher.batches.epochs < 3:
        state = teacher.batches.state_dict()
        rows = teacher.batches.next()
        sides = [
            halves().draw(texts, rows, teacher.batches.epochs)
            for texts in (teacher.train.sources, teacher.train.targets)
        ]
        pairs = Bitext(*sides)
        wanted = teacher.model.loss(*teacher._batch(pairs, np.arange(len(rows))))[0]
        assert (teacher.counts(rows) == pairs.targets.lengths + 1).all()
        teacher.batches.load_state_dict(state)
        assert teacher.loss().item() == pytest.approx(wanted.item(), rel=1e-6)
        epochs.setdefault(teacher.batches.epochs, []).append(int(pairs.targets.lengths.sum()))
    assert len({sum(sizes) for sizes in epochs.values()}) > 1


def test_networks_side_by_side_learn_what_each_learns_alone():
    # So low a limit that every gradient is clipped, and each by another factor.
    config = TrainConfig(batch_size=200, lr=1e-2, warmup=2, steps=150, clip_norm=0.05)
    together, ones = make(members=3, held_out=reversals(30, 2)), [make() for _ in range(3)]
    with torch.no_grad():
        together.networks[1].output.bias.mul_(20)
    check_each_learns_alone(together, ones, config)
    for one in ones:
        one.held_out = together.held_out
    losses = [one.evaluate(10_000).loss for one in ones]
    assert together.evaluate(10_000).loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_networks_translate_by_the_mean_of_their_logits():
    teacher = make(members=2, held_out=reversals(12, 3))
    run(teacher, 40)
    for row, found in enumerate(teacher.translate(12)):
        steppers = [EncDecStepper(network) for network in teacher.networks]
        sources = teacher._sources(teacher.held_out, np.array([row]))
        states = [stepper.encode(*sources) for stepper in steppers]
        said, ids = [], np.zeros(1, np.int64)
        while len(said) < 2 * teacher.held_out.targets.lengths[row] + 4:
            made = [s.step(ids, state) for s, state in zip(steppers, states, strict=True)]
            states = [state for _, state in made]
            ids = (made[0][0] + made[1][0]).argmax(axis=1)
            if ids[0] == 0:
                break
            said.append(int(ids[0]))
        assert found.tolist() == said


@pytest.mark.parametrize("splitters", [(None, None), (halves(), halves())])
def test_goes_on_from_where_it_was_captured(splitters):
    one = run(make(dropout=0.2, splitters=splitters), 7)
    tensors, counters = one.capture()
    counters = json.loads(json.dumps(counters))
    ahead = [one.update()[0] for _ in range(15)]
    other = Trainer(make(dropout=0.2, splitters=splitters), one.config)
    other.restore(tensors, counters)
    assert [other.update()[0] for _ in range(15)] == ahead
