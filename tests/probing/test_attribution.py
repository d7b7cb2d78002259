"""What tiles do to a score: exact for a mean, estimated from views, and silent where there is nothing."""

import numpy as np
import pytest

from gigacli.errors import InvalidInput
from gigacli.probing.attribution import attribution_from_views, attribution_of_mean, balanced_views


@pytest.mark.parametrize(("n", "tiles"), [(20, 5), (23, 5), (6, 5), (100, 25)])
def test_every_view_holds_different_tiles_and_every_tile_is_in_as_many(n, tiles):
    views = balanced_views(np.random.default_rng(0), n, tiles=tiles, per_tile=12)
    assert all(len(set(view)) == tiles for view in views.tolist())
    times = np.bincount(views.ravel(), minlength=n)
    assert times.min() >= 12
    assert n % tiles or (times == 12).all()


def test_a_view_that_holds_every_tile_explains_nothing():
    with pytest.raises(InvalidInput, match="5 tiles"):
        balanced_views(np.random.default_rng(0), 5, tiles=5, per_tile=10)


def test_the_pull_on_a_mean_is_what_leaving_the_tile_out_changes():
    scores = np.random.default_rng(0).normal(size=9)
    found = attribution_of_mean(scores)
    without = np.array([scores.mean() - np.delete(scores, i).mean() for i in range(9)])
    np.testing.assert_allclose(found.value, 9 * without)
    assert (found.error == 0).all()
    with pytest.raises(InvalidInput, match="1 tiles"):
        attribution_of_mean(scores[:1])


def test_views_find_the_pull_of_a_mean_within_their_own_error():
    rng = np.random.default_rng(3)
    each = rng.normal(size=200)
    views = balanced_views(rng, 200, tiles=5, per_tile=100)
    found = attribution_from_views(each[views].mean(axis=1), views, 200)
    z = (found.value - attribution_of_mean(each).value) / found.error
    assert abs(z.mean()) < 0.3
    assert 0.8 < z.std() < 1.2


def test_a_score_that_is_no_sum_over_tiles_gives_what_enumeration_gives():
    rng = np.random.default_rng(4)
    strength = rng.random(8)
    everything = np.array([[i, j] for i in range(8) for j in range(i)])
    score = np.maximum(strength[everything[:, 0]], strength[everything[:, 1]])
    held = (everything[:, :, None] == np.arange(8)).any(axis=1)  # (views, tiles of the slide)
    exact = 2 * np.array([score[held[:, i]].mean() - score[~held[:, i]].mean() for i in range(8)])
    views = balanced_views(rng, 8, tiles=2, per_tile=4000)
    found = attribution_from_views(strength[views].max(axis=1), views, 8)
    np.testing.assert_allclose(found.value, exact, atol=5 * found.error.max())


def test_noise_alone_is_called_noise_and_planted_tiles_are_found():
    discoveries, planted = 0, np.arange(10)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        views = balanced_views(rng, 100, tiles=5, per_tile=50)
        noise = rng.normal(size=len(views))
        discoveries += attribution_from_views(noise, views, 100).significant.any()
        told = attribution_from_views(noise + np.isin(views, planted).sum(axis=1), views, 100)
        assert told.significant[planted].all()
        assert (told.value[planted] > 2).all()
        assert told.significant[10:].mean() < 0.05
    assert discoveries <= 4  # 5 % of 20 on average


def test_a_score_that_never_changes_has_no_pull():
    views = balanced_views(np.random.default_rng(0), 20, tiles=5, per_tile=10)
    found = attribution_from_views(np.full(len(views), 0.3), views, 20)
    assert not found.significant.any()
    np.testing.assert_allclose(found.value, 0, atol=1e-12)
