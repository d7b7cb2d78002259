"""``giga embed``: one vector per slide: the mean of R views of T un-augmented tiles, at unit length (paper, 4.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.config.base import options_of
from gigacli.config.options import Precision
from gigacli.config.verbs import EmbedAggregator, EmbedConfig
from gigacli.errors import InvalidInput
from gigacli.nn.arrangement import Arrangement
from gigacli.nn.closed_forms import SlideTiles, WhitenedMean
from gigacli.nn.device import pick_device, pick_precision
from gigacli.nn.forms import FORMS, fit_vectors, width_of
from gigacli.nn.forms import Vectors as FormVectors
from gigacli.nn.gigassl import LEVEL0_PER_PX, gigassl_cells
from gigacli.nn.views import cells_of
from gigacli.progress import SILENT, Progress, Summary
from gigacli.store.embedding import stains_of
from gigacli.store.features import Features
from gigacli.store.groups import Bank, Done, Embedding
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.weights.fresh import FreshFeatures
from gigacli.weights.operators import held_out_stains
from gigacli.weights.slide_encoders import ModelChoice, choose_model, name_of_model
from gigacli.weights.slide_tiles import tiles_of_slides
from gigacli.weights.slide_vectors import encode_slides

BLOCK = 128  # slides that are read, embedded and written together, and what is lost at most when a run is killed


@dataclass(frozen=True, kw_only=True)
class EmbedSummary(Summary):
    """Result of ``giga embed``.

    Attributes:
        embedding: Name of the embedding.
        without_tiles: Slides that have no tiles and so no vector, which is a result.
        width: Values per vector.
        baseline: Name of the mean of tiles written beside it.
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
    join: bool = True,
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
    plan = prepare(config, opened)
    if plan.warning:
        progress.say(plan.warning)
    if config.redo:
        plan.vectors.group.say_replacing(plan.vectors.recipe, progress)
    begin(plan)
    written = work(plan, progress)
    opened.settle()
    return summary(plan, written, started)


