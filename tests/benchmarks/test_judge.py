"""The judge of a cohort against scikit-learn and against leaving slides out one by one."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks import judge as module
from benchmarks.judge import auc, by_patient, judge, leave_one_out_loss, probed, shuffled
from gigacli.probing.linear import score
from gigacli.probing.logistic import fit
from gigacli.probing.splits import leaking_patients


def cohort(n=80, p=120, signal=1.0):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % 3 == 0).astype(np.int64)
    vectors = rng.standard_normal((n, p))
    vectors[:, 0] += signal * labels
    return vectors, labels


@pytest.mark.parametrize("c", [0.01, 0.3])
def test_leaving_out_is_near_to_doing_it(c):
    vectors, labels = cohort(p=6)
    model = fit(vectors, labels, C=c, tolerance=1e-8)
    balance = (len(labels) / (2 * np.bincount(labels)))[labels]
    losses = []
    for i in range(len(labels)):
        rest = np.arange(len(labels)) != i
        alone = LogisticRegression(C=c, tol=1e-8, max_iter=1000).fit(vectors[rest], labels[rest], balance[rest])
        losses.append(-balance[i] * alone.predict_log_proba(vectors[i : i + 1])[0, labels[i]])
    assert leave_one_out_loss(vectors, labels, model.weights[0], c) == pytest.approx(np.mean(losses), rel=0.02)


def test_the_classifier_is_scikit_learns_on_all_values(monkeypatch):
    monkeypatch.setattr(module, "GRID", (0.1,))
    vectors, labels = cohort()
    train, test = np.arange(50), np.arange(50, 80)
    centred = vectors - vectors[train].mean(0)
    model = LogisticRegression(C=0.1, class_weight="balanced", tol=1e-8, max_iter=1000).fit(
        centred[train], labels[train]
    )
    expected = roc_auc_score(labels[test], model.decision_function(centred[test]))
    assert auc(vectors, labels, train, test, scale=False) == pytest.approx(expected)


def test_what_is_told_apart_scores_high_and_noise_does_not():
    for signal, low, high in ((20.0, 0.95, 1.0), (0.0, 0.3, 0.7)):
        vectors, labels = cohort(n=120, p=5, signal=signal)
        halves = judge(vectors, labels).halves()
        assert halves.keys() == {"all", "few", "all_first", "few_first", "all_second", "few_second"}
        assert all(low <= value <= high for value in halves.values())
        assert halves["all"] == pytest.approx((halves["all_first"] + halves["all_second"]) / 2)


def test_the_probe_judges_the_same_splits_with_all_labels_and_with_few():
    vectors, y = cohort(n=96, p=8)
    labels, patients = np.where(y == 1, "a", "b"), [f"p{i // 2}" for i in range(96)]
    labels = np.repeat(labels[::2], 2)  # a patient has one label
    splits, few = by_patient(labels, patients, few=24)
    assert {len(draw.train) for draws in few for draw in draws} == {24}
    for split, draws in zip(splits, few, strict=True):
        assert leaking_patients(split, patients) == 0
        assert all(np.isin(draw.train, split.train).all() for draw in draws)
        assert all(np.array_equal(draw.test, split.test) for draw in draws)
    judged = probed(vectors, labels, (splits, few), c=10.0, scale=True, patients=patients)
    folds = score(vectors, labels, [*splits, *few[3]], C=10.0, scale=True, groups=patients)
    assert judged.every.tolist() == [fold.auc for fold in folds[:10]]
    assert judged.few[3] == pytest.approx(np.mean([fold.auc for fold in folds[10:]]))


def test_random_splits_are_the_same_for_numbers_and_words():
    _, y = cohort(n=120)
    numbers, words = shuffled(y, draws=2), shuffled(y.astype(str), draws=2)
    flat = [[*every, *(draw for draws in few for draw in draws)] for every, few in (numbers, words)]
    for one, other in zip(*flat, strict=True):
        assert one.train.tolist() == other.train.tolist()
        assert one.test.tolist() == other.test.tolist()
