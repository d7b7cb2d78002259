"""Standardising and whitening against numpy, tile by tile."""

import numpy as np
import pytest

from gigacli.errors import InvalidInput
from gigacli.nn.whitening import (
    FeatureSpace,
    augmentation_covariance,
    inverse_root,
    settled,
    slide_covariance,
    spread_of,
    spread_rows,
    whitening_matrix,
)

C = 6


def tiles_of(seed, n):
    """Un-augmented features whose mean is many times their spread, and whose spread is not round."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((C, C))
    return (rng.standard_normal((n, C)) @ mixing + 20 * np.arange(C)).astype(np.float16)


@pytest.fixture(scope="module")
def slides():
    return [tiles_of(seed, n) for seed, n in enumerate([40, 1, 7, 300])]


def test_the_standard_is_mean_and_deviation_of_all_tiles(slides):
    every = np.concatenate(slides).astype(np.float64)
    standard = spread_of(slides).standard
    np.testing.assert_allclose(standard.mean, every.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(standard.sd, every.std(0) + 1e-3, rtol=1e-5)
    inside = standard(np.concatenate(slides))
    np.testing.assert_allclose(inside.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inside.std(0), 1, atol=1e-2)


def test_a_feature_that_does_not_vary_is_not_blown_up():
    slides = [np.full((5, 2), 3, np.float16), np.full((4, 2), 3, np.float16)]
    spread = spread_of(slides)
    np.testing.assert_allclose(spread.standard.sd, 1e-3, rtol=1e-5)
    np.testing.assert_array_equal(spread.standard(slides[0]), 0)


def test_features_that_are_not_finite_or_not_there_are_refused():
    with pytest.raises(InvalidInput, match="some are not finite"):
        spread_of([np.full((3, 2), np.nan, np.float16)])
    with pytest.raises(InvalidInput, match="there is none"):
        spread_of([])


def test_the_spread_is_that_of_tiles_spread_over_the_slides(slides):
    spread = spread_of(slides)
    rows = [slide[np.unique(np.linspace(0, len(slide) - 1, min(64, len(slide))).astype(int))] for slide in slides]
    inside = spread.standard(np.concatenate(rows))
    np.testing.assert_allclose(spread.second, inside.T @ inside / len(inside), atol=1e-6)


def bank(seed, *, a=5, d=12, n=9):
    """Augmented features of a slide, and which tile each is of: an augmentation moves all tiles along one direction."""
    rng = np.random.default_rng(seed)
    tile = rng.integers(0, n, (a, d)).astype(np.int32)
    plain, moved = tiles_of(seed, n), rng.standard_normal((a, 1, 1)) * np.linspace(1, 3, C)
    return (plain[tile] + moved + 0.1 * rng.standard_normal((a, d, C))).astype(np.float16), tile


def test_slides_are_whitened_by_how_their_tiles_spread():
    augmented = [bank(seed)[0] for seed in range(3)]
    rows = []
    for slide in augmented:
        seen = slide[:, :8].reshape(-1, C).astype(np.float64)
        rows.append(seen - seen.mean(0))
    expected = np.concatenate(rows).T @ np.concatenate(rows) / sum(map(len, rows))
    np.testing.assert_allclose(slide_covariance(augmented), expected)


def test_tiles_are_whitened_by_how_their_augmentations_spread(slides):
    standard, pairs, total, rows = spread_of(slides).standard, [bank(seed) for seed in range(3)], 0, 0
    for features, tile in pairs:
        first = sorted(set(tile[0].tolist()))[:32]
        for one in first:
            seen = (features[tile == one].astype(np.float64) - standard.mean) / standard.sd
            total, rows = total + (seen - seen.mean(0)).T @ (seen - seen.mean(0)), rows + len(seen)
    np.testing.assert_allclose(augmentation_covariance(pairs, standard), total / rows)


def test_the_whitened_tiles_have_deviation_one(slides):
    spread = spread_of(slides)
    noise = slide_covariance([bank(seed)[0] for seed in range(3)], spread.standard)
    matrix = whitening_matrix(noise, spread)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-5)
    root = inverse_root(noise)
    np.testing.assert_allclose(root @ (noise + np.trace(noise) / C * np.eye(C)) @ root, np.eye(C), atol=1e-9)
    np.testing.assert_allclose(matrix / matrix[0, 0], root / root[0, 0], atol=1e-6)
    inside = FeatureSpace(spread.standard, matrix)(np.concatenate([s[spread_rows(len(s), 64)] for s in slides]))
    assert np.sqrt(np.square(inside).mean()) == pytest.approx(1, rel=1e-5)


def test_the_order_of_slides_leaves_no_trace(slides):
    one, other = spread_of(slides), spread_of(slides[::-1])
    assert one.standard.mean.tobytes() == other.standard.mean.tobytes()
    assert one.standard.sd.tobytes() == other.standard.sd.tobytes()
    matrices = [
        whitening_matrix(slide_covariance(augmented, one.standard), one)
        for augmented in ([bank(s)[0] for s in order] for order in (range(5), range(4, -1, -1)))
    ]
    assert matrices[0].tobytes() == matrices[1].tobytes()


def test_settled_values_are_near_and_few():
    values = np.random.default_rng(0).standard_normal(1000)
    assert np.abs(settled(values) - values).max() < 2.0**-22
    np.testing.assert_array_equal(settled(values * (1 + 1e-13)), settled(values))
    np.testing.assert_array_equal(settled(np.zeros(3)), 0)


def test_whitening_needs_something_to_even_out():
    rng = np.random.default_rng(0)
    one_augmentation = [rng.standard_normal((1, 6, 3)).astype(np.float16) for _ in range(4)]
    assert np.isfinite(whitening_matrix(slide_covariance(one_augmentation))).all()
    for features in (np.ones((2, 6, 3), np.float16), np.full((2, 6, 3), np.nan, np.float16)):
        with pytest.raises(InvalidInput, match="nothing to even out") as caught:
            whitening_matrix(slide_covariance([features]))
        assert "`whiten=False`" in caught.value.hint
