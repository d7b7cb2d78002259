"""``giga train``: learn the slide encoder without labels (paper, section 3.1, steps 3-6)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from gigacli.config.base import fingerprint, options_of
from gigacli.config.verbs import TrainConfig
from gigacli.errors import InvalidInput
from gigacli.nn import distributed, loop
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.giga import GigaSSL, whitening_matrix
from gigacli.nn.health import training_warning
from gigacli.nn.sampler import Sampler, steps_per_epoch
from gigacli.nn.slide_encoder import SlideEncoder
from gigacli.nn.sparse_spconv import check_spconv_trains
from gigacli.nn.tensorboard import TensorBoardLog
from gigacli.nn.tile_encoder import weights_to_bytes
from gigacli.nn.views import TilePositions, ViewBatch
from gigacli.progress import SILENT
from gigacli.randomness import keyed_seed
from gigacli.store.bank import BankReader  # noqa: TC001
from gigacli.store.feature_bank import INPUT_OF, FeatureBank, open_bank, pick_bank
from gigacli.store.store import Recipe, Store
from gigacli.store.trained import Trained
from gigacli.tables import bare_id, find_column, read_table, require_column
from gigacli.weights.resnet18 import resnet18_from_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.config.verbs import Precision, Preset, SlideAggregator, SparseBackend
    from gigacli.nn.distributed import Processes
    from gigacli.progress import Progress
    from gigacli.store.table import SlideTable


@dataclass(frozen=True)
class TrainSummary:
    """What ``giga train`` did.

    Attributes:
        model: Name of the model.
        slides: Slides it is trained on.
        excluded: Slides of the bank that were left out on request.
        done: 1 where the model was trained now.
        skipped: 1 where it was there already.
        failed: 0; a failure raises.
        epochs: Epochs of the model.
        steps: Steps of the model.
        resumed_at: Epoch a checkpoint was found at, 0 for a fresh start.
        initial_weights: Where the slide encoder started from.
        loss: Mean loss of the last epoch.
        chance: Loss of vectors that tell nothing.
        rank: Effective rank of the vectors of the last batch.
        warning: What is wrong with the model, in words; "" where nothing is.
        seconds: Time it took.
    """

    model: str
    slides: int
    excluded: int
    done: int
    skipped: int
    failed: int
    epochs: int
    steps: int
    resumed_at: int
    initial_weights: str
    loss: float
    chance: float
    rank: float
    warning: str
    seconds: float


@options_of(TrainConfig)
def train(
    config: TrainConfig,
    store: str | Path | Store,
    *,
    bank: str | None = None,
    name: str = "giga",
    tiles: int = 5,
    epochs: int | None = None,
    batch_size: int = 256,
    lr: float = 0.001,
    warmup: float = 0.05,
    temperature: float = 0.2,
    aggregator: SlideAggregator = "sparse-resnet",
    blocks: int = 2,
    stride: int = 2,
    whiten: bool = True,
    slide_aug: bool = True,
    preset: Preset = "default",
    exclude: str | Path | None = None,
    precision: Precision = "auto",
    sparse_backend: SparseBackend = "auto",
    log_dir: str | Path | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    progress: Progress = SILENT,
) -> TrainSummary:
    """Train a slide encoder on a bank; an interrupted run goes on where it stopped.

    Args:
        store: The cohort store.
        progress: Progress receiver.

    Raises:
        NotFound: The store holds no bank, or there is no table of slides to leave out.
        InvalidInput: The bank holds fewer than two slides, or too few for so many processes; TensorBoard is asked for
            and not installed; spconv is, and cannot train here.
        Mismatch: There is a model of this name trained otherwise.
        Diverged: The loss is no longer a number.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        processes, hardware = stack.enter_context(distributed.joined(pick_device(config.device)))
        opened = Store.open(store, write=processes.first)
        recipe = opened.recipe(f"models/{config.name}")
        config = config.following(recipe.config if recipe else None)
        job = _prepare(opened, config, processes, hardware)
        processes.wait()  # all have looked before the first one writes
        if job.model.done and not config.redo:
            history = {name: job.model.history(name).tolist() for name in ("loss", "chance", "rank")}
            return job.summary(history, done=False, resumed_at=job.epochs, origin="", started=started)
        log = stack.enter_context(TensorBoardLog(config.log_dir if processes.first else None))
        return _train(job, log, progress if processes.first else SILENT, started=started)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What has been found and checked before anything is computed."""

    config: TrainConfig
    source: str
    recipe: Recipe
    reader: BankReader | FeatureBank
    model: Trained
    processes: Processes
    device: torch.device
    precision: str
    excluded: int

    @property
    def steps(self) -> int:
        """Per epoch."""
        return steps_per_epoch(len(self.reader.rows), self.config.batch_size)

    @property
    def epochs(self) -> int:
        return self.config.epochs_for(self.steps)

    def summary(
        self,
        history: Mapping[str, Sequence[float]],
        *,
        done: bool,
        resumed_at: int,
        origin: str,
        started: float,
    ) -> TrainSummary:
        return TrainSummary(
            model=self.config.name,
            slides=len(self.reader.rows),
            excluded=self.excluded,
            done=int(done),
            skipped=int(not done),
            failed=0,
            epochs=self.epochs,
            steps=self.epochs * self.steps,
            resumed_at=resumed_at,
            initial_weights=origin,
            loss=history["loss"][-1],
            chance=history["chance"][-1],
            rank=history["rank"][-1],
            warning=training_warning(history, epochs=self.epochs),
            seconds=time.monotonic() - started,
        )


def _prepare(store: Store, config: TrainConfig, processes: Processes, device: torch.device) -> _Job:
    """Look at everything, refuse what cannot be done; nothing is written."""
    if config.sparse_backend == "spconv":
        check_spconv_trains(device)
    source = pick_bank(store, config.bank)
    kind, _, bank = source.partition("/")
    left_out = _left_out(store.slides, config.exclude)
    reader = open_bank(store, source, leave_out=left_out)
    n, steps = len(reader.rows), steps_per_epoch(len(reader.rows), config.batch_size)
    if n < 2:
        raise InvalidInput(
            f"{source} holds {n} slides with tiles to train on; telling slides apart needs at least 2",
            f"run: giga {'bank' if kind == 'banks' else 'import'} {store.url}",
        )
    if n // steps < processes.count:
        raise InvalidInput(
            f"batches of {n // steps} slides cannot be split over {processes.count} processes",
            f"use a larger --batch-size, or --nproc-per-node {n // steps}",
        )
    precision = pick_precision(config.precision, device)
    ids = [slide.id for slide, out in zip(store.slides.rows, left_out, strict=True) if out]
    settings = {
        **config.recipe(),
        "bank": bank,
        "epochs": config.epochs_for(steps),
        "precision": precision,
        "excluded": fingerprint(sorted(ids)) if ids else None,
    }
    recipe = Recipe("train", settings, {INPUT_OF[kind]: store.require(source).fingerprint})
    store.check(f"models/{config.name}", recipe, redo=config.redo)
    return _Job(
        config=config,
        source=source,
        recipe=recipe,
        reader=reader,
        model=Trained(store, f"models/{config.name}"),
        processes=processes,
        device=device,
        precision=precision,
        excluded=len(ids),
    )


def _left_out(slides: SlideTable, table: Path | None) -> NDArray[np.bool_]:
    """(slide) which slides of the store a table names, by slide or by patient.

    Raises:
        InvalidInput: It names neither, or not one slide of the store: that cannot be what was meant.
    """
    if table is None:
        return np.zeros(len(slides), dtype=bool)
    rows = read_table(table)
    column = find_column(rows, "slide_id", path=table)
    if column is not None:
        named = {bare_id(v) for v in rows[column]}
        found = np.array([id_ in named for id_ in slides.ids], dtype=bool)
    else:
        patients = set(rows[require_column(rows, "patient_id", path=table)]) - {""}
        found = np.array([slide.patient in patients for slide in slides.rows], dtype=bool)
    if not found.any():
        raise InvalidInput(
            f"{table} names no slide of the store", f"ids in the store look like {slides.ids[0]!r}; compare them"
        )
    return found


def _train(job: _Job, log: TensorBoardLog, progress: Progress, *, started: float) -> TrainSummary:
    config, reader, model, processes = job.config, job.reader, job.model, job.processes
    reader.load(cache=config.cache, progress=progress)
    method = GigaSSL.of_recipe(
        reader.width, config.recipe(), seed=keyed_seed(config.seed, "train"), sparse_backend=config.sparse_backend
    )
    if config.whiten:
        method.whitening = whitening_matrix(reader.slides())
    begun = model.begin(job.recipe, reader.rows, redo=config.redo) if processes.first else None
    checkpoint = processes.share(begun)
    origin = _initial_weights(model.store, job.source, method)
    progress.say(f"slide encoder starts from {origin}")
    if isinstance(reader, FeatureBank):
        progress.say(f"{job.source} were imported: all tiles of a slide are its one augmentation")
    method.to(job.device)
    distributed.synchronise(method, processes)
    method.processes = processes
    sampler = _sampler(job)
    if sampler.note:
        progress.say(sampler.note)
    history = loop.run(_training(job, method, sampler, log), progress, checkpoint=checkpoint)
    if processes.first:
        model.finish(weights_to_bytes(method), history)
    processes.wait()
    resumed = loop.epoch_of(checkpoint)
    return job.summary(history, done=True, resumed_at=resumed, origin=origin, started=started)


def _initial_weights(store: Store, source: str, method: GigaSSL) -> str:
    """Start from the tile encoder's layer4 where there is one that fits (paper: the second part of one ResNet18)."""
    encoder = store.require(source).config["encoder"]
    if f"encoders/{encoder}/weights" not in store.root:
        return "random weights (the store holds no tile encoder)"
    if not isinstance(method.encoder, SlideEncoder):
        return "random weights (this aggregator is no part of a ResNet18)"
    network = resnet18_from_bytes(store.read_bytes(f"encoders/{encoder}/weights"), trunk=True)
    if network.layer4 is None:
        return f"random weights (encoder {encoder!r} stops at layer3)"
    if len(network.layer4) != len(method.encoder.blocks):
        return (
            f"random weights (layer4 of encoder {encoder!r} has {len(network.layer4)} blocks, "
            f"the slide encoder {len(method.encoder.blocks)})"
        )
    method.encoder.load_layer4(network.state_dict())
    return f"layer4 of encoder {encoder!r}"


def _sampler(job: _Job) -> Sampler:
    return Sampler(
        job.reader,
        TilePositions(job.reader.grids()),
        tiles=job.config.tiles,
        slide_aug=job.config.slide_aug,
        seed=job.config.seed,
        batch_size=job.config.batch_size,
        device=job.device,
        part=job.processes.part,
    )


def _training(job: _Job, method: GigaSSL, sampler: Sampler, log: TensorBoardLog) -> loop.Training[ViewBatch]:
    config, total = job.config, job.steps * job.epochs
    return loop.Training(
        module=method,
        optimizer=torch.optim.Adam(method.parameters(), lr=config.lr, fused=True),
        schedule=loop.Schedule(config.lr, max(1, int(config.warmup * total)), total),
        epochs=job.epochs,
        batches=sampler,
        step=method,
        precision=job.precision,
        save=lambda checkpoint, history: job.model.save(checkpoint, history, epochs=job.epochs),
        save_best=lambda state: job.model.save_best(_to_bytes(state)),
        record=log,
        processes=job.processes,
    )


def _to_bytes(state: Mapping[str, torch.Tensor]) -> bytes:
    return save_safetensors({k: v.cpu().contiguous() for k, v in state.items()})
