"""``giga pretrain-tiles``: MoCo of a whole ResNet18 on the cohort's own tiles (paper, section 4.1).

The drawn tiles are read once, before anything is trained: a slide that cannot be read is left out, with its reason in
``failures/``, and what fits into the cache need not be decoded from the slides again.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from gigacli.cohort.tile_sample import draw_scored, draw_tiles, read_drawn
from gigacli.config.base import options_of
from gigacli.config.verbs import PretrainTilesConfig
from gigacli.errors import InvalidInput
from gigacli.nn import distributed, loop
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.health import training_warning
from gigacli.nn.knn import KNNScore
from gigacli.nn.moco import MoCo, MoCoBatch
from gigacli.nn.sampler import steps_per_epoch
from gigacli.nn.tensorboard import TensorBoardLog
from gigacli.nn.tile_batches import TileBatches
from gigacli.nn.tile_encoder import random_resnet18, weights_hash, weights_to_bytes
from gigacli.parallel import worker_count
from gigacli.probing.labels import read_labels
from gigacli.progress import SILENT
from gigacli.randomness import keyed_seed
from gigacli.store.address import is_remote
from gigacli.store.local_copy import cache_folder
from gigacli.store.store import Recipe, Store
from gigacli.store.trained import Trained
from gigacli.weights.resnet18 import read_resnet18
from gigacli.wsi.reader import SlideTiles
from gigacli.wsi.tile_cache import TileCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from gigacli.config.verbs import Precision
    from gigacli.nn.distributed import Processes
    from gigacli.nn.tile_encoder import ResNet18
    from gigacli.probing.labels import Labels
    from gigacli.progress import Progress
    from gigacli.store.table import SlideRow
    from gigacli.wsi.tile_pixels import TilePixels

WEIGHT_DECAY = 1e-4
SGD_MOMENTUM = 0.9
"""Of SGD, as in MoCo (He et al. 2020)."""

LR_TILES = 256
"""The learning rate is for so many tiles a step, and in proportion to them (Goyal et al. 2017)."""

WARMUP = 0.01
"""Share of the steps in which the learning rate rises; MoCo has none, but starts from one batch size only."""

GB = 1e9


@dataclass(frozen=True)
class PretrainTilesSummary:
    """What ``giga pretrain-tiles`` did.

    Attributes:
        encoder: Name of the encoder.
        slides: Slides it is trained on.
        tiles: Their tiles that were drawn.
        done: 1 where the encoder was trained now.
        skipped: 1 where it was there already.
        failed: Slides that could not be read now and were left out.
        epochs: Epochs of the encoder.
        steps: Steps of the encoder.
        resumed_at: Epochs a checkpoint had finished, 0 for a fresh start.
        initial_weights: Where it started from.
        queue: Negatives in the queue.
        loss: Mean loss of the last epoch.
        chance: Loss of features that tell nothing.
        queue_accuracy: Share of the last epoch's tiles nearer to their other view than to all others in the queue.
        rank: Effective rank of the last batch's vectors.
        warning: What is wrong with the encoder, in words; "" where nothing is.
        cache: Folder of the tiles that were kept, which may be deleted; "" for none.
        seconds: Time it took.
        failures: Reason per slide that failed.
    """

    encoder: str
    slides: int
    tiles: int
    done: int
    skipped: int
    failed: int
    epochs: int
    steps: int
    resumed_at: int
    initial_weights: str
    queue: int
    loss: float
    chance: float
    queue_accuracy: float
    rank: float
    warning: str
    cache: str
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)


@options_of(PretrainTilesConfig)
def pretrain_tiles(
    config: PretrainTilesConfig,
    store: str | Path | Store,
    *,
    name: str = "moco",
    epochs: int = 200,
    batch_size: int = 256,
    max_slides: int = 3000,
    max_tiles: int = 6_000_000,
    init: str = "random",
    lr: float = 0.03,
    queue: int = 65536,
    momentum: float = 0.999,
    temperature: float = 0.07,
    precision: Precision = "auto",
    labels: str | Path | None = None,
    target: str | None = None,
    cache: str | Path | None = None,
    cache_gb: float = 100.0,
    log_dir: str | Path | None = None,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    progress: Progress = SILENT,
) -> PretrainTilesSummary:
    """Train a tile encoder on tiles of the cohort; an interrupted run goes on where it stopped.

    Args:
        store: The cohort store.
        progress: Progress receiver.

    Raises:
        NotFound: The store holds no tiles, or there is no file of initial weights or labels.
        InvalidInput: There are fewer tiles than a batch needs, or none that can be read; labels that cannot be used;
            TensorBoard is asked for and not installed.
        Mismatch: There is an encoder of this name trained otherwise, or the initial weights are no ResNet18.
        Diverged: The loss is no longer a number.
        GigaError: The cache cannot be written.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        processes, hardware = stack.enter_context(distributed.joined(pick_device(config.device)))
        progress = progress if processes.first else SILENT
        opened = Store.open(store, write=processes.first)
        config = config.following(recipe.config if (recipe := opened.recipe(f"encoders/{config.name}")) else None)
        job = _prepare(opened, config, processes, hardware)
        processes.wait()  # all have looked before the first one writes
        if job.encoder.done and not config.redo:
            return job.summary(job.history(), resumed_at=config.epochs, started=started)
        log = stack.enter_context(TensorBoardLog(config.log_dir if processes.first else None))
        pool = ThreadPoolExecutor(worker_count(config.workers))
        stack.callback(pool.shutdown, cancel_futures=True)
        return _train(job, log, pool, progress, started=started)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What has been found and checked before anything is computed."""

    store: Store
    config: PretrainTilesConfig
    recipe: Recipe
    encoder: Trained
    network: ResNet18
    origin: str
    slides: list[SlideTiles]  # keyed by row
    resumed: bool
    labels: Labels | None
    processes: Processes
    device: torch.device
    precision: str

    @property
    def queue(self) -> int:
        return int(self.recipe.config["queue"])

    @property
    def cache(self) -> Path | None:
        """The folder of kept tiles: beside a store on this machine, among other copies for any other store."""
        if not self.config.cache_gb or self.config.cache:
            return self.config.cache if self.config.cache_gb else None
        beside = Path(self.store.url.rstrip("/") + "-tiles")
        return cache_folder(None) / beside.name if is_remote(self.store.url) else beside

    def scorable(self, slides: Sequence[SlideTiles]) -> list[tuple[SlideRow, int]]:
        """Slides with their numbers of tiles."""
        table = self.store.slides
        return [(table[slide.key], len(slide.coords)) for slide in slides]

    def history(self) -> dict[str, list[float]]:
        names = ("loss", "chance", "queue_accuracy", "rank")
        return {name: self.encoder.history(name).tolist() for name in names}

    def summary(
        self,
        history: Mapping[str, Sequence[float]],
        *,
        resumed_at: int,
        started: float,
        slides: Sequence[SlideTiles] | None = None,
        failures: Mapping[str, str] | None = None,
    ) -> PretrainTilesSummary:
        """Of a training with these slides, or, without, of the one that is there."""
        seen = self.slides if slides is None else slides
        tiles = sum(len(slide.coords) for slide in seen)
        return PretrainTilesSummary(
            encoder=self.config.name,
            slides=len(seen),
            tiles=tiles,
            done=int(slides is not None),
            skipped=int(slides is None),
            failed=len(failures or {}),
            epochs=self.config.epochs,
            steps=self.config.epochs * steps_per_epoch(tiles, self.config.batch_size),
            resumed_at=resumed_at,
            initial_weights=self.origin,
            queue=self.queue,
            loss=history["loss"][-1],
            chance=history["chance"][-1],
            queue_accuracy=history["queue_accuracy"][-1],
            rank=history["rank"][-1],
            warning=training_warning(history, epochs=self.config.epochs),
            cache=str(self.cache) if slides is not None and self.cache else "",
            seconds=time.monotonic() - started,
            failures=dict(failures or {}),
        )


def _prepare(store: Store, config: PretrainTilesConfig, processes: Processes, device: torch.device) -> _Job:
    """Look at everything, refuse what cannot be done; nothing is written."""
    tiles = store.require("tiles")
    inputs = {"tiles": tiles.fingerprint}
    network, origin = random_resnet18(keyed_seed(config.seed, "moco")), "random weights"
    if config.init != "random":
        network, report = read_resnet18(Path(config.init))
        origin = f"{config.init}: {report}"
        inputs["init"] = weights_hash(weights_to_bytes(network))
    labels = None if config.labels is None else read_labels(config.labels, target=config.target)
    drawn = draw_tiles(store, seed=config.seed, max_slides=config.max_slides, max_tiles=config.max_tiles)
    n = sum(len(chosen) for chosen in drawn.values())
    _check_batches(n, config.batch_size, processes.count, store.url)
    precision = pick_precision(config.precision, device)
    settings = {**config.recipe(), "precision": precision, "queue": min(config.queue, n)}
    recipe = Recipe("pretrain-tiles", settings, inputs)
    encoder = Trained(store, f"encoders/{config.name}")
    store.check(encoder.path, recipe, redo=config.redo)
    known = encoder.seen() if not config.redo else None
    failed = store.failures("pretrain-tiles")  # slides that an earlier run of this training left out stay out
    rows = [row for row in drawn if known is None or known[row] or not (encoder.done or failed[row])]
    table, coords = store.slides, store.array("tiles/coords")
    job = _Job(
        store=store,
        config=config,
        recipe=recipe,
        encoder=encoder,
        network=network,
        origin=origin,
        slides=[SlideTiles(row, table[row].path, table[row].mpp, coords[row][drawn[row]]) for row in rows],
        resumed=known is not None,
        labels=labels,
        processes=processes,
        device=device,
        precision=precision,
    )
    if labels is not None:  # refuse labels that cannot be used before hours are spent
        draw_scored(labels, job.scorable(job.slides), seed=config.seed)
    return job


def _check_batches(tiles: int, batch_size: int, processes: int, url: str) -> None:
    if tiles < 2:
        raise InvalidInput(f"{url} holds {tiles} tiles; MoCo needs at least 2", f"run: giga tile {url} SLIDES")
    smallest = tiles // steps_per_epoch(tiles, batch_size)
    if smallest < 2 * processes:
        raise InvalidInput(
            f"batches of {smallest} tiles cannot be split over {processes} processes, two tiles or more for each",
            f"use a larger --batch-size, or --nproc-per-node {max(1, smallest // 2)}",
        )


def _train(
    job: _Job, log: TensorBoardLog, pool: Executor, progress: Progress, *, started: float
) -> PretrainTilesSummary:
    config, processes, encoder = job.config, job.processes, job.encoder
    cache = TileCache(job.cache, limit_bytes=config.cache_gb * GB) if job.cache else None
    tiles, failures = read_drawn(
        job.store,
        job.slides,
        cache=cache,
        workers=worker_count(config.workers),
        pool=pool,
        again=job.resumed,
        processes=processes,
        progress=progress,
    )
    _check_batches(len(tiles), config.batch_size, processes.count, job.store.url)
    method = MoCo(
        job.network,
        queue=job.queue,
        momentum=config.momentum,
        temperature=config.temperature,
        seed=keyed_seed(config.seed, "moco"),
    )
    rows = np.array([slide.key for slide in tiles.slides], dtype=np.int64)
    begun = encoder.begin(job.recipe, rows, redo=config.redo) if processes.first else None
    checkpoint = processes.share(begun)
    progress.say(f"tile encoder starts from {job.origin}")
    if job.queue < config.queue:
        progress.say(f"the queue holds {job.queue} keys, as many as there are tiles, instead of {config.queue}")
    method.to(job.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    distributed.synchronise(method.query, processes)
    method.processes = processes
    history = loop.run(_training(job, method, tiles, log, pool, progress), progress, checkpoint=checkpoint)
    if processes.first:
        encoder.finish(weights_to_bytes(method.network), history)
    processes.wait()
    resumed = loop.epoch_of(checkpoint)
    return job.summary(history, resumed_at=resumed, started=started, slides=tiles.slides, failures=failures)


def _training(
    job: _Job, method: MoCo, tiles: TilePixels, log: TensorBoardLog, pool: Executor, progress: Progress
) -> loop.Training[MoCoBatch]:
    config = job.config
    lr = config.lr * config.batch_size / LR_TILES
    batches = TileBatches(
        tiles,
        len(tiles),
        tile_px=tiles.spec.tile_px,
        batch_size=config.batch_size,
        seed=config.seed,
        device=job.device,
        dtype=torch.bfloat16 if job.precision == "bf16" else torch.float32,
        pool=pool,
        processes=job.processes,
    )
    total = batches.per_epoch * config.epochs
    scores: dict[str, Callable[[], float]] = {}
    if job.labels is not None:
        numbers, classes, owners = draw_scored(job.labels, job.scorable(tiles.slides), seed=config.seed)
        progress.say(f"neighbours of {len(numbers)} tiles are scored by {job.labels.target}: chance is "
                     f"{1 / len(np.unique(classes)):.2f}")  # fmt: skip
        scores["knn"] = KNNScore(
            method.network, tiles, numbers, classes, owners, device=job.device, precision=job.precision
        )
    return loop.Training(
        module=method,
        optimizer=torch.optim.SGD(method.query.parameters(), lr=lr, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY),
        schedule=loop.Schedule(lr, max(1, int(WARMUP * total)), total),
        epochs=config.epochs,
        batches=batches,
        scores=scores,
        step=method,
        precision=job.precision,
        save=lambda checkpoint, history: job.encoder.save(checkpoint, history, epochs=config.epochs),
        record=log,
        processes=job.processes,
    )
