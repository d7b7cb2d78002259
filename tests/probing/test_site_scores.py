from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.probing.linear import score
from gigacli.probing.scores import score_interval
from gigacli.probing.site_scores import Within, as_frequent, read_sites, score_sites, verdict, within_sites
from gigacli.probing.sites import Confounding, confounding
from gigacli.probing.splits import make_splits


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


@st.composite
def predictions(draw):
    """Classes and sites of slides, and what two or three test sides are given, some values twice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    n, k = draw(st.integers(6, 40)), draw(st.integers(2, 4))
    y, sites = rng.integers(0, k, n), rng.integers(0, 4, n).astype(str)
    parts = np.array_split(rng.permutation(n), draw(st.integers(2, 3)))
    return y, sites, k, [(part, softmax(rng.integers(0, 3, (len(part), k)).astype(float))) for part in parts]


@settings(deadline=None, max_examples=80)
@given(predictions())
def test_within_sites_by_hand(case):
    """Every pair of slides of one site and one test side, one by one."""
    y, sites, k, tested = case
    right, pairs, judged = np.zeros(k), np.zeros(k), set()
    for places, p in tested:
        for a, b in itertools.permutations(range(len(places)), 2):
            if sites[places[a]] != sites[places[b]]:
                continue
            for c in [1] if k == 2 else range(k):
                if y[places[a]] == c and y[places[b]] != c:
                    pairs[c] += 1
                    right[c] += (p[a, c] > p[b, c]) + 0.5 * (p[a, c] == p[b, c])
                    judged.add(sites[places[a]])
    found = within_sites(y, tested, sites.tolist())
    if not pairs.any():
        assert found is None
        return
    assert found.auc == pytest.approx(np.mean(right[pairs > 0] / pairs[pairs > 0]))
    assert found.pairs == pairs.sum()
    assert found.sites == len(judged)
    assert found.slides == np.isin(sites, list(judged)).sum()


def test_one_site_within_is_the_score_itself():
    rng = np.random.default_rng(0)
    y, vectors = np.tile([0, 1], 20), rng.standard_normal((40, 5))
    folds = score(vectors, y.astype(str), make_splits(y.astype(str), None, folds=2)[0])
    found = within_sites(y, [(f.split.test, f.predicted) for f in folds], ["x"] * 40)
    assert found.auc == pytest.approx(np.mean([fold.auc for fold in folds]))
    assert (found.low, found.high) == pytest.approx(score_interval(folds))
    assert within_sites(y, [(folds[0].split.test, folds[0].predicted)], ["x"] * 40).low is None


def cohort(*, shares, site_effect, class_effect, slides=2, seed=0, patients=25):
    """Vectors that know the site and the class as far as they are told to; a site has so large a share of class 1."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(len(shares)), patients)
    y = np.concatenate([rng.permutation(np.arange(patients) < round(share * patients)) for share in shares]).astype(int)
    site, y = np.repeat(site, slides), np.repeat(y, slides)
    patient = np.repeat(np.arange(len(shares) * patients), slides).astype(str)
    means = rng.standard_normal((len(shares) + 1, 12))
    vectors = rng.standard_normal((len(y), 12)) + site_effect * means[site] + class_effect * y[:, None] * means[-1]
    return vectors.astype(np.float32), y, site.astype(str).tolist(), patient.tolist()


def judged(vectors, y, sites, patients):
    folds = score(vectors, y.astype(str), make_splits(y.astype(str), patients, folds=5)[0])
    tested = [(f.split.test, f.predicted) for f in folds]
    alone = confounding(y, sites, [f.split for f in folds], patients, permutations=49)
    overall = float(np.mean([fold.auc for fold in folds]))
    return overall, within_sites(y, tested, sites), alone


@pytest.mark.parametrize(
    ("cohort_of", "explains", "said"),
    [
        (
            {"shares": (0.1, 0.9, 0.1, 0.9), "site_effect": 2, "class_effect": 0},
            True,
            "the site explains the label: the",
        ),
        (
            {"shares": (0.2, 0.8, 0.2, 0.8), "site_effect": 1, "class_effect": 1},
            False,
            "but it does not explain the score",
        ),
        (
            {"shares": (0.48,) * 4, "site_effect": 2, "class_effect": 1},
            False,
            "does not explain the label, which it hardly",
        ),
        ({"shares": (0.0, 1.0), "site_effect": 1, "class_effect": 1}, True, "disease and site cannot be told apart"),
    ],
)
def test_the_verdict(cohort_of, explains, said):
    overall, within, alone = judged(*cohort(**cohort_of))
    found, sentence = verdict(overall, within, alone)
    assert (found, said in sentence) == (explains, True), sentence


