"""``giga pretrain-tiles``: MoCo of a whole ResNet18 on the cohort's own tiles (paper, section 4.1)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gigacli.config import PretrainTilesConfig
from gigacli.errors import InvalidInput
from gigacli.nn import loop
from gigacli.nn.augment import Folded, augment, draw_augmentation, fold, output_px
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.losses import info_nce_chance_level
from gigacli.nn.moco import MoCo
from gigacli.nn.tile_encoder import random_resnet18, resnet18_from_file, weights_hash, weights_to_bytes
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng, keyed_seed
from gigacli.store.store import Recipe, Store
from gigacli.store.trained import Trained
from gigacli.workers import worker_count
from gigacli.wsi.slide import Slide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gigacli.progress import Progress

WEIGHT_DECAY = 1e-4
SGD_MOMENTUM = 0.9
"""Of SGD, as in MoCo (He et al. 2020)."""


@dataclass(frozen=True)
class PretrainTilesSummary:
    """What ``giga pretrain-tiles`` did.

    Attributes:
        encoder: Name of the encoder.
        slides: Slides that tiles were drawn from.
        tiles: Tiles drawn.
        done: 1 where the encoder was trained now.
        skipped: 1 where it was there already.
        failed: 0; a failure raises.
        epochs: Epochs of the encoder.
        resumed_at: Epoch a checkpoint was found at, 0 for a fresh start.
        loss: Mean loss of the last epoch.
        chance: Loss of features that tell nothing.
        seconds: Time it took.
    """

    encoder: str
    slides: int
    tiles: int
    done: int
    skipped: int
    failed: int
    epochs: int
    resumed_at: int
    loss: float
    chance: float
    seconds: float


def pretrain_tiles(store: str | Path | Store, *, progress: Progress = SILENT, **options: Any) -> PretrainTilesSummary:
    """Train a tile encoder on tiles of the cohort; an interrupted run goes on where it stopped.

    Args:
        store: The cohort store.
        progress: Who listens.
        options: Fields of :class:`~gigacli.config.PretrainTilesConfig`.

    Raises:
        NotFound: The store holds no tiles, or there is no file of initial weights.
        InvalidInput: There are fewer tiles than a batch needs.
        Mismatch: There is an encoder of this name trained otherwise, or the initial weights are no ResNet18.
        SlideError: A tile cannot be read.
    """
    started = time.monotonic()
    config = PretrainTilesConfig.of(options)
    device = pick_device(config.device)
    opened = Store.open(store, write=True)
    config = opened.following(f"encoders/{config.name}", config, options)
    precision = pick_precision(config.precision, device)
    inputs = {"tiles": opened.require("tiles").fingerprint}
    if config.init != "random":
        inputs["init"] = weights_hash(weights_to_bytes(resnet18_from_file(Path(config.init))))
    recipe = Recipe("pretrain-tiles", {**config.recipe(), "precision": precision}, inputs)
    encoder = Trained(opened, f"encoders/{config.name}")
    opened.check(encoder.path, recipe, redo=config.redo)
    tiles = _draw_tiles(opened, config)
    if len(tiles) < 2:
        raise InvalidInput(
            f"{opened.url} holds {len(tiles)} tiles; MoCo needs at least 2", f"run: giga tile {opened.url} SLIDES"
        )
    resumed, done = config.epochs, False
    if config.redo or not encoder.done:
        method = _method(config).to(device)
        checkpoint = encoder.begin(recipe, np.unique(tiles[:, 0]), redo=config.redo)
        resumed, done = loop.epoch_of(checkpoint), True
        with _Reader(opened, config) as reader:
            training = _training(encoder, method, _Batches(tiles, reader, config, device), config)
            history = loop.run(training, progress, checkpoint=checkpoint)
        encoder.finish(weights_to_bytes(method.network), history)
    return PretrainTilesSummary(
        encoder=config.name,
        slides=len(np.unique(tiles[:, 0])),
        tiles=len(tiles),
        done=int(done),
        skipped=int(not done),
        failed=0,
        epochs=config.epochs,
        resumed_at=resumed,
        loss=float(encoder.history("loss")[-1]),
        chance=info_nce_chance_level(config.queue),
        seconds=time.monotonic() - started,
    )


def _draw_tiles(store: Store, config: PretrainTilesConfig) -> NDArray[np.int64]:
    """(n, 2): row of the slide and number of the tile, drawn by seed and spread evenly over the drawn slides."""
    counts = store.array("tiles/count")[:]
    with_tiles = np.flatnonzero(counts > 0)
    chosen = np.sort(keyed_rng(config.seed, "slides").permutation(with_tiles)[: config.max_slides])
    drawn, left = [], config.max_tiles
    for i, row in enumerate(chosen[np.argsort(counts[chosen], kind="stable")]):
        share = min(int(counts[row]), left // (len(chosen) - i))  # the smallest slides first: what they lack goes on
        tiles = keyed_rng(config.seed, "tiles", row).permutation(int(counts[row]))[:share]
        drawn.append(np.stack([np.full(share, row), np.sort(tiles)], axis=1))
        left -= share
    return np.concatenate(drawn) if drawn else np.zeros((0, 2), dtype=np.int64)


def _method(config: PretrainTilesConfig) -> MoCo:
    seed = keyed_seed(config.seed, "moco")
    network = random_resnet18(seed) if config.init == "random" else resnet18_from_file(Path(config.init))
    return MoCo(network, queue=config.queue, momentum=config.momentum, temperature=config.temperature, seed=seed)


def _training(encoder: Trained, method: MoCo, batches: _Batches, config: PretrainTilesConfig) -> loop.Training[Any]:
    precision = pick_precision(config.precision, batches.device)
    total = batches.per_epoch * config.epochs
    return loop.Training(
        module=method,
        optimizer=torch.optim.SGD(
            method.query.parameters(), lr=config.lr, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY
        ),
        schedule=loop.Schedule(config.lr, max(1, total // 100), total),
        epochs=config.epochs,
        batches=batches,
        step=lambda batch: _step(method, batch, precision),
        save=lambda checkpoint, history: encoder.save(checkpoint, history, epochs=config.epochs),
    )


def _step(method: MoCo, batch: tuple[torch.Tensor, ...], precision: str) -> loop.Step:
    with torch.autocast(batch[0].device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        loss = method(*batch)
    return loop.Step(loss, info_nce_chance_level(len(method.negatives)), len(batch[0]))


class _Reader:
    """Pixels of tiles; slides are opened once and stay open, tiles of a batch are read by several threads."""

    def __init__(self, store: Store, config: PretrainTilesConfig) -> None:
        recipe = store.require("tiles").config
        self.tile_px, self.mpp, self.upsample = (
            int(recipe["tile_px"]),
            float(recipe["mpp"]),
            bool(recipe.get("upsample")),
        )
        self.table, self.coords = store.slides, store.array("tiles/coords")
        self.stack, self.slides, self.corners = ExitStack(), {}, {}  # type: ignore[var-annotated]
        self.pool = self.stack.enter_context(ThreadPoolExecutor(worker_count(config.workers)))

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def __call__(self, tiles: NDArray[np.int64]) -> torch.Tensor:
        """(n, 2) slide rows and tile numbers -> (n, 3, tile_px, tile_px) uint8."""
        for row in np.unique(tiles[:, 0]):
            if row not in self.slides:
                slide = self.table[int(row)]
                self.slides[row] = self.stack.enter_context(Slide(slide.path, mpp=slide.mpp, upsample=self.upsample))
                self.corners[row] = self.coords[int(row)]
        return torch.from_numpy(np.stack(list(self.pool.map(self._read, tiles))).transpose(0, 3, 1, 2).copy())

    def _read(self, tile: NDArray[np.int64]) -> NDArray[np.uint8]:
        x, y = (int(v) for v in self.corners[tile[0]][tile[1]])
        return self.slides[tile[0]].read(x, y, tile_px=self.tile_px, mpp=self.mpp)


class _Batches:
    """Two augmented views of every drawn tile per epoch; everything is a function of (seed, epoch, step)."""

    def __init__(
        self, tiles: NDArray[np.int64], reader: _Reader, config: PretrainTilesConfig, device: torch.device
    ) -> None:
        self.tiles, self.reader, self.config, self.device = tiles, reader, config, device
        self.per_epoch = -(-len(tiles) // config.batch_size)

    def __call__(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """First views, second views (n, 3, h, w), and an order for the key encoder (n,)."""
        order = keyed_rng(self.config.seed, "order", epoch).permutation(len(self.tiles))
        for step, part in enumerate(np.array_split(order, self.per_epoch)):
            rng = keyed_rng(self.config.seed, "views", epoch, step)
            images = self.reader(self.tiles[part]).to(self.device)
            # here each tile has parameters of its own, where a bank's view shares one set
            views = [augment(images, self._sets(rng, len(part))) for _ in range(2)]
            yield views[0], views[1], torch.from_numpy(rng.permutation(len(part))).to(self.device)

    def _sets(self, rng: np.random.Generator, n: int) -> Folded:
        tile_px = self.reader.tile_px
        sets = draw_augmentation(rng, n, tile_px=tile_px)
        return fold(sets, tile_px=tile_px, out_px=output_px(tile_px), device=self.device)
