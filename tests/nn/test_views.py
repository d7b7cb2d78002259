"""Cells against exact rational arithmetic, augmentations against geometry, draws against counting."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigacli.errors import InvalidInput
from gigacli.nn.views import CELL, SlideAugmentation, augment_positions, cells_of, draw_rows, draw_slide_augmentation

SEEDS = st.integers(0, 2**32 - 1)


def rng_of(*key):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def augmentation(*, flip=(False, False), angle_rad=0.0, scale=(1.0, 1.0)):
    return SlideAugmentation(np.array([flip]), np.array([angle_rad]), np.array([scale]))


def distances(positions):
    return np.linalg.norm(positions[:, :, None] - positions[:, None, :], axis=-1)


def test_a_cell_is_224_of_256_pixels():
    assert Fraction(CELL) == Fraction(224, 256)


@given(SEEDS, st.floats(200, 2100), st.floats(0, 1e5))
@settings(max_examples=200, deadline=None)
def test_regular_grids_stored_in_whole_pixels_get_the_exact_cell(seed, tile_l0, start):
    """Oracle: the exact floor of i / (7/8). What is stored is the true corner, rounded to whole level-0 pixels."""
    rng = rng_of(seed)
    index = rng.integers(0, 400, (3, 6, 2))
    coords = np.rint(start + index * tile_l0).astype(np.int64)
    positions = (coords - coords.min(axis=(1, 2), keepdims=True)) / tile_l0
    expected = [
        [
            [math.floor(Fraction(int(i - low)) / Fraction(7, 8)) for i, low in zip(tile, view.min(0), strict=True)][
                ::-1
            ]
            for tile in view
        ]
        for view in index
    ]
    np.testing.assert_array_equal(cells_of(positions), expected)


@given(SEEDS, st.integers(200, 2100))
@settings(max_examples=100, deadline=None)
def test_half_a_pixel_of_noise_moves_no_tile(seed, tile_l0):
    rng = rng_of(seed)
    index = rng.integers(-300, 300, (4, 5, 2))
    noise = rng.uniform(-0.5, 0.5, index.shape)
    np.testing.assert_array_equal(cells_of(index + noise / tile_l0), cells_of(index.astype(float)))


@given(SEEDS, st.integers(-10_000, 10_000), st.integers(-10_000, 10_000), st.floats(-1e4, 1e4))
@settings(max_examples=100, deadline=None)
def test_cells_do_not_depend_on_where_the_slide_lies(seed, dx, dy, offset):
    rng = rng_of(seed)
    grid = rng.integers(0, 100, (3, 5, 2)).astype(float)
    drawn = draw_slide_augmentation(3, rng)
    for moved in (grid + np.array([dx, dy]), grid + offset):
        np.testing.assert_array_equal(cells_of(moved), cells_of(grid))
        np.testing.assert_array_equal(
            cells_of(augment_positions(moved, drawn)), cells_of(augment_positions(grid, drawn))
        )


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_view_has_the_same_cells_alone_and_in_a_batch(seed):
    rng = rng_of(seed)
    positions, drawn = rng.uniform(0, 90, (4, 6, 2)), draw_slide_augmentation(4, rng)
    together = cells_of(augment_positions(positions, drawn))
    assert together.dtype == np.int64
    assert (together.min(axis=1) == 0).all()
    for i in range(4):
        one = SlideAugmentation(drawn.flip[i : i + 1], drawn.angle_rad[i : i + 1], drawn.scale[i : i + 1])
        np.testing.assert_array_equal(cells_of(augment_positions(positions[i : i + 1], one))[0], together[i])


def test_cells_are_y_x_of_positions_x_y():
    assert cells_of(np.array([[[10.0, 20.0], [10.0 + 3 * CELL, 20.0 + 8 * CELL]]])).tolist() == [[[0, 0], [8, 3]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_that_are_no_numbers_are_refused(bad):
    with pytest.raises(InvalidInput, match="not finite"):
        cells_of(np.array([[[0.0, bad]]]))


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_flips_and_rotations_keep_distances_and_scales_change_one_axis(seed):
    rng = rng_of(seed)
    positions, drawn = rng.uniform(0, 50, (3, 5, 2)), draw_slide_augmentation(3, rng)
    rigid = augment_positions(positions, SlideAugmentation(drawn.flip, drawn.angle_rad, np.ones((3, 2))))
    np.testing.assert_allclose(distances(rigid), distances(positions), atol=1e-10)
    full = augment_positions(positions, drawn)
    np.testing.assert_allclose(full, rigid * drawn.scale[:, None, :], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("drawn", "moved"),
    [
        (augmentation(), [3, 1]),
        (augmentation(flip=(True, False)), [-3, 1]),
        (augmentation(flip=(False, True)), [3, -1]),
        (augmentation(angle_rad=math.pi / 2), [-1, 3]),
        (augmentation(scale=(2.0, 0.5)), [6, 0.5]),
        (augmentation(angle_rad=math.pi / 2, scale=(2.0, 0.5)), [-2, 1.5]),  # rotated first, then scaled
        (augmentation(angle_rad=math.pi / 2, flip=(True, False)), [-1, -3]),  # flipped first, then rotated
    ],
)
def test_augmentation_by_hand(drawn, moved):
    np.testing.assert_allclose(augment_positions(np.array([[[3.0, 1.0]]]), drawn), [[moved]], atol=1e-12)


def test_augmentations_fill_their_ranges_evenly():
    drawn = draw_slide_augmentation(20_000, rng_of(1))
    np.testing.assert_allclose(drawn.flip.mean(0), 0.5, atol=0.02)
    for values, low, high in ((drawn.angle_rad[:, None], 0, 2 * math.pi), (drawn.scale, 0.5, 2)):
        assert values.min() >= low
        assert values.max() <= high
        for column in values.T:
            shares = np.histogram(column, bins=10, range=(low, high))[0] / len(column)
            np.testing.assert_allclose(shares, 0.1, atol=0.015)
    assert abs(np.corrcoef(drawn.scale.T)[0, 1]) < 0.03  # x and y are independent


def test_scales_can_be_even_in_their_logarithm():
    drawn, papers = (
        draw_slide_augmentation(20_000, rng_of(1), log_scale=0.3),
        draw_slide_augmentation(20_000, rng_of(1)),
    )
    np.testing.assert_array_equal(drawn.flip, papers.flip)
    np.testing.assert_array_equal(drawn.angle_rad, papers.angle_rad)
    for column in np.log(drawn.scale).T:
        assert np.abs(column).max() <= 0.3
        shares = np.histogram(column, bins=10, range=(-0.3, 0.3))[0] / len(column)
        np.testing.assert_allclose(shares, 0.1, atol=0.015)


def test_the_same_key_draws_the_same_augmentation():
    one, same, other = (draw_slide_augmentation(6, rng_of(*key)) for key in ((0, 3), (0, 3), (0, 4)))
    for field in ("flip", "angle_rad", "scale"):
        np.testing.assert_array_equal(getattr(one, field), getattr(same, field))
    assert (one.angle_rad != other.angle_rad).all()


@given(SEEDS, st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_rows_are_distinct_where_there_are_enough(seed, counts, t):
    counts = np.array(counts)
    rows = draw_rows(rng_of(seed), counts, t)
    assert rows.shape == (len(counts), t)
    assert rows.dtype == np.int64
    assert (rows >= 0).all()
    assert (rows < counts[:, None]).all()
    for count, drawn in zip(counts, rows, strict=True):
        assert count < t or len(set(drawn.tolist())) == t
    np.testing.assert_array_equal(draw_rows(rng_of(seed), counts, t), rows)


def test_every_subset_is_equally_likely():
    rows = np.sort(draw_rows(rng_of(2), np.full(60_000, 5), 3), axis=1)
    _, times = np.unique(rows, axis=0, return_counts=True)
    assert len(times) == math.comb(5, 3)
    np.testing.assert_allclose(times, 6_000, rtol=0.06)  # 4.9 standard deviations


def test_small_slides_are_drawn_from_with_replacement():
    rows = draw_rows(rng_of(3), np.full(40_000, 2), 3)
    _, times = np.unique(rows, axis=0, return_counts=True)
    assert len(times) == 2**3
    np.testing.assert_allclose(times, 5_000, rtol=0.07)


def test_huge_slides_need_no_more_memory():
    # A matrix of one key per row and slide would be 40 PB.
    rows = draw_rows(rng_of(4), np.full(1000, 5 * 10**12), 5)
    assert 0.48 < rows.mean() / (5 * 10**12) < 0.52


@pytest.mark.parametrize(
    ("counts", "t", "message"), [([5, 0, 3], 2, "slide 1 of the batch"), ([5], 0, "cannot draw 0")]
)
def test_draws_from_nothing_are_refused(counts, t, message):
    with pytest.raises(InvalidInput, match=message):
        draw_rows(rng_of(0), np.array(counts), t)
