"""How much ``giga bank`` encodes, in either mode: what operators are learnt from, and what both ways come to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from gigacli.config.bank import PAPER_BANK, BankConfig

PAPER_AUGMENTATIONS, PAPER_DRAWS = PAPER_BANK["augmentations"], PAPER_BANK["draws"]

CALIBRATING_SHARE, LEAST_CALIBRATING, MOST_CALIBRATING = 0.2, 30, 100
"""Slides whose tiles operators are learnt from: a share of all, but so many at least and at most."""

LEAST_TILES, MOST_TILES, PASSES = 360, 2000, 5
"""Tiles that operators are learnt from where nothing is said: what costs so many passes over all, within bounds."""


HELD_OUT_SETS, HELD_OUT_AUGMENTATIONS = 8, 6
"""One in so many sets, or augmentations of tiles, is kept from training."""

HELD_OUT_STAINS = (0.05, 0.2)
"""Strengths of the jitter of stains in held-out sets: the light and the strong one of Tellez et al. 2019."""


def held_out_count(config: BankConfig) -> int:
    """How many of the sets or augmentations no training draws."""
    if config.held_out is not None:
        return config.held_out
    return (
        config.sets // HELD_OUT_SETS if config.mode == "operators" else config.augmentations // HELD_OUT_AUGMENTATIONS
    )


def set_stains(*, sets: int, held_out: int, stain: float) -> list[float]:
    """(sets,) how strongly each set of operators jitters the stains: the last ones, half of those held out, do."""
    jittered = sorted(max(HELD_OUT_STAINS[i % 2], stain) for i in range(held_out // 2))
    return [stain] * (sets - len(jittered)) + jittered


def calibrating_count(slides: int) -> int:
    """How many of so many slides operators are learnt from."""
    return min(slides, max(LEAST_CALIBRATING, min(MOST_CALIBRATING, round(CALIBRATING_SHARE * slides))))


def calibration_size(config: BankConfig, tiles: int) -> int:
    """How many of a cohort's tiles operators are learnt from."""
    if config.calibration_tiles is not None:
        return config.calibration_tiles
    return min(max(LEAST_TILES, PASSES * tiles // config.sets), MOST_TILES)


def encodings_of_operators(config: BankConfig, counts: ArrayLike) -> int:
    """Augmented encodings that operators are learnt from, where slides have so many tiles, (slides,)."""
    tiles = np.asarray(counts, dtype=np.float64)
    if not tiles.size:
        return 0
    some = min(calibration_size(config, int(tiles.sum())), calibrating_count(tiles.size) * float(tiles.mean()))
    return round(config.sets * some)


def encodings_of_tiles(counts: ArrayLike, *, augmentations: int, draws: int) -> int:
    """Augmented encodings of a bank of tiles: of so many draws with replacement each distinct tile is encoded once."""
    tiles = np.asarray(counts, dtype=np.float64)
    tiles = tiles[tiles > 0]
    return round(augmentations * float((tiles * (1 - (1 - 1 / tiles) ** draws)).sum()))
