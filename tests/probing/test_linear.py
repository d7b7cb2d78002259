from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from gigacli.errors import InvalidInput
from gigacli.probing import linear
from gigacli.probing.labels import read_labels
from gigacli.probing.linear import GRID, INNER_FOLDS, balanced_log_loss, score
from gigacli.probing.logistic import fit
from gigacli.probing.scores import interval, score_interval
from gigacli.probing.splits import Split, leaking_patients, make_splits, read_splits


def cohort(sizes, *, features=16, signal=0.5, seed=0, dtype=np.float32):
    """Vectors of unit length with a class-dependent mean, in shuffled order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([f"class {c}" for c in range(len(sizes))], sizes))
    means = rng.standard_normal((len(sizes), features))
    vectors = rng.standard_normal((len(labels), features)) + signal * means[np.unique(labels, return_inverse=True)[1]]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype), labels


def fit_and_score(vectors, labels, split, **options):
    return score(vectors, labels, [split], **options)[0]


def mean_auc(folds):
    return np.mean([fold.auc for fold in folds])


def plain(vectors, labels, split, *, scale):
    """The authors' evaluation, as anyone would write it with scikit-learn."""
    train, test = vectors[split.train], vectors[split.test]
    if scale:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    model = LogisticRegression(C=10, class_weight="balanced", max_iter=1000).fit(train, labels[split.train])
    probabilities, truth = model.predict_proba(test), labels[split.test]
    if len(model.classes_) == 2:
        auc = roc_auc_score(truth, probabilities[:, 1])
    else:
        auc = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    predicted = model.predict(test)
    return auc, np.mean(predicted == truth), balanced_accuracy_score(truth, predicted), probabilities


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brca", "kidney", "lung", "mhrd", "thrd", "tnbc"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [False, True])
def test_parity_with_scikit_learn_on_the_published_splits(tcga, name, dtype, scale):
    """All tables and budgets: the same AUC as the plain call, though it stops before the optimum.

    In float32 it is up to the rounding of a processor's BLAS at which step a few fits stop.
    """
    table = read_labels(tcga / "tables" / f"{name}.csv")
    labels = np.array(table.label)
    rng = np.random.default_rng(len(labels))
    y = np.unique(labels, return_inverse=True)[1]
    vectors = rng.standard_normal((len(labels), 64)) + 0.2 * rng.standard_normal((3, 64))[y]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    budgets = sorted((tcga / "splits" / name).iterdir())
    assert len(budgets) >= 4
    elsewhere = 0
    for budget in budgets:
        splits, _ = read_splits(budget, table.slide_id, allow_missing=True)
        folds = score(vectors, labels, splits, scale=scale)
        assert len(folds) == 10
        for split, fold in zip(splits, folds, strict=True):
            with threadpool_limits(1):
                auc, accuracy, balanced, probabilities = plain(vectors, labels, split, scale=scale)
            if dtype == np.float32 and abs(fold.auc - auc) > 1e-6:
                elsewhere += 1
                assert fold.auc == pytest.approx(auc, abs=3e-3)
                continue
            assert fold.auc == pytest.approx(auc, abs=1e-6)
            assert fold.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-9)
            assert fold.metrics["balanced_accuracy"] == pytest.approx(balanced, abs=1e-9)
            np.testing.assert_allclose(fold.predicted, probabilities, atol=1e-2 if dtype == np.float32 else 1e-9)
        assert 0.55 < mean_auc(folds) < 0.999  # neither chance nor perfect, so that the comparison means something
    assert elsewhere <= len(budgets) // 2  # of ten times as many


def test_every_published_split_is_compared(tcga):
    """In two precisions, scaled and not: 1,000 fits."""
    tables = {path.stem for path in (tcga / "tables").glob("*.csv")}
    assert tables == {"brca", "kidney", "lung", "mhrd", "thrd", "tnbc"}
    budgets = [path for name in tables for path in (tcga / "splits" / name).iterdir()]
    files = [file for budget in budgets for file in budget.glob("split_*.csv")]
    assert (len(budgets), len(files), 2 * 2 * len(files)) == (25, 250, 1000)


