"""``giga train``: learn the slide encoder without labels (paper, section 3.1, steps 3-6)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gigacli.cohort.exclusion import left_out
from gigacli.config.base import fingerprint, options_of
from gigacli.config.options import Precision, Preset, Tracker
from gigacli.config.verbs import SlideAggregator, SparseBackend, TrainConfig, Whitening
from gigacli.errors import InvalidInput, NotFound
from gigacli.nn import distributed, loop
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.distributed import Processes
from gigacli.nn.giga import GigaSSL, seeds_of
from gigacli.nn.health import training_warning
from gigacli.nn.operators import AppliedOperators
from gigacli.nn.sampler import Sampler, steps_per_epoch
from gigacli.nn.sparse_spconv import check_spconv_trains
from gigacli.nn.trackers import Trackers
from gigacli.nn.views import TilePositions
from gigacli.progress import SILENT, Progress, TrainingSummary
from gigacli.store.bank import Bank, pick_bank
from gigacli.store.features import Features
from gigacli.store.mapped import MappedBank, MappedFeatures
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.trained import Model
from gigacli.weights.operators import applied
from gigacli.weights.slide_training import Material, initial_method, learnt, withstands


@dataclass(frozen=True, kw_only=True)
class TrainSummary(TrainingSummary):
    """Result of ``giga train``.

    Attributes:
        model: Name of the model.
        excluded: Slides of the bank that were left out on request.
        found: Share of slides that are nearest to themselves when seen under another augmentation; None without a bank.
        moved: How far their vectors move then, over the distance of two slides; None without a bank.
    """

    model: str
    excluded: int
    found: float | None
    moved: float | None


@options_of(TrainConfig)
def train(
    config: TrainConfig,
    store: str | Path | Store,
    *,
    bank: str | None = None,
    name: str = "giga",
    tiles: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 0.001,
    warmup: float = 0.05,
    temperature: float = 0.2,
    aggregator: SlideAggregator = "transformer",
    blocks: int = 2,
    stride: int = 2,
    standardise: bool = True,
    whiten: bool = True,
    whitening: Whitening = "slides",
    seeds: int = 1,
    slide_aug: bool = True,
    join: bool = True,
    preset: Preset = "default",
    exclude: str | Path | None = None,
    allow_missing: bool = False,
    precision: Precision = "auto",
    sparse_backend: SparseBackend = "auto",
    log_dir: str | Path | None = None,
    tracker: Tracker | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> TrainSummary:
    """Train a slide encoder on a bank; an interrupted run goes on where it stopped.

    Args:
        store: The cohort store.
        progress: Receives progress.

    Raises:
        NotFound: The store holds no bank, or there is no table of slides to leave out.
        InvalidInput: The bank holds fewer than two slides, or too few for so many processes; a tracker is asked for
            and not installed; spconv is, and cannot train here.
        Mismatch: There is a model of this name trained otherwise.
        Diverged: The loss is no longer a number.
    """
    started = time.monotonic()
    with distributed.joined(pick_device(config.device)) as (processes, hardware):
        progress = progress if processes.first else SILENT
        plan = prepare(config, Store.open(store, write=processes.first, sync=config.sync), processes, hardware)
        processes.wait()  # all have looked before the first one writes
        if plan.model.complete and not config.redo:
            _ = plan.model.usable
            processes.once(plan.model.drop_checkpoint)
            return summary(plan, plan.model.histories(), started, resumed_at=plan.epochs)
        if plan.lacking:
            progress.say(plan.lacking)
        if config.redo:
            plan.model.say_replacing(plan.recipe, progress)
        log = Trackers(
            config if processes.first else None,
            name=f"{plan.model.path} of {plan.model.store.url}",
            recipe=plan.recipe.config,
            say=progress.say,
        )
        with log:
            if plan.missing:
                progress.say(plan.missing)
            method, origin = initial_method(plan.material, progress)
            checkpoint = processes.once(lambda: begin(plan))
            history = work(plan, method, checkpoint, log, progress)
    return summary(plan, history, started, resumed_at=loop.epoch_of(checkpoint), origin=origin)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is found and checked before anything is computed."""

    material: Material  # the options and what is trained on
    excluded: int
    missing: str  # what was to be left out and is not there, in words
    recipe: Recipe
    model: Model
    processes: Processes
    device: torch.device

    @property
    def config(self) -> TrainConfig:
        """The options; what was left out is as an earlier run had it."""
        return self.material.config

    @property
    def source(self) -> Bank | Features:
        """The bank, or the imported features that stand in for one."""
        return self.material.source

    @property
    def views(self) -> MappedBank | MappedFeatures:
        """Its slides to train on, mapped into memory."""
        return self.material.views

    @property
    def lacking(self) -> str:
        """What is still to come into the bank and is not trained on, in words; "" for nothing."""
        tiled, there = self.source.store.tiles.done().filled, self.source.done().filled
        more = int((tiled & ~there).sum())
        return f"{more} slides with tiles are not in {self.source.path} yet, and are not trained on" if more else ""

    @property
    def unseen(self) -> str:
        """What a finished model was not trained on though it is there, in words; "" for nothing."""
        seen = self.model.seen()
        more = 0 if seen is None else int((~seen[self.views.rows]).sum())
        if not more:
            return ""
        return f"{more} slides came into {self.source.path} after it was trained: `redo` trains on them, too"

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(len(self.views.rows), self.config.regime.batch_size)

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return self.config.epochs_for(len(self.views.rows), self.steps)


