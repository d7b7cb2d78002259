"""``giga bank``: embed tiles under augmentations that a whole view shares (paper, section 3.2, off-line augmentation).

Per slide and augmentation: one set of parameters, 256 tiles drawn with replacement, all augmented by that
set, embedded, stored with their numbers. In the same pass every tile is embedded once without augmentation.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gigacli.config import NAME_PATTERN, BankConfig, parse_shard
from gigacli.errors import GigaError, InvalidInput, NotFound, SlideError
from gigacli.nn.augment import augment, draw_augmentation, output_px
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.frozen import FrozenTileEncoder
from gigacli.nn.tile_encoder import (
    FEATURES,
    random_resnet18,
    resnet18_from_bytes,
    resnet18_from_file,
    weights_hash,
    weights_to_bytes,
)
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng
from gigacli.registration import changed
from gigacli.store.bank import tile_grid_of
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Recipe, Store, shard_rows
from gigacli.workers import worker_count
from gigacli.wsi.slide import Slide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gigacli.progress import Progress

RANDOM = "random-resnet18"
BLOCK = 1024
"""Tiles of a slide held in memory at once: 200 MB at 256 px."""


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
        seconds: Time it took.
        failures: Reason per slide that failed.
    """

    bank: str
    slides: int
    done: int
    skipped: int
    failed: int
    tiles: int
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)


def bank(store: str | Path | Store, *, progress: Progress = SILENT, **options: Any) -> BankSummary:
    """Write a bank of augmented tile features, and the un-augmented features.

    Args:
        store: The cohort store.
        progress: Who listens.
        options: Fields of :class:`~gigacli.config.BankConfig`.

    Raises:
        NotFound: The store holds no tiles or not the encoder asked for.
        Mismatch: There is a bank of this name made otherwise.
    """
    started = time.monotonic()
    config = BankConfig.of(options)
    device = pick_device(config.device)
    opened = Store.open(store, write=True)
    opened.require("tiles")
    encoder_name, weights = _encoder(opened, config)
    name = config.name or encoder_name
    config = opened.following(f"banks/{name}", config, options)
    precision = pick_precision(config.precision, device)
    job = _Job(opened, name, config, precision, encoder_name, weights_hash(weights))
    job.begin(weights)
    encoder = FrozenTileEncoder(resnet18_from_bytes(weights), device=device, precision=precision)
    counts = opened.array("tiles/count")[:]
    tiled = shard_rows(np.flatnonzero(counts != NOT_DONE).tolist(), parse_shard(config.shard))
    done = opened.array(f"banks/{name}/done")[:]
    todo = [row for row in tiled if done[row] == NOT_DONE or job.redo_shard]
    progress.start("bank", len(tiled), done=len(tiled) - len(todo))
    failures: dict[str, str] = {}
    tiles, table = 0, opened.slides
    with ThreadPoolExecutor(worker_count(config.workers)) as pool:
        for row in todo:
            slide = table[row]
            try:
                if why := changed(slide):
                    raise SlideError(why)
                tiles += job.run_slide(row, slide, encoder, pool)
                opened.fail("bank", {row: ""})
            except (SlideError, OSError) as error:
                failures[slide.id] = str(error)
                opened.fail("bank", {row: str(error)})
                progress.say(f"{slide.id} failed: {error}")
            progress.advance(note=f"{tiles / (time.monotonic() - started):.0f} tiles/s")
    return BankSummary(
        bank=name,
        slides=len(tiled),
        done=len(todo) - len(failures),
        skipped=len(tiled) - len(todo),
        failed=len(failures),
        tiles=tiles,
        seconds=time.monotonic() - started,
        failures=failures,
    )


