"""The embeddings that ``giga embed`` writes, planned: where they go, what they are made from, and how.

An encoder's vectors are the mean of R views of T un-augmented tiles at unit length (paper, 4.2); closed forms look at
all tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.config.verbs import EmbedConfig
from gigacli.nn.arrangement import Arrangement
from gigacli.nn.closed_forms import SlideTiles, WhitenedMean
from gigacli.nn.forms import Vectors as FormVectors
from gigacli.nn.forms import fit_vectors, width_of
from gigacli.nn.gigassl import LEVEL0_PER_PX, gigassl_cells
from gigacli.nn.views import cells_of
from gigacli.store.embedding import stains_of
from gigacli.store.features import Features
from gigacli.store.groups import Bank, Embedding
from gigacli.store.recipe import Recipe
from gigacli.weights.fresh import FreshFeatures
from gigacli.weights.operators import held_out_stains
from gigacli.weights.slide_encoders import ModelChoice
from gigacli.weights.slide_tiles import tiles_of_slides
from gigacli.weights.slide_vectors import encode_slides


@dataclass(frozen=True, eq=False)
class PlannedVectors:
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


def plan_mean(features: Features, options: EmbedConfig, *, name: str | None) -> PlannedVectors:
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
    return PlannedVectors(group, features, recipe, features.width, make, redo)


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


def plan_closed_form(
    features: Features, options: EmbedConfig, aggregator: str, *, name: str | None, seed: int
) -> PlannedVectors:
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
    return PlannedVectors(group, features, recipe, width_of(aggregator, features.width), make, redo)


def plan_whitened(features: Features, config: EmbedConfig) -> PlannedVectors:
    """Plan the whitened mean of tiles: the strongest rival that needs no training and no choice."""
    return plan_closed_form(features, config, WhitenedMean.name, name=None, seed=0)


def plan_views(group: Embedding, config: EmbedConfig, device: torch.device, choice: ModelChoice) -> PlannedVectors:
    """Plan vectors of R views of T tiles by a slide encoder, trained or with random weights."""
    store = group.store
    features = store.features(choice.features)
    joined = choice.joined if config.closed_form else None
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

    return PlannedVectors(group, features, recipe, width, make, config.redo)


def trained_on(vectors: PlannedVectors) -> str:
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