@dataclass(frozen=True, eq=False)
class _Vectors:
    """An embedding to write; `make` computes the vectors (rows, width) float32 from features."""

    group: Embedding
    features: Features
    recipe: Recipe
    width: int
    # of slides (rows) from features, as they are or seen otherwise
    make: Callable[[NDArray[np.int64], Features | FreshFeatures], NDArray[np.float32]]
    redo: bool

    def __call__(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Vectors (rows, width) of slides, and (rows, augmentation, width) of the same seen otherwise, or None."""
        others = [self._seen(rows, one) for one in self._fresh]
        return self.make(rows, self.features), np.stack(others, axis=1) if others else None

    def _seen(self, rows: NDArray[np.int64], fresh: FreshFeatures) -> NDArray[np.float32]:
        """Vectors (rows, width) of slides under another augmentation, NaN of those that are not seen so."""
        vectors, some = np.full((len(rows), self.width), np.nan, dtype=np.float32), fresh.of(rows)
        if some.any():
            vectors[some] = self.make(rows[some], fresh)
        return vectors

    @cached_property
    def _fresh(self) -> list[FreshFeatures]:
        stains = stains_of(self.recipe)
        return [FreshFeatures(self.features, stains[:i].count(one), stain=one) for i, one in enumerate(stains)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is found and checked before anything is written."""

    mean: _Vectors  # the mean of all tile features: the baseline, or what was asked for
    whitened: _Vectors | None  # the whitened mean, likewise; None where only a mean was asked for
    vectors: _Vectors  # what was asked for
    warning: str = ""

    @property
    def all(self) -> list[_Vectors]:
        """Everything to write, baselines first, each once."""
        return list(dict.fromkeys(one for one in (self.mean, self.whitened, self.vectors) if one is not None))


def prepare(config: EmbedConfig, store: Store) -> Plan:
    """Find model and features, and look at what is there under the name; nothing is written."""
    if config.aggregator == "mean":
        mean = _mean(store.pick(Features, config.features), config, name=config.name)
        mean.group.check(mean.recipe, redo=config.redo)
        return Plan(mean=mean, whitened=None, vectors=mean)
    if config.aggregator in FORMS:
        features = store.pick(Features, config.features)
        form = _closed_form(features, config, config.aggregator, name=config.name, seed=config.seed)
        form.group.check(form.recipe, redo=config.redo)
        mean, whitened = _mean(features, config, name=None), _whitened(features, config)
        return Plan(mean=mean, whitened=form if whitened.group is form.group else whitened, vectors=form)
    device, model = pick_device(config.device), name_of_model(store, config)
    name = config.name or (f"random-{model}" if config.aggregator == "random-init" else model)
    group = store.embedding(name)
    config = config.following({"precision": "fp32", **group.found.config} if group.found else None)
    config = config.but(precision=pick_precision(config.precision, device))
    choice = choose_model(store, config, device)
    vectors = _of_views(group, config, device, choice)
    group.check(vectors.recipe, redo=config.redo)
    mean = _mean(vectors.features, config, name=None)
    whitened = _whitened(vectors.features, config)
    warning = "; ".join(text for text in (choice.note, _trained_on(vectors)) if text)
    return Plan(mean=mean, whitened=whitened, vectors=vectors, warning=warning)


def _trained_on(vectors: _Vectors) -> str:
    """How many of the other augmentations the model has seen, in words; "" for none: operators hold theirs out."""
    config = vectors.recipe.config
    number = config.get("augmented", 0)
    bank = vectors.group.store.bank(config["bank"]) if number else None
    if bank is None or bank.learns or number <= bank.held_out:
        return ""
    return (
        f"the model was trained on {number - bank.held_out} of the {number} augmentations that slides are seen under: "
        f"{bank.path} holds out {bank.held_out}"
    )


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


def _write(plan: Plan, one: _Vectors, todo: NDArray[np.int64], tiles: Done, progress: Progress) -> int:
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


def _mean(features: Features, options: EmbedConfig, *, name: str | None) -> _Vectors:
    """Plan the mean of all tile features of a slide: AverageMIL of the paper's table 2.

    As a baseline, without a name of its own, it is made anew where other features were put in place of its own.
    """
    config = {"aggregator": "mean", "features_name": features.name}
    recipe = Recipe("embed", config, {features.input_name: features.fingerprint})
    group = features.store.embedding(name or f"mean-{features.name}")

    def make(rows: NDArray[np.int64], seen: Features | FreshFeatures) -> NDArray[np.float32]:
        means = [seen.read(row)[seen.numbers(row)].mean(axis=0, dtype=np.float64) for row in rows.tolist()]
        return np.stack(means).astype(np.float32)

    recipe, redo = _as_asked(group, recipe, options, baseline=name is None)
    return _Vectors(group, features, recipe, features.width, make, redo)


def _as_asked(group: Embedding, recipe: Recipe, options: EmbedConfig, *, baseline: bool) -> tuple[Recipe, bool]:
    """The recipe with the other augmentations that are asked for, and whether to make the vectors anew.

    A baseline that has more of them stays as it is; one of other features, or with fewer, is made anew.
    """
    there = group.found
    own = int(there.config.get("augmented", 0)) if there is not None else 0
    wanted = max(own, options.augmented) if baseline else options.augmented
    recipe = _augmented(recipe, group.store.features(recipe.config["features_name"]), wanted)
    return recipe, options.redo or (baseline and there not in (None, recipe))


def _augmented(recipe: Recipe, features: Features, number: int) -> Recipe:
    """The recipe with vectors under so many other augmentations, which come from the bank of the features.

    Raises:
        NotFound: There is none, or it is not finished.
        InvalidInput: It holds out fewer of them.
    """
    if not number:
        return recipe
    bank = FreshFeatures(features, number - 1).bank
    config = {**recipe.config, "augmented": number, "bank": bank.name}
    if bank.learns:  # as many of each strength, where there are
        strengths = held_out_stains(bank.config)
        config["stains"] = [one for i, one in enumerate(strengths) if strengths[:i].count(one) < number]
    return replace(recipe, config=config, inputs={**recipe.inputs, bank.input_name: bank.fingerprint})


class _FittedForm:
    """A closed form of features: what is kept with its vectors, or is fitted on what is done when first asked for."""

    def __init__(self, group: Embedding, features: Features, bank: Bank | None, aggregator: str, seed: int) -> None:
        self._group, self._features, self._bank, self._aggregator, self._seed = group, features, bank, aggregator, seed

    def __call__(self, rows: NDArray[np.int64], seen: Features | FreshFeatures) -> NDArray[np.float32]:
        """Vectors (rows, width) of slides."""
        return self.fitted.transform(tiles_of_slides(seen, rows, augmented=False, placed=self._placed))

    @property
    def _placed(self) -> bool:
        return self._aggregator == Arrangement.name

    @cached_property
    def fitted(self) -> FormVectors:
        """What was fitted."""
        if not self._group.state:
            self._group.keep_state(fit_vectors(self._aggregator, self._slides, seed=self._seed).to_bytes())
        return FormVectors.from_bytes(self._aggregator, self._group.state)

    def _slides(self) -> Iterator[SlideTiles]:
        there = self._features.done().filled
        if self._bank is not None:
            there &= self._bank.done().filled
        return tiles_of_slides(self._features, np.flatnonzero(there), bank=self._bank, placed=self._placed)


def _closed_form(features: Features, options: EmbedConfig, aggregator: str, *, name: str | None, seed: int) -> _Vectors:
    """Plan vectors that need no training; as a baseline, without a name, made anew where other features are there."""
    bank = features.store.bank(features.name)
    beside = bank if bank.found is not None and bank.recipe.inputs == features.recipe.inputs else None
    inputs = {features.input_name: features.fingerprint}
    if beside is not None:
        inputs[beside.input_name] = beside.fingerprint
    config = {"aggregator": aggregator, "features_name": features.name, "seed": seed}
    recipe = Recipe("embed", {**config, "bank": beside.name if beside is not None else None}, inputs)
    group = features.store.embedding(name or f"{aggregator}-{features.name}")
    make = _FittedForm(group, features, beside, aggregator, seed)
    recipe, redo = _as_asked(group, recipe, options, baseline=name is None)
    return _Vectors(group, features, recipe, width_of(aggregator, features.width), make, redo)


def _whitened(features: Features, config: EmbedConfig) -> _Vectors:
    """Plan the whitened mean of tiles: the strongest rival that needs no training and no choice."""
    return _closed_form(features, config, WhitenedMean.name, name=None, seed=0)


def _of_views(group: Embedding, config: EmbedConfig, device: torch.device, choice: ModelChoice) -> _Vectors:
    """Plan vectors of R views of T tiles by a slide encoder, trained or with random weights."""
    store = group.store
    features = store.features(choice.features)
    joined = choice.joined if config.join else None
    width = joined.width if joined is not None else choice.width
    made = {**choice.config, "tiles": choice.tiles, **config.recipe()}
    if joined is not None:
        made["blocks"] = {name: list(ends) for name, ends in joined.join.columns().items()}
    recipe = Recipe("embed", made, {features.input_name: features.fingerprint, "model": choice.identity})
    recipe = _augmented(recipe, features, config.augmented)

    def authors_cells(positions: NDArray[np.float64]) -> NDArray[np.int64]:
        return gigassl_cells(positions * (store.tiles.tile_px * LEVEL0_PER_PX))

    cells = authors_cells if choice.variant == "gigassl" else cells_of

    def make(rows: NDArray[np.int64], seen: Features | FreshFeatures) -> NDArray[np.float32]:
        encoded = encode_slides(
            choice.encode,
            seen,
            rows,
            views=config.views,
            tiles=choice.tiles,
            seed=config.seed,
            device=device,
            precision=config.precision,
            cells=cells,
        )
        if joined is None:
            return encoded
        return joined.transform(encoded, tiles_of_slides(seen, rows, augmented=False, placed=False))

    return _Vectors(group, features, recipe, width, make, config.redo)