@pytest.mark.parametrize("sizes", [(40, 40), (150, 12), (60, 40, 20), (60, 30, 8, 40)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parity_in_either_precision_and_for_uneven_classes(sizes, dtype):
    vectors, labels = cohort(sizes, dtype=dtype)
    for split in make_splits(labels, None, folds=4)[0]:
        fold = fit_and_score(vectors, labels, split)
        auc, accuracy, balanced, probabilities = plain(vectors, labels, split, scale=False)
        assert (fold.auc, fold.metrics["accuracy"]) == pytest.approx((auc, accuracy), abs=1e-9)
        assert fold.metrics["balanced_accuracy"] == pytest.approx(balanced, abs=1e-9)
        np.testing.assert_allclose(fold.predicted, probabilities, atol=1e-4 if dtype == np.float32 else 1e-9)
        assert (fold.split, fold.C) == (split, 10)


def test_perfect_random_and_reversed_vectors():
    labels = np.array(["a", "b"] * 100)
    y = (labels == "b").astype(float)
    split = Split(train=np.arange(100), test=np.arange(100, 200))
    perfect = fit_and_score(y[:, None], labels, split)
    assert (perfect.auc, perfect.metrics["accuracy"], perfect.metrics["balanced_accuracy"]) == (1, 1, 1)
    turned = np.where(np.arange(200) < 100, y, 1 - y)[:, None]  # the meaning is reversed on the test side
    assert fit_and_score(turned, labels, split).auc == 0
    many = np.array(["a", "b"] * 1000)
    noise = score(np.random.default_rng(0).standard_normal((2000, 4)), many, make_splits(many, None)[0])
    assert abs(mean_auc(noise) - 0.5) < 0.05
    low, high = score_interval(noise)
    assert low < 0.5 < high
    assert fit_and_score(np.zeros((200, 3)), labels, split).auc == 0.5


def test_the_second_class_is_the_positive_one():
    vectors, labels = cohort((30, 30))
    split = make_splits(labels, None)[0][0]
    fold = fit_and_score(vectors, labels, split)
    by_hand = roc_auc_score(labels[split.test] == "class 1", fold.predicted[:, 1])
    assert fold.auc == by_hand


def test_scaling_is_fitted_on_the_training_side():
    vectors, labels = cohort((40, 40), dtype=np.float64)
    split = make_splits(labels, None)[0][0]
    before = fit_and_score(vectors, labels, split, scale=True).predicted
    moved = vectors.copy()
    moved[split.test[1:]] += 1000  # other test slides must not change what is said of the first
    np.testing.assert_array_equal(fit_and_score(moved, labels, split, scale=True).predicted[0], before[0])
    assert not np.allclose(fit_and_score(vectors, labels, split).predicted[0], before[0])


def test_converged_reaches_the_optimum():
    vectors, labels = cohort((60, 60), features=64)
    split = make_splits(labels, None)[0][0]
    oracle = LogisticRegression(C=10, class_weight="balanced", solver="newton-cholesky", tol=1e-10, max_iter=100)
    best = oracle.fit(vectors[split.train].astype(float), labels[split.train]).predict_proba(vectors[split.test])
    plain_fit = fit_and_score(vectors, labels, split).predicted
    converged = fit_and_score(vectors, labels, split, converged=True)
    assert np.abs(converged.predicted - best).max() < 1e-5
    assert np.abs(plain_fit - best).max() > 10 * np.abs(converged.predicted - best).max()
    assert converged.not_converged == 0


def test_fits_that_do_not_converge_are_counted():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 10)) * np.logspace(-3, 3, 10)  # badly conditioned, hardly regularised
    labels = np.array(["a", "b"] * 30)
    splits = make_splits(labels, None, folds=3)[0]
    assert 1 <= sum(fold.not_converged for fold in score(vectors, labels, splits, C=1e6)) <= 3
    short = fit(vectors, np.arange(60) % 2, C=1e6, max_steps=3)
    assert (short.steps, short.converged) == (3, False)
    assert not any(fold.not_converged for fold in score(vectors, labels, splits, C=1e-6, scale=True))


def test_auto_chooses_inside_the_training_side():
    rng = np.random.default_rng(1)
    labels = np.array(["a", "b"] * 60)
    vectors = rng.standard_normal((120, 80))
    vectors[:, 0] += 1.5 * (labels == "b")  # one informative feature among 80: little data wants much regularisation
    splits = make_splits(labels, None, folds=3)[0]
    auto = score(vectors, labels, splits, C="auto", scale=True)
    assert all(fold.C in GRID and fold.C < 10 and not fold.note for fold in auto)
    assert mean_auc(auto) > mean_auc(score(vectors, labels, splits, scale=True))
    # labels of the test side play no part in the choice
    split = splits[0]
    blind = labels.copy()
    blind[split.test] = labels[split.test][::-1]
    assert fit_and_score(vectors, blind, split, C="auto").C == fit_and_score(vectors, labels, split, C="auto").C


def test_auto_keeps_patients_together(monkeypatch):
    patients = np.repeat([f"patient {p}" for p in range(30)], 4)
    labels = np.repeat(["a", "b"] * 15, 4)
    vectors = np.random.default_rng(2).standard_normal((120, 8))
    split = make_splits(labels, patients, folds=3)[0][0]
    seen = []

    def spy(*args, **options):
        seen.append(make_splits(*args, **options))
        return seen[-1]

    monkeypatch.setattr(linear, "make_splits", spy)
    fit_and_score(vectors, labels, split, C="auto", groups=patients)
    [(inner, _)] = seen
    inside = patients[split.train]
    assert len(inner) == linear.INNER_FOLDS
    assert all(leaking_patients(part, inside) == 0 for part in inner)


def test_auto_says_when_it_cannot_choose():
    vectors, labels = cohort((20, 20))
    first, second = np.flatnonzero(labels == "class 0"), np.flatnonzero(labels == "class 1")
    split = Split(train=np.array([first[0], *second[:9]]), test=np.array([first[1], second[10]]))
    fold = fit_and_score(vectors, labels, split, C="auto")
    assert fold.C == 10
    assert "'class 0' has 1" in fold.note