def _encoder(store: Store, config: BankConfig) -> tuple[str, bytes]:
    """Name and weights (safetensors) of the encoder asked for: in the store, made from a seed, or from a file."""
    there = store.names("encoders")
    wanted = config.encoder
    if wanted is None and not there:
        raise NotFound(
            f"{store.url} holds no encoder and none was named",
            f"run: giga pretrain-tiles {store.url}, or name one: --encoder {RANDOM} or --encoder weights.safetensors",
        )
    if wanted is None or wanted in there:
        name = store.pick("encoders", wanted)
        if store.array(f"encoders/{name}/done")[()] == 1:
            return name, store.read_bytes(f"encoders/{name}/weights")
        if name != RANDOM:
            raise NotFound(f"encoder {name!r} is not finished", f"run: giga pretrain-tiles {store.url} --name {name}")
    if wanted in (None, RANDOM):
        return RANDOM, weights_to_bytes(random_resnet18(config.seed))
    path = Path(wanted)
    if not path.exists():
        known = ", ".join([*there, RANDOM])
        raise NotFound(f"there is no encoder {wanted!r}: neither in the store nor a file", f"known names: {known}")
    name = config.name or path.stem
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidInput(f"{path.name} does not make a name for the store", "give one with --name")
    return name, weights_to_bytes(resnet18_from_file(path))


class _Job:
    """One bank being written: its recipes, and what is done per slide."""

    def __init__(
        self, store: Store, name: str, config: BankConfig, precision: str, encoder: str, weights_sha256: str
    ) -> None:
        self.store, self.name, self.config, self.encoder = store, name, config, encoder
        inputs = {"tiles": store.require("tiles").fingerprint, "encoder": weights_sha256}
        base = {"encoder": encoder, "precision": precision}
        self.bank = Recipe("bank", {**config.recipe(), **base}, inputs)
        self.features = Recipe("bank", base, inputs)
        self.tile_px: int = store.require("tiles").config["tile_px"]
        self.mpp: float = store.require("tiles").config["mpp"]
        self.upsample: bool = store.require("tiles").config.get("upsample", False)
        self.redo_shard = False

    def begin(self, weights: bytes) -> None:
        """Create or check the groups; nothing is touched if one of them was made otherwise."""
        store, name, config = self.store, self.name, self.config
        groups = {f"banks/{name}": self.bank, f"features/{name}": self.features}
        for path, recipe in groups.items():
            store.check(path, recipe, redo=config.redo)
        if config.redo and config.shard and all(store.recipe(p) == r for p, r in groups.items()):
            self.redo_shard = True  # the same bank once more: the other shards stay
        elif config.redo and config.shard and any(store.recipe(p) for p in groups):
            raise InvalidInput(
                "--redo with --shard cannot replace a bank made with other parameters: the shards would remove each "
                "other's slides",
                "write it under another --name, or run --redo once without --shard",
            )
        elif config.redo:
            for path in (p for p in groups if store.recipe(p) is not None):
                store.discard(path)
        n, capacity = store.registered, store.array("tiles/coords").shape[1]
        a, d = config.augmentations, config.draws
        store.begin(
            f"features/{name}", self.features, {"vectors": (n, capacity, FEATURES), "done": (n,)}, redo=config.redo
        )
        shapes = {"vectors": (n, a, d, FEATURES), "tile": (n, a, d), "done": (n,)}
        store.begin(f"banks/{name}", self.bank, shapes, redo=config.redo)
        keep_encoder(store, self.encoder, weights, redo=config.redo)

    def run_slide(self, row: int, slide: Any, encoder: FrozenTileEncoder, pool: ThreadPoolExecutor) -> int:
        """Encode one slide and mark it done; the number of encodings."""
        store, config = self.store, self.config
        bank, features = f"banks/{self.name}", f"features/{self.name}"
        coords, _ = tile_grid_of(store, row)
        n, made = len(coords), 0
        if n:
            drawn, parameters = self._draw(slide.id, n)
            plain = np.full((n, FEATURES), np.nan, dtype=np.float16)
            vectors = np.full((*drawn.shape, FEATURES), np.nan, dtype=np.float16)
            with Slide(slide.path, mpp=slide.mpp, upsample=self.upsample) as opened:
                for start in range(0, n, BLOCK):
                    tiles = _read(opened, coords[start : start + BLOCK], self.tile_px, self.mpp, pool)
                    for rows, images in _batches(torch.from_numpy(tiles), config.batch_size):
                        plain[start + rows] = encoder(images.float().div_(255)).half().cpu().numpy()
                        made += len(rows)
                    made += self._augmented(tiles, start, drawn, parameters, encoder, vectors)
            store.array(f"{features}/vectors")[row, :n] = plain
            store.array(f"{bank}/vectors")[row] = vectors
            store.array(f"{bank}/tile")[row] = drawn
        store.array(f"{features}/done")[row] = n
        store.array(f"{bank}/done")[row] = config.augmentations if n else 0
        return made

    def _draw(self, slide_id: str, n: int) -> tuple[NDArray[np.int32], list[Any]]:
        """Which tiles (augmentation, draw), and with which parameters: functions of (seed, slide, augmentation)."""
        config, tiles, parameters = self.config, [], []
        for a in range(config.augmentations):
            rng = keyed_rng(config.seed, "bank", slide_id, a)
            tiles.append(rng.integers(0, n, config.draws, dtype=np.int32))
            sets = config.draws if config.independent else 1
            parameters.append(draw_augmentation(rng, sets, tile_px=self.tile_px))
        return np.stack(tiles), parameters

    def _augmented(
        self,
        tiles: NDArray[np.uint8],
        start: int,
        drawn: NDArray[np.int32],
        parameters: list[Any],
        encoder: FrozenTileEncoder,
        vectors: NDArray[np.float16],
    ) -> int:
        """Fill `vectors` where the drawn tile lies in this block; a tile drawn twice in a view is encoded once."""
        made, size = 0, output_px(self.tile_px)
        images = torch.from_numpy(tiles).to(encoder.device)
        for a, chosen in enumerate(drawn):
            draws = np.flatnonzero((chosen >= start) & (chosen < start + len(tiles)))
            if not len(draws):
                continue
            if self.config.independent:
                unique, inverse = draws, np.arange(len(draws))
            else:
                _, unique, inverse = np.unique(chosen[draws], return_index=True, return_inverse=True)
                unique = draws[unique]
            encoded = np.empty((len(unique), FEATURES), dtype=np.float16)
            for i in range(0, len(unique), self.config.batch_size):
                part = unique[i : i + self.config.batch_size]
                sets = parameters[a][part] if self.config.independent else parameters[a]
                augmented = augment(images[chosen[part] - start], sets, out_px=size)
                encoded[i : i + len(part)] = encoder(augmented).half().cpu().numpy()
            vectors[a, draws] = encoded[inverse]
            made += len(unique)
        return made


