"""``giga embed``: one vector per slide: the mean of R views of T un-augmented tiles, at unit length (paper, 4.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.config.base import options_of
from gigacli.config.options import Precision
from gigacli.config.verbs import EmbedAggregator, EmbedConfig
from gigacli.errors import InvalidInput
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.forms import FORMS
from gigacli.progress import SILENT, Progress, Summary
from gigacli.store.features import Features
from gigacli.store.groups import Done
from gigacli.store.store import Store
from gigacli.weights.embedding_joins import write_join
from gigacli.weights.slide_encoders import choose_model, name_of_model
from gigacli.weights.vector_plans import (
    PlannedVectors,
    plan_closed_form,
    plan_mean,
    plan_views,
    plan_whitened,
    trained_on,
)

BLOCK = 128  # slides that are read, embedded and written together, and what is lost at most when a run is killed


@dataclass(frozen=True, kw_only=True)
class EmbedSummary(Summary):
    """Result of ``giga embed``.

    Attributes:
        embedding: Name of the embedding.
        without_tiles: Slides that have no tiles and so no vector, which is a result.
        width: Values per vector.
        baseline: Name of the mean of tiles written beside it, "" beside a join.
        whitened: Name of the whitened mean of tiles written beside it, "" where only a mean was asked for.
        warning: What could not be checked, in words; "" where nothing is left open.
    """

    embedding: str
    without_tiles: int
    width: int
    baseline: str
    whitened: str
    warning: str


@options_of(EmbedConfig)
def embed(
    config: EmbedConfig,
    store: str | Path | Store,
    *,
    model: str | None = None,
    features: str | None = None,
    views: int = 50,
    aggregator: EmbedAggregator = "model",
    augmented: int = 0,
    closed_form: bool = True,
    join: str | Sequence[str] = (),
    name: str | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    seed: int = 0,
    redo: bool = False,
    sync: bool = True,
    progress: Progress = SILENT,
) -> EmbedSummary:
    """Write an embedding, and beside it the mean of all tiles, as it is (the paper's baseline) and whitened.

    Args:
        store: The cohort store.
        progress: Receives progress.

    Raises:
        NotFound: There is no such model, or the store holds no features.
        InvalidInput: There are several models or features to choose from.
        Mismatch: The embedding was made otherwise, the model was trained on a bank that has been replaced, or it goes
            with another tile encoder or other tiles.
    """
    started = time.monotonic()
    opened = Store.open(store, write=True, sync=config.sync)
    if config.join:
        return _join(config, opened, started)
    plan = prepare(config, opened)
    if plan.warning:
        progress.say(plan.warning)
    if config.redo:
        plan.vectors.group.say_replacing(plan.vectors.recipe, progress)
    begin(plan)
    written = work(plan, progress)
    opened.settle()
    return summary(plan, written, started)


def _join(config: EmbedConfig, store: Store, started: float) -> EmbedSummary:
    """Write a join of embeddings that are there."""
    group, written = write_join(store, config.join, name=str(config.name), redo=config.redo)
    done = group.done()
    return EmbedSummary(
        embedding=group.name,
        slides=len(done.rows),
        done=written,
        skipped=len(done.rows) - written,
        without_tiles=int((done.finished & ~done.filled).sum()),
        width=group.width,
        baseline="",
        whitened="",
        warning="",
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is found and checked before anything is written."""

    mean: PlannedVectors  # the mean of all tile features: the baseline, or what was asked for
    whitened: PlannedVectors | None  # the whitened mean, likewise; None where only a mean was asked for
    vectors: PlannedVectors  # what was asked for
    warning: str = ""

    @property
    def all(self) -> list[PlannedVectors]:
        """Everything to write, baselines first, each once."""
        return list(dict.fromkeys(one for one in (self.mean, self.whitened, self.vectors) if one is not None))


def prepare(config: EmbedConfig, store: Store) -> Plan:
    """Find model and features, and look at what is there under the name; nothing is written."""
    if config.aggregator == "mean":
        mean = plan_mean(store.pick(Features, config.features), config, name=config.name)
        mean.group.check(mean.recipe, redo=config.redo)
        return Plan(mean=mean, whitened=None, vectors=mean)
    if config.aggregator in FORMS:
        features = store.pick(Features, config.features)
        form = plan_closed_form(features, config, config.aggregator, name=config.name, seed=config.seed)
        form.group.check(form.recipe, redo=config.redo)
        mean, whitened = plan_mean(features, config, name=None), plan_whitened(features, config)
        return Plan(mean=mean, whitened=form if whitened.group is form.group else whitened, vectors=form)
    device, model = pick_device(config.device), name_of_model(store, config)
    name = config.name or (f"random-{model}" if config.aggregator == "random-init" else model)
    group = store.embedding(name)
    config = config.following({"precision": "fp32", **group.found.config} if group.found else None)
    choice = choose_model(store, config, device)
    if config.precision == "auto":  # that of the training, where the device computes in it
        config = config.but(precision="fp32" if choice.precision == "fp32" else pick_precision("auto", device))
    vectors = plan_views(group, config, device, choice)
    group.check(vectors.recipe, redo=config.redo)
    mean = plan_mean(vectors.features, config, name=None)
    whitened = plan_whitened(vectors.features, config)
    warning = "; ".join(text for text in (choice.note, trained_on(vectors)) if text)
    return Plan(mean=mean, whitened=whitened, vectors=vectors, warning=warning)


def begin(plan: Plan) -> None:
    """Make the groups ready."""
    for one in plan.all:
        one.group.begin(one.recipe, one.width, redo=one.redo)


def work(plan: Plan, progress: Progress) -> int:
    """Write what is not done, and return the number of vectors written of the embedding that was asked for."""
    written = 0
    for one in plan.all:
        tiles = one.features.done()
        todo = np.array(one.group.todo(tiles.finished), dtype=np.int64)
        with one.features.store.tiles.read_once():  # after what is to be done is known, and not for every block
            written = _write(plan, one, todo, tiles, progress)
    return written


def _write(plan: Plan, one: PlannedVectors, todo: NDArray[np.int64], tiles: Done, progress: Progress) -> int:
    """Write the vectors of slides in some rows, block by block, and return how many there were."""
    written, ready = 0, int(tiles.finished.sum())
    progress.start(f"embedding {one.group.name}", ready, done=ready - len(todo))
    for block in (todo[i : i + BLOCK] for i in range(0, len(todo), BLOCK)):
        filled, empty = block[tiles.filled[block]], block[~tiles.filled[block]]
        try:
            vectors, others = one(filled) if len(filled) else (None, None)
        except InvalidInput as error:
            if one is not plan.whitened or one is plan.vectors:
                raise
            progress.say(f"{one.group.name} cannot be made, and is no rival: {error.message}")
            break
        one.group.write(filled, vectors, empty=empty, augmented=others)
        progress.advance(len(block))
        written += len(filled)
    return written


def summary(plan: Plan, written: int, started: float) -> EmbedSummary:
    """Sum up in numbers."""
    tiles = plan.vectors.features.done()
    return EmbedSummary(
        embedding=plan.vectors.group.name,
        slides=len(tiles.rows),
        done=written,
        skipped=len(tiles.rows) - written,
        without_tiles=int((tiles.finished & ~tiles.filled).sum()),
        width=plan.vectors.width,
        baseline=plan.mean.group.name,
        whitened=plan.whitened.group.name if plan.whitened is not None else "",
        warning=plan.warning,
        seconds=time.monotonic() - started,
    )