def prepare(config: TrainConfig, store: Store, processes: Processes, device: torch.device) -> Plan:
    """Look at everything and refuse what cannot be done; nothing is written."""
    model = store.model(config.name)
    config = config.following(model.found.config if model.found is not None else None)
    if config.sparse_backend == "spconv":
        check_spconv_trains(device)
    source = pick_bank(store, config.bank)
    if isinstance(source, Bank) and source.learns:
        source.operators()  # raises: they have not been learnt yet
    out, missing = left_out(store.slides, config.exclude, allow_missing=config.allow_missing)
    views = source.mapped(leave_out=out)
    n, steps = len(views.rows), steps_per_epoch(len(views.rows), config.regime.batch_size)
    if n < 2:
        raise InvalidInput(
            f"{source.path} holds {n} slides with tiles to train on; telling slides apart needs at least 2",
            f"run: giga {'bank' if isinstance(source, Bank) else 'import'} {store.url}",
        )
    if n // steps < processes.count:
        raise InvalidInput(
            f"batches of {n // steps} slides cannot be split over {processes.count} processes",
            f"use a larger `batch_size`, or torchrun --nproc-per-node {n // steps}",
        )
    tiles = config.tiles or config.regime.tiles_of_view(float(np.median(store.tiles.done().counts[views.rows])))
    features = _plain(source, views, config)
    ids = [slide.id for slide, is_out in zip(store.slides.rows, out, strict=True) if is_out]
    settings = {
        **config.settings(n, steps),
        "tiles": tiles,
        "bank": source.name,
        "precision": pick_precision(config.precision, device),
        "excluded": fingerprint(sorted(ids)) if ids else None,
    }
    recipe = Recipe("train", settings, {source.input_name: source.fingerprint})
    model.check(recipe, redo=config.redo)
    return Plan(
        material=Material(config, source, views, features, tiles, settings["precision"]),
        excluded=len(ids),
        missing=missing,
        recipe=recipe,
        model=model,
        processes=processes,
        device=device,
    )


def _plain(source: Bank | Features, views: MappedBank | MappedFeatures, config: TrainConfig) -> Features:
    """The un-augmented features beside a bank, or those that stand in for one."""
    if isinstance(source, Features):
        if config.whitening == "augmentations":
            raise InvalidInput(
                f"{source.path} were imported: there are no augmentations whose differences could be evened out",
                "use `whitening='slides'`",
            )
        return source
    features = source.store.features(source.name)
    if (config.standardise or config.join) and not (features.found and features.done().filled[views.rows].all()):
        raise NotFound(
            f"{source.store.url} lacks un-augmented features of slides of {source.path}, which standardise them and "
            "make what vectors are joined with",
            f"run: giga bank {source.store.url} --name {source.name}, or set `standardise=False` and `join=False`",
        )
    return features


