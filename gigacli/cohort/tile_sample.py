"""The tiles that a tile encoder is trained on, and those it is scored on: drawn by seed, read once before training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gigacli.cohort.content import slide_problem
from gigacli.config.verbs import PretrainTilesConfig
from gigacli.errors import InvalidInput
from gigacli.nn.distributed import Processes
from gigacli.nn.sampler import steps_per_epoch
from gigacli.parallel import worker_count
from gigacli.probing.labels import Labels, join
from gigacli.probing.patients import patients_of
from gigacli.progress import SILENT, Progress
from gigacli.randomness import keyed_rng
from gigacli.store.address import is_remote
from gigacli.store.local_copy import cache_folder
from gigacli.store.store import Store
from gigacli.store.table import SlideTable
from gigacli.wsi.reader import SlideTiles, TileReader
from gigacli.wsi.tile_cache import TileCache
from gigacli.wsi.tile_pixels import TilePixels, TileSpec, cache_tiles

GB = 1e9
MAX_SCORED_TILES = 2000  # largest number of tiles whose neighbours are scored after every epoch


def draw_tiles(
    counts: NDArray[np.int64], *, seed: int, max_slides: int, max_tiles: int
) -> dict[int, NDArray[np.int64]]:
    """Draw at most `max_tiles` of `counts` (slide,) tiles, spread evenly over at most `max_slides` slides, at random.

    Returns:
        By row of the slide: (n,) numbers of its tiles, ascending.
    """
    with_tiles = np.flatnonzero(counts > 0)
    chosen = np.sort(keyed_rng(seed, "slides").permutation(with_tiles)[:max_slides])
    drawn, left = {}, max_tiles
    # From the smallest slide on: what it has too few tiles for is shared among the larger ones.
    for i, row in enumerate(chosen[np.argsort(counts[chosen], kind="stable")].tolist()):
        share = min(int(counts[row]), left // (len(chosen) - i))
        tiles = keyed_rng(seed, "tiles", row).permutation(int(counts[row]))[:share]
        if share:
            drawn[row] = np.sort(tiles)
        left -= share
    return drawn


def draw_labelled_tiles(
    labels: Labels, slides: Sequence[SlideTiles], *, table: SlideTable, seed: int, progress: Progress = SILENT
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw at most :data:`MAX_SCORED_TILES` tiles of the slides that have a label.

    Tiles are numbered from 0 across all `slides`, in their order. Where store and labels disagree about patients,
    `progress` is told.

    Returns:
        Numbers (n,) of the tiles, ascending, their classes (n,) and their patients (n,), counted from 0. A slide whose
        patient is not known is one of its own.

    Raises:
        InvalidInput: None of the slides has a label, or all have the same.
    """
    rows = [table[slide.key] for slide in slides]
    ids, patients = [row.id for row in rows], [row.patient for row in rows]
    joined = join(labels, ids, np.ones(len(ids), dtype=bool), patients=patients)
    known = patients_of(ids, from_store=patients, from_labels=joined.patients)
    for warning in known.warnings:
        progress.say(f"warning: {warning}")
    classes = np.unique(joined.label, return_inverse=True)[1]  # (labelled slide,)
    owners = np.unique(np.array(known.names or ids)[joined.index], return_inverse=True)[1]  # (labelled slide,)
    starts = np.cumsum([0, *(len(slide.coords) for slide in slides)])
    numbers = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in joined.index])  # (tile,)
    place = np.repeat(np.arange(len(joined.index)), np.diff(starts)[joined.index])  # (tile,) its labelled slide
    some = np.sort(keyed_rng(seed, "scored").permutation(len(numbers))[:MAX_SCORED_TILES])
    return numbers[some], classes[place[some]], owners[place[some]]


def check_batches(tiles: int, batch_size: int, *, processes: int, url: str) -> None:
    """Refuse to train on fewer than two tiles, or to give a process fewer than two of a batch.

    Raises:
        InvalidInput: There are too few.
    """
    if tiles < 2:
        raise InvalidInput(f"{url} holds {tiles} tiles; MoCo needs at least 2", f"run: giga tile {url} SLIDES")
    smallest = tiles // steps_per_epoch(tiles, batch_size)
    if smallest < 2 * processes:
        raise InvalidInput(
            f"batches of {smallest} tiles cannot be split over {processes} processes, two tiles or more for each",
            f"use a larger `batch_size`, or torchrun --nproc-per-node {max(1, smallest // 2)}",
        )


class Sample(NamedTuple):
    """The drawn tiles that can be read."""

    tiles: TilePixels  # their pixels, by number
    failures: dict[str, str]  # reason for every slide that cannot be read, by slide id
    cache: Path | None  # folder of the tiles that were cached; None for none


def read_sample(
    store: Store,
    slides: Sequence[SlideTiles],
    *,
    config: PretrainTilesConfig,
    pool: Executor,
    read_before: bool,
    processes: Processes,
    progress: Progress,
) -> Sample:
    """Read every drawn tile once, before training: a slide that cannot be read is left out, and its reason recorded.

    Args:
        store: The cohort store, which records the reasons as failures of ``pretrain-tiles``.
        slides: The drawn tiles, by row of the slide.
        config: The options: of the cache, the number of threads that read, the size of a batch.
        pool: Threads that compress.
        read_before: Whether an earlier run has read all these tiles, so that only what the cache lacks is read.
        processes: Processes that train together. Each starts reading at another slide, and all get the same slides.
        progress: Receives progress.

    Raises:
        InvalidInput: None of the slides can be read, or too few for a batch.
        GigaError: The cache cannot be written.
    """
    table, failures = store.slides, dict[str, str]()
    folder = _cache_folder(store.url, config.cache) if config.cache_gb else None
    cache = TileCache(folder, limit_bytes=config.cache_gb * GB, sync=config.sync) if folder else None
    spec = TileSpec(store.tiles.tile_px, store.tiles.mpp, store.tiles.upsample)
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
        if why := slide_problem(store, slide.key):
            done(slide, why)
        else:
            usable.append(slide)
    first = len(usable) * processes.rank // processes.count
    order = usable[first:] + usable[:first]
    with TileReader(**spec._asdict(), workers=worker_count(config.workers)) as reader:
        found = cache_tiles(order, cache, reader, pool, spec=spec, again=read_before, done=done)
    packs = {slide.key: pack for slide, pack in zip(order, found, strict=True)}
    readable = set(processes.share([slide.key for slide in usable if table[slide.key].id not in failures]))
    read = [slide for slide in slides if slide.key in readable]
    if not read:
        raise InvalidInput(
            f"none of the {len(slides)} slides can be read; the first: {next(iter(failures.values()))}",
            f"see all reasons: giga info {store.url}",
        )
    if uncached := sum(packs[slide.key] is None for slide in read):
        progress.say(f"{uncached} of {len(read)} slides are read again in every epoch, for want of room in the cache")
    tiles = TilePixels(read, [packs[slide.key] for slide in read], spec)
    check_batches(len(tiles), config.batch_size, processes=processes.count, url=store.url)
    return Sample(tiles, failures, folder)


def _cache_folder(url: str, folder: Path | None) -> Path:
    """The folder asked for; without, one beside a store on this machine, among other copies for any other store."""
    if folder is not None:
        return folder
    beside = Path(url.rstrip("/") + "-tiles")
    return cache_folder(None) / beside.name if is_remote(url) else beside
