"""``giga tile``: register slides, then find the tiles that hold tissue (paper, section 4.1).

Registration reads headers only and is done by one process; it decides the row of every slide. Tiling may then
be split over any number of processes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from gigacli.cohort.content import changes
from gigacli.cohort.finding import Corners, Found, find_all
from gigacli.cohort.loose_patches import list_patches
from gigacli.cohort.missing_mpp import ask_for_mpp
from gigacli.cohort.registration import Registration, register
from gigacli.cohort.room import room_for
from gigacli.cohort.tile_estimate import TileEstimate, estimate
from gigacli.config.base import options_of, parse_shard
from gigacli.config.verbs import TileConfig
from gigacli.errors import InvalidInput, NotFound, kind_of
from gigacli.importing.coords import Laid, lay, refuse_unnamed
from gigacli.parallel import run_on_dask
from gigacli.progress import SILENT, Progress, Summary
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import shard_rows
from gigacli.store.store import Store
from gigacli.store.table import SlideRow
from gigacli.wsi.qc_folder import QCFolder

LOWEST = 10  # slides with the fewest tiles that a summary names


@dataclass(frozen=True, kw_only=True)
class TileSummary(Summary):
    """Result of ``giga tile``."""

    empty: int  # slides without tissue: a result, not a failure
    tiles: int  # tiles of this shard's slides
    least: int  # tiles of the slide with the fewest
    median: float  # tiles of the slide in the middle
    most: int  # tiles of the slide with the most
    why_empty: dict[str, str] = field(default_factory=dict)  # reason per slide that turned out to have no tiles now
    remarks: dict[str, str] = field(default_factory=dict)  # what is odd about the tissue of a slide tiled now
    lowest: list[tuple[str, int]] = field(default_factory=list)  # the ten slides with the fewest tiles
    failures: dict[str, str] = field(default_factory=dict)  # reason per slide that failed
    reasons: dict[str, int] = field(default_factory=dict)  # how many slides failed for each kind of reason


@options_of(TileConfig)
def tile(
    config: TileConfig,
    store: str | Path | Store,
    slides: str | Path | Sequence[str | Path] = (),
    *,
    csv: str | Path | None = None,
    allow_missing: bool = False,
    coords: str | Path | Sequence[str | Path] = (),
    tiling: str | None = None,
    patches: str | Path | None = None,
    mpp: float = 1.0,
    mag: float | None = None,
    tile_px: int = 256,
    overlap: int = 0,
    min_tissue: float = 0.5,
    slide_mpp: float | None = None,
    upsample: bool = False,
    hash: bool = False,  # noqa: A002 - the name of the flag
    slide_root: str | Path | None = None,
    qc: str | Path | None = None,
    strict: bool = False,
    plan: bool = False,
    shard: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
    slide: str | Sequence[str] = (),
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> TileSummary | TileEstimate:
    """Register slides in a store, made if it is not there, and write the tiles that hold tissue.

    Args:
        store: The cohort store.
        slides: Slide files, folders, or a CSV of slides; may be empty for a store that has slides.
        progress: Receives progress.

    Raises:
        NotFound: No such slide or folder, or nothing is registered.
        InvalidInput: Two slides of one id, or a table that cannot be used.
        Mismatch: The store's tiles were made otherwise.
    """
    started = time.monotonic()
    paths = [Path(p) for p in ([slides] if isinstance(slides, str | Path) else slides)]
    if config.patches is not None:
        config, lists = list_patches(config, store.url if isinstance(store, Store) else str(store), progress)
        paths += lists
    what = prepare(config, store, paths, progress)
    opened = begin(what, progress)
    opened.settle()  # other processes may do the rest
    if what.config.plan:
        return _estimate(what, opened, started)
    if what.config.dask is not None:
        return _on_dask(what, opened, progress, started)
    outcome = work(what, opened, progress)
    opened.settle()
    return summary(what, opened, outcome, started)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is found and checked before anything is written."""

    config: TileConfig  # the options, what was left out as the store has it
    url: str
    known: Store | None  # the store, None where it is still to be made
    recipe: Recipe
    registration: Registration  # the slide table as it will be
    laid: Laid | None  # tiles of another tool, where they are taken

    @property
    def corners(self) -> Corners | None:
        """Where others laid the tiles of each slide; None where they are to be found."""
        return self.laid.corners if self.laid is not None else None

    def rows(self, store: Store) -> list[int]:
        """Rows of this shard, or of the slides that were named."""
        if self.config.slide:
            return sorted(store.slides.index[slide] for slide in self.config.slide)
        return shard_rows(range(store.registered), parse_shard(self.config.shard))

    @property
    def redo_all(self) -> bool:
        """Whether all tiles are replaced, and not those of the slides that were named."""
        return self.config.redo and not self.config.slide

    def capacity(self, row: SlideRow) -> int:
        """Grid positions of a slide."""
        if self.laid is not None:
            return self.laid.count(row.id)
        return room_for(row, self.recipe.config)


