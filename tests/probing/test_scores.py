from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from gigacli.errors import InvalidInput
from gigacli.probing.kinds import check_split
from gigacli.probing.metrics import auc, roc
from gigacli.probing.scores import difference, interval, score_fold, score_interval
from gigacli.probing.splits import Split
from gigacli.probing.truth import classes_of

# few distinct values, so that there are ties
tied = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(positive for positive, _ in pairs) < len(pairs)
)


def known(y):
    """Classes of at least as many units as splits name."""
    return classes_of(np.resize(y, max(len(y), 9)))


@given(tied)
def test_two_classes_equal_scikit_learn(pairs):
    truth, scores = (np.array(column) for column in zip(*pairs, strict=True))
    second = scores / 6
    assert auc(truth.astype(int), np.stack([1 - second, second], axis=1)) == pytest.approx(roc_auc_score(truth, second))


@given(tied)
def test_roc_curves_equal_scikit_learn(pairs):
    truth, scores = (np.array(column) for column in zip(*pairs, strict=True))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    mine = roc(truth, scores.astype(float))
    np.testing.assert_allclose(mine[0], false)
    np.testing.assert_allclose(mine[1], true)


@given(st.integers(3, 5), st.integers(0, 1000))
def test_many_classes_equal_scikit_learn(classes, seed):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, 30)])
    shares = rng.dirichlet(np.ones(classes), len(truth)).round(2) + 1e-6
    shares /= shares.sum(axis=1, keepdims=True)
    fold = score_fold(known(truth), shares, Split(train=np.arange(9), test=np.arange(len(truth))))
    assert fold.auc == pytest.approx(roc_auc_score(truth, shares, multi_class="ovr"))
    assert fold.metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, shares.argmax(axis=1)))


def folds_of(aucs):
    """Folds with four test slides whose AUC is one of 0, .25, ... 1."""
    found = []
    for value in aucs:
        second = {1.0: [0.1, 0.2, 0.8, 0.9], 0.75: [0.1, 0.5, 0.4, 0.9], 0.5: [0.1, 0.9, 0.4, 0.6]}[value]
        shares = np.stack([1 - np.array(second), second], axis=1)
        found.append(
            score_fold(known(np.array([0, 0, 1, 1])), shares, Split(train=np.arange(9), test=np.arange(4), pool=36))
        )
    assert [fold.auc for fold in found] == list(aucs)
    return found


def test_differences_are_paired():
    high, low = folds_of([1.0, 0.75, 1.0]), folds_of([0.75, 0.5, 0.75])
    assert difference(high, low) == (0.25, 0.25, 0.25)  # always the same: no doubt, though the AUCs vary
    assert difference(low, high) == (-0.25, -0.25, -0.25)  # not clipped at 0
    mean, *ends = difference(folds_of([1.0, 0.5]), folds_of([0.75, 0.75]))
    assert tuple(ends) == interval([0.25, -0.25], n_train=36, n_test=4, lowest=-1)
    assert ends[0] < mean == 0 < ends[1]
    assert difference(folds_of([1.0]), folds_of([0.5])) == (0.5, None, None)


def test_the_interval_counts_all_labels_there_were():
    assert score_interval(folds_of([1.0, 0.5])) == interval([1.0, 0.5], n_train=36, n_test=4)
    assert score_interval(folds_of([1.0])) == (None, None)


def test_a_class_missing_from_a_side_is_named():
    split = Split(train=np.array([0, 1]), test=np.array([2, 3]))
    check_split(np.array([0, 1, 0, 1]), split, ["a", "b"])
    with pytest.raises(InvalidInput, match="missing from the test side of a split: 'a' 2, 'b' 0"):
        check_split(np.array([0, 1, 0, 0]), split, ["a", "b"])
