from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.probing.harmonise import HARMONISERS, Centre, Combat, Erase, harmonising, oracle_shrinkage
from gigacli.probing.linear import score
from gigacli.probing.splits import Split, make_splits

METHODS = sorted(HARMONISERS)


def harmonise(vectors, sites, split, *, method):
    """All vectors with both sides of a split harmonised."""
    result = vectors.copy()
    apply = harmonising(method, sites)(vectors[split.train], split.train)
    for side in (split.train, split.test):
        result[side] = apply(vectors[side], side)
    return result


def formula():
    """Thirty vectors of three sites that no generator of random numbers has to remember."""
    i, j = np.mgrid[:30, :7]
    vectors = np.sin(1 + i * (j + 2.0)) + 0.3 * np.cos(3.7 * i * i) * j
    sites = np.array(list("abc"))[(i[:, 0] * i[:, 0] + i[:, 0] // 4) % 3]
    vectors += (sites == "a")[:, None] * (1.0 + j)
    vectors[sites == "b"] *= 1.7
    return vectors, sites.tolist()


@st.composite
def cohorts(draw):
    """Vectors of 2 to 4 sites, each with its own mean and spread, and a split of the slides."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, features = draw(st.integers(12, 60)), draw(st.integers(1, 40))
    sites = rng.permutation(np.resize(list("wxyz")[: draw(st.integers(2, 4))], n))
    number = np.unique(sites, return_inverse=True)[1]
    means, spreads = rng.normal(0, 2, (4, features)), rng.uniform(0.5, 2, (4, 1))
    vectors = rng.standard_normal((n, features)) * spreads[number] + means[number]
    order = rng.permutation(n)
    return vectors, sites.tolist(), Split(train=np.sort(order[: n // 2]), test=np.sort(order[n // 2 :]))


def test_combat_is_that_of_neurocombat():
    """Their version 0.2.12 on the same numbers, iterated until nothing changes, gives these rows."""
    vectors, sites = formula()
    theirs = [
        [1.3302581493, 2.0767735677, 2.4891824047, 3.4669916424, 4.2197915831, 4.9651869173, 5.4996842138],
        [0.8535689512, -0.1561337385, -0.3959115191, 0.3870726166, 1.4199455816, 2.0452727009, 1.5127038438],
        [-0.3768135194, 1.4982171899, 1.3319355685, -0.184311401, 1.4674766689, 2.0564217936, 0.4601344494],
    ]
    np.testing.assert_allclose(Combat().fit(vectors, sites).transform(vectors, sites)[:3], theirs, atol=1e-8)


def test_erasure_is_that_of_concept_erasure():
    """Version 0.2.4 with the same shrunk covariance and without its bound on the trace gives these rows."""
    vectors, sites = formula()
    theirs = [
        [1.024821381, 1.0301366921, 1.067585077, 1.4420293081, 2.0643310417, 2.3172438322, 2.0522720647],
        [1.0530371912, 0.5452731359, -0.0100027206, 1.8444656384],
    ]
    erased = Erase().fit(vectors, sites).transform(vectors, sites)
    np.testing.assert_allclose(erased[0], theirs[0], atol=1e-8)
    np.testing.assert_allclose(erased[1, :4], theirs[1], atol=1e-8)


def test_erasure_changes_vectors_least(monkeypatch):
    """Without shrinkage: of all maps after which no feature goes with the site, the one of least change on average.

    Lagrange's condition gives it as I - S_xz (S_zx S^-1 S_xz)^+ S_zx S^-1.
    """
    monkeypatch.setattr("gigacli.probing.harmonise.oracle_shrinkage", lambda *_, **__: 0.0)
    vectors, sites = formula()
    x = vectors - vectors.mean(axis=0)
    z = (np.array(sites)[:, None] == np.unique(sites)) - np.array([np.mean(np.array(sites) == s) for s in "abc"])
    cross, inverse = x.T @ z, np.linalg.inv(x.T @ x)
    taken = cross @ np.linalg.pinv(cross.T @ inverse @ cross) @ cross.T @ inverse
    np.testing.assert_allclose(Erase().fit(vectors, sites).transform(vectors, sites), vectors - x @ taken.T, atol=1e-9)


def test_shrinkage_is_the_best_there_is():
    """Of samples of one known covariance it comes near the shrinkage that is best on average, by search."""
    rng, features, n = np.random.default_rng(0), 30, 40
    truth = np.diag(1 / np.arange(1, features + 1))
    samples = [np.cov(rng.standard_normal((n, features)) @ np.sqrt(truth), rowvar=False, bias=True) for _ in range(50)]
    grid, scaled = np.linspace(0, 1, 101), [np.trace(s) / features * np.eye(features) for s in samples]
    errors = [
        np.mean([np.square((1 - r) * s + r * t - truth).sum() for s, t in zip(samples, scaled, strict=True)])
        for r in grid
    ]
    found = np.mean([oracle_shrinkage(np.linalg.eigvalsh(s), n=n, features=features) for s in samples])
    assert found == pytest.approx(grid[np.argmin(errors)], abs=0.05)
    assert oracle_shrinkage(np.ones(5), n=10, features=5) == 1.0


@settings(deadline=None, max_examples=60)
@given(cohorts())
def test_sites_are_alike_on_the_training_side(cohort):
    vectors, sites, _ = cohort
    names = np.array(sites)
    for method in (Centre, Erase):
        result = method().fit(vectors, sites).transform(vectors, sites)
        for site in set(sites):
            np.testing.assert_allclose(result[names == site].mean(axis=0), vectors.mean(axis=0), atol=1e-6)
    before, after = vectors, Combat().fit(vectors, sites).transform(vectors, sites)
    apart = [
        np.square(np.stack([side[names == s].mean(axis=0) for s in set(sites)]).std(axis=0)).mean()
        for side in (before, after)
    ]
    assert apart[1] <= apart[0] + 1e-12


@settings(deadline=None, max_examples=60)
@given(cohorts(), st.sampled_from(METHODS), st.integers(0, 2**32 - 1))
def test_the_test_side_is_never_seen(cohort, method, seed):
    """Whatever the test slides are, and whatever their sites are called, training slides come out the same."""
    vectors, sites, split = cohort
    rng = np.random.default_rng(seed)
    first = harmonise(vectors, sites, split, method=method)
    other, moved = vectors.copy(), np.array(sites)
    other[split.test] = rng.normal(50, 30, (len(split.test), vectors.shape[1]))
    moved[split.test] = rng.permutation(moved[split.test])
    second = harmonise(other, moved.tolist(), split, method=method)
    np.testing.assert_array_equal(first[split.train], second[split.train])
    # and a test slide comes out as it does alone: the slides beside it are not seen, either
    alone = harmonise(vectors, sites, replace(split, test=split.test[:1]), method=method)
    np.testing.assert_allclose(first[split.test[0]], alone[split.test[0]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["combat", "center"])
def test_a_site_that_was_not_in_training_is_left_as_it_is(method):
    vectors, sites = formula()
    known = np.array(sites) != "c"
    fitted = HARMONISERS[method]().fit(vectors[known], np.array(sites)[known].tolist())
    np.testing.assert_allclose(fitted.transform(vectors[~known], ["c"] * 10), vectors[~known])


def test_erasure_asks_no_slide_for_its_site():
    vectors, sites = formula()
    fitted = Erase().fit(vectors, sites)
    np.testing.assert_array_equal(fitted.transform(vectors, sites), fitted.transform(vectors, ["new"] * 30))


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_spread(method):
    """A constant feature, a site of one slide, one feature alone, no difference at all: no warning, no infinity."""
    vectors, sites = formula()
    sites[0] = "alone"
    vectors[:, 3] = 0.1
    fitted = HARMONISERS[method]().fit(vectors, sites)
    assert np.isfinite(fitted.transform(vectors, sites)).all()
    np.testing.assert_allclose(fitted.transform(vectors, sites)[:, 3], 0.1)
    one = HARMONISERS[method]().fit(vectors[:, :1], sites).transform(vectors[:, :1], sites)
    assert np.isfinite(one).all()
    same = np.ones((30, 4), dtype=np.float32)
    np.testing.assert_array_equal(HARMONISERS[method]().fit(same, sites).transform(same, sites), same)


@pytest.mark.parametrize("method", METHODS)
def test_precision_is_kept(method):
    vectors, sites = formula()
    result = harmonise(vectors.astype(np.float32), sites, Split(np.arange(20), np.arange(20, 30)), method=method)
    assert result.dtype == np.float32
    exact = harmonise(vectors, sites, Split(np.arange(20), np.arange(20, 30)), method=method)
    np.testing.assert_allclose(result, exact, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_site_goes_and_the_class_stays(method):
    """More features than training slides, a strong site and a weaker class, on test sides."""
    rng = np.random.default_rng(0)
    site, y = rng.integers(0, 3, 200), rng.integers(0, 2, 200)
    means = rng.standard_normal((5, 180))
    vectors = rng.standard_normal((200, 180)) + 0.7 * means[site] + 0.35 * means[3 + y]
    splits, _ = make_splits(y.astype(str), None, folds=4)

    def read(labels, corrected):
        sides = [
            harmonise(vectors, site.astype(str).tolist(), s, method=method) if corrected else vectors for s in splits
        ]
        return np.mean([score(side, labels.astype(str), [s])[0].auc for side, s in zip(sides, splits, strict=True)])

    assert read(site, corrected=False) > 0.99
    assert read(site, corrected=True) < 0.8
    assert read(y, corrected=True) > read(y, corrected=False) - 0.03


def test_refusals():
    vectors, sites = formula()
    split = Split(train=np.arange(10), test=np.arange(10, 20))
    with pytest.raises(InvalidInput, match="`harmonise` is 'quantile'"):
        harmonise(vectors, sites, split, method="quantile")
    with pytest.raises(InvalidInput, match="all 10 training slides are of the site 'a'"):
        harmonise(vectors, ["a"] * 30, split, method="center")
    with pytest.raises(InvalidInput, match="for 3 sites"):
        Centre().fit(vectors, list("abc"))
