"""Arrangement against sums over pairs; it opens where space tells and closes where it does not."""

import itertools

import numpy as np
import pytest

from gigacli.nn.arrangement import Arrangement, _parts, autocorrelation
from gigacli.nn.closed_forms import SlideTiles
from gigacli.nn.whitening import FeatureSpace

C = 3
PLAIN = FeatureSpace(None, None)


def weights_by_hand(positions):
    n = len(positions)
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    nearest = [min(d for d in row if d > 0) for row in apart]
    weights = np.exp(-np.square(np.minimum(apart / np.mean(nearest), 20)) / 2)
    weights[np.eye(n, dtype=bool)] = 0
    return weights / weights.sum(1, keepdims=True)


def raw_by_hand(tiles, positions):
    h, weights = tiles - tiles.mean(0), weights_by_hand(positions)
    variance = h.var(0)
    found = np.zeros(tiles.shape[1])
    for i, j in itertools.product(range(len(h)), repeat=2):
        found += weights[i, j] * h[i] * h[j] / len(h)
    return found / (variance + 0.05 * variance.mean())


def random_slide(seed, n=8):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, C)), rng.permutation(100)[:n, None] // [1, 10] % 10 * 1.0


def test_it_is_the_formula_less_the_mean_of_all_shuffles():
    tiles, positions = random_slide(0, n=6)
    shuffles = [raw_by_hand(tiles[list(order)], positions) for order in itertools.permutations(range(6))]
    expected = raw_by_hand(tiles, positions) - np.mean(shuffles, axis=0)
    np.testing.assert_allclose(autocorrelation(tiles, positions), expected, atol=1e-12)


def test_what_lies_beyond_the_nearest_tiles_hardly_counts():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(15), np.arange(15)), -1).reshape(-1, 2) * 1.0
    tiles = rng.standard_normal((len(grid), C)) + np.sin(grid[:, :1] / 2)
    expected = raw_by_hand(tiles, grid) + tiles.var(0) / (224 * (tiles.var(0) + 0.05 * tiles.var(0).mean()))
    np.testing.assert_allclose(autocorrelation(tiles, grid), expected, atol=2e-3)


def test_the_order_of_tiles_their_place_and_size_change_nothing():
    tiles, positions = random_slide(2)
    expected = autocorrelation(tiles, positions)
    order = np.random.default_rng(0).permutation(len(tiles))
    turned = 3.7 * positions[order] @ np.array([[0.6, -0.8], [0.8, 0.6]]) + 100
    np.testing.assert_allclose(autocorrelation(tiles[order], turned), expected, atol=1e-9)


@pytest.mark.parametrize(
    "where", [[[0, 0]], [[0, 0]] * 4, [[0, 0], [0, 0], [9, 9], [9, 9]], [[0, 0], [1, 0], [9e5, 0]]]
)
def test_copies_and_lone_tiles_stay_finite(where):
    tiles = np.random.default_rng(0).standard_normal((len(where), C))
    assert np.isfinite(autocorrelation(tiles, np.array(where, dtype=float))).all()


def cohort(arranged, *, slides=40, n=64):
    """Slides of two kinds of tile in equal shares: those of class 1 lie in two halves, or all are shuffled."""
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2) * 1.0
    made = []
    for i in range(slides):
        rng = np.random.default_rng(i)
        kind = np.repeat([1.0, -1.0], n // 2)
        kind = kind if arranged and i % 2 else rng.permutation(kind)
        tiles = kind[:, None] * [1, 0.5, 0] + 0.5 * rng.standard_normal((n, C))
        made.append(SlideTiles(f"s{i}", tiles.astype(np.float32), grid))
    return made


def test_it_tells_apart_what_differs_in_arrangement_alone():
    slides = cohort(arranged=True)
    form = Arrangement.fit(slides, PLAIN, seed=0)
    assert form.gate > 0.8
    assert form.gate != Arrangement.fit(slides, PLAIN, seed=1).gate  # other shuffles
    vectors = np.stack([form.transform(one) for one in slides])
    assert vectors[1::2, 0].min() > vectors[::2, 0].max() + 0.2
    assert vectors[1::2, -1].min() > vectors[::2, -1].max()
    lengths = np.square(vectors / form.gate)
    assert lengths[:, :C].sum(1).mean() == pytest.approx(0.5, rel=1e-4)
    assert lengths[:, C].mean() == pytest.approx(0.5, rel=1e-4)
    means = np.stack([one.plain.mean(0) for one in slides])
    assert abs(means[1::2, 0].mean() - means[::2, 0].mean()) < 0.1  # what tiles there are says nothing


def test_the_gate_closes_where_nothing_is_arranged():
    gates = [Arrangement.fit(cohort(arranged=False, slides=80), PLAIN, seed=seed).gate for seed in range(5)]
    assert np.mean(gates) < 0.1


def weighted_by_hand(tiles, positions, weights):
    """The autocorrelation where tile i stands for weights[i] tiles, written out."""
    share = weights / weights.sum()
    near = weights_by_hand(positions) * weights
    near /= near.sum(1, keepdims=True)
    h = tiles - share @ tiles
    variance = share @ np.square(h)
    raw = sum(share[i] * near[i, j] * h[i] * h[j] for i, j in itertools.product(range(len(h)), repeat=2))
    return (raw + variance / (len(h) - 1)) / (variance + 0.05 * variance.mean())


def test_a_tiles_part_is_how_the_autocorrelation_changes_with_its_weight():
    tiles, positions = random_slide(5, n=9)
    one = np.ones(len(tiles))
    parts = _parts(tiles, positions)
    np.testing.assert_allclose(parts.mean(0), weighted_by_hand(tiles, positions, one), atol=1e-12)
    for i in range(len(tiles)):
        step = 1e-5 * (np.arange(len(tiles)) == i)
        up, down = (weighted_by_hand(tiles, positions, one + sign * step) for sign in (1, -1))
        # n times the derivative: a weight of 1 is one n-th of the slide
        np.testing.assert_allclose(parts[i] - parts.mean(0), len(tiles) * (up - down) / 2e-5, atol=1e-7)


@pytest.mark.parametrize("where", [[[0, 0]], [[0, 0]] * 4, [[0, 0], [1, 0], [9e5, 0]]])
def test_parts_of_copies_and_lone_tiles_stay_finite(where):
    tiles = np.random.default_rng(0).standard_normal((len(where), C))
    for values in (tiles, np.ones_like(tiles)):
        parts = _parts(values, np.array(where, dtype=float))
        np.testing.assert_allclose(parts.mean(0), autocorrelation(values, np.array(where, dtype=float)), atol=1e-12)


def test_of_a_closed_gate_no_tile_has_a_part():
    [slide] = cohort(arranged=True, slides=1)
    form = Arrangement(PLAIN, np.ones(2, dtype=np.float32), 0.0)
    assert not form.transform(slide).any()
    assert not form.scores(slide, np.ones(C + 1)).any()
