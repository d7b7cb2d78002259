"""Vectors to look at: two coordinates per slide (PCA, t-SNE), and which slides lie next to which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0
"""Of t-SNE: about how many neighbours of a slide its place is decided by (van der Maaten and Hinton 2008)."""

FEWEST = 5  # slides below which a neighbour embedding means nothing

COMPONENTS = 50
"""Principal components that t-SNE starts from: neighbours hardly change, and are found ten times as fast."""

ROWS_AT_ONCE = 1024


def pca(vectors: NDArray[np.floating], *, components: int = 2) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components.

    Args:
        vectors: (n, features).
        components: How many; those that there are not are 0.

    Returns:
        Coordinates (n, components), each axis turned so that its largest loading is positive, and the share of the
        variance that each explains, (components,).
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    values, directions = values[::-1].clip(min=0), directions[:, ::-1]
    kept = min(components, len(values))
    axes = directions[:, :kept] * np.sign(directions[np.abs(directions[:, :kept]).argmax(axis=0), np.arange(kept)])
    coordinates, share = np.zeros((len(vectors), components)), np.zeros(components)
    coordinates[:, :kept] = centred @ axes
    share[:kept] = values[:kept] / max(values.sum(), np.finfo(np.float64).tiny)
    return coordinates, share


def neighbour_map(vectors: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.float64] | None:
    """Places (n, 2) where slides that are alike lie together: t-SNE; None for fewer than :data:`FEWEST` slides.

    Distances between groups and their sizes mean nothing in such a map.
    """
    if len(vectors) < FEWEST:
        return None
    from sklearn.manifold import TSNE

    width = min(COMPONENTS, *vectors.shape)
    reduced = pca(vectors, components=width)[0].astype(np.float32)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca" if width > 1 else "random", random_state=seed)
    return np.asarray(tsne.fit_transform(reduced), dtype=np.float64)


def nearest(
    vectors: NDArray[np.floating], k: int, *, groups: Sequence[str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` most similar others of every slide, by the cosine of the angle between their vectors.

    Args:
        vectors: (n, features).
        k: How many; fewer where there are not so many.
        groups: The patient of each slide, (n,): those of the same patient do not count.

    Returns:
        Their places (n, k), the most similar first, -1 where there is none; and the similarities (n, k).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    group = np.arange(len(units)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    k = min(k, len(units) - 1)
    places = np.empty((len(units), max(0, k)), dtype=np.int64)
    similar = np.empty(places.shape)
    for start in range(0, len(units) if k > 0 else 0, ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        cosine = units[block] @ units.T  # (rows, n)
        cosine[group[block, None] == group] = -np.inf
        best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosine, best, axis=1), axis=1, kind="stable")
        places[block] = np.take_along_axis(best, order, axis=1)
        similar[block] = np.take_along_axis(cosine, places[block], axis=1)
    places[~np.isfinite(similar)] = -1
    return places, similar


def agreement(values: Sequence[str], groups: Sequence[str], neighbour: NDArray[np.int64]) -> tuple[float, float] | None:
    """How often a slide has a label, a lab, in common with its nearest slide of another patient, and by chance.

    Args:
        values: What is compared, (n,); "" where not known.
        groups: Patients, (n,).
        neighbour: Place of the nearest slide of another patient, (n,), -1 where there is none.

    Returns:
        Share of slides where both are known and equal, and the share expected of a slide of another patient drawn at
        random; None where fewer than two values are known.
    """
    names, code = np.unique(np.asarray(values), return_inverse=True)
    known = names[code] != ""
    if len(set(names.tolist()) - {""}) < 2:
        return None
    counted = known & (neighbour >= 0)  # (n,)
    counted[counted] = known[neighbour[counted]]
    patient = np.unique(np.asarray(groups), return_inverse=True)[1]
    table = np.zeros((patient.max() + 1, len(names)))
    np.add.at(table, (patient[known], code[known]), 1)  # (patients, values)
    others = table.sum(axis=0) - table[patient]  # (n, values)
    chance = others[np.arange(len(code)), code] / np.maximum(others.sum(axis=1), 1)
    if not counted.any():
        return None
    return float((code[counted] == code[neighbour[counted]]).mean()), float(chance[counted].mean())
