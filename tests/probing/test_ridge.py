from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gigacli.probing.heads import fit_of
from gigacli.probing.model import score_splits
from gigacli.probing.ridge import GRID, INNER_FOLDS, fit_levels, fit_numbers
from gigacli.probing.splits import make_splits
from gigacli.probing.truth import levels_of, numbers_of


def cohort(n=90, features=12, seed=0):
    """Vectors, and numbers that depend on three of their values."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, features)).astype(np.float32) * 3 + 1
    y = vectors[:, :3] @ [1.0, -0.5, 0.25] + rng.normal(size=n)
    return vectors, numbers_of([f"{v:.6f}" for v in y], column="age")


@pytest.mark.parametrize("shape", [(90, 12), (30, 60)])
@pytest.mark.parametrize("scale", [False, True])
def test_equals_scikit_learn_at_every_strength(shape, scale):
    vectors, truth = cohort(*shape)
    for c in GRID[::3]:
        mine = fit_numbers(vectors, truth, None, C=c, scale=scale)
        x = vectors.astype(np.float64)
        their = make_pipeline(StandardScaler(), Ridge(alpha=1 / c)) if scale else Ridge(alpha=1 / c)
        np.testing.assert_allclose(mine.predict(vectors)[:, 0], their.fit(x, truth.y).predict(x), atol=2e-5)
        mine = fit_numbers(vectors.astype(np.float64), truth, None, C=c, scale=scale)
        np.testing.assert_allclose(mine.predict(x)[:, 0], their.predict(x), atol=1e-6)


def test_the_strength_is_the_one_a_grid_search_chooses():
    vectors, truth = cohort(n=100, features=40)
    x = vectors.astype(np.float64)
    inner, _ = make_splits(truth.strata, None, folds=INNER_FOLDS, seed=0)
    fold = np.empty(100, dtype=int)
    for i, split in enumerate(inner):
        fold[split.test] = i
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": [1 / c for c in GRID]},
        cv=PredefinedSplit(fold),
        scoring="neg_mean_squared_error",
    ).fit(x, truth.y)
    chosen = fit_numbers(x, truth, None, scale=True).C
    assert chosen == pytest.approx(1 / search.best_params_["ridge__alpha"])


def test_splits_are_scored_as_scikit_learn_scores_them():
    vectors, truth = cohort()
    splits, _ = make_splits(truth.strata, None, folds=3)
    folds = score_splits(vectors, truth, splits, fit_of("regression", "linear", C=1.0))
    for split, fold in zip(splits, folds, strict=True):
        model = Ridge(alpha=1.0).fit(vectors[split.train].astype(np.float64), truth.y[split.train])
        assert fold.score == pytest.approx(r2_score(truth.y[split.test], model.predict(vectors[split.test])), abs=1e-6)
        assert fold.score == fold.metrics["r2"]
        assert fold.C == 1.0
        assert set(fold.metrics) == {"r2", "pearson", "spearman", "mae"}


def test_too_few_to_choose_is_said():
    vectors, truth = cohort(n=4)
    one_patient = np.array(["p"] * 4)
    assert "could not be chosen" in fit_numbers(vectors, truth, one_patient).note


def test_levels_are_predicted_as_often_as_they_are_there():
    rng = np.random.default_rng(1)
    signal = rng.normal(size=300)
    vectors = (np.column_stack([signal, rng.normal(size=(300, 20))])).astype(np.float32)
    level = np.digitize(signal + 2 * rng.normal(size=300), [-2, 0, 2])
    truth = levels_of([str(v) for v in level], column="grade")
    model = fit_levels(vectors[:200], truth.take(np.arange(200)), None, scale=True)
    predicted = model.predict(vectors[200:])
    assert set(predicted[:, 0]) == {0, 1, 2, 3}  # rounding what a ridge predicts would give the middle two alone
    assert set(np.round(predicted[:, 1])) == {1, 2}
    np.testing.assert_array_equal(predicted[:, 0], np.searchsorted(model.cuts, predicted[:, 1], side="right"))
    share = np.bincount(predicted[:, 0].astype(int), minlength=4) / 100
    np.testing.assert_allclose(share, np.bincount(level) / 300, atol=0.12)


def test_a_level_that_is_further_away_costs_more():
    vectors, _ = cohort(n=60)
    truth = levels_of([f"G{1 + i % 3}" for i in range(60)], column="grade")
    splits, _ = make_splits(truth.strata, None, folds=3)
    folds = score_splits(vectors, truth, splits, fit_of("ordinal", "linear", scale=True))
    assert all(-1 <= fold.score <= 1 and fold.score == fold.metrics["quadratic_kappa"] for fold in folds)
