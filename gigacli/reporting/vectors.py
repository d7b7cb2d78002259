"""What a report says about vectors: where slides lie, what lies next to them, what neighbours have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.reporting.neighbours import FEWEST, agreement, nearest, neighbour_map, pca, standardised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gigacli.progress import Progress
    from gigacli.reporting.slides import Attribute
    from gigacli.store.store import Store

NEIGHBOURS = 6
STEPS = 4095
"""Places are kept as whole numbers up to this: finer than a screen, and short as text."""


@dataclass(frozen=True)
class Shared:
    """What a slide has in common with its nearest slide of another patient.

    Attributes:
        embedding: Name of the embedding.
        attribute: What is compared.
        share: Share of slides that have it in common.
        chance: The share with any slide of another patient.
    """

    embedding: str
    attribute: str
    share: float
    chance: float


def order_of(store: Store, wanted: Sequence[str]) -> list[str]:
    """The embeddings to show: those of slide encoders first, means of tiles last."""
    for name in wanted:
        store.pick("embeddings", name)
    order = ["model", "", "random-init", "mean"]
    kinds = {n: str(store.require(f"embeddings/{n}").config.get("aggregator", "")) for n in store.names("embeddings")}
    chosen = [n for n in kinds if not wanted or n in wanted]
    return sorted(chosen, key=lambda n: (order.index(kinds[n]) if kinds[n] in order else 1, n))


def maps_of(
    store: Store,
    names: Sequence[str],
    attributes: Sequence[Attribute],
    patients: Sequence[str],
    *,
    seed: int,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[Shared]]:
    """Places and neighbours of all slides in every embedding, ready for JSON; and what neighbours share.

    A mean of tiles is standardised first, as the probe does.
    """
    maps, shared = [], []
    progress.start("mapping vectors", len(names))
    for name in names:
        have = np.flatnonzero(store.array(f"embeddings/{name}/done")[: store.registered] > 0)
        vectors = store.array(f"embeddings/{name}/vectors")[: store.registered][have]
        width = int(vectors.shape[1])
        if store.require(f"embeddings/{name}").config.get("aggregator") == "mean" and len(vectors):
            vectors = standardised(vectors)
        if len(vectors) < 2:
            progress.advance()
            continue
        principal, share = pca(vectors)
        places = neighbour_map(vectors, seed=seed)
        near, similar = nearest(vectors, NEIGHBOURS)
        maps.append(
            {
                "embedding": name,
                "width": width,
                "rows": have.tolist(),
                "pca": _whole(principal),
                "explained": [round(float(s), 4) for s in share],
                "tsne": None if places is None else _whole(places),
                "near": have[near].tolist(),
                "similar": np.rint(1000 * similar).astype(int).tolist(),
            }
        )
        if len(vectors) >= FEWEST:
            owner = [patients[i] for i in have.tolist()]
            other = nearest(vectors, 1, groups=owner)[0][:, 0]
            for attribute in attributes:
                values = [attribute.values[i] for i in have.tolist()]
                found = agreement(values, owner, other) if attribute.compared else None
                if found is not None:
                    shared.append(Shared(name, attribute.name, *found))
        progress.advance(note=name)
    return maps, shared


def _whole(places: NDArray[np.float64]) -> list[int]:
    """Places (n, 2) as whole numbers x, y, x, y, ... with equal units on both axes."""
    low, high = places.min(axis=0), places.max(axis=0)
    unit = max(float((high - low).max()), np.finfo(np.float64).tiny) / STEPS
    middle = (low + high) / 2
    return np.rint((places - middle) / unit + STEPS / 2).astype(int).ravel().tolist()
