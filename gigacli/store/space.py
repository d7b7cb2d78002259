"""Disk space that the rest of a cohort's work needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gigacli.store.groups import Bank
from gigacli.store.store import Store

FILES_PER_SLIDE = 8  # chunks of a slide: coordinates, tissue, count; features and done; bank, numbers of tiles and done
BYTES_PER_VALUE = 2


def bank_bytes(slides: int, *, augmentations: int = 50, draws: int = 256, width: int = 256) -> int:
    """Bytes of the vectors of a bank; of the paper's without arguments (50 x 256 draws of 256 features)."""
    return slides * augmentations * draws * width * BYTES_PER_VALUE


@dataclass(frozen=True)
class Space:
    """Room that a bank still needs."""

    slides: int  # slides that can be tiled
    bytes: int  # of features and bank of the slides that are in no bank yet
    files: int  # of those slides, at most


def space_needed(store: Store, *, augmentations: int, draws: int, width: int) -> Space:
    """Room for one bank of all slides, less what is there.

    Slides that are not tiled yet count with the mean number of tiles of those that are. A bank that is there is taken
    as it is; one that is still to be made has so many augmentations and draws, and so many features of a tile.
    """
    usable = np.array([row.usable for row in store.slides.rows], dtype=bool)
    banks, pending = store.groups(Bank), usable
    if banks:
        _, augmentations, draws, width = banks[0].shape
        pending = usable & ~np.any([bank.done().finished for bank in banks], axis=0)
    tiled = store.tiles.done()
    mean = float(tiled.counts[tiled.finished].mean()) if tiled.finished.any() else 0.0
    tiles = np.where(tiled.finished, tiled.counts, mean)[pending].sum()
    bank = bank_bytes(int(pending.sum()), augmentations=augmentations, draws=draws, width=width)
    features = int(tiles * width) * BYTES_PER_VALUE
    return Space(int(usable.sum()), features + bank, int(pending.sum()) * FILES_PER_SLIDE)
