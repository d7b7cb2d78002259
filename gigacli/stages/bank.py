"""``giga bank``: embed tiles under augmentations that a whole view shares (paper, section 3.2, off-line augmentation).

Per slide and augmentation: one set of parameters, 256 tiles drawn with replacement, all augmented by that
set, embedded, stored with their numbers. In the same pass every tile is embedded once without augmentation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gigacli.cohort.registration import changed
from gigacli.config.base import options_of, parse_shard
from gigacli.config.verbs import BankConfig
from gigacli.errors import InvalidInput, reason_of
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.frozen import can_compile
from gigacli.nn.tile_features import Batches, Encoding, TileEncoder, Views, draw_views
from gigacli.parallel import Writer, over_dask, worker_count
from gigacli.progress import SILENT
from gigacli.store.chunks import read_column
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Recipe, Store, shard_rows
from gigacli.weights.tile_encoders import EncoderChoice, choose_encoder, keep_encoder, make_encoder, weights_of
from gigacli.wsi.reader import SlideTiles, TileReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.config.verbs import Compile, Precision
    from gigacli.progress import Progress

COMPILE_FROM = {"cpu": 50_000, "cuda": 10_000_000}
"""Encodings from which compiling the encoder, half a minute, is sooner paid back than felt."""

BATCH_SIZE = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True)
class BankSummary:
    """What ``giga bank`` did.

    Attributes:
        bank: Name of the bank and of the features.
        slides: Slides of this shard that are tiled.
        done: Slides written now.
        skipped: Slides that were there.
        failed: Slides that could not be read.
        tiles: Tile encodings made now.
        read: Tiles read now: each distinct tile of a slide once.
        rate: Encodings per second, from the second block of tiles on: without start-up and compiling.
        waited: Share of that time that the encoder waited for tiles, 0 to 1.
        seconds: Time it took.
        failures: Reason per slide that failed.
    """

    bank: str
    slides: int
    done: int
    skipped: int
    failed: int
    tiles: int
    read: int
    rate: float
    waited: float
    seconds: float
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
    progress: Progress = SILENT,
) -> BankSummary:
    """Write a bank of augmented tile features, and the un-augmented features.

    Args:
        store: The cohort store.
        progress: Progress receiver.

    Raises:
        NotFound: The store holds no tiles or not the encoder asked for.
        Mismatch: There is a bank of this name made otherwise.
    """
    started = time.monotonic()
    hardware = pick_device(config.device)
    opened = Store.open(store, write=True)
    opened.require("tiles")
    choice = choose_encoder(opened, config)
    name = config.name or choice.name
    recipe = opened.recipe(f"banks/{name}")
    config = config.following(recipe.config if recipe else None)
    computed_in = pick_precision(config.precision, hardware)
    compiled = not choice.timm and _compiled(config, hardware, opened.registered)
    network = make_encoder(choice, hardware, precision=computed_in, compiled=compiled)
    if choice.note:
        progress.say(choice.note)
    resolved = replace(config, precision=computed_in, compile="yes" if compiled else "no")  # type: ignore[arg-type]
    job = _Job(opened, name, resolved, choice, network)
    job.begin()
    if config.dask is not None:
        return job.spread({option: getattr(config, option) for option in config.given}, progress, started)
    return job.run(progress, started)


def _compiled(config: BankConfig, device: torch.device, slides: int) -> bool:
    """Whether to compile: decided by the size of the whole bank, so that every shard decides alike."""
    if config.compile == "auto":
        worth_it = slides * config.augmentations * config.draws >= COMPILE_FROM[device.type]
        return worth_it and can_compile(device)
    return config.compile == "yes"


class _Job:
    """One bank being written: its recipes, and what is done per slide."""

    def __init__(
        self, store: Store, name: str, config: BankConfig, choice: EncoderChoice, encoder: TileEncoder
    ) -> None:
        self.store, self.name, self.config, self.encoder, self.choice = store, name, config, encoder, choice
        self.sha256 = weights_of(choice, encoder)
        tiles = store.require("tiles")
        inputs = {"tiles": tiles.fingerprint, "encoder": self.sha256}
        base = {"encoder": choice.name, "precision": config.precision, "compile": config.compile}
        self.recipes = {
            f"banks/{name}": Recipe("bank", {**config.recipe(), **base}, inputs),
            f"features/{name}": Recipe("bank", base, inputs),
        }
        self.tile_px: int = tiles.config["tile_px"]
        self.mpp: float = tiles.config["mpp"]
        self.upsample: bool = tiles.config.get("upsample", False)
        self.redo_shard = False

    def begin(self) -> None:
        """Create or check the groups; nothing is touched if one of them was made otherwise."""
        store, config = self.store, self.config
        bank, features = self.recipes
        raised = not config.redo and self._raises(bank)
        for path, recipe in self.recipes.items():
            if not (raised and path == bank):
                store.check(path, recipe, redo=config.redo)
        if config.redo and config.shard and all(store.recipe(p) == r for p, r in self.recipes.items()):
            self.redo_shard = True  # the same bank once more: the other shards stay
        elif config.redo and config.shard and any(store.recipe(p) for p in self.recipes):
            raise InvalidInput(
                "--redo with --shard cannot replace a bank made with other parameters: the shards would remove each "
                "other's slides",
                "write it under another --name, or run --redo once without --shard",
            )
        elif config.redo:
            for path in (p for p in self.recipes if store.recipe(p) is not None):
                store.discard(path)
        n, capacity, width = store.registered, store.array("tiles/coords").shape[1], self.encoder.features
        a, d = config.augmentations, config.draws
        of_features = {"vectors": (n, capacity, width), "done": (n,)}
        store.begin(features, self.recipes[features], of_features, redo=config.redo)
        of_bank = {"vectors": (n, a, d, width), "tile": (n, a, d), "done": (n,)}
        store.begin(bank, self.recipes[bank], of_bank, redo=config.redo, grow=raised)
        keep_encoder(store, self.choice, self.sha256, redo=config.redo)
        self.done, self.plain = (read_column(store.array(f"{path}/done")) for path in (bank, features))
        has_kept = f"{bank}/kept" in store.root
        self.kept = store.array(f"{bank}/kept")[:] if has_kept else np.full_like(self.done, NOT_DONE)

    def _raises(self, bank: str) -> bool:
        """Whether the bank that is there only lacks some of the augmentations or draws asked for."""
        there, wanted = self.store.recipe(bank), self.recipes[bank]
        if there is None or there == wanted:
            return False
        sizes = ("augmentations", "draws")
        same = {**there.config, **{s: wanted.config[s] for s in sizes}} == wanted.config
        return same and there.inputs == wanted.inputs and all(there.config[s] <= wanted.config[s] for s in sizes)

    def run(self, progress: Progress, started: float) -> BankSummary:
        """Encode what is not done; reading of the next slides and writing of the last one go on meanwhile."""
        store, config, table = self.store, self.config, self.store.slides
        counts, coords = read_column(store.array("tiles/count")), store.array("tiles/coords")
        tiled = shard_rows(np.flatnonzero(counts != NOT_DONE).tolist(), parse_shard(config.shard))
        todo = [row for row in tiled if self.redo_shard or self.done[row] == NOT_DONE]
        failures: dict[str, str] = {}
        progress.start("bank", len(tiled), done=len(tiled) - len(todo))

        def fail(row: int, why: str) -> None:
            failures[table[row].id] = why
            store.fail("bank", {row: why})
            progress.say(f"{table[row].id} failed: {why}")
            progress.advance()

        def coming() -> Iterator[SlideTiles]:
            for row in todo:
                if why := changed(table[row]):
                    fail(row, why)
                elif not counts[row]:
                    self._write(row, None)
                    progress.advance()
                else:
                    yield SlideTiles(row, table[row].path, table[row].mpp, coords[row, : counts[row]])

        batches, encoding = self._batches(progress), None
        with self._reader() as reader, Writer() as writer:
            meter = _Meter(reader)
            for block in reader.blocks(coming()):
                row = block.slide.key
                if block.error is not None:
                    encoding = None
                    fail(row, reason_of(block.error))
                    continue
                encoding = encoding or self._encoding(batches, row, table[row].id, len(block.slide.coords))
                meter.add(made=encoding.add(block.tiles, block.start), read=len(block.tiles))
                progress.advance(int(block.last), note=meter.note)
                if block.last:
                    writer.submit(self._write, row, encoding)
                    encoding = None
        return BankSummary(
            bank=self.name,
            slides=len(tiled),
            done=len(todo) - len(failures),
            skipped=len(tiled) - len(todo),
            failed=len(failures),
            tiles=meter.made,
            read=meter.read,
            rate=meter.rate,
            waited=meter.waited,
            seconds=time.monotonic() - started,
            failures=failures,
        )

    def spread(self, options: dict[str, Any], progress: Progress, started: float) -> BankSummary:
        """The same on a Dask cluster; the groups are there, so its workers only fill them."""
        mine = {k: v for k, v in options.items() if k not in ("dask", "redo")}
        shards = over_dask(
            str(self.config.dask),
            bank,
            self.store.url,
            slides=self.store.registered,
            options={**mine, "encoder": self.choice.name, "name": self.name},
            progress=progress,
        )
        sums = {k: sum(getattr(s, k) for s in shards) for k in ("slides", "done", "skipped", "failed", "tiles", "read")}
        seconds, busy = time.monotonic() - started, sum(s.seconds for s in shards)
        return BankSummary(
            bank=self.name,
            **sums,
            rate=sums["tiles"] / seconds,
            waited=sum(s.waited * s.seconds for s in shards) / max(1e-9, busy),
            seconds=seconds,
            failures={k: v for s in shards for k, v in s.failures.items()},
        )

    def _batches(self, progress: Progress) -> Batches:
        size = self.config.batch_size or BATCH_SIZE[self.encoder.device.type]
        return Batches(self.encoder, tile_px=self.tile_px, size=size, say=progress.say)

    def _reader(self) -> TileReader:
        return TileReader(
            tile_px=self.tile_px,
            mpp=self.mpp,
            upsample=self.upsample,
            workers=worker_count(self.config.workers),
            timeout_s=self.config.read_timeout,
            **({"allocate": _pinned} if self.encoder.device.type == "cuda" else {}),
        )

    def _encoding(self, batches: Batches, row: int, slide_id: str, count: int) -> Encoding:
        """What is to be made of a slide: everything, or what an earlier bank of fewer rows has not got."""
        views = self._views(slide_id, count)
        if self.kept[row] > 0 and not self.redo_shard:
            views.missing[:] = np.isnan(self.store.array(f"banks/{self.name}/vectors")[row, :, :, 0])
        plain = self.redo_shard or self.plain[row] == NOT_DONE
        return Encoding(batches, views, count=count, plain=plain)

    def _views(self, slide_id: str, count: int) -> Views:
        return draw_views(
            self.config.seed,
            slide_id,
            count=count,
            augmentations=self.config.augmentations,
            draws=self.config.draws,
            tile_px=self.tile_px,
            independent=self.config.independent,
        )

    def _write(self, row: int, encoding: Encoding | None) -> None:
        """Write a slide, then mark it done; ``None`` for one without tissue."""
        store = self.store
        bank, features = self.recipes
        count = 0
        if encoding is not None:
            views = encoding.views
            vectors = encoding.vectors.cpu().numpy()
            if not views.missing.all():
                vectors = np.where(views.missing[..., None], vectors, store.array(f"{bank}/vectors")[row])
            store.array(f"{bank}/vectors")[row] = vectors
            store.array(f"{bank}/tile")[row] = views.tiles
            if encoding.plain is not None:
                count = len(encoding.plain)
                store.array(f"{features}/vectors")[row, :count] = encoding.plain.cpu().numpy()
        if encoding is None or encoding.plain is not None:
            store.array(f"{features}/done")[row] = count
        store.array(f"{bank}/done")[row] = self.config.augmentations if encoding is not None else 0
        store.fail("bank", {row: ""})


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory that a GPU reads while the processor goes on."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()


class _Meter:
    """How fast it goes, from the second block on: the first one compiles and waits for the first slide."""

    def __init__(self, reader: TileReader) -> None:
        self._reader, self._blocks = reader, 0
        self.made = self.read = 0
        self._start = (0, time.monotonic(), 0.0)

    def add(self, *, made: int, read: int) -> None:
        """A block is encoded."""
        self.made, self.read, self._blocks = self.made + made, self.read + read, self._blocks + 1
        if self._blocks == 1:
            self._first = (self.made, time.monotonic(), self._reader.waited_s)
        elif self._blocks == 2:
            self._start = self._first

    @property
    def rate(self) -> float:
        """Encodings per second."""
        return (self.made - self._start[0]) / self._seconds

    @property
    def waited(self) -> float:
        """Share of the time that the encoder waited for tiles."""
        return (self._reader.waited_s - self._start[2]) / self._seconds

    @property
    def note(self) -> str:
        """For the progress line."""
        return f"{self.rate:.0f} tiles/s, encoder waited {self.waited:.0%}"

    @property
    def _seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._start[1])
