"""``giga bank``: embed tiles under augmentations that a whole view shares (paper, section 3.2, off-line augmentation).

Per slide and augmentation one set of parameters, 256 tiles drawn with replacement and augmented by it; every tile once
as it is. In mode ``operators`` that is nearly all: what augmentation does to features is learnt from a few tiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.cohort.content import slide_problem
from gigacli.config.bank import BankConfig, BankMode, Compile, Residuals
from gigacli.config.base import options_of, parse_shard
from gigacli.config.options import Precision, Preset
from gigacli.errors import InvalidInput, reason_of
from gigacli.nn.device import pick_device
from gigacli.nn.tile_features import Batches, TileEncoder
from gigacli.parallel import BackgroundWriter, run_on_dask, worker_count
from gigacli.progress import SILENT, Progress, Summary, Throughput
from gigacli.store.groups import Bank, Features
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import shard_rows
from gigacli.store.store import Store
from gigacli.weights.bank_bar import TileBar
from gigacli.weights.bank_price import BankEstimate, price
from gigacli.weights.bank_slides import BankSlides
from gigacli.weights.operators import calibrating_of, check_imported, fit_bank_operators, why_tiles, with_mode
from gigacli.weights.reproduce import check_reproduces
from gigacli.weights.tile_encoders import EncoderChoice, choose_encoder, keep_encoder, make_encoder, weights_of
from gigacli.wsi.reader import SlideTiles, TileReader

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
        notes: What operators foresee of slides left out; or why there are none.
        failures: Reason per slide that failed.
    """

    bank: str
    tiles: int
    read: int
    rate: float
    waited: float
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


