"""``giga bank``: embed tiles under augmentations that a whole view shares (paper, section 3.2, off-line augmentation).

Per slide and augmentation: one set of parameters, 256 tiles drawn with replacement, all augmented by that
set, embedded, stored with their numbers. In the same pass every tile is embedded once without augmentation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.cohort.content import slide_problem
from gigacli.config.base import options_of, parse_shard
from gigacli.config.verbs import BankConfig, Compile, Precision
from gigacli.errors import InvalidInput, reason_of
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.frozen import can_compile
from gigacli.nn.tile_features import Batches, SlideFeatures, TileEncoder, draw_bank_views
from gigacli.parallel import BackgroundWriter, run_on_dask, worker_count
from gigacli.progress import SILENT, Progress, Summary, Throughput
from gigacli.store.groups import Bank, Features
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import shard_rows
from gigacli.store.store import Store
from gigacli.weights.tile_encoders import EncoderChoice, choose_encoder, keep_encoder, make_encoder, weights_of
from gigacli.wsi.reader import SlideTiles, TileReader

COMPILE_FROM = {"cpu": 50_000, "cuda": 10_000_000}
"""Encodings from which compiling the encoder, half a minute, is sooner paid back than felt."""

BATCH_SIZE = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class BankSummary(Summary):
    """Result of ``giga bank``.

    Attributes:
        bank: Name of the bank and of the features.
        tiles: Tile encodings made now.
        read: Tiles read now: each distinct tile of a slide once.
        rate: Encodings per second, from the second block of tiles on: without start-up and compiling.
        waited: Share of that time that the encoder waited for tiles, 0 to 1.
        failures: Reason per slide that failed.
    """

    bank: str
    tiles: int
    read: int
    rate: float
    waited: float
    failures: dict[str, str] = field(default_factory=dict)


@options_of(BankConfig)
def bank(
    config: BankConfig,
    store: str | Path | Store,
    *,
    encoder: str | None = None,
    name: str | None = None,
    augmentations: int = 50,
    draws: int = 256,
    independent: bool = False,
    stain: float = 0.0,
    precision: Precision = "auto",
    compile: Compile = "auto",  # noqa: A002 - the name of the flag
    batch_size: int | None = None,
    read_timeout: float = 600.0,
    shard: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> BankSummary:
    """Write a bank of augmented tile features, and the un-augmented features.

    Args:
        store: The cohort store.
        progress: Receives progress.

    Raises:
        NotFound: The store holds no tiles or not the encoder asked for.
        Mismatch: There is a bank of this name made otherwise.
    """
    started = time.monotonic()
    plan = prepare(config, Store.open(store, write=True, sync=config.sync))
    if plan.choice.note:
        progress.say(plan.choice.note)
    if config.redo:
        plan.bank.say_replacing(plan.recipes[0], progress)
    begin(plan)
    plan.store.settle()  # other processes may do the rest
    if plan.config.dask is not None:
        return _on_dask(plan, progress, started)
    outcome = work(plan, progress)
    plan.store.settle()
    return summary(plan, outcome, started)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is found and checked before anything is written."""

    config: BankConfig  # the options, what was left out as the store has it, precision and compiling decided
    bank: Bank
    features: Features
    recipes: tuple[Recipe, Recipe]  # recipes of the bank and of the features
    choice: EncoderChoice
    encoder: TileEncoder  # the chosen encoder, loaded
    again: bool  # whether the slides of one shard are to be made anew in a bank that is otherwise the same

    @property
    def store(self) -> Store:
        """The cohort store."""
        return self.bank.store


@dataclass
class _Outcome:
    """Results of a shard."""

    slides: int
    todo: int
    meter: Throughput
    failures: dict[str, str] = field(default_factory=dict)


def prepare(config: BankConfig, store: Store) -> Plan:
    """Look at tiles, encoder and what is there of this name; writes nothing."""
    device = pick_device(config.device)
    tiles = store.tiles.recipe
    choice = choose_encoder(store, config)
    name = config.name or choice.name
    bank, features = store.bank(name), store.features(name)
    config = config.following(bank.found.config if bank.found else None)
    precision = pick_precision(config.precision, device)
    compiled = not choice.timm and config.compile == "yes"
    if not choice.timm and config.compile == "auto":  # by the size of the whole bank: every shard decides alike
        encodings = store.registered * config.augmentations * config.draws
        compiled = encodings >= COMPILE_FROM[device.type] and can_compile(device)
    encoder = make_encoder(choice, device, precision=precision, compiled=compiled)
    config = config.but(precision=precision, compile="yes" if compiled else "no")
    inputs = {"tiles": tiles.fingerprint, "encoder": weights_of(choice, encoder)}
    base = {"encoder": choice.name, "precision": config.precision, "compile": config.compile}
    recipes = Recipe("bank", {**config.recipe(), **base}, inputs), Recipe("bank", base, inputs)
    there = [group.found for group in (bank, features)]
    for group, recipe in zip((bank, features), recipes, strict=True):
        group.check(recipe, redo=config.redo)
    again = config.redo and config.shard is not None and tuple(there) == recipes
    if config.redo and config.shard is not None and any(there) and not again:
        raise InvalidInput(
            "`redo` with `shard` cannot replace a bank made with other parameters: the shards would remove each "
            "other's slides",
            "write it under another `name`, or run `redo` once without `shard`",
        )
    return Plan(
        config=config, bank=bank, features=features, recipes=recipes, choice=choice, encoder=encoder, again=again
    )


