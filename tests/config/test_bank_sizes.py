"""What a bank encodes, in either mode."""

import numpy as np
import pytest

from gigacli.config.bank import BankConfig
from gigacli.config.bank_sizes import (
    LEAST_TILES,
    MOST_TILES,
    calibrating_count,
    calibration_size,
    encodings_of_operators,
    encodings_of_tiles,
)


def test_a_distinct_tile_is_encoded_once_however_often_it_is_drawn():
    rng, counts = np.random.default_rng(0), [1, 7, 300]
    drawn = [len(np.unique(rng.integers(0, n, 256))) for n in counts for _ in range(400)]
    assert encodings_of_tiles(counts, augmentations=50, draws=256) == pytest.approx(50 * sum(drawn) / 400, rel=0.01)
    assert encodings_of_tiles([0, 0], augmentations=50, draws=256) == 0


def test_operators_of_a_small_cohort_are_learnt_from_few_tiles_and_never_from_more_than_it_has():
    usual = BankConfig()
    assert [calibration_size(usual, n) for n in (100, 10_000, 10**7)] == [LEAST_TILES, 781, MOST_TILES]
    assert calibration_size(BankConfig(calibration_tiles=500), 100) == 500
    assert [calibrating_count(n) for n in (12, 96, 300, 12_000)] == [12, 30, 60, 100]
    assert encodings_of_operators(usual, [10] * 12) == 64 * 120
    assert encodings_of_operators(usual, [900] * 12_000) == 64 * 2000
    assert encodings_of_operators(usual, []) == 0
