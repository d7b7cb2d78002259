"""``giga embed``: one vector per slide: the mean of R views of T un-augmented tiles, at unit length (paper, 4.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gigacli.config.base import options_of
from gigacli.config.verbs import EmbedConfig
from gigacli.nn.device import pick_device
from gigacli.nn.giga import embed_views
from gigacli.nn.gigassl import LEVEL0_PER_PX, gigassl_cells
from gigacli.nn.views import TilePositions, ViewBatch, draw_rows, make_views
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng
from gigacli.store.bank import FeatureReader, grids_of
from gigacli.store.chunks import read_column
from gigacli.store.layout import NOT_DONE
from gigacli.store.store import Recipe, Store
from gigacli.weights.slide_encoders import ModelChoice, choose_model, name_of_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.config.verbs import EmbedAggregator, Weights
    from gigacli.progress import Progress

BLOCK = 128
"""Slides that are read, embedded and written together, and what is lost at most when a run is killed."""


@dataclass(frozen=True)
class EmbedSummary:
    """What ``giga embed`` did.

    Attributes:
        embedding: Name of the embedding.
        slides: Slides with features.
        done: Vectors written now.
        skipped: Vectors that were there.
        failed: 0; a slide without tiles has no vector, which is a result.
        without_tiles: Slides that have no tiles and so no vector.
        width: Values per vector.
        baseline: Name of the mean of tiles written beside it.
        warning: What could not be checked, in words; "" where nothing is left open.
        seconds: Time it took.
    """

    embedding: str
    slides: int
    done: int
    skipped: int
    failed: int
    without_tiles: int
    width: int
    baseline: str
    warning: str
    seconds: float


@options_of(EmbedConfig)
def embed(
    config: EmbedConfig,
    store: str | Path | Store,
    *,
    model: str | None = None,
    features: str | None = None,
    views: int = 50,
    aggregator: EmbedAggregator = "model",
    weights: Weights = "last",
    name: str | None = None,
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    progress: Progress = SILENT,
) -> EmbedSummary:
    """Write an embedding, and the mean of all tile features beside it: the paper's baseline.

    Args:
        store: The cohort store.
        progress: Progress receiver.

    Raises:
        NotFound: There is no such model, or the store holds no features.
        InvalidInput: There are several models or features to choose from.
        Mismatch: The embedding was made otherwise, the model was trained on a bank that has been replaced, or it goes
            with another tile encoder or other tiles.
    """
    started = time.monotonic()
    hardware = pick_device(config.device)
    opened = Store.open(store, write=True)
    if config.aggregator == "mean":
        features = opened.pick("features", config.features)
        plan, warning = _mean_plan(opened, features, name=config.name), ""
        done, slides, empty = _write(opened, plan, progress, redo=config.redo)
        baseline = plan.name
    else:
        model = name_of_model(opened, config)
        name = config.name or (f"random-{model}" if config.aggregator == "random-init" else model)
        recipe = opened.recipe(f"embeddings/{name}")
        config = config.following(recipe.config if recipe else None)
        choice = choose_model(opened, config, hardware)
        warning = choice.note
        if warning:
            progress.say(warning)
        plan = _view_plan(opened, config, hardware, choice=choice, name=name)
        mean = _mean_plan(opened, plan.features, name=None)
        opened.check(f"embeddings/{plan.name}", plan.recipe, redo=config.redo)
        stale = opened.recipe(f"embeddings/{mean.name}") != mean.recipe
        _write(opened, mean, progress, redo=config.redo or stale)
        done, slides, empty = _write(opened, plan, progress, redo=config.redo)
        baseline = mean.name
    return EmbedSummary(
        embedding=plan.name,
        slides=slides,
        done=done,
        skipped=slides - done,
        failed=0,
        without_tiles=empty,
        width=plan.width,
        baseline=baseline,
        warning=warning,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Plan:
    """An embedding to write: its recipe, and the function from slides (rows) to vectors (rows, width) float32."""

    name: str
    features: str
    recipe: Recipe
    width: int
    vectors: Callable[[NDArray[np.int64]], NDArray[np.float32]]


def _write(store: Store, plan: _Plan, progress: Progress, *, redo: bool) -> tuple[int, int, int]:
    """Write what is not done; (vectors written, slides with features, slides without tiles)."""
    group, n = f"embeddings/{plan.name}", store.registered
    if redo and store.recipe(group) is not None:
        store.discard(group)
    store.begin(group, plan.recipe, {"vectors": (n, plan.width), "done": (n,)})
    tiles = read_column(store.array(f"features/{plan.features}/done"))
    ready = tiles != NOT_DONE
    mark = store.array(f"{group}/done")
    todo = np.flatnonzero(ready & (mark[:] == NOT_DONE))
    progress.start(f"embedding {plan.name}", int(ready.sum()), done=int(ready.sum()) - len(todo))
    for block in (todo[i : i + BLOCK] for i in range(0, len(todo), BLOCK)):
        full = block[tiles[block] > 0]
        if len(full):
            store.array(f"{group}/vectors").oindex[full] = plan.vectors(full)
        mark.oindex[block] = (tiles[block] > 0).astype(np.int32)
        progress.advance(len(block))
    return int((tiles[todo] > 0).sum()), int((tiles > 0).sum()), int((tiles == 0).sum())


def _mean_plan(store: Store, features: str, *, name: str | None) -> _Plan:
    """The mean of all tile features of a slide: AverageMIL of the paper's table 2."""
    recipe = Recipe(
        "embed",
        {"aggregator": "mean", "features_name": features},
        {"features": store.require(f"features/{features}").fingerprint},
    )
    read = FeatureReader(store, features)
    counts = read_column(store.array("tiles/count"))

    def vectors(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        means = [read(int(row), int(counts[row])).mean(axis=0, dtype=np.float64) for row in rows]
        return np.stack(means).astype(np.float32)

    return _Plan(name or f"mean-{features}", features, recipe, read.width, vectors)


def _view_plan(store: Store, config: EmbedConfig, device: torch.device, *, choice: ModelChoice, name: str) -> _Plan:
    """R views of T tiles through a slide encoder, trained or as it was born."""
    read = FeatureReader(store, choice.features)
    recipe = Recipe(
        "embed",
        {**choice.config, "tiles": choice.tiles, **config.recipe()},
        {"features": store.require(f"features/{choice.features}").fingerprint, "model": choice.identity},
    )
    views, tile_px = _Views(store, read, config, choice.tiles), store.require("tiles").config["tile_px"]

    def vectors(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        drawn, positions = views(rows)
        if choice.variant == "gigassl":
            cells = gigassl_cells(positions * (tile_px * LEVEL0_PER_PX))
            features = torch.from_numpy(drawn).to(device, torch.float32)
            batch = ViewBatch(features, torch.from_numpy(cells).to(device))
        else:
            batch = make_views(drawn, positions, augmentation=None, device=device)
        return embed_views(choice.encode, batch, [config.views] * len(rows)).cpu().numpy()

    return _Plan(name, choice.features, recipe, choice.width, vectors)


class _Views:
    """R views of T tiles of each slide of a block; those of a slide are a function of (seed, slide id) alone."""

    def __init__(self, store: Store, read: FeatureReader, config: EmbedConfig, tiles: int) -> None:
        self.store, self.read, self.ids = store, read, store.slides.ids
        self.seed, self.views, self.tiles = config.seed, config.views, tiles

    def __call__(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
        """Features (len(rows) * R, t, c) and positions (len(rows) * R, t, 2), one slide after the other."""
        positions = TilePositions(grids_of(self.store, rows))
        tiles = np.empty((len(rows), self.views, self.tiles), dtype=np.int64)
        features = np.empty((*tiles.shape, self.read.width), dtype=np.float16)
        for i, (row, n) in enumerate(zip(rows, positions.counts, strict=True)):
            rng = keyed_rng(self.seed, "embed", self.ids[row])
            tiles[i] = draw_rows(rng, np.full(self.views, n), self.tiles)  # (R, t)
            features[i] = self.read(int(row), int(n))[tiles[i]]
        flat = tiles.reshape(-1, self.tiles)
        return features.reshape(len(flat), self.tiles, -1), positions(np.arange(len(rows)).repeat(self.views), flat)
