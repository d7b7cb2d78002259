"""Embeddings of several encoders, resolutions or stores, joined by slide id: each centred and of unit length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from gigacli.errors import InvalidInput
from gigacli.probing.task import Candidate
from gigacli.store.groups import Embedding
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store

BESIDE, WITHIN = "+", "::"
"""Between the parts of a join, and between a store and the name of an embedding there."""


def parts_of(name: str) -> list[str]:
    """Names of the parts of a join, ``["a", "cohort.zarr::b"]`` of ``a+cohort.zarr::b``; of a plain name itself.

    Raises:
        InvalidInput: A part has no name, or is named twice.
    """
    parts = name.split(BESIDE)
    if not all(parts) or len(set(parts)) < len(parts):
        raise InvalidInput(f"embedding {name!r}: a join is of different parts", f"write it as A{BESIDE}B")
    return parts


def find_part(store: Store, name: str) -> Embedding:
    """The embedding that a part names, of this store or of ``STORE::NAME``.

    Raises:
        NotFound: There is none.
    """
    url, within, there = name.rpartition(WITHIN)
    return (Store.open(url) if within else store).pick(Embedding, there)


def rows_of(store: Store, embedding: Embedding) -> NDArray[np.int64]:
    """(slides of `store`,) the row of each slide in the store of an embedding, -1 where it is not registered there.

    Raises:
        InvalidInput: The stores have no slide in common.
    """
    ids, there = store.slides.ids, embedding.store.slides.index
    rows = np.array([there.get(name, -1) for name in ids], dtype=np.int64)
    if len(rows) and (rows < 0).all():
        raise InvalidInput(
            f"no slide of {store.url} is in {embedding.store.url}: {ids[0]!r} is none of its {len(there)} ids",
            "embeddings are joined by the ids of slides: register the same files in both",
        )
    return rows


def join_blocks(blocks: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Vectors (n, sum of widths) of unit length from those of each part (n, width), NaN where a slide lacks one.

    Each part is centred on the slides that have all, then brought to unit length.
    """
    have = np.logical_and.reduce([np.isfinite(block).all(axis=1) for block in blocks])
    made = np.full((len(have), sum(block.shape[1] for block in blocks)), np.nan, dtype=np.float32)
    if have.any():
        centred = [block[have] - block[have].mean(axis=0, dtype=np.float64) for block in blocks]
        made[have] = np.concatenate([_unit(block) for block in centred], axis=1) / np.sqrt(len(blocks))
    return made


def _unit(centred: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float64).tiny))


def elsewhere(store: Store, name: str, found: Candidate, embedding: Embedding) -> Candidate:
    """A candidate of another store on the slides of this one."""
    rows = rows_of(store, embedding)
    known = rows >= 0
    assert found.vectors is not None
    vectors = np.full((len(rows), found.vectors.shape[1]), np.nan, dtype=np.float32)
    vectors[known] = found.vectors[rows[known]]
    have = np.zeros(len(rows), dtype=bool)
    have[known] = found.have[rows[known]]
    encoders = [(text, seen if seen is None else seen[rows] & known) for text, seen in found.encoders]
    return replace(found, name=name, vectors=vectors, have=have, encoders=encoders, augmented=None)


def joined_candidate(name: str, parts: Mapping[str, Candidate]) -> Candidate:
    """The join of candidates by their names."""
    some = [parts[part] for part in parts_of(name)]
    have = np.logical_and.reduce([one.have for one in some])
    blocks = [np.where(have[:, None], one.vectors, np.nan) for one in some if one.vectors is not None]
    return Candidate(
        name,
        "",
        scaled=False,
        rival=False,
        tuned=False,
        have=have,
        encoders=list(chain.from_iterable(one.encoders for one in some)),
        vectors=join_blocks(blocks),
        stale=[f"{one.name}: {why}" for one in some for why in one.stale],
    )


def write_join(store: Store, parts: Sequence[str], *, name: str, redo: bool) -> tuple[Embedding, int]:
    """Write the join of embeddings as one of its own; the number of vectors that were not there.

    What parts are centred on is kept with it, so slides that come later are joined alike.

    Args:
        store: Where it goes.
        parts: Names of embeddings, or ``STORE::NAME``.
        name: Of the join.
        redo: Replace what is there of that name.

    Raises:
        NotFound: One of the parts is not there.
        InvalidInput: Parts are named twice, or their stores have no slide in common.
        Mismatch: A part is stale, or there is another embedding of that name.
    """
    parts = parts_of(BESIDE.join(parts))
    found = [find_part(store, part) for part in parts]
    for one in found:
        one.refuse_stale()
    made = dict(zip(parts, found, strict=True))
    here = {one.path: one.fingerprint for part, one in made.items() if WITHIN not in part}
    strangers = {part: one.fingerprint for part, one in made.items() if WITHIN in part}
    group, config = store.embedding(name), {"aggregator": "join", "parts": parts, "elsewhere": strangers}
    recipe = Recipe("embed", config, here)
    group.check(recipe, redo=redo)
    blocks = [_on(store, one) for one in found]
    have = np.logical_and.reduce([np.isfinite(block).all(axis=1) for block in blocks])
    if not have.any():
        raise InvalidInput(f"no slide of {store.url} has a vector in each of {', '.join(parts)}", "embed more of them")
    group.begin(recipe, sum(block.shape[1] for block in blocks), redo=redo)
    if not group.state:
        group.keep_state(save({str(i): block[have].mean(axis=0, dtype=np.float64) for i, block in enumerate(blocks)}))
    means = load(group.state)
    todo = np.array(group.todo(have), dtype=np.int64)
    if len(todo):
        centred = [_unit(block[todo] - means[str(i)]) for i, block in enumerate(blocks)]
        group.write(todo, (np.concatenate(centred, axis=1) / np.sqrt(len(blocks))).astype(np.float32))
    store.settle()
    return group, len(todo)


def _on(store: Store, embedding: Embedding) -> NDArray[np.float32]:
    """Vectors of an embedding on the slides of a store, NaN of those it has none of."""
    rows, vectors = rows_of(store, embedding), embedding.read()
    done = embedding.done().filled
    known = rows >= 0
    known[known] = done[rows[known]]
    made = np.full((len(rows), vectors.shape[1]), np.nan, dtype=np.float32)
    made[known] = vectors[rows[known]]
    return made
