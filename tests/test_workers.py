"""What the benchmark says of more processes than one machine has."""

import pytest
from bench.workers import NETWORKS, Measured, efficiency, exchange_seconds, main

ALONE = Measured(tokens_per_s=1000.0, step_seconds=1.0, noise=0.0, weights=25_000_000)


@pytest.mark.parametrize("workers", [1, 2, 5, 8])
def test_a_ring_takes_as_long_as_its_messages(workers):
    size, bandwidth, latency = 8e8, 1e8, 0.01
    seconds = 0.0
    for _ in ("add up", "hand round"):
        for _ in range(workers - 1):  # in each round every worker sends one part of W
            seconds += latency + size / workers / bandwidth
    assert exchange_seconds(workers, size, bandwidth, latency) == pytest.approx(seconds)


def test_without_noise_only_what_does_not_fit_behind_the_backward_pass_costs():
    assert efficiency(1, ALONE, (1.0, 1.0)) == pytest.approx(1.0)
    assert efficiency(64, ALONE, (1e12, 0.0)) == pytest.approx(1.0)
    # 100 MB twice round, nearly: 2 s of a link of 100 MB/s, of which 2/3 s are hidden.
    exchange = exchange_seconds(64, 1e8, 1e8, 0.0)
    assert efficiency(64, ALONE, (1e8, 0.0)) == pytest.approx(1 / (1 + exchange - 2 / 3))
    assert efficiency(64, ALONE, (1e8, 0.0), accumulated=4) == pytest.approx(
        4 / (4 + exchange - 2 / 3)
    )


def test_the_slowest_of_many_is_slower():
    noisy = Measured(1000.0, 1.0, 0.1, 1)
    found = [efficiency(workers, noisy, (1e12, 0.0)) for workers in (1, 8, 64, 512)]
    assert found == sorted(found, reverse=True)
    # The mean of the highest of 8 normal draws is 1.424 deviations above the mean.
    assert found[1] == pytest.approx(1 / 1.1424, rel=0.01)


def test_a_batch_shared_out_leaves_less_to_hide_the_exchange_behind(capsys):
    main(["--seconds", "0.3"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.count(":") == 3 * len(NETWORKS)
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert [row[0] for row in cells] == ["2", "8", "64", "512"]
    for row in cells:
        shares = [int(cell.rstrip("%")) for cell in row[1:]]
        for alone, added_up in zip(shares[::3], shares[1::3], strict=True):
            assert alone <= added_up
    # Of 512 workers each has one stream: 9 ms, and an exchange takes 0.28 s by the slowest network.
    assert int(cells[-1][3].rstrip("%")) == pytest.approx(100 * 0.3 / 32 / 0.28, abs=1)
