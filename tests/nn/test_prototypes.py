"""The mixture against scikit-learn, and prototypes against sums written out."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from gigacli.nn import prototypes
from gigacli.nn.closed_forms import SlideTiles
from gigacli.nn.prototypes import Mixture
from gigacli.nn.whitening import FeatureSpace

C = 4
PLAIN = FeatureSpace(None, None)


@pytest.fixture(scope="module")
def slides():
    """Three kinds of tissue in shares of their own."""
    kinds = np.random.default_rng(5).standard_normal((3, C)) * 6
    made = []
    for i in range(12):
        rng = np.random.default_rng(i)
        of = rng.choice(3, 50, p=rng.dirichlet(np.ones(3)))
        made.append(SlideTiles(f"s{i}", (kinds[of] + rng.standard_normal((50, C))).astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def mixture(slides):
    return Mixture.fit(slides, PLAIN, seed=0)


def sklearns(mixture):
    theirs = GaussianMixture(len(mixture.weights), covariance_type="diag")
    theirs.weights_, theirs.means_, theirs.covariances_ = (
        np.asarray(one, dtype=np.float64) for one in (mixture.weights, mixture.means, mixture.variances)
    )
    theirs.precisions_cholesky_ = 1 / np.sqrt(theirs.covariances_)
    return theirs


def test_tiles_belong_to_prototypes_as_scikit_learn_says(slides, mixture):
    tiles = slides[3].plain.astype(np.float64)
    np.testing.assert_allclose(mixture.posterior(tiles), sklearns(mixture).predict_proba(tiles), atol=1e-9)
    far = np.full((1, C), 1e3)
    np.testing.assert_allclose(mixture.posterior(far).sum(), 1)


def test_the_vector_is_share_and_weighted_mean_and_deviation_of_each_prototype(slides, mixture):
    tiles = slides[3].plain.astype(np.float64)
    share = sklearns(mixture).predict_proba(tiles)
    vector = mixture.transform(slides[3])
    assert vector.shape == (16 * (1 + 2 * C),)
    np.testing.assert_allclose(vector[:16], share.mean(0), atol=1e-6)
    means, deviations = vector[16:].reshape(2, 16, C)
    for k in range(16):
        centre = np.average(tiles, axis=0, weights=share[:, k])
        apart = np.average(np.square(tiles - centre), axis=0, weights=share[:, k])
        np.testing.assert_allclose(means[k], share[:, k].mean() * centre, atol=1e-5)
        np.testing.assert_allclose(deviations[k], np.sqrt(share[:, k].mean() * apart), atol=1e-3)


def test_a_prototype_that_a_slide_lacks_weighs_nothing(mixture):
    lone = SlideTiles("lone", mixture.means[:1].copy())
    absent = mixture.posterior(mixture.means[:1].astype(np.float64))[0] < 1e-12
    assert absent.any()
    for part in mixture.transform(lone)[16:].reshape(2, 16, C):
        np.testing.assert_allclose(part[absent], 0, atol=1e-5)


def test_prototypes_find_the_kinds_of_tissue(slides, mixture):
    kinds = np.random.default_rng(5).standard_normal((3, C)) * 6
    nearest = np.linalg.norm(kinds[:, None] - mixture.means[None], axis=2).min(1)
    assert (nearest < 2).all()  # kinds are 6 and more apart


def test_of_many_tiles_a_sample_is_fitted_whatever_their_order(slides, monkeypatch):
    monkeypatch.setattr(prototypes, "SAMPLE", 90)
    monkeypatch.setattr(prototypes, "SAMPLE_PER_SLIDE", 20)
    one, other = (prototypes._sample(order, 0) for order in (slides, slides[::-1]))
    assert one.shape == (90, C)
    np.testing.assert_array_equal(one, other)
    assert len(np.unique(one, axis=0)) == 90


def weighted_by_hand(mixture, tiles, weights):
    """The vector of a slide in which tile i stands for weights[i] tiles."""
    share = sklearns(mixture).predict_proba(tiles) * (weights / weights.sum())[:, None]
    of = share.sum(0)
    centres = share.T @ tiles / of[:, None]
    apart = np.stack([r @ np.square(tiles - centre) for r, centre in zip(share.T, centres, strict=True)])
    return np.concatenate([of, (share.T @ tiles).ravel(), np.sqrt(apart).ravel()])


def test_a_tiles_score_is_how_the_vector_changes_with_its_weight(slides, mixture):
    tiles, one = slides[3].plain.astype(np.float64), np.ones(50)
    # of prototypes that the slide hardly has, deviations are too near to 0 for a difference to be finite
    known = np.concatenate([np.ones(16 * (1 + C)), np.repeat(sklearns(mixture).predict_proba(tiles).mean(0) > 0.02, C)])
    weights = known * np.random.default_rng(2).standard_normal(len(known))
    scores = mixture.scores(slides[3], weights)
    assert scores.mean() == pytest.approx(weighted_by_hand(mixture, tiles, one) @ weights, rel=1e-9)
    for i in range(0, 50, 7):
        step = 1e-4 * (np.arange(50) == i)
        up, down = (weighted_by_hand(mixture, tiles, one + sign * step) @ weights for sign in (1, -1))
        assert scores[i] - scores.mean() == pytest.approx(50 * (up - down) / 2e-4, rel=1e-4, abs=1e-5)


def test_shares_and_weighted_means_are_told_apart_exactly(slides, mixture):
    tiles = slides[3].plain.astype(np.float64)
    weights = np.zeros(16 * (1 + 2 * C))
    weights[: 16 * (1 + C)] = np.random.default_rng(2).standard_normal(16 * (1 + C))
    share = sklearns(mixture).predict_proba(tiles)
    lone = [np.append(r, np.outer(r, tile)) @ weights[: 16 * (1 + C)] for r, tile in zip(share, tiles, strict=True)]
    np.testing.assert_allclose(mixture.scores(slides[3], weights), lone, rtol=1e-9)
