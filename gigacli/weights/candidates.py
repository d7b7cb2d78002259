"""What a probe judges: the embeddings of a store, baselines last, and the tile features behind them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import ProbeConfig
from gigacli.config.verbs import ClosedForm
from gigacli.errors import NotFound
from gigacli.probing.task import MEAN, RIVALS, Candidate
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Embedding, Features
from gigacli.store.store import Store
from gigacli.weights.embedding_joins import BESIDE, WITHIN, elsewhere, find_part, joined_candidate, parts_of

KEPT_TILES = 4096
"""Tiles of a slide that attention MIL keeps in memory, drawn once where there are more: 2 MB of 256 features."""

CLOSED_FORMS = get_args(ClosedForm)
ORDER = ("model", *CLOSED_FORMS[1:], "random-init", *reversed(RIVALS))
"""Kinds of embeddings in the order of the table, baselines last; others are shown with the first."""


def read_candidates(store: Store, config: ProbeConfig) -> list[Candidate]:
    """The embeddings of a store, baselines last, and for attention MIL the tile features behind them.

    The mean of the same features stands beside the embeddings that were named, and their parts beside joins.

    Raises:
        NotFound: There are none, or none of a name.
        InvalidInput: A join is not of different parts, or of stores that have no slide in common.
    """
    every = dict.fromkeys(part for name in config.embedding for part in parts_of(name))
    wanted, there = tuple(name for name in every if WITHIN not in name), store.groups(Embedding)
    for name in wanted or ((None,) if not there and "linear" in config.method else ()):
        store.pick(Embedding, name)
    behind = {_features_behind(one) for one in there if one.name in wanted} - {""}
    named = [one for one in there if one.name in wanted or not every]
    beside = [one for one in there if one.aggregator in RIVALS and one not in named]
    means = [one for one in beside if _features_behind(one) in behind]
    rank = {kind: i for i, kind in enumerate(ORDER)}
    embeddings = sorted([*named, *means], key=lambda one: (rank.get(one.aggregator, 0), one.name))
    with store.tiles.read_once():
        candidates = [candidate_of(one, stale=config.stale, robust=config.robust) for one in embeddings]
    for name in (name for name in every if WITHIN in name):
        part = find_part(store, name)
        found = candidate_of(part, stale=config.stale, robust=False)
        candidates.insert(0, elsewhere(store, name, found, part))
    known = {one.name: one for one in candidates}
    candidates = [*(joined_candidate(name, known) for name in config.embedding if BESIDE in name), *candidates]
    if "abmil" not in config.method:
        return candidates
    used = {one.features for one in candidates}
    features = [one for one in store.groups(Features) if one.fingerprint in used or not wanted]
    if not features:
        raise NotFound(
            f"`method='abmil'` needs tile features; {store.url} holds none{' behind those embeddings' * bool(wanted)}",
            f"run: giga bank {store.url}",
        )
    return [*candidates, *map(_tile_features, features)]


def _features_behind(embedding: Embedding) -> str:
    """Fingerprint of the tile features that an embedding was made from, "" where it is not known."""
    return embedding.recipe.inputs.get("features", "")


def candidate_of(embedding: Embedding, *, stale: bool, robust: bool) -> Candidate:
    """An embedding with its vectors, ready to be judged.

    Args:
        embedding: The embedding.
        stale: Whether vectors may be judged that were made from what has been replaced since.
        robust: Whether to read its vectors of slides seen under other augmentations, too.

    Raises:
        Mismatch: It is stale, and may not be.
    """
    recipe, encoders, done = embedding.recipe, [], embedding.done()
    reasons = embedding.stale_by(done)
    if not stale:
        embedding.refuse_stale(reasons, unless=", or probe what there is: `stale`")
    if embedding.aggregator == "model":
        model = embedding.store.model(str(recipe.config.get("model")))
        same = model.found is not None and not any(model.path in why for why in reasons)
        encoders.append((f"slide encoder {model.name!r}", model.seen() if same else None))
    vectors = embedding.read()
    return Candidate(
        embedding.name,
        _features_behind(embedding),
        scaled=embedding.aggregator == MEAN,
        rival=embedding.aggregator in RIVALS,
        tuned=embedding.aggregator in CLOSED_FORMS,
        have=done.filled | (done.stale & np.isfinite(vectors).all(axis=1)),
        encoders=[*encoders, *_tile_encoder(embedding.features)],
        vectors=vectors,
        augmented=embedding.read_augmented() if robust else None,
        stains=embedding.stains,
        stale=reasons,
    )


def _tile_features(features: Features) -> Candidate:
    slides = features.store.slides

    @cache
    def tiles_of(row: int) -> NDArray[np.float16]:
        tiles = features.read(row)
        if len(tiles) > KEPT_TILES:
            tiles = tiles[np.sort(keyed_rng("abmil", slides[row].id).permutation(len(tiles))[:KEPT_TILES])]
        return tiles

    return Candidate(
        features.name,
        features.fingerprint,
        scaled=False,
        rival=False,
        tuned=False,
        have=features.done().filled,
        encoders=[*_tile_encoder(features)],
        tiles=tiles_of,
    )


def _tile_encoder(features: Features | None) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
    """The encoder that made tile features, and which slides it was trained on; nothing where it is not known."""
    recipe = features.found if features else None
    name = recipe.config.get("encoder") if recipe else None
    if features and name:
        yield f"tile encoder {name!r}", features.store.encoder(name).seen()
