"""Where slides lie, and what lies next to them."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from gigacli.probing.retrieval import nearest
from gigacli.reporting.neighbours import neighbour_map, pca


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32) * np.arange(1, 13)


def test_principal_components_are_those_of_scikit_learn(vectors):
    oracle = PCA(3).fit(vectors)
    places, share = pca(vectors, components=3)
    theirs = oracle.transform(vectors)
    np.testing.assert_allclose(share, oracle.explained_variance_ratio_, rtol=1e-4)
    np.testing.assert_allclose(np.abs(places), np.abs(theirs), rtol=1e-3, atol=1e-2)


def test_principal_components_do_not_turn_round(vectors):
    np.testing.assert_allclose(pca(vectors)[0], pca(vectors[::-1])[0][::-1], atol=1e-4)


def test_components_that_are_not_there_are_zero():
    places, share = pca(np.array([[0.0], [1.0], [5.0]]))
    assert (places[:, 1] == 0).all()
    np.testing.assert_allclose(share, [1, 0])


def test_a_map_of_neighbours_keeps_groups_together_and_is_the_same_again():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(40, 8)) + 12 * np.repeat(np.eye(8)[:2], 20, axis=0)
    places = neighbour_map(vectors)
    assert (nearest(places - places.mean(axis=0), 1)[0][:, 0] // 20 == np.arange(40) // 20).mean() > 0.9
    np.testing.assert_array_equal(places, neighbour_map(vectors))
    assert neighbour_map(vectors[:4]) is None