@options_of(BankConfig)
def bank(
    config: BankConfig,
    store: str | Path | Store,
    *,
    encoder: str | None = None,
    weights: str | Path | None = None,
    name: str | None = None,
    augmentations: int = 12,
    draws: int = 256,
    independent: bool = False,
    stain: float = 0.0,
    mode: BankMode | None = None,
    features: str | None = None,
    sets: int = 64,
    calibration_tiles: int | None = None,
    rank: int = 64,
    residuals: Residuals = "auto",
    held_out: int | None = None,
    precision: Precision = "auto",
    compile: Compile = "auto",  # noqa: A002 - the name of the flag
    batch_size: int | None = None,
    read_timeout: float = 600.0,
    preset: Preset = "default",
    plan: bool = False,
    shard: str | None = None,
    dask: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> BankSummary | BankEstimate:
    """Write a bank of augmented tile features, and the un-augmented features; or, with `plan`, say what that costs.

    Args:
        store: The cohort store.
        progress: Receives progress.

    Raises:
        NotFound: The store holds no tiles or not the encoder asked for.
        InvalidInput: Options do not go together, or slides are too few to learn operators from.
        Mismatch: There is a bank of this name made otherwise, operators cannot stand in for augmented tiles here, or
            the encoder does not make the imported features.
    """
    started = time.monotonic()
    what = prepare(config, Store.open(store, write=True, sync=config.sync))
    if what.choice.note:
        progress.say(what.choice.note)
    if what.config.plan:
        with _reader(what) as reader:
            return price(what.config, what.store, what.encoder, reader, size=what.batch_size, progress=progress)
    if config.redo:
        what.bank.say_replacing(what.recipes[0], progress)
    if what.imported and not what.bank.fitted:
        check_reproduces(what.features, what.encoder, name=what.choice.name, rows=what.calibrating)
    begin(what)
    what.store.settle()  # other processes may do the rest
    if what.config.dask is not None:
        return _on_dask(what, progress, started)
    outcome = work(what, progress)
    what.store.settle()
    return summary(what, outcome, started, learnt=learn(what, progress))


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything that is found and checked before anything is written."""

    config: BankConfig  # the options, what was left out as the store has it, precision and compiling decided
    bank: Bank
    features: Features
    recipes: tuple[Recipe, Recipe]  # of both
    choice: EncoderChoice
    encoder: TileEncoder  # the chosen encoder, loaded
    calibrating: NDArray[np.int64]  # rows of the slides that operators are to be learnt from
    again: bool  # whether the slides of one shard are to be made anew in a bank that is otherwise the same

    @property
    def store(self) -> Store:
        """The cohort store."""
        return self.bank.store

    @cached_property
    def slides(self) -> BankSlides:
        """What is encoded and written of each slide."""
        return BankSlides(self.config, self.bank, self.features, self.calibrating, again=self.again)

    @property
    def batch_size(self) -> int:
        """Tiles per call of the encoder."""
        return self.config.batch_size or BATCH_SIZE[self.encoder.device.type]

    @property
    def learns(self) -> bool:
        """Whether operators are learnt, in place of a bank of augmented tiles."""
        return self.config.mode == "operators"

    @property
    def imported(self) -> bool:
        """Whether the features that operators are learnt for were imported."""
        return self.config.features is not None


@dataclass
class _Outcome:
    """Results of a shard."""

    slides: int
    todo: int
    meter: Throughput
    failures: dict[str, str] = field(default_factory=dict)


def prepare(config: BankConfig, store: Store) -> Plan:
    """Look at tiles, encoder and what is there of this name; writes nothing."""
    device, tiles = pick_device(config.device), store.tiles.recipe
    choice = choose_encoder(store, config)
    name = config.features or config.name or choice.name
    bank = store.bank(name)
    features = store.features(name) if config.features is None else store.pick(Features, name)
    config = with_mode(config.following(bank.found.config if bank.found else None), store)
    calibrating, slides = np.empty(0, dtype=np.int64), store.registered
    if config.mode == "operators":
        calibrating, config = calibrating_of(bank, config)
        slides = len(calibrating)
    encoder, config = make_encoder(choice, config, device, encodings=slides * config.augmentations * config.draws)
    if config.features is not None:
        check_imported(features, encoder, choice.name)
    inputs = {"tiles": tiles.fingerprint, "encoder": weights_of(choice, encoder)}
    base = {"encoder": choice.name, "precision": config.precision, "compile": config.compile}
    plain = Recipe("bank", base, inputs)
    if config.features is not None:
        plain = features.recipe
        inputs[features.input_name] = features.fingerprint
    recipes = Recipe("bank", {**config.recipe(), **base}, inputs), plain
    there = [bank.found, features.found]
    for group, recipe in zip((bank, features), recipes, strict=True):
        group.check(recipe, redo=config.redo or config.plan)
    again = config.redo and config.shard is not None and tuple(there) == recipes
    if config.redo and config.shard is not None and any(there) and not again:
        raise InvalidInput(
            "`redo` with `shard` cannot replace a bank made with other parameters: the shards would remove each "
            "other's slides",
            "write it under another `name`, or run `redo` once without `shard`",
        )
    return Plan(
        config=config,
        bank=bank,
        features=features,
        recipes=recipes,
        choice=choice,
        encoder=encoder,
        calibrating=calibrating,
        again=again,
    )


def begin(plan: Plan) -> None:
    """Make the groups ready, and keep the encoder's weights."""
    redo, width = plan.config.redo and not plan.again, plan.encoder.features
    if not plan.imported:
        plan.features.begin(plan.recipes[1], width, redo=redo)
    plan.bank.begin(plan.recipes[0], width, redo=redo)
    if plan.learns:
        plan.bank.choose_calibration(plan.calibrating)
    keep_encoder(plan.store, plan.choice, weights_of(plan.choice, plan.encoder), redo=plan.config.redo)


def work(plan: Plan, progress: Progress) -> _Outcome:
    """Encode what is not done; reading of the next slides and writing of the last one go on meanwhile."""
    store, table, shard = plan.store, plan.store.slides, parse_shard(plan.config.shard)
    tiled = store.tiles.done()
    rows = shard_rows(np.flatnonzero(tiled.finished).tolist(), shard)
    todo = rows if plan.again else plan.bank.todo(tiled.finished, shard)
    plain = plan.features.done().finished
    bar = TileBar(progress, plan.slides.to_read(tiled.counts), rows, todo)
    with _reader(plan) as reader, BackgroundWriter() as writer, bar.telling_of_loss(lambda row: table[row].id):
        outcome = _Outcome(len(rows), len(todo), Throughput(lambda: reader.waited_s))

        def fail(row: int, why: str) -> None:
            outcome.failures[table[row].id] = why
            store.fail("bank", {row: why})
            progress.say(f"{table[row].id} failed: {why}")
            bar.skip(row)

        batches = Batches(plan.encoder, tile_px=store.tiles.tile_px, size=plan.batch_size, say=progress.say)
        encoding = None
        for block in reader.blocks(_slides(plan, todo, tiled.counts, fail)):
            row = block.slide.key
            if block.error is not None:
                encoding = None
                fail(row, reason_of(block.error))
                continue
            new = not plan.imported and (plan.again or not plain[row])
            encoding = encoding or plan.slides.encoding(batches, row, count=len(block.slide.coords), plain=new)
            bar.enter(row)
            outcome.meter.add(made=encoding.add(block.tiles, block.start), read=len(block.tiles))
            if block.last:
                writer.submit(plan.slides.write, row, encoding)
                encoding = None
            bar.add(len(block.tiles), note=outcome.meter.note, last=block.last)
    return outcome


def learn(plan: Plan, progress: Progress) -> list[str]:
    """Learn operators once nothing is left to encode; what they foresee, in words. A shard leaves that to the last."""
    if not plan.learns:
        return why_tiles(plan.config, plan.store)
    left = plan.store.tiles.done().finished & ~plan.bank.done().finished
    if plan.config.shard is not None and left.any():
        return [f"operators are learnt when all shards are done: {int(left.sum())} slides are left"]
    return [fit_bank_operators(plan.bank, plan.features, progress)]


def summary(plan: Plan, outcome: _Outcome, started: float, *, learnt: list[str]) -> BankSummary:
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
        notes=learnt,
        failures=outcome.failures,
    )


def _slides(
    plan: Plan, todo: list[int], counts: NDArray[np.int64], fail: Callable[[int, str], None]
) -> Iterator[SlideTiles]:
    """Yield slides to read; marks those without tiles done, and those whose file has changed failed."""
    table = plan.store.slides
    for row in todo:
        wanted = plan.slides.tiles(row, count=int(counts[row]))
        unread = plan.imported and not len(wanted)
        if why := "" if unread else slide_problem(plan.store, row):
            fail(row, why)
        elif not len(wanted):
            plan.slides.write(row, None)
        else:
            yield SlideTiles(row, table[row].path, table[row].mpp, plan.store.tiles.coords(row)[wanted])


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
        notes=learn(plan, progress),
        failures={k: v for s in shards for k, v in s.failures.items()},
    )


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Allocate memory that a GPU reads while the processor goes on."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
