"""The tiles a tile encoder is trained on, and those it is scored on: drawn by seed, and read before it is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gigacli.cohort.registration import file_problem
from gigacli.errors import InvalidInput
from gigacli.probing.labels import join, patients_of
from gigacli.randomness import keyed_rng
from gigacli.wsi.reader import TileReader
from gigacli.wsi.tile_pixels import TilePixels, TileSpec, cache_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from gigacli.nn.distributed import Processes
    from gigacli.probing.labels import Labels
    from gigacli.progress import Progress
    from gigacli.store.store import Store
    from gigacli.store.table import SlideRow
    from gigacli.wsi.reader import SlideTiles
    from gigacli.wsi.tile_cache import TileCache

SCORED_TILES = 2000
"""Tiles whose neighbours are looked at after every epoch."""


def draw_tiles(store: Store, *, seed: int, max_slides: int, max_tiles: int) -> dict[int, NDArray[np.int64]]:
    """Draw tiles, spread evenly over the drawn slides: row of the slide -> numbers of its tiles, ascending."""
    counts = store.array("tiles/count")[:]
    with_tiles = np.flatnonzero(counts > 0)
    chosen = np.sort(keyed_rng(seed, "slides").permutation(with_tiles)[:max_slides])
    drawn, left = {}, max_tiles
    for i, row in enumerate(chosen[np.argsort(counts[chosen], kind="stable")].tolist()):
        share = min(int(counts[row]), left // (len(chosen) - i))  # the smallest slides first: what they lack goes on
        tiles = keyed_rng(seed, "tiles", row).permutation(int(counts[row]))[:share]
        if share:
            drawn[row] = np.sort(tiles)
        left -= share
    return drawn


def draw_scored(
    labels: Labels, slides: Sequence[tuple[SlideRow, int]], *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw tiles of labelled slides.

    Args:
        labels: Of slides.
        slides: Slides with their numbers of tiles; tiles are numbered through, slide by slide.
        seed: Decides which tiles.

    Returns:
        Numbers (n,) of tiles, ascending, their classes (n,) and their patients (n,), counted from 0. A slide whose
        patient is not known is one of its own.

    Raises:
        InvalidInput: No label meets a slide, or only one class is left.
    """
    ids, patients = [row.id for row, _ in slides], [row.patient for row, _ in slides]
    joined = join(labels, ids, np.ones(len(ids), dtype=bool), patients=patients)
    mine = [ids[i] for i in joined.index]
    known, _ = patients_of(mine, from_store=[patients[i] for i in joined.index], from_labels=joined.patient_id)
    classes = np.unique(joined.label, return_inverse=True)[1]
    owners = np.unique(mine if known is None else known, return_inverse=True)[1]
    starts = np.cumsum([0, *(count for _, count in slides)])
    numbers = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in joined.index])
    place = np.repeat(np.arange(len(joined.index)), np.diff(starts)[joined.index])
    some = np.sort(keyed_rng(seed, "scored").permutation(len(numbers))[:SCORED_TILES])
    return numbers[some], classes[place[some]], owners[place[some]]


def read_drawn(
    store: Store,
    slides: Sequence[SlideTiles],
    *,
    cache: TileCache | None,
    workers: int,
    pool: Executor,
    again: bool,
    processes: Processes,
    progress: Progress,
) -> tuple[TilePixels, dict[str, str]]:
    """Read every tile once; return the pixels of the slides that can be read, and why others cannot, by id.

    Args:
        store: The cohort store; reasons are kept in ``failures/pretrain-tiles``.
        slides: The drawn tiles, by row of the slide.
        cache: Where they are kept.
        workers: Threads that read.
        pool: Threads that compress.
        again: An earlier run has read them all.
        processes: Those that train together; each reads from another slide on, and all go on with the same slides.
        progress: Receives progress.

    Raises:
        InvalidInput: Not one slide can be read.
        GigaError: The cache cannot be written.
    """
    table, failures = store.slides, dict[str, str]()
    recipe = store.require("tiles").config
    spec = TileSpec(int(recipe["tile_px"]), float(recipe["mpp"]), bool(recipe.get("upsample", False)))
    progress.start("reading tiles", len(slides))

    def done(slide: SlideTiles, why: str) -> None:
        row = table[slide.key]
        if why:
            failures[row.id] = why
            progress.say(f"{row.id} failed and is left out: {why}")
        if processes.first:
            store.fail("pretrain-tiles", {slide.key: why})
        progress.advance()

    usable = []
    for slide in slides:
        if why := file_problem(table[slide.key]):
            done(slide, why)
        else:
            usable.append(slide)
    turn = len(usable) * processes.rank // processes.count
    order = usable[turn:] + usable[:turn]
    with TileReader(**spec._asdict(), workers=workers) as reader:
        found = cache_tiles(order, cache, reader, pool, spec=spec, again=again, done=done)
    packs = {slide.key: pack for slide, pack in zip(order, found, strict=True)}
    rows = set(processes.share([slide.key for slide in usable if table[slide.key].id not in failures]))
    read = [slide for slide in slides if slide.key in rows]
    if not read:
        raise InvalidInput(
            f"none of the {len(slides)} slides can be read; the first: {next(iter(failures.values()))}",
            f"see all reasons: giga info {store.url}",
        )
    if loose := sum(packs[slide.key] is None for slide in read):
        progress.say(f"{loose} of {len(read)} slides are read again in every epoch, for want of room in the cache")
    return TilePixels(read, [packs[slide.key] for slide in read], spec), failures
