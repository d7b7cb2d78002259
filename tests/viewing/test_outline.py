"""Outlines hold the pixels of the mask and no others."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path

from gigacli.viewing.outline import lines_of


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.booleans()))
def test_the_middles_of_pixels_lie_within_as_the_mask_says(mask):
    step = 100.0
    rows, columns = np.indices(mask.shape)
    middles = step * (np.column_stack([columns.ravel(), rows.ravel()]) + 0.5)
    within = np.zeros(mask.size, dtype=int)
    for line in lines_of(mask, step=step):
        corners = np.reshape(line, (-1, 2))
        np.testing.assert_array_equal(corners[0], corners[-1])
        within += Path(corners).contains_points(middles)
    np.testing.assert_array_equal(within.reshape(mask.shape) % 2 == 1, mask)


def test_straight_lines_have_no_points_between_their_ends():
    (line,) = lines_of(np.ones((50, 80), dtype=bool), step=2.0)
    assert len(line) == 2 * 9  # eight cut corners, the first again at the end
