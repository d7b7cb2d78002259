"""``giga train``: learn the slide encoder without labels (paper, section 3.1, steps 3-6)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gigacli.config import TrainConfig
from gigacli.errors import InvalidInput
from gigacli.nn import loop
from gigacli.nn.device import pick_device
from gigacli.nn.giga import GigaSSL, make_views, positions_of, whitening_matrix
from gigacli.nn.losses import chance_level
from gigacli.nn.tile_encoder import resnet18_from_bytes, weights_to_bytes
from gigacli.nn.views import draw_rows
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng, keyed_seed
from gigacli.store.bank import BankReader
from gigacli.store.store import Recipe, Store
from gigacli.store.trained import Trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gigacli.progress import Progress

WARMUP_SHARE = 0.05
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class TrainSummary:
    """What ``giga train`` did.

    Attributes:
        model: Name of the model.
        slides: Slides of the bank.
        done: 1 where the model was trained now.
        skipped: 1 where it was there already.
        failed: 0; a failure raises.
        epochs: Epochs of the model.
        resumed_at: Epoch a checkpoint was found at, 0 for a fresh start.
        initial_weights: Where the slide encoder started from.
        loss: Mean loss of the last epoch.
        chance: Loss of vectors that tell nothing.
        seconds: Time it took.
    """

    model: str
    slides: int
    done: int
    skipped: int
    failed: int
    epochs: int
    resumed_at: int
    initial_weights: str
    loss: float
    chance: float
    seconds: float


def train(store: str | Path | Store, *, progress: Progress = SILENT, **options: Any) -> TrainSummary:
    """Train a slide encoder on a bank; an interrupted run goes on where it stopped.

    Args:
        store: The cohort store.
        progress: Who listens.
        options: Fields of :class:`~gigacli.config.TrainConfig`.

    Raises:
        NotFound: The store holds no bank.
        InvalidInput: The bank holds fewer than two slides.
        Mismatch: There is a model of this name trained otherwise.
    """
    started = time.monotonic()
    config = TrainConfig.of(options)
    device = pick_device(config.device)
    opened = Store.open(store, write=True)
    config = opened.following(f"models/{config.name}", config, options)
    bank = opened.pick("banks", config.bank)
    recipe = Recipe("train", {"bank": bank, **config.recipe()}, {"bank": opened.require(f"banks/{bank}").fingerprint})
    opened.check(f"models/{config.name}", recipe, redo=config.redo)
    reader = BankReader(opened, bank)
    if len(reader.rows) < 2:
        raise InvalidInput(
            f"bank {bank!r} holds {len(reader.rows)} slides with tiles; telling slides apart needs at least 2",
            f"run: giga bank {opened.url}",
        )
    model = Trained(opened, f"models/{config.name}")
    if model.done and not config.redo:
        loss = float(model.history("loss")[-1])
        return _summary(config, reader, done=False, resumed_at=config.epochs, origin="", loss=loss, started=started)
    checkpoint = model.begin(recipe, reader.rows, redo=config.redo)
    seed = keyed_seed(config.seed, "train")
    method = GigaSSL(reader.width, temperature=config.temperature, seed=seed, whiten=config.whiten)
    if config.whiten:
        method.whitening = whitening_matrix(reader.slides())
    method.to(device)
    origin = _initial_weights(opened, bank, method)
    progress.say(f"slide encoder starts from {origin}")
    history = loop.run(_training(model, reader, method, config, device), progress, checkpoint=checkpoint)
    model.finish(weights_to_bytes(method), history)
    resumed = loop.epoch_of(checkpoint)
    loss = history["loss"][-1]
    return _summary(config, reader, done=True, resumed_at=resumed, origin=origin, loss=loss, started=started)


def _summary(
    config: TrainConfig,
    reader: BankReader,
    *,
    done: bool,
    resumed_at: int,
    origin: str,
    loss: float,
    started: float,
) -> TrainSummary:
    n = len(reader.rows)
    smallest = n // -(-n // config.batch_size)  # slides of the smallest batch
    return TrainSummary(
        model=config.name,
        slides=n,
        done=int(done),
        skipped=int(not done),
        failed=0,
        epochs=config.epochs,
        resumed_at=resumed_at,
        initial_weights=origin,
        loss=loss,
        chance=chance_level(smallest),
        seconds=time.monotonic() - started,
    )


def _initial_weights(store: Store, bank: str, method: GigaSSL) -> str:
    """Start from the tile encoder's layer4 where there is one that fits (paper: the second part of one ResNet18)."""
    encoder = store.require(f"banks/{bank}").config["encoder"]
    if f"encoders/{encoder}/weights" not in store.root:
        return "random weights (the store holds no tile encoder)"
    network = resnet18_from_bytes(store.read_bytes(f"encoders/{encoder}/weights"))
    method.encoder.load_layer4(network.state_dict())
    return f"layer4 of encoder {encoder!r}"


def _training(
    model: Trained, reader: BankReader, method: GigaSSL, config: TrainConfig, device: torch.device
) -> loop.Training:
    n_steps = -(-len(reader.rows) // config.batch_size)  # per epoch
    total = n_steps * config.epochs
    sampler = _Sampler(reader, config, device)
    return loop.Training(
        module=method,
        optimizer=torch.optim.Adam(method.parameters(), lr=config.lr),
        schedule=loop.Schedule(config.lr, max(1, int(WARMUP_SHARE * total)), total),
        epochs=config.epochs,
        steps=lambda epoch: (method(sampler(slides, epoch, i)) for i, slides in enumerate(sampler.batches(epoch))),
        save=model.save,
    )


class _Sampler:
    """Batches of slides and their views; everything is a function of (seed, epoch, step)."""

    def __init__(self, reader: BankReader, config: TrainConfig, device: torch.device) -> None:
        self.reader, self.config, self.device = reader, config, device
        self.positions = [positions_of(coords, tile_l0_px=px) for coords, px in reader.grids()]

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """All slides in a new order, in batches of nearly equal size: never one slide by itself."""
        n = len(self.reader.rows)
        order = keyed_rng(self.config.seed, "order", epoch).permutation(n)
        yield from np.array_split(order, -(-n // self.config.batch_size))

    def __call__(self, slides: np.ndarray, epoch: int, step: int) -> Any:
        """The first views of the slides (numbers in the reader's order), then their second views."""
        rng = keyed_rng(self.config.seed, "views", epoch, step)
        twice = np.concatenate([slides, slides])  # (2n,)
        augmentation = rng.integers(0, self.reader.augmentations, len(twice))
        draws = np.full(len(twice), self.reader.draws)
        rows = draw_rows(rng, draws, self.config.tiles)  # (2n, t)
        features, tiles = self.reader.take(twice, augmentation, rows)  # (2n, t, c), (2n, t)
        positions = np.stack([self.positions[s][t] for s, t in zip(twice, tiles, strict=True)])  # (2n, t, 2)
        return make_views(features, positions, rng=rng if self.config.slide_aug else None, device=self.device)