@dataclass
class _Outcome:
    """Results of a shard: tiles of the slides that are done, reasons of the others."""

    counts: dict[str, int]
    new: int
    failures: dict[str, str]
    why_empty: dict[str, str]
    remarks: dict[str, str]


def prepare(config: TileConfig, store: str | Path | Store, paths: list[Path], progress: Progress) -> Plan:
    """Look at the store, at the slides that were named and at their headers; nothing is written."""
    known = _existing(store, config, has_slides=bool(paths or config.csv))
    made = known.tiles.found if known is not None else None
    refuse_unnamed(config, made)
    config, registration, laid = config.following(made.config if made is not None else None), None, None
    if config.coords:
        registration = _registered(config, known, paths, progress)
        config, registration, laid = lay(config, registration, made, progress)
    recipe = Recipe("tile", config.recipe() | (laid.recipe if laid is not None else {}), {})
    if unknown := [slide for slide in config.slide if known is None or slide not in known.slides.index]:
        raise InvalidInput(f"the store has no slide {unknown[0]!r}", "giga info STORE --slides lists those it has")
    if known is not None:
        known.tiles.check(recipe, redo=config.redo and not config.slide)
        if config.shard is not None and made != recipe:
            raise NotFound(f"{known.url} is not prepared for these shards", f"run: giga tile {known.url} SLIDES --plan")
    registration = registration or _registered(config, known, paths, progress)
    if known is not None and not config.redo:
        unsaid = [i for i in range(known.registered) if not registration.reasons.get(i)]
        registration.reasons.update(changes(known, unsaid))
    url = known.url if known is not None else str(store)
    return Plan(config=config, url=url, known=known, recipe=recipe, registration=registration, laid=laid)


def _registered(config: TileConfig, known: Store | None, paths: list[Path], progress: Progress) -> Registration:
    """Look at the headers of new slides."""
    return register(
        known.slides if known is not None else None,
        paths,
        csv=config.csv,
        slide_mpp=config.slide_mpp,
        tile_mpp=config.mpp,
        slide_root=config.slide_root,
        allow_missing=config.allow_missing,
        redo=config.redo,
        only=config.slide,
        add=config.shard is None,
        progress=progress,
    )


def begin(plan: Plan, progress: Progress) -> Store:
    """Write the slide table and make room for tiles; one shard of many only takes back what is to be redone."""
    config, registration = plan.config, plan.registration
    store = plan.known if plan.known is not None else Store.create(plan.url, sync=config.sync)
    if config.shard is not None:
        if config.redo:
            store.tiles.take_back(plan.rows(store))
        return store
    before = store.slides
    # tiles of other pixels go before the table says so: a kill in between must not leave them behind; what was made
    # from them is not done any more, for want of its tiles
    named = set(plan.rows(store)) if config.redo and config.slide else set()
    others = [i for i, row in enumerate(before.rows) if i in named or row.tiles_differ(registration.table[i])]
    store.tiles.take_back(others)
    store.write_slides(registration.table)
    usable = [row for row in registration.table.rows if row.usable]
    largest = max((plan.capacity(row) for row in usable), default=0)
    if plan.redo_all:
        store.tiles.say_replacing(plan.recipe, progress)
    store.tiles.begin(plan.recipe, largest, redo=plan.redo_all)
    finished, new = store.tiles.done().finished, range(len(before), len(registration.table))
    store.fail("tile", {i: why for i, why in registration.reasons.items() if why or finished[i] or i in new})
    for line in ask_for_mpp(store.url, registration.table, given=config.csv):
        progress.say(line)
    return store


