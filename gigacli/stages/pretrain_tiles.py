"""``giga pretrain-tiles``: MoCo of a whole ResNet18 on the cohort's own tiles (paper, section 4.1).

The drawn tiles are read once, before anything is trained: a slide that cannot be read is left out, with its reason in
``failures/``, and what fits into the cache need not be decoded from the slides again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from gigacli.cohort.tile_sample import Sample, check_batches, draw_labelled_tiles, draw_tiles, read_sample
from gigacli.config.base import options_of
from gigacli.config.options import Precision, Tracker
from gigacli.config.verbs import PretrainTilesConfig
from gigacli.nn import distributed, loop
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.distributed import Processes
from gigacli.nn.health import training_warning
from gigacli.nn.knn import KNNScore
from gigacli.nn.moco import MoCo
from gigacli.nn.sampler import steps_per_epoch
from gigacli.nn.tile_batches import TileBatches
from gigacli.nn.tile_encoder import ResNet18, random_resnet18, weights_hash, weights_to_bytes
from gigacli.nn.trackers import Trackers
from gigacli.parallel import worker_count
from gigacli.probing.labels import Labels, read_labels
from gigacli.progress import SILENT, Progress, TrainingSummary
from gigacli.randomness import keyed_seed
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.trained import Encoder
from gigacli.weights.resnet18 import read_resnet18
from gigacli.wsi.reader import SlideTiles
from gigacli.wsi.tile_pixels import TilePixels

WEIGHT_DECAY, SGD_MOMENTUM = 1e-4, 0.9  # of SGD, as in MoCo (He et al. 2020)
LR_TILES = 256  # tiles a step that the learning rate is given for; it is in proportion to them (Goyal et al. 2017)
WARMUP = 0.01  # share of the steps in which the learning rate rises; MoCo has none, but starts from one batch size only


@dataclass(frozen=True, kw_only=True)
class PretrainTilesSummary(TrainingSummary):
    """Result of ``giga pretrain-tiles``.

    Attributes:
        encoder: Name of the encoder.
        tiles: Drawn tiles of the slides it is trained on.
        queue: Negatives in the queue.
        queue_accuracy: Share of the last epoch's tiles nearer to their other view than to all others in the queue.
        cache: Folder of the tiles that were kept, which may be deleted; "" for none.
        failures: Reason per slide that could not be read now and was left out.
    """

    encoder: str
    tiles: int
    queue: int
    queue_accuracy: float
    cache: str
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
    tracker: Tracker | None = None,
    workers: int | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> PretrainTilesSummary:
    """Train a tile encoder on tiles of the cohort; an interrupted run goes on where it stopped.

    Args:
        store: The cohort store.
        progress: Receives progress.

    Raises:
        NotFound: The store holds no tiles, or there is no file of initial weights or labels.
        InvalidInput: There are fewer tiles than a batch needs, or none that can be read; labels that cannot be used;
            a tracker is asked for and not installed.
        Mismatch: There is an encoder of this name trained otherwise, or the initial weights are no ResNet18.
        Diverged: The loss is no longer a number.
        GigaError: The cache cannot be written.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        processes, hardware = stack.enter_context(distributed.joined(pick_device(config.device)))
        progress = progress if processes.first else SILENT
        opened = Store.open(store, write=processes.first, sync=config.sync)
        plan = prepare(config, opened, processes, hardware)
        processes.wait()  # all have looked before the first one writes
        if plan.encoder.complete and not config.redo:
            return summary(plan, plan.encoder.histories(), started, resumed_at=plan.config.epochs)
        if config.redo:
            plan.encoder.say_replacing(plan.recipe, progress)
        log = Trackers(
            config if processes.first else None,
            name=f"{plan.encoder.path} of {plan.encoder.store.url}",
            recipe=plan.recipe.config,
            say=progress.say,
        )
        stack.enter_context(log)
        pool = ThreadPoolExecutor(worker_count(config.workers))
        stack.callback(pool.shutdown, cancel_futures=True)
        sample = read_sample(
            opened,
            plan.slides,
            config=plan.config,
            pool=pool,
            read_before=plan.begun,
            processes=processes,
            progress=progress,
        )
        checkpoint = processes.once(lambda: begin(plan, sample))
        history = work(plan, sample.tiles, checkpoint, pool, log, progress)
    return summary(plan, history, started, resumed_at=loop.epoch_of(checkpoint), sample=sample)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is found and checked before anything is computed."""

    config: PretrainTilesConfig  # the options, what was left out as an earlier run had it
    recipe: Recipe
    encoder: Encoder
    network: ResNet18  # the network to start from
    origin: str  # where its weights come from, in words
    slides: Sequence[SlideTiles]  # the drawn tiles of every slide, by its row
    begun: bool  # whether an earlier run has read the tiles and begun to train
    labels: Labels | None  # what tiles are scored by
    processes: Processes
    device: torch.device


def prepare(config: PretrainTilesConfig, store: Store, processes: Processes, device: torch.device) -> Plan:
    """Look at everything and refuse what cannot be done; nothing is written."""
    encoder = store.encoder(config.name)
    config = config.following(encoder.found.config if encoder.found is not None else None)
    inputs = {store.tiles.input_name: store.tiles.fingerprint}
    network, origin = random_resnet18(keyed_seed(config.seed, "moco")), "random weights"
    if config.init != "random":
        network, report = read_resnet18(Path(config.init))
        origin = f"{config.init}: {report}"
        inputs["init"] = weights_hash(weights_to_bytes(network))
    labels = None if config.labels is None else read_labels(config.labels, target=config.target)
    counts = store.tiles.done().counts
    drawn = draw_tiles(counts, seed=config.seed, max_slides=config.max_slides, max_tiles=config.max_tiles)
    n = sum(len(chosen) for chosen in drawn.values())
    check_batches(n, config.batch_size, processes=processes.count, url=store.url)
    precision = pick_precision(config.precision, device)
    settings = {**config.recipe(), "precision": precision, "queue": min(config.queue, n)}
    recipe = Recipe("pretrain-tiles", settings, inputs)
    encoder.check(recipe, redo=config.redo)
    seen = encoder.seen() if not config.redo else None
    failed = store.failures("pretrain-tiles")  # slides that an earlier run of this training left out stay out
    rows = [row for row in drawn if seen is None or seen[row] or not (encoder.complete or failed[row])]
    table, grids = store.slides, store.tiles.grids(np.array(rows, dtype=np.int64))
    slides = [
        SlideTiles(row, table[row].path, table[row].mpp, grid.coords[drawn[row]])
        for row, grid in zip(rows, grids, strict=True)
    ]
    if labels is not None:  # refuse labels that cannot be used before hours are spent
        draw_labelled_tiles(labels, slides, table=table, seed=config.seed)
    return Plan(
        config=config,
        recipe=recipe,
        encoder=encoder,
        network=network,
        origin=origin,
        slides=slides,
        begun=seen is not None,
        labels=labels,
        processes=processes,
        device=device,
    )


def begin(plan: Plan, sample: Sample) -> bytes | None:
    """Make the encoder's group, or find the checkpoint of an earlier run; run by the first process alone."""
    rows = np.array([slide.key for slide in sample.tiles.slides], dtype=np.int64)
    return plan.encoder.begin(plan.recipe, rows, redo=plan.config.redo)


