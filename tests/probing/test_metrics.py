from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as theirs

from gigacli.probing import metrics


def drawn(seed, classes):
    """Classes, each there, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, 40)])
    shares = rng.dirichlet(np.ones(classes), len(truth)).round(1) + 1e-3
    return truth, shares / shares.sum(axis=1, keepdims=True)


@given(st.integers(2, 5), st.integers(0, 1000))
def test_classes_equal_scikit_learn(classes, seed):
    truth, shares = drawn(seed, classes)
    best, one_hot = shares.argmax(axis=1), np.eye(classes)[truth]
    scored, known = (shares[:, 1], truth) if classes == 2 else (shares, one_hot)
    assert metrics.average_precision(truth, shares) == pytest.approx(theirs.average_precision_score(known, scored))
    per_class = metrics.f1(truth, best, classes)
    assert per_class == pytest.approx(theirs.f1_score(truth, best, average=None, zero_division=0))
    assert metrics.kappa(truth, best, classes) == pytest.approx(theirs.cohen_kappa_score(truth, best))
    quadratic = theirs.cohen_kappa_score(truth, best, weights="quadratic")
    assert metrics.kappa(truth, best, classes, quadratic=True) == pytest.approx(quadratic)
    expected = theirs.brier_score_loss(truth, shares[:, 1]) if classes == 2 else theirs.brier_score_loss(truth, shares)
    assert metrics.brier(truth, shares) == pytest.approx(expected)


@given(st.integers(2, 5), st.integers(0, 1000))
def test_the_calibration_error_is_that_of_the_definition(classes, seed):
    truth, shares = drawn(seed, classes)
    sure, hit = shares.max(axis=1), shares.argmax(axis=1) == truth
    error = 0.0
    for i in range(metrics.BINS):
        inside = (sure > i / metrics.BINS) & (sure <= (i + 1) / metrics.BINS)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - sure[inside].mean())
    assert metrics.calibration_error(truth, shares) == pytest.approx(error)
    counts, _, right = metrics.reliability(truth, shares)
    assert counts.sum() == len(truth)
    assert counts @ right == hit.sum()


def test_nothing_but_chance_has_no_kappa():
    same = np.zeros(5, dtype=np.int64)
    assert metrics.kappa(same, same, 2) == 0


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=30))
def test_numbers_equal_scipy_and_scikit_learn(pairs):
    x, y = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(metrics.pearson(x, y))
        assert np.isnan(metrics.spearman(x, y))
        return
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert metrics.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert metrics.r2(x, y) == pytest.approx(theirs.r2_score(x, y))
