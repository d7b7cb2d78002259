"""Tiles that are like a tile: by the cosine of their features, on its slide and on a few others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import GigaError, InvalidInput, NotFound
from gigacli.nn.whitening import tile_parts
from gigacli.probing.standardise import moments, standardise
from gigacli.reporting.search import nearest_slides
from gigacli.store.groups import Embedding, Features
from gigacli.store.store import Store

SLIDES = 6
"""Other slides that are searched: those nearest to the tile's own."""

FOUND = 8
"""Tiles that are named on all of them."""

EACH = 2  # of them on one slide, at most
SAMPLE = 4096
"""Tiles that say how features vary, spread over the slide."""

MOST_BYTES = 2**29
"""Of the features of a slide: of more, too much memory would be taken for a look."""


def tiles_like(store: Store, row: int, number: int, embedding: Embedding | None, patients: list[str]) -> dict[str, Any]:
    """Compare a tile with all of its slide, and of the slides of other patients that are nearest to it.

    Features are standardised by those of its slide first: encoders give all tiles much in common.

    Args:
        store: The cohort store.
        row: Of the slide.
        number: Of the tile.
        embedding: Whose features are compared, and by which slides are near; None: the first features there are, and
            no other slides.
        patients: Of all slides of the store.

    Returns:
        Ready for JSON: `similar`, thousandths of the cosine for every tile of the slide; `others`, the most similar
        tiles of other slides as [row, tile, thousandths]; `features`, whose they are; `note`, "" or what was left out.

    Raises:
        NotFound: There are no features, or no such tile.
        InvalidInput: The slide's features are too large.
    """
    features = _features(store, embedding)
    own = _read(features, row)
    if own is None:
        raise InvalidInput(f"the features of {store.slides.ids[row]!r} are too large to be compared for a look")
    if number >= len(own):
        raise NotFound(
            f"slide {store.slides.ids[row]!r} has no features of a tile {number} in {features.name!r}",
            f"run: giga bank {store.url}",
        )
    scale = moments(own[:: max(1, len(own) // SAMPLE)].astype(np.float32))
    query = standardise(own[number : number + 1].astype(np.float32), *scale)[0]
    similar = _cosines(own, query, scale)
    rows, note = _near(embedding, row, patients)
    others: list[tuple[int, int, int]] = []
    for other in rows:
        tiles = _read(features, other)
        if tiles is not None and len(tiles):
            found = _cosines(tiles, query, scale)
            best = np.argsort(-found, kind="stable")[:EACH]
            others += [(other, int(i), int(found[i])) for i in best]
    others.sort(key=lambda one: -one[2])
    return {"similar": similar.tolist(), "others": others[:FOUND], "features": features.name, "note": note}


def _features(store: Store, embedding: Embedding | None) -> Features:
    made_from = embedding.features if embedding is not None else None
    if made_from is not None and made_from.found is not None:
        return made_from
    there = store.groups(Features)
    if not there:
        raise NotFound(f"{store.url} holds no features of tiles", f"run: giga bank {store.url}")
    return there[0]


def _read(features: Features, row: int) -> NDArray[np.float16] | None:
    """Features (n, width) of a slide's tiles; None where they are too large."""
    count = int(features.done().counts[row])
    if count * features.width * 2 > MOST_BYTES:
        return None
    return features.read(row)


def _near(embedding: Embedding | None, row: int, patients: list[str]) -> tuple[list[int], str]:
    """Rows of the slides to search, too; and why there are none."""
    if embedding is None:
        return [], "other slides are searched once there are vectors: giga embed"
    try:
        return nearest_slides(embedding, row, patients)[0][:SLIDES].tolist(), ""
    except GigaError as error:
        return [], f"no other slide was searched: {error.message}"


def _cosines(
    tiles: NDArray[np.float16], query: NDArray[np.float32], scale: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.int64]:
    """(n,) thousandths of the cosine of tiles (n, width) and of a standardised one (width,)."""
    return np.concatenate(list(_parts(tiles, query, scale)))


def _parts(
    tiles: NDArray[np.float16], query: NDArray[np.float32], scale: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> Iterator[NDArray[np.int64]]:
    for part in tile_parts(tiles):
        ready = standardise(part.astype(np.float32), *scale)
        lengths = np.linalg.norm(ready, axis=1) * np.linalg.norm(query)
        yield np.rint(1000 * (ready @ query) / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.int64)
