"""``giga tile``: register slides, then find the tiles that hold tissue (paper, section 4.1).

Registration reads headers only and is done by one process; it decides the row of every slide. Tiling may then
be split over any number of processes.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigacli.cohort.registration import Registration, list_missing_mpp, register
from gigacli.cohort.tile_summary import TilePlan, TileSummary, summarise
from gigacli.config.base import options_of, parse_shard
from gigacli.config.verbs import TileConfig
from gigacli.errors import NotFound, reason_of
from gigacli.parallel import over_dask, worker_count
from gigacli.progress import SILENT
from gigacli.store.chunks import read_column
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Recipe, Store, shard_rows
from gigacli.wsi.grid import grid_capacity
from gigacli.wsi.qc_folder import Album
from gigacli.wsi.tiling import Tiles, find_tiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gigacli.progress import Progress
    from gigacli.store.table import SlideRow

PLAN_SAMPLE = 4
"""Slides tiled, without keeping the result, to price a run."""


@options_of(TileConfig)
def tile(
    config: TileConfig,
    store: str | Path | Store,
    slides: str | Path | Sequence[str | Path] = (),
    *,
    csv: str | Path | None = None,
    mpp: float = 1.0,
    mag: float | None = None,
    tile_px: int = 256,
    overlap: int = 0,
    min_tissue: float = 0.5,
    slide_mpp: float | None = None,
    upsample: bool = False,
    slide_root: str | Path | None = None,
    qc: str | Path | None = None,
    strict: bool = False,
    plan: bool = False,
    shard: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
    redo: bool = False,
    progress: Progress = SILENT,
) -> TileSummary | TilePlan:
    """Register slides in a store, made if it is not there, and write the tiles that hold tissue.

    Args:
        store: The cohort store.
        slides: Slide files, folders, or a CSV of slides; may be empty for a store that has slides.
        progress: Progress receiver.

    Raises:
        NotFound: No such slide or folder, or nothing is registered.
        InvalidInput: Two slides of one id, or a table that cannot be used.
        Mismatch: The store's tiles were made otherwise.
    """
    started = time.monotonic()
    paths = [slides] if isinstance(slides, str | Path) else list(slides)
    known = _existing(store, config, has_slides=bool(paths or config.csv))
    if known is not None:
        tiles = known.recipe("tiles")
        config = config.following(tiles.config if tiles else None)
    recipe = Recipe("tile", config.recipe(), {})
    if known is not None:
        known.check("tiles", recipe, redo=config.redo)
    registration = register(known.slides if known is not None else None, [Path(p) for p in paths], config, progress)
    opened = known if known is not None else Store.create(str(store))
    job = _Job(opened, config, recipe)
    job.begin(registration)
    if job.missing_mpp:
        progress.say(
            f"{job.missing_mpp} lists the slides without a usable resolution; fill in its column mpp, then run: "
            f"giga tile {opened.url} --csv {job.missing_mpp}"
        )
    if config.plan:
        return job.plan(registration, started)
    if config.dask is not None:
        return job.spread(registration, progress, started)
    return job.run(registration, progress, started)


def _existing(store: str | Path | Store, config: TileConfig, *, has_slides: bool) -> Store | None:
    """The store if it is there; without slides to register, or for one shard, it must be."""
    if isinstance(store, Store):
        return store
    if Store.exists(store):
        found = Store.open(store, write=True)
        if not found.registered and not has_slides:
            raise NotFound(f"{found.url} has no slides yet", f"run: giga tile {found.url} SLIDES")
        return found
    if config.shard is not None:
        raise NotFound(
            f"there is no store at {store}; a shard works on registered slides", f"run: giga tile {store} SLIDES --plan"
        )
    if not has_slides:
        raise NotFound(f"there is no store at {store} and no slides were named", f"run: giga tile {store} SLIDES")
    return None


def _is_another(before: SlideRow, now: SlideRow) -> bool:
    """Whether a slide's tiles would be others now: it got another resolution, mask or content."""
    if not before.usable:
        return False
    return any(getattr(before, name) != getattr(now, name) for name in ("mpp", "size_px", "mask", "file_bytes"))