def work(
    plan: Plan, tiles: TilePixels, checkpoint: bytes | None, pool: Executor, log: Trackers, progress: Progress
) -> loop.History:
    """Train from the checkpoint on, if there is one, and keep the encoder."""
    config, encoder, processes, precision = plan.config, plan.encoder, plan.processes, plan.recipe.config["precision"]
    method = _initial_method(plan, progress)
    lr = config.lr * config.batch_size / LR_TILES
    batches = TileBatches(
        tiles,
        len(tiles),
        tile_px=tiles.spec.tile_px,
        batch_size=config.batch_size,
        seed=config.seed,
        device=plan.device,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        pool=pool,
        processes=processes,
    )
    total = batches.per_epoch * config.epochs

    training = loop.Training(
        module=method,
        optimizer=torch.optim.SGD(method.query.parameters(), lr=lr, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY),
        schedule=loop.Schedule(lr, max(1, int(WARMUP * total)), total),
        epochs=config.epochs,
        batches=batches,
        scores=_scores(plan, method, tiles, progress),
        step=method,
        precision=precision,
        save=lambda checkpoint, history: encoder.save(checkpoint, history, epochs=config.epochs),
        record=log,
        processes=processes,
    )
    history = loop.run(training, progress, checkpoint=checkpoint)
    processes.once(lambda: encoder.finish(weights_to_bytes(method.network), history))
    return history


def summary(
    plan: Plan, history: loop.History, started: float, *, resumed_at: int, sample: Sample | None = None
) -> PretrainTilesSummary:
    """Sum up: an encoder was trained on this sample, or was there already (None)."""
    config, slides = plan.config, plan.slides if sample is None else sample.tiles.slides
    failures = {} if sample is None else sample.failures
    n = sum(len(slide.coords) for slide in slides)
    return PretrainTilesSummary(
        encoder=config.name,
        slides=len(slides),
        tiles=n,
        done=int(sample is not None),
        skipped=int(sample is None),
        failed=len(failures),
        epochs=config.epochs,
        steps=config.epochs * steps_per_epoch(n, config.batch_size),
        resumed_at=resumed_at,
        initial_weights=plan.origin,
        queue=plan.recipe.config["queue"],
        loss=history["loss"][-1],
        chance=history["chance"][-1],
        queue_accuracy=history["queue_accuracy"][-1],
        rank=history["rank"][-1],
        warning=training_warning(history, epochs=config.epochs),
        cache=str(sample.cache or "") if sample is not None else "",
        seconds=time.monotonic() - started,
        failures=failures,
    )


def _initial_method(plan: Plan, progress: Progress) -> MoCo:
    """Make both networks and the queue as they are before the first step."""
    config, queue, seed = plan.config, plan.recipe.config["queue"], keyed_seed(plan.config.seed, "moco")
    progress.say(f"tile encoder starts from {plan.origin}")
    if queue < config.queue:
        progress.say(f"the queue holds {queue} keys, as many as there are tiles, instead of {config.queue}")
    method = MoCo(plan.network, queue=queue, momentum=config.momentum, temperature=config.temperature, seed=seed)
    method.to(plan.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    distributed.synchronise(method.query, plan.processes)
    method.processes = plan.processes
    return method


def _scores(plan: Plan, method: MoCo, tiles: TilePixels, progress: Progress) -> dict[str, Callable[[], float]]:
    """Return what is measured after every epoch, by its name: nothing without labels."""
    if plan.labels is None:
        return {}
    table, seed = plan.encoder.store.slides, plan.config.seed
    numbers, classes, patients = draw_labelled_tiles(
        plan.labels, tiles.slides, table=table, seed=seed, progress=progress
    )
    chance, precision = 1 / len(np.unique(classes)), plan.recipe.config["precision"]
    progress.say(f"neighbours of {len(numbers)} tiles are scored by {plan.labels.target}: chance is {chance:.2f}")
    score = KNNScore(method.network, tiles, numbers, classes, patients, device=plan.device, precision=precision)
    return {"knn": score}