def test_the_limits_of_the_verdict():
    alone = Confounding(0.8, 0.01)
    assert "there is nothing to explain" in verdict(0.54, Within(0.45, None, None, 100, 2, 20), alone)[1]
    assert verdict(0.9, Within(0.69, None, None, 100, 2, 20), alone)[0]
    assert not verdict(0.9, Within(0.71, 0.61, 0.8, 100, 2, 20), alone)[0]


def test_the_site_is_read_where_it_is_there():
    strong = read_sites(*_reading(cohort(shares=(0.5,) * 4, site_effect=2, class_effect=0)), scale=True)
    assert strong.auc > 0.95
    assert strong.balanced_accuracy > 0.8
    assert (strong.sites, strong.slides, strong.chance) == (4, 200, 0.25)
    none = read_sites(*_reading(cohort(shares=(0.5,) * 4, site_effect=0, class_effect=0)), scale=True)
    assert abs(none.auc - 0.5) < 0.1
    assert abs(none.balanced_accuracy - 0.25) < 0.1


def test_patients_are_not_what_is_read():
    """Slides of a patient are alike, sites are not: with patients on both sides the site would seem to be readable."""
    vectors, _, sites, patients = cohort(shares=(0.5,) * 4, site_effect=0, class_effect=0, slides=4)
    own = np.random.default_rng(1).standard_normal((100, 12))
    vectors = vectors + 3 * own[np.array(patients).astype(int)]
    assert abs(read_sites(vectors, sites, patients, scale=False).auc - 0.5) < 0.1
    assert read_sites(vectors, sites, None, scale=False).auc > 0.6


def test_small_sites_are_left_out():
    vectors, _, sites, patients = cohort(shares=(0.5,) * 3, site_effect=2, class_effect=0)
    sites = [*sites[:92], *["small"] * 8, *sites[100:]]  # four patients
    found = read_sites(vectors, sites, patients, scale=True)
    assert (found.sites, found.slides) == (3, 142)
    assert read_sites(vectors[:8], ["x"] * 4 + ["y"] * 4, patients[:8], scale=True) is None


def _reading(case):
    vectors, _, sites, patients = case
    return vectors, sites, patients


def test_scores_of_a_site_by_hand():
    y, sites = np.array([0, 1, 1, 0]), ["x", "x", "x", "y"]
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.7, 0.3]])
    x, other = score_sites(y, [(np.arange(4), p)], sites, train=None)
    assert (x.site, x.slides, x.auc) == ("x", 3, 1.0)
    np.testing.assert_allclose(x.observed, [1 / 3, 2 / 3])
    np.testing.assert_allclose(x.predicted, [0.7, 0.3])
    assert x.brier == pytest.approx((0.1**2 + 0.4**2 + 0.8**2) / 3)
    np.testing.assert_allclose(x.limit, 1.96 * np.sqrt((0.09 + 0.24 + 0.16) / 3 / 3))
    assert (other.site, other.slides, other.auc) == ("y", 1, None)


@settings(deadline=None, max_examples=60)
@given(predictions())
def test_sites_together_are_the_whole(case):
    y, sites, k, tested = case
    scores = score_sites(y, tested, sites.tolist(), train=None)
    assert sum(one.slides for one in scores) == len(y)
    observed = sum(one.slides * one.observed for one in scores) / len(y)
    np.testing.assert_allclose(observed, np.bincount(y, minlength=k) / len(y), atol=1e-12)


def test_probabilities_of_a_rare_class_are_those_of_the_cohort():
    """A balanced fit says how likely a class is were all as frequent; turned back, it is right about the cohort."""
    rng = np.random.default_rng(0)
    y = (rng.random(6000) < 0.1).astype(np.int64)
    vectors = rng.standard_normal((6000, 2)) + y[:, None]
    folds = score(vectors, y.astype(str), make_splits(y.astype(str), None, folds=2)[0], C=1.0)
    tested = [(f.split.test, f.predicted) for f in folds]
    raw = score_sites(y, tested, ["x"] * 6000, train=None)[0]
    turned = score_sites(y, tested, ["x"] * 6000, train=[f.split.train for f in folds])[0]
    assert raw.predicted[1] > raw.observed[1] + 0.1
    assert abs(turned.predicted[1] - turned.observed[1]) < turned.limit[1]
    assert turned.brier < raw.brier
    np.testing.assert_allclose(as_frequent(np.array([[0.5, 0.5]]), np.array([9, 1])), [[0.9, 0.1]])


def test_the_limit_holds_of_probabilities_that_are_right():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        p = rng.uniform(0.05, 0.95, 30)
        y = (rng.random(30) < p).astype(np.int64)
        one = score_sites(y, [(np.arange(30), np.column_stack([1 - p, p]))], ["x"] * 30, train=None)[0]
        inside.append(abs(one.predicted[1] - one.observed[1]) <= one.limit[1])
    assert 0.93 < np.mean(inside) < 0.97
