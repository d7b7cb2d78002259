"""What is shown of vectors: where slides lie, what lies next to them, what neighbours have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.probing.retrieval import agreement, nearest
from gigacli.probing.standardise import moments, standardise
from gigacli.probing.task import MEAN, WHITENED
from gigacli.progress import Progress
from gigacli.reporting.neighbours import FEWEST, neighbour_map, pca
from gigacli.reporting.slides import Grouping
from gigacli.store.groups import Embedding
from gigacli.store.store import Store

NEIGHBOURS = 6

MOST_MAPPED = 4096
"""Slides on the map, spread evenly over a larger cohort: t-SNE of them takes a quarter of a minute, the search for
neighbours grows with their square, and more points cover each other."""

STEPS = 4095  # places are kept as whole numbers up to this: finer than a screen, and short as text


@dataclass(frozen=True)
class NeighbourAgreement:
    """How often a slide is in the same group as its nearest slide of another patient."""

    embedding: str  # name of the embedding
    grouping: str  # what the slides are grouped by
    share: float  # share of slides for which that is so
    chance: float  # the share with any slide of another patient


def embeddings_of(store: Store, wanted: Sequence[str]) -> list[Embedding]:
    """The embeddings to show: those of slide encoders first, means of tiles last.

    Raises:
        NotFound: One of those wanted is not there.
    """
    chosen = [store.pick(Embedding, name) for name in dict.fromkeys(wanted)] or store.groups(Embedding)
    rank = {"model": 0, "random-init": 2, WHITENED: 3, MEAN: 4}
    return sorted(chosen, key=lambda one: (rank.get(one.aggregator, 1), one.name))


def one_embedding(store: Store, name: str | None) -> Embedding:
    """The embedding of a name; without one, the only one that a slide encoder made, or the only one there is.

    Raises:
        NotFound: There is none, or none of that name.
        InvalidInput: There are several, and none was named.
        Mismatch: It was made from what has been replaced.
    """
    ours = [one for one in store.groups(Embedding) if one.aggregator == "model"]
    chosen = ours[0] if name is None and len(ours) == 1 else store.pick(Embedding, name)
    chosen.refuse_stale()
    return chosen


def mapped_slides(slides: int, drawn: Sequence[int]) -> NDArray[np.int64]:
    """(n,) rows of the slides that are shown on maps: all, or :data:`MOST_MAPPED` of them and those with a picture."""
    spread = np.linspace(0, slides - 1, min(slides, MOST_MAPPED)).round().astype(np.int64)
    return np.union1d(spread, np.array(drawn[:MOST_MAPPED], dtype=np.int64))


def comparable(
    embedding: Embedding, among: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Rows (n,) of the slides that have a vector, and these (n, width), ready for cosines.

    A mean of tiles is standardised first, as the probe does.

    Args:
        embedding: The embedding.
        among: Rows of the slides that are wanted, ascending; None: all.
    """
    rows = embedding.done().rows
    rows = rows if among is None else np.intersect1d(rows, among, assume_unique=True)
    vectors: NDArray[np.floating] = np.concatenate(
        [np.zeros((0, embedding.width), np.float32), *embedding.blocks(rows)]
    )
    if embedding.aggregator == MEAN and len(rows):
        vectors = standardise(vectors.astype(np.float64), *moments(vectors))
    return rows, vectors


def maps_of(
    embeddings: Sequence[Embedding],
    groupings: Sequence[Grouping],
    patients: Sequence[str],
    *,
    shown: NDArray[np.int64],
    seed: int,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[NeighbourAgreement]]:
    """Places and neighbours of slides in every embedding, ready for JSON; and how often neighbours agree.

    Args:
        embeddings: What is mapped.
        groupings: What neighbours may have in common.
        patients: Of all slides of the store.
        shown: (n,) rows of the slides that are looked at, ascending; in the JSON a slide is its number among these.
        seed: Of t-SNE.
        progress: Receives progress.
    """
    maps: list[dict[str, Any]] = []
    agreements: list[NeighbourAgreement] = []
    progress.start("mapping vectors", len(embeddings))
    for embedding in embeddings:
        name, (rows, vectors) = embedding.name, comparable(embedding, shown)
        if len(rows) >= 2:
            maps.append(map_of(name, vectors, np.searchsorted(shown, rows), seed))
        if len(rows) >= FEWEST:
            agreements += _agreements(name, vectors, rows, groupings, patients)
        progress.advance(note=name)
    return maps, agreements


def map_of(
    name: str, vectors: NDArray[np.floating], numbers: NDArray[np.int64], seed: int, *, neighbours: bool = True
) -> dict[str, Any]:
    """Places in two dimensions and nearest slides, ready for JSON.

    Args:
        name: Of the embedding.
        vectors: (n, width), ready for cosines; two or more.
        numbers: (n,) what slides are called on the page.
        seed: Of t-SNE.
        neighbours: Whether there shall be places by t-SNE, too, which take long where there are many slides.
    """
    principal, share = pca(vectors)
    places = neighbour_map(vectors, seed=seed) if neighbours else None
    near, similar = nearest(vectors, NEIGHBOURS)
    return {
        "embedding": name,
        "width": vectors.shape[1],
        "rows": numbers.tolist(),
        "pca": _to_integers(principal),
        "explained": [round(float(s), 4) for s in share],
        "tsne": None if places is None else _to_integers(places),
        "near": numbers[near].tolist(),
        "similar": np.rint(1000 * similar).astype(int).tolist(),
    }


def _agreements(
    name: str,
    vectors: NDArray[np.floating],
    rows: NDArray[np.int64],
    groupings: Sequence[Grouping],
    patients: Sequence[str],
) -> Iterator[NeighbourAgreement]:
    owners = [patients[i] for i in rows.tolist()]
    other = nearest(vectors, 1, groups=owners)[0][:, 0]  # (n,)
    for grouping in groupings:
        values = [grouping.values[i] for i in rows.tolist()]
        found = agreement(values, owners, other) if grouping.compare_neighbours else None
        if found is not None:
            yield NeighbourAgreement(name, grouping.name, *found)


def _to_integers(places: NDArray[np.float64]) -> list[int]:
    """Places (n, 2) as whole numbers x, y, x, y, ... up to :data:`STEPS`, with equal units on both axes."""
    low, high = places.min(axis=0), places.max(axis=0)
    unit = max(float((high - low).max()), np.finfo(np.float64).tiny) / STEPS
    middle = (low + high) / 2
    return np.rint((places - middle) / unit + STEPS / 2).astype(int).ravel().tolist()