def begin(plan: Plan) -> None:
    """Make the groups ready, and keep the encoder's weights."""
    redo, width = plan.config.redo and not plan.again, plan.encoder.features
    plan.features.begin(plan.recipes[1], width, redo=redo)
    plan.bank.begin(plan.recipes[0], width, redo=redo)
    keep_encoder(plan.store, plan.choice, weights_of(plan.choice, plan.encoder), redo=plan.config.redo)


def work(plan: Plan, progress: Progress) -> _Outcome:
    """Encode what is not done; reading of the next slides and writing of the last one go on meanwhile."""
    store, table, shard = plan.store, plan.store.slides, parse_shard(plan.config.shard)
    tiled = store.tiles.done()
    rows = shard_rows(np.flatnonzero(tiled.finished).tolist(), shard)
    todo = rows if plan.again else plan.bank.todo(tiled.finished, shard)
    plain = plan.features.done().finished
    progress.start("bank", len(rows), done=len(rows) - len(todo))
    with _reader(plan) as reader, BackgroundWriter() as writer:
        outcome = _Outcome(len(rows), len(todo), Throughput(lambda: reader.waited_s))

        def fail(row: int, why: str) -> None:
            outcome.failures[table[row].id] = why
            store.fail("bank", {row: why})
            progress.say(f"{table[row].id} failed: {why}")
            progress.advance()

        size = plan.config.batch_size or BATCH_SIZE[plan.encoder.device.type]
        batches = Batches(plan.encoder, tile_px=store.tiles.tile_px, size=size, say=progress.say)
        encoding = None
        for block in reader.blocks(_slides(plan, todo, tiled.counts, fail, progress)):
            row = block.slide.key
            if block.error is not None:
                encoding = None
                fail(row, reason_of(block.error))
                continue
            new, count = plan.again or not plain[row], len(block.slide.coords)
            encoding = encoding or _encoding(plan, batches, row, count, plain=new)
            outcome.meter.add(made=encoding.add(block.tiles, block.start), read=len(block.tiles))
            progress.advance(int(block.last), note=outcome.meter.note)
            if block.last:
                writer.submit(_write, plan, row, encoding)
                encoding = None
    return outcome


def summary(plan: Plan, outcome: _Outcome, started: float) -> BankSummary:
    """Sum up in numbers."""
    meter, failed = outcome.meter, len(outcome.failures)
    return BankSummary(
        bank=plan.bank.name,
        slides=outcome.slides,
        done=outcome.todo - failed,
        skipped=outcome.slides - outcome.todo,
        failed=failed,
        tiles=meter.made,
        read=meter.read,
        rate=meter.rate,
        waited=meter.waited,
        seconds=time.monotonic() - started,
        failures=outcome.failures,
    )


def _slides(
    plan: Plan, todo: list[int], counts: NDArray[np.int64], fail: Callable[[int, str], None], progress: Progress
) -> Iterator[SlideTiles]:
    """Yield slides to read; marks those without tiles done, and those whose file has changed failed."""
    table = plan.store.slides
    for row in todo:
        if why := slide_problem(plan.store, row):
            fail(row, why)
        elif not counts[row]:
            _write(plan, row, None)
            progress.advance()
        else:
            yield SlideTiles(row, table[row].path, table[row].mpp, plan.store.tiles.coords(row))


def _reader(plan: Plan) -> TileReader:
    tiles = plan.store.tiles
    return TileReader(
        tile_px=tiles.tile_px,
        mpp=tiles.mpp,
        upsample=tiles.upsample,
        workers=worker_count(plan.config.workers),
        timeout_s=plan.config.read_timeout,
        **({"allocate": _pinned} if plan.encoder.device.type == "cuda" else {}),
    )


def _encoding(plan: Plan, batches: Batches, row: int, count: int, *, plain: bool) -> SlideFeatures:
    """Say what to encode of a slide: everything, or what a smaller bank lacks that was there before."""
    config = plan.config
    views = draw_bank_views(
        config.seed,
        plan.store.slides[row].id,
        count=count,
        augmentations=config.augmentations,
        draws=config.draws,
        tile_px=plan.store.tiles.tile_px,
        independent=config.independent,
        stain=config.stain,
    )
    if not plan.again:
        views.missing[:] = plan.bank.missing(row)
    return SlideFeatures(batches, views, count=count, plain=plain)


def _write(plan: Plan, row: int, encoding: SlideFeatures | None) -> None:
    """Write a slide; ``None`` for one without tissue."""
    if encoding is None:
        plan.features.write(row, None)
        plan.bank.write_empty(row)
    else:
        if encoding.plain is not None:
            plan.features.write(row, encoding.plain.cpu().numpy())
        views = encoding.views
        plan.bank.write(row, encoding.vectors.cpu().numpy(), views.tiles, made=views.missing)
    plan.store.fail("bank", {row: ""})


def _on_dask(plan: Plan, progress: Progress, started: float) -> BankSummary:
    """Encode on a Dask cluster, whose workers fill the groups that have been begun."""
    config, store = plan.config, plan.store
    given = {k: getattr(config, k) for k in config.given - {"dask", "redo"}}
    options = {**given, "encoder": plan.choice.name, "name": plan.bank.name}
    shards = run_on_dask(str(config.dask), bank, store.url, slides=store.registered, options=options, progress=progress)
    sums = {k: sum(getattr(s, k) for s in shards) for k in ("slides", "done", "skipped", "failed", "tiles", "read")}
    seconds, busy = time.monotonic() - started, sum(s.seconds for s in shards)
    return BankSummary(
        bank=plan.bank.name,
        **sums,
        rate=sums["tiles"] / seconds,
        waited=sum(s.waited * s.seconds for s in shards) / max(1e-9, busy),
        seconds=seconds,
        failures={k: v for s in shards for k, v in s.failures.items()},
    )


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Allocate memory that a GPU reads while the processor goes on."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
