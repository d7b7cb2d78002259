"""The tiles of slides as closed forms see them, streamed from a store: bounded memory, whatever the cohort."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.nn.closed_forms import SlideTiles
from gigacli.nn.views import TilePositions
from gigacli.store.groups import Bank, Features
from gigacli.store.mapped import MappedBank
from gigacli.weights.fresh import FreshFeatures
from gigacli.weights.operators import applied, augmented_slide

ROWS_AT_ONCE = 64
"""Slides whose tiles' places are read together."""


def tiles_of_slides(
    features: Features | FreshFeatures,
    rows: NDArray[np.int64],
    *,
    bank: Bank | None = None,
    augmented: bool = True,
    placed: bool = True,
) -> Iterator[SlideTiles]:
    """The slides in some rows, in their order, one at a time.

    Args:
        features: Of all tiles, without augmentation.
        rows: (n,) rows of slides that are done and have tiles, in the bank too.
        bank: Of the same encoder and tiles, or operators in place of one; without, tiles stand for themselves, as one
            augmentation of each.
        augmented: Whether augmented tiles are wanted at all.
        placed: Whether it is wanted where tiles lie; to read that takes as long as to read what they are.
    """
    store = features.store
    drawn = _drawn(bank, rows) if bank is not None and augmented and not bank.learns else None
    operators = applied(bank, device=torch.device("cpu")) if bank is not None and augmented and bank.learns else None
    grids = store.tiles.grids(rows) if placed else iter(())  # once for all: each time it asks what is done
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        positions = TilePositions(islice(grids, len(block)))
        for i, row in enumerate(block.tolist()):
            numbers = features.numbers(row)
            plain = features.read(row)
            plain = (
                plain if len(numbers) == len(plain) else plain[numbers]
            )  # a million tiles are not copied for nothing
            vectors: NDArray[np.float16]
            vectors, tile = next(drawn) if drawn is not None else (plain[None], None)
            if operators is not None:
                vectors, tile = augmented_slide(operators, plain, slide_id=store.slides[row].id)
            places = positions(np.array([i]), numbers[None])[0] if placed else None  # (n, 2)
            mine = (vectors, tile) if augmented else (None, None)
            yield SlideTiles(store.slides[row].id, plain, places, *mine)


def _drawn(bank: Bank, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.float16], NDArray[np.int32]]]:
    """Augmented features (augmentation, draw, c) of slides of a bank, and which tiles they are of."""
    others = np.ones(bank.store.registered, dtype=bool)
    others[rows] = False
    mapped = bank.mapped(leave_out=others)
    assert isinstance(mapped, MappedBank)
    yield from zip(mapped.slides(), mapped.tile, strict=True)