def test_one_fold_per_split():
    vectors, labels = cohort((40, 25), signal=0.2)
    splits, _ = make_splits(labels, None, folds=5)
    folds = score(vectors, labels, splits)
    assert [fold.split for fold in folds] == splits
    assert all(fold.predicted.shape == (13, 2) for fold in folds)
    low, high = score_interval(folds)
    assert (low, high) == interval([fold.auc for fold in folds], n_train=52, n_test=13)
    assert low < mean_auc(folds) < high


def test_interval_by_hand():
    # mean .8, variance (ddof 1) .01, 1/4 + 1/9, t(3 degrees of freedom, .975) = 3.182446
    aucs = 0.8 + 0.1 * np.array([1, -1, 1, -1]) * np.sqrt(3) / 2
    reach = 3.182446305284263 * np.sqrt((1 / 4 + 1 / 9) * 0.01)
    low, high = interval(aucs, n_train=90, n_test=10)
    assert low == pytest.approx(0.8 - reach)
    assert high == pytest.approx(min(1, 0.8 + reach))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10), st.integers(1, 100), st.integers(1, 100))
def test_interval_contains_the_mean_and_stays_in_bounds(aucs, n_train, n_test):
    low, high = interval(aucs, n_train=n_train, n_test=n_test)
    assert 0 <= low <= np.mean(aucs) + 1e-12
    assert np.mean(aucs) - 1e-12 <= high <= 1


def test_errors():
    vectors, labels = cohort((10, 10))
    split = make_splits(labels, None, folds=2)[0][0]
    with pytest.raises(InvalidInput, match="no splits"):
        score(vectors, labels, [])
    broken = vectors.copy()
    broken[split.test[0], 3] = np.nan
    with pytest.raises(InvalidInput, match="test vectors are not finite"):
        fit_and_score(broken, labels, split)
    one_class = np.flatnonzero(labels == "class 0")
    rest = np.flatnonzero(labels == "class 1")
    with pytest.raises(InvalidInput, match=r"missing from the training side .*'class 0' 8, 'class 1' 0"):
        fit_and_score(vectors, labels, Split(train=one_class[:8], test=np.array([one_class[9], rest[0]])))


def test_ten_fits_of_the_paper_take_well_under_a_second():
    vectors, labels = cohort((831, 210), features=512, signal=0.1)  # paper, section 4.3: 1.25 CPU-seconds
    splits, _ = make_splits(labels, None)
    started = time.process_time()
    score(vectors, labels, splits)
    assert time.process_time() - started < 1.0


def test_the_log_loss_is_scikit_learns_and_balanced():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 200), rng.dirichlet([1, 1, 1], 200)
    weights = (1 / np.bincount(y))[y]
    assert balanced_log_loss(y, p) == pytest.approx(log_loss(y, p, sample_weight=weights), rel=1e-12)


def test_auto_is_the_least_log_loss_of_unseen_slides():
    """Brute force, with scikit-learn's own fits, folds and loss."""
    rng = np.random.default_rng(1)
    labels = np.array(["a", "b"])[np.arange(80) % 2]
    vectors = rng.normal(size=(80, 20)).astype(np.float32) + 0.4 * (labels == "b")[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    split = Split(train=np.arange(60), test=np.arange(60, 80))
    [fold] = score(vectors, labels, [split], C="auto", converged=True)
    inner, _ = make_splits(labels[:60], None, folds=INNER_FOLDS, seed=0)
    losses = np.zeros(len(GRID))
    for part in inner:
        mean = vectors[part.train].mean(axis=0)
        for i, c in enumerate(GRID):
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=10_000, tol=1e-8)
            model.fit((vectors[part.train] - mean).astype(np.float64), labels[part.train])
            p = model.predict_proba((vectors[part.test] - mean).astype(np.float64))
            truth = (labels[part.test] == "b").astype(int)
            losses[i] += log_loss(truth, p, sample_weight=(1 / np.bincount(truth))[truth])
    assert GRID[int(losses.argmin())] == fold.C


def test_auto_does_not_shrink_everything_away_where_few_labels_leave_it_unsure():
    """Labs differ by much more than classes, and every C but the least is surer than it may be."""
    rng = np.random.default_rng(5)
    y, lab = np.arange(96) % 2, np.arange(96) // 2 % 4
    vectors = rng.normal(size=(96, 40)) + 4 * rng.normal(size=(4, 40))[lab] + 0.7 * np.outer(y, rng.normal(size=40))
    labels = np.array(["a", "b"])[y]
    split = Split(train=np.arange(24), test=np.arange(24, 96))
    [fold] = score(vectors, labels, [split], C="auto", scale=True)
    at_each = {c: score(vectors, labels, [split], C=c, scale=True)[0].auc for c in GRID}
    assert fold.C >= 0.01
    assert fold.auc >= at_each[10.0] - 0.02
    assert at_each[GRID[0]] < at_each[10.0] - 0.1  # what the log loss alone would take
