"""Estimate of what ``giga tile`` will cost, from the headers of all slides and the tissue of a few."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gigacli.config.bank import BankConfig
from gigacli.config.bank_sizes import PAPER_AUGMENTATIONS, PAPER_DRAWS, encodings_of_operators, encodings_of_tiles
from gigacli.progress import Summary
from gigacli.store.groups import Done
from gigacli.store.space import bank_bytes
from gigacli.store.table import SlideTable

SAMPLE = 4  # slides tiled, without keeping the result, to price a run


@dataclass(frozen=True, kw_only=True)
class TileEstimate(Summary):
    """Estimate of what a run will cost; slides that were tiled before are both done and skipped.

    Attributes:
        positions: Grid positions of all slides: an upper bound of the tiles.
        estimated_tiles: Tiles expected.
        estimated_tile_seconds: Time to tile what is not done, on one process of this machine.
        estimated_encodings: Encodings of tiles that giga bank makes to learn operators, all tiles included.
        estimated_paper_encodings: The same of the paper's bank, of 50 augmentations of 256 draws.
        estimated_bank_gib: Size of the paper's bank of 256 features, without un-augmented ones.
        failures: Reason per slide that cannot be tiled.
    """

    positions: int
    estimated_tiles: int
    estimated_tile_seconds: float
    estimated_encodings: int
    estimated_paper_encodings: int
    estimated_bank_gib: float
    failures: dict[str, str] = field(default_factory=dict)


def estimate(
    table: SlideTable,
    done: Done,
    positions: dict[int, int],
    *,
    count_tiles: Callable[[Sequence[int]], dict[int, int]],
    failures: dict[str, str],
    started: float,
) -> TileEstimate:
    """Price a run: tile a few of the slides that are not done, and take the others for like them.

    Args:
        table: All slides.
        done: Tiles of those that are done.
        positions: Grid positions of every slide that can be tiled, by its row.
        count_tiles: Tiles some slides, without keeping the result; tiles by row of those that could be.
        failures: Reason per slide that cannot be tiled.
        started: When the command began, on the monotonic clock.
    """
    todo = [row for row in positions if not done.finished[row]]
    sample = todo[:: max(1, len(todo) // SAMPLE)][:SAMPLE]
    clock = time.monotonic()
    found = count_tiles(sample)
    each = (time.monotonic() - clock) / max(1, len(sample))
    share = sum(found.values()) / max(1, sum(positions[row] for row in found))
    counts = np.array([done.counts[r] if done.finished[r] else share * n for r, n in positions.items()])  # (slides,)
    counts = counts[counts > 0]
    paper = encodings_of_tiles(counts, augmentations=PAPER_AUGMENTATIONS, draws=PAPER_DRAWS)
    return TileEstimate(
        slides=len(table),
        done=len(positions) - len(todo),
        skipped=len(positions) - len(todo),
        failed=len(failures),
        positions=sum(positions.values()),
        estimated_tiles=int(done.counts.sum()) + round(share * sum(positions[row] for row in todo)),
        estimated_tile_seconds=each * len(todo),
        estimated_encodings=round(counts.sum()) + encodings_of_operators(BankConfig(), counts),
        estimated_paper_encodings=round(counts.sum()) + paper,
        estimated_bank_gib=bank_bytes(len(positions)) / 2**30,
        seconds=time.monotonic() - started,
        failures=failures,
    )