def begin(plan: Plan) -> bytes | None:
    """Make the model's group, or find the checkpoint of an earlier run; run by the first process alone."""
    return plan.model.begin(plan.recipe, plan.views.rows, redo=plan.config.redo)


def work(plan: Plan, method: GigaSSL, checkpoint: bytes | None, log: Trackers, progress: Progress) -> loop.History:
    """Train from the checkpoint on, if there is one, and keep the model."""
    config, views, model, total = plan.config, plan.views, plan.model, plan.steps * plan.epochs
    regime = config.regime
    method.to(plan.device)
    distributed.synchronise(method, plan.processes)
    method.processes = plan.processes
    first = Sampler(
        views,
        TilePositions(views.grids()),
        operators=operators_for(plan),
        tiles=plan.material.tiles,
        slide_aug=config.slide_aug,
        log_scale=regime.log_scale,
        seed=config.seed,
        batch_size=regime.batch_size,
        device=plan.device,
        part=plan.processes.part,
    )
    if first.note:
        progress.say(first.note)
    samplers = [first, *(first.of_seed(seed) for seed in seeds_of(config.seed, config.seeds)[1:])]

    training = loop.Training(
        module=method,
        optimizer=torch.optim.Adam(method.parameters(), lr=config.lr, weight_decay=regime.weight_decay, fused=True),
        schedule=loop.Schedule(config.lr, max(1, int(config.warmup * total)), total),
        epochs=plan.epochs,
        batches=lambda epoch, start: zip(*(sampler(epoch, start) for sampler in samplers), strict=True),
        step=method,
        precision=plan.recipe.config["precision"],
        save=lambda checkpoint, history: model.save(checkpoint, history, epochs=plan.epochs),
        record=log,
        processes=plan.processes,
    )
    history = loop.run(training, progress, checkpoint=checkpoint)
    return plan.processes.once(lambda: keep(plan, method, history, progress))


def keep(plan: Plan, method: GigaSSL, history: loop.History, progress: Progress) -> loop.History:
    """Look at what the vectors withstand, and keep the model."""
    unknown = [math.nan] * plan.epochs
    for name, value in withstands(plan.material, method, device=plan.device).items():
        history[name] = [*unknown[1:], value]
    plan.model.finish(learnt(plan.material, method, device=plan.device, progress=progress), history)
    return history


def operators_for(plan: Plan) -> AppliedOperators | None:
    """What moves the features of a view where no bank holds augmented ones; None where one does, or none are to be."""
    source = plan.source
    if isinstance(source, Features) or not source.learns:
        return None
    return applied(source, device=plan.device, precision=plan.recipe.config["precision"])


def summary(
    plan: Plan, history: loop.History, started: float, *, resumed_at: int, origin: str | None = None
) -> TrainSummary:
    """Sum up: a model was trained from initial weights of this `origin`, or was there already (None)."""
    seen = plan.model.seen()
    warning = training_warning(history, epochs=plan.epochs)
    return TrainSummary(
        model=plan.config.name,
        slides=len(plan.views.rows) if seen is None else int(seen.sum()),
        excluded=plan.excluded,
        done=int(origin is not None),
        skipped=int(origin is None),
        epochs=plan.epochs,
        steps=plan.epochs * plan.steps,
        resumed_at=resumed_at,
        initial_weights=origin or "",
        loss=history["loss"][-1],
        chance=history["chance"][-1],
        rank=history["rank"][-1],
        found=history["found"][-1] if "found" in history else None,
        moved=history["moved"][-1] if "moved" in history else None,
        warning="; ".join(text for text in (warning, plan.unseen) if text),
        seconds=time.monotonic() - started,
    )
