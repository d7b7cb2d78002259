"""What a bank of tiles and one of operators would cost, from ten seconds of encoding: ``giga bank --plan``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gigacli.config.bank import BankConfig
from gigacli.config.bank_sizes import PAPER_AUGMENTATIONS, PAPER_DRAWS, encodings_of_operators, encodings_of_tiles
from gigacli.errors import InvalidInput
from gigacli.nn.tile_features import Batches, SlideFeatures, TileEncoder, draw_bank_views
from gigacli.progress import Progress, Summary
from gigacli.store.store import Store
from gigacli.wsi.reader import SlideTiles, TileReader

MEASURED_SECONDS, TRIED_SETS, TRIED_DRAWS = 10.0, 4, 256
BYTES = 2  # of a value in a bank


@dataclass(frozen=True, kw_only=True)
class BankEstimate(Summary):
    """What both kinds of a bank would cost, all slides with tiles together, on one process of this machine.

    Attributes:
        tiles: Tiles of all slides.
        rate: Encodings per second, reading and augmenting included, measured now.
        tiles_encodings: Of a bank of tiles.
        tiles_hours: Of the same.
        tiles_gib: What it takes of the disk, with un-augmented features.
        operators_encodings: Of operators.
        operators_hours: Of the same.
        operators_gib: What they take of the disk, with un-augmented features.
    """

    tiles: int
    rate: float
    tiles_encodings: int
    tiles_hours: float
    tiles_gib: float
    operators_encodings: int
    operators_hours: float
    operators_gib: float


def price(
    config: BankConfig, store: Store, encoder: TileEncoder, reader: TileReader, *, size: int, progress: Progress
) -> BankEstimate:
    """Encode for ten seconds, and take all slides to be like those.

    Args:
        config: Options; where operators are asked for, a bank of tiles has the paper's augmentations and draws.
        store: The cohort store, with tiles.
        encoder: The encoder.
        reader: Reads tiles.
        size: Tiles per call of the encoder.
        progress: Receives progress.

    Raises:
        InvalidInput: No slide has tiles, or none can be read.
    """
    started, done = time.monotonic(), store.tiles.done()
    if not done.filled.any():
        raise InvalidInput(f"{store.url} holds no tiles to encode", f"run: giga tile {store.url}")
    rate = _rate(store, Batches(encoder, tile_px=store.tiles.tile_px, size=size, say=progress.say), reader)
    counts = done.counts[done.filled].astype(np.float64)
    own = config.mode == "tiles"
    sets, draws = (config.augmentations, config.draws) if own else (PAPER_AUGMENTATIONS, PAPER_DRAWS)
    of_tiles, all_tiles = encodings_of_tiles(counts, augmentations=sets, draws=draws), float(counts.sum())
    of_operators = encodings_of_operators(config, counts)
    width, plain = encoder.features, all_tiles * encoder.features * BYTES
    kept = of_operators * width * BYTES + 4 * (config.sets * (min(config.rank, width) ** 2 + width) + 3 * width**2)
    return BankEstimate(
        slides=len(done.values),
        done=0,
        skipped=0,
        failed=0,
        seconds=time.monotonic() - started,
        tiles=int(all_tiles),
        rate=rate,
        tiles_encodings=round(of_tiles + all_tiles),
        tiles_hours=(of_tiles + all_tiles) / rate / 3600,
        tiles_gib=(plain + len(counts) * sets * draws * width * BYTES) / 2**30,
        operators_encodings=round(of_operators + all_tiles),
        operators_hours=(of_operators + all_tiles) / rate / 3600,
        operators_gib=(plain + kept) / 2**30,
    )


def _rate(store: Store, batches: Batches, reader: TileReader) -> float:
    """Encodings per second, from the second block of tiles on."""
    rows, table = np.flatnonzero(store.tiles.done().filled), store.slides

    def slides() -> Iterator[SlideTiles]:
        for row in np.random.default_rng(0).permutation(rows).tolist():
            yield SlideTiles(row, table[row].path, table[row].mpp, store.tiles.coords(row))

    features, made, began = None, 0, 0.0
    for block in reader.blocks(slides()):
        if block.error is not None:
            continue
        if not block.start or features is None:
            count = len(block.slide.coords)
            views = draw_bank_views(
                0,
                table[block.slide.key].id,
                count=count,
                augmentations=TRIED_SETS,
                draws=TRIED_DRAWS,
                tile_px=store.tiles.tile_px,
                independent=False,
            )
            features = SlideFeatures(batches, views, count=count, plain=True)
        encoded = features.add(block.tiles, block.start)
        made, began = (made + encoded, began) if began else (0, time.monotonic())
        if made and time.monotonic() - began > MEASURED_SECONDS:
            break
    if not made:
        raise InvalidInput(f"{store.url}: fewer than two slides can be read, which is too little to price a bank")
    return made / (time.monotonic() - began)