def _batches(tiles: torch.Tensor, size: int) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
    for start in range(0, len(tiles), size):
        part = tiles[start : start + size]
        yield np.arange(start, start + len(part)), part


def _read(
    slide: Slide, coords: NDArray[np.int32], tile_px: int, mpp: float, pool: ThreadPoolExecutor
) -> NDArray[np.uint8]:
    """The pixels of some tiles, (n, 3, tile_px, tile_px)."""
    tiles = np.empty((len(coords), 3, tile_px, tile_px), dtype=np.uint8)

    def read(i: int) -> None:
        x, y = (int(v) for v in coords[i])
        tiles[i] = slide.read(x, y, tile_px=tile_px, mpp=mpp).transpose(2, 0, 1)

    list(pool.map(read, range(len(coords))))
    return tiles


def keep_encoder(store: Store, name: str, weights: bytes, *, redo: bool) -> None:
    """Keep the weights a bank was made with, unless the store holds them already."""
    group = f"encoders/{name}"
    if f"{group}/done" in store.root and store.array(f"{group}/done")[()] == 1:
        if weights_hash(store.read_bytes(f"{group}/weights")) == weights_hash(weights):
            return
        if not redo:
            raise GigaError(f"{store.url} holds another encoder {name!r}", "give this bank another --name")
    store.begin(group, Recipe("bank", {"weights_sha256": weights_hash(weights)}, {}), {"done": ()}, redo=True)
    store.write_bytes(f"{group}/weights", weights)
    store.array(f"{group}/done")[...] = 1