class _Job:
    """Tiling of one store with one configuration."""

    def __init__(self, store: Store, config: TileConfig, recipe: Recipe) -> None:
        self.store, self.config, self.recipe = store, config, recipe
        self.missing_mpp = ""
        self.album = Album(config.qc)
        self.grid: dict[str, Any] = {"mpp": config.mpp, "tile_px": config.tile_px, "overlap_px": config.overlap}

    def begin(self, registration: Registration) -> None:
        """Write the slide table and make room for tiles; one shard of many only looks."""
        store, config = self.store, self.config
        if config.shard is not None and store.recipe("tiles") == self.recipe:
            if config.redo:
                for row in self._rows():
                    store.array("tiles/count")[row] = NOT_DONE
            return
        if config.shard is not None:
            raise NotFound(f"{store.url} is not prepared for these shards", f"run: giga tile {store.url} SLIDES --plan")
        if store.recipe("tiles") is not None and (config.redo or store.recipe("tiles") != self.recipe):
            store.discard("tiles")
        before = store.slides
        # what was made from other pixels goes before the table says so: a kill in between must not leave it behind
        store.forget([i for i, row in enumerate(before.rows) if _is_another(row, registration.table[i])])
        store.write_slides(registration.table)
        usable = [row for row in registration.table.rows if row.usable]
        largest = max((self.capacity(row) for row in usable), default=0)
        if "tiles/coords" in store.root:
            largest = max(largest, store.array("tiles/coords").shape[1])
        n, capacity = len(registration.table), max(1, largest)
        shapes = {"coords": (n, capacity, 2), "tissue": (n, capacity), "count": (n,)}
        store.begin("tiles", self.recipe, shapes, redo=config.redo)
        done = read_column(store.array("tiles/count")) != NOT_DONE
        new = set(range(len(before), n))
        self.missing_mpp = list_missing_mpp(store.url, registration.table)
        store.fail("tile", {i: why for i, why in registration.reasons.items() if why or done[i] or i in new})

    def capacity(self, row: SlideRow) -> int:
        """Grid positions of a slide."""
        return grid_capacity(row.size_px, slide_mpp=row.mpp, **self.grid)

    def _rows(self) -> list[int]:
        return shard_rows(range(self.store.registered), parse_shard(self.config.shard))

    def run(self, registration: Registration, progress: Progress, started: float) -> TileSummary:
        """Tile what is not done, slide by slide; a slide that is done but has no picture is only drawn."""
        store, rows, table = self.store, self._rows(), self.store.slides
        count = read_column(store.array("tiles/count"))
        todo = [row for row in rows if count[row] == NOT_DONE and table[row].usable]
        undrawn = [row for row in rows if count[row] != NOT_DONE and self.album.lacks(table[row].id)]
        mine = set(rows)
        failures = {table[row].id: why for row, why in registration.reasons.items() if why and row in mine}
        empty: dict[str, str] = {}
        progress.start("tiling", len(rows), done=len(rows) - len(todo) - len(undrawn))
        stop = self.config.strict and bool(failures)
        for row, tiles in () if stop else self._compute([*todo, *undrawn], table.rows):
            if isinstance(tiles, Tiles):
                if tiles.empty:
                    empty[table[row].id] = tiles.empty
                if count[row] == NOT_DONE:
                    self._write(row, tiles)
                    count[row] = len(tiles.coords)
                self.album.keep(table[row].id, tiles.picture)
            else:
                failures[table[row].id] = tiles
                if count[row] == NOT_DONE:  # a picture alone that cannot be drawn takes nothing back
                    store.fail("tile", {row: tiles})
                progress.say(f"{table[row].id} failed: {tiles}")
                if self.config.strict:
                    break
            progress.advance(note=f"{max(0, int(count[row]))} tiles")
        self.album.finish([(table[i].id, int(count[i]), failures.get(table[i].id, "")) for i in range(len(table))])
        now = {table[row].id: int(count[row]) for row in rows if count[row] != NOT_DONE}
        new = sum(int(count[row]) != NOT_DONE for row in todo)
        return summarise(
            now, new=new, slides=len(rows), failures=failures, why_empty=empty, seconds=time.monotonic() - started
        )

    def spread(self, registration: Registration, progress: Progress, started: float) -> TileSummary:
        """The same on a Dask cluster; slides and groups are there, so its workers only fill them."""
        store, config = self.store, self.config
        options = {"workers": config.workers, "qc": config.qc, "strict": config.strict}
        shards = over_dask(
            str(config.dask), tile, store.url, slides=store.registered, options=options, progress=progress
        )
        table, count = store.slides, read_column(store.array("tiles/count"))
        refused = {table[row].id: why for row, why in registration.reasons.items() if why}
        self.album.finish([(row.id, int(count[i]), refused.get(row.id, "")) for i, row in enumerate(table.rows)])
        return summarise(
            {row.id: int(count[i]) for i, row in enumerate(table.rows) if count[i] != NOT_DONE},
            new=sum(s.done for s in shards),
            slides=len(table),
            failures={k: v for s in shards for k, v in s.failures.items()},
            why_empty={k: v for s in shards for k, v in s.why_empty.items()},
            seconds=time.monotonic() - started,
        )

    def _write(self, row: int, tiles: Tiles) -> None:
        n = len(tiles.coords)
        if n:
            self.store.array("tiles/coords")[row, :n] = tiles.coords
            self.store.array("tiles/tissue")[row, :n] = tiles.tissue
        self.store.array("tiles/count")[row] = n  # last: this is what "done" means
        self.store.fail("tile", {row: ""})

    def _compute(self, todo: Iterable[int], table: Sequence[SlideRow]) -> Iterator[tuple[int, Tiles | str]]:
        """Tiles, or the reason of failure, per slide as they get ready; few slides are in memory at once."""
        workers = worker_count(self.config.workers)
        rows = iter(todo)
        with ThreadPoolExecutor(workers) as pool:
            running: dict[Future[Tiles], int] = {}
            try:
                while True:
                    for row in islice(rows, workers * 2 - len(running)):
                        running[pool.submit(self._tiles_of, table[row])] = row
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        row = running.pop(future)
                        try:
                            yield row, future.result()
                        except Exception as error:
                            yield row, reason_of(error)
            finally:
                for future in running:
                    future.cancel()

    def _tiles_of(self, row: SlideRow) -> Tiles:
        draw = self.album.lacks(row.id)
        return find_tiles(row.path, self.config, slide_mpp=row.mpp, mask=row.mask, title=row.id, draw=draw)

    def plan(self, registration: Registration, started: float) -> TilePlan:
        """Price the run: count grid positions, and tile a few slides without keeping the result."""
        table = self.store.slides
        count = read_column(self.store.array("tiles/count"))
        usable = [i for i, row in enumerate(table.rows) if row.usable]
        todo = [i for i in usable if count[i] == NOT_DONE]
        positions = {i: self.capacity(table[i]) for i in usable}
        sample = todo[:: max(1, len(todo) // PLAN_SAMPLE)][:PLAN_SAMPLE]
        clock = time.monotonic()
        found = {row: tiles for row, tiles in self._compute(sample, table.rows) if isinstance(tiles, Tiles)}
        each = (time.monotonic() - clock) / max(1, len(sample))
        share = sum(len(t.coords) for t in found.values()) / max(1, sum(positions[i] for i in found))
        known = int(count[count > 0].sum())
        reasons = {table[row].id: why for row, why in registration.reasons.items() if why}
        return TilePlan(
            slides=len(table),
            done=len(usable) - len(todo),
            skipped=len(usable) - len(todo),
            failed=len(reasons),
            positions=sum(positions.values()),
            estimated_tiles=known + round(share * sum(positions[i] for i in todo)),
            estimated_tile_seconds=each * len(todo),
            estimated_bank_gib=len(usable) * 50 * 256 * 256 * 2 / 2**30,
            seconds=time.monotonic() - started,
            failures=reasons,
        )
