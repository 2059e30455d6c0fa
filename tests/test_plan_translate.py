"""What is chosen for pairs: more time and more data make larger networks, flags are kept."""

import pytest
import torch

from seqtool.config import TranslatorConfig
from seqtool.encdec import EncoderDecoder
from seqtool.plan_translate import (
    FEWEST_UPDATES,
    SIZES,
    Sizes,
    choose_translator,
    flops_per_token,
    most_steps,
)

GFLOPS = 100.0


def sizes(pairs: int, *, length: float = 15, vocabulary: int = 4000) -> Sizes:
    tokens = round(pairs * length)
    return Sizes(pairs, tokens, tokens, vocabulary, vocabulary, joint=True)


def hidden(pairs: int, seconds: float | None, **options: int) -> int:
    plan = choose_translator(sizes(pairs, **options), seconds=seconds, gflops=GFLOPS, given={})
    return int(plan.model["hidden_size"])


def test_more_time_or_more_pairs_never_make_a_smaller_network():
    by_pairs = [hidden(pairs, None) for pairs in (1500, 6000, 30_000)]
    assert by_pairs == sorted(by_pairs)
    for pairs in (1500, 30_000, 10**6):
        by_time = [hidden(pairs, seconds) for seconds in (10, 60, 300, 3600, 10**6)]
        assert by_time == sorted(by_time)
        assert by_time[-1] == hidden(pairs, None)


def test_with_little_time_a_network_is_small_enough_to_read_its_pairs_often():
    short, long = hidden(30_000, 300), hidden(30_000, 10**5)
    assert min(SIZES) < short < long


@pytest.mark.parametrize("seconds", [None, 120, 600])
def test_without_attention_the_state_is_wider_as_it_holds_all_of_a_source(seconds):
    letters = sizes(20_000, length=7.4, vocabulary=28)
    plans = [
        choose_translator(letters, seconds=seconds, gflops=GFLOPS, given={"attention": kind})
        for kind in ("dot", "none")
    ]
    looking, plain = (plan.model["hidden_size"] for plan in plans)
    assert looking < plain <= 2 * looking


def test_what_is_given_is_kept_and_the_rest_follows_it():
    given = {"hidden_size": 100, "dropout": 0.7, "lr": 1.0, "tying": "none", "batch_size": 9}
    plan = choose_translator(sizes(30_000), seconds=300, gflops=GFLOPS, given=given)
    assert not given.keys() & (plan.model.keys() | plan.train.keys())
    assert plan.model["embed_size"] == 100


def test_two_vocabularies_are_not_tied_to_each_other():
    apart = Sizes(1000, 9000, 9000, 30, 40, joint=False)
    plan = choose_translator(apart, seconds=None, gflops=0, given={"epochs": 10})
    assert plan.model["tying"] == "target"


def test_letters_are_never_hidden_and_known_by_heart_less_soon():
    given = {"epochs": 30}
    letters = choose_translator(
        sizes(30_000, vocabulary=40), seconds=None, gflops=0, given=given
    ).model
    words = choose_translator(sizes(30_000), seconds=None, gflops=0, given=given).model
    assert letters["source_word_dropout"] == 0
    assert "source_word_dropout" not in words
    assert letters["dropout"] < words["dropout"]


def test_more_epochs_ask_for_more_dropout():
    found = [
        choose_translator(sizes(30_000), seconds=None, gflops=0, given={"epochs": epochs}).model[
            "dropout"
        ]
        for epochs in (1, 2, 5, 10, 40)
    ]
    assert found == sorted(found)
    assert found[0] == 0 < found[1]


def test_plain_networks_learn_more_slowly():
    rates = [
        choose_translator(sizes(30_000), seconds=None, gflops=0, given={"cell": cell}).train["lr"]
        for cell in ("rnn", "lstm")
    ]
    assert rates[0] < rates[1]


def test_a_small_set_is_read_until_enough_updates_are_made():
    assert most_steps(5) == FEWEST_UPDATES
    assert most_steps(1000) > FEWEST_UPDATES


@pytest.mark.parametrize(
    "options", [{}, {"cell": "gru", "num_layers": 2, "embed_size": 48}, {"hidden_size": 96}]
)
def test_operations_are_six_for_each_weight_of_a_matrix(options):
    """One target token for one source token meets every matrix but the embedding once."""
    config = TranslatorConfig(**({"hidden_size": 64, "embed_size": 64} | options))
    torch.manual_seed(0)
    model = EncoderDecoder(config, 500, 500)
    met = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and not name.startswith("bridge")  # once for a whole source
    )
    found = flops_per_token(config, sizes(10, vocabulary=500))
    assert found == pytest.approx(6 * met, rel=0.001)
