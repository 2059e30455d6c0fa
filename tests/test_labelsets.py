"""Sets of labels: probabilities, thresholds and scores, against formulas and other libraries."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from seqtool.calibration import pool
from seqtool.labelsets import (
    best_f1,
    fit_label_powers,
    label_calibration_error,
    label_scores,
    label_thresholds,
    probabilities,
    sigmoid,
)


def some(n=400, c=3, seed=1):
    """Log-odds of labels that are right as often as they say, and truths drawn from them."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1, 2, (n, c))
    return odds, (rng.random((n, c)) < sigmoid(odds)).astype(np.int64)


def test_powers_are_those_of_a_logistic_regression_where_texts_are_many():
    odds, truth = some(20_000)
    second = odds + np.random.default_rng(2).normal(0, 1, odds.shape)
    found = np.array(fit_label_powers([2 * odds + 1, second], truth))
    for label in range(3):
        x = np.stack([2 * odds[:, label] + 1, second[:, label]], axis=1)
        theirs = LogisticRegression(C=1e6).fit(x, truth[:, label])
        expected = [*theirs.coef_[0], theirs.intercept_[0]]
        np.testing.assert_allclose(found[label], np.maximum(expected, [0, 0, -9]), atol=0.02)
    p = probabilities([2 * odds + 1, second], found.tolist())
    np.testing.assert_allclose(p, sigmoid(odds), atol=0.05)


def test_a_useless_opinion_is_not_listened_to_and_few_texts_change_little():
    odds, truth = some(2000)
    wrong = fit_label_powers([odds, -odds], truth)
    assert all(row[1] <= row[0] for row in wrong)
    few = np.array(fit_label_powers([odds[:2], odds[:2]], truth[:2]))
    assert np.abs(few - [0.5, 0.5, 0]).max() < 1
    assert np.isfinite(fit_label_powers([odds * 1e4], truth)).all()


def test_one_label_is_pooled_as_before():
    odds, _ = some()
    np.testing.assert_array_equal(
        probabilities([odds, odds], [0.3, 0.4]), pool([odds, odds], [0.3, 0.4])
    )


def test_the_threshold_is_the_best_one_for_f1():
    odds, truth = some(50_000, 1)
    p = sigmoid(odds)
    (least,) = label_thresholds(p, truth)
    trials = np.linspace(0.02, 0.98, 97)
    f1 = [metrics.f1_score(truth[:, 0], p[:, 0] >= trial) for trial in trials]
    assert least == pytest.approx(trials[int(np.argmax(f1))], abs=0.03)
    assert metrics.f1_score(truth[:, 0], p[:, 0] >= least) == pytest.approx(max(f1), abs=0.002)
    assert best_f1(p[:, 0], truth[:, 0]) == pytest.approx(max(f1), abs=0.002)


def test_equal_probabilities_are_not_parted():
    assert best_f1(np.full(4, 0.5), np.array([1, 0, 0, 0])) == pytest.approx(2 / 5)


def test_rare_labels_take_the_common_threshold():
    odds, truth = some(300)
    truth[:, 2] = 0
    truth[:3, 2] = 1
    p = sigmoid(odds)
    found = label_thresholds(p, truth)
    assert found[2] == best_f1(p.ravel(), truth.ravel()) / 2
    assert found[0] == best_f1(p[:, 0], truth[:, 0]) / 2
    assert label_thresholds(p, np.zeros_like(truth)) == [0.5] * 3


def test_scores_equal_those_of_another_library():
    odds, truth = some(200, 4, seed=3)
    p, least = sigmoid(odds), [0.5, 0.3, 0.4, 0.6]
    given = p >= np.array(least)
    found = label_scores(p, truth, least)
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(truth, given, average="micro"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, given, average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, given))
    assert found["nats"] == pytest.approx(
        np.mean([metrics.log_loss(truth[:, i], p[:, i]) for i in range(4)])
    )
    assert found["ece"] < 0.15
    assert label_calibration_error(truth.astype(float), truth) == 0