def work(plan: Plan, store: Store, progress: Progress) -> _Outcome:
    """Tile what is not done, slide by slide; a slide that is done but has no picture is only drawn."""
    table, rows, qc = store.slides, plan.rows(store), QCFolder(plan.config.qc)
    counts = store.tiles.done().values
    usable = np.array([row.usable for row in table.rows], dtype=bool)
    mine = set(rows)
    todo = [row for row in store.tiles.todo(usable, parse_shard(plan.config.shard)) if row in mine]
    undrawn = [row for row in rows if counts[row] >= 0 and qc.lacks(table[row].id)]
    made = set(todo)
    failures = {table[row].id: why for row, why in plan.registration.reasons.items() if why and row in mine}
    outcome = _Outcome({}, 0, failures, {}, {})
    tiles_so_far = int(counts[rows].clip(0).sum())  # of all slides that are done, not of the last one
    progress.start("tiling", len(rows), done=len(rows) - len(todo) - len(undrawn))
    stop = plan.config.strict and bool(failures)
    for row, found in () if stop else find_all(plan.config, [*todo, *undrawn], table.rows, qc, laid=plan.corners):
        slide = table[row].id
        if isinstance(found, Found):
            tiles = found.tiles
            if tiles.empty:
                outcome.why_empty[slide] = tiles.empty
            if tiles.remark:
                outcome.remarks[slide] = tiles.remark
            if row in made:
                store.tiles.write(row, tiles.coords, tiles.tissue, mask=found.mask, file=found.file)
                store.fail("tile", {row: ""})
                counts[row] = len(tiles.coords)
                tiles_so_far += len(tiles.coords)
            qc.write(slide, tiles.picture)
        else:
            failures[slide] = found
            if row in made:  # a picture alone that cannot be drawn takes nothing back
                store.fail("tile", {row: found})
            progress.say(f"{slide} failed: {found}")
            if plan.config.strict:
                break
        progress.advance(note=f"slides, {tiles_so_far:,} tiles")
    qc.write_sheets([(i, int(n), failures.get(i, "")) for i, n in zip(table.ids, counts, strict=True)])
    outcome.counts = {table[row].id: int(counts[row]) for row in rows if counts[row] >= 0}
    outcome.new = sum(int(counts[row]) >= 0 for row in todo)
    return outcome


def summary(plan: Plan, store: Store, outcome: _Outcome, started: float) -> TileSummary:
    """Sum up in numbers."""
    counts, failures = outcome.counts, outcome.failures
    numbers = sorted(counts.values()) or [0]
    return TileSummary(
        slides=len(plan.rows(store)),
        done=outcome.new,
        skipped=len(counts) - outcome.new,
        failed=len(failures),
        empty=sum(n == 0 for n in counts.values()),
        tiles=sum(counts.values()),
        least=numbers[0],
        median=float(median(numbers)),
        most=numbers[-1],
        seconds=time.monotonic() - started,
        why_empty=outcome.why_empty,
        remarks=outcome.remarks,
        lowest=sorted(counts.items(), key=lambda item: (item[1], item[0]))[:LOWEST],
        failures=failures,
        reasons=dict(Counter(kind_of(reason) for reason in failures.values()).most_common()),
    )


def _existing(store: str | Path | Store, config: TileConfig, *, has_slides: bool) -> Store | None:
    """Open the store if it is there; without slides to register, or for one shard, it must be."""
    if isinstance(store, Store) or Store.exists(store):
        found = Store.open(store, write=True, sync=config.sync)
        if not found.registered and not has_slides:
            raise NotFound(f"{found.url} has no slides yet", f"run: giga tile {found.url} SLIDES")
        return found
    run = f"run: giga tile {store} SLIDES"
    if config.shard is not None:
        raise NotFound(f"there is no store at {store}; a shard works on registered slides", f"{run} --plan")
    if not has_slides:
        raise NotFound(f"there is no store at {store} and no slides were named", run)
    return None


def _on_dask(plan: Plan, store: Store, progress: Progress, started: float) -> TileSummary:
    """Tile on a Dask cluster, whose workers fill the groups that have been begun."""
    config = plan.config
    options = {name: getattr(config, name) for name in ("workers", "qc", "strict", "sync", "coords")}
    shards = run_on_dask(str(config.dask), tile, store.url, slides=store.registered, options=options, progress=progress)
    table, counts = store.slides, store.tiles.done().values.tolist()
    refused = {table[row].id: why for row, why in plan.registration.reasons.items() if why}
    of_slide = dict(zip(table.ids, counts, strict=True))
    QCFolder(config.qc).write_sheets([(i, n, refused.get(i, "")) for i, n in of_slide.items()])
    outcome = _Outcome(
        counts={i: n for i, n in of_slide.items() if n >= 0},
        new=sum(s.done for s in shards),
        failures={k: v for s in shards for k, v in s.failures.items()},
        why_empty={k: v for s in shards for k, v in s.why_empty.items()},
        remarks={k: v for s in shards for k, v in s.remarks.items()},
    )
    return summary(plan, store, outcome, started)


def _estimate(plan: Plan, store: Store, started: float) -> TileEstimate:
    """Say what the run will cost."""
    table = store.slides

    def count_tiles(rows: Sequence[int]) -> dict[int, int]:
        tried = find_all(plan.config, rows, table.rows, QCFolder(None), laid=plan.corners)
        return {row: len(found.tiles.coords) for row, found in tried if isinstance(found, Found)}

    return estimate(
        table,
        store.tiles.done(),
        {i: plan.capacity(row) for i, row in enumerate(table.rows) if row.usable},
        count_tiles=count_tiles,
        failures={table[row].id: why for row, why in plan.registration.reasons.items() if why},
        started=started,
    )
