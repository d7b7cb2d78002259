"""Vectors to look at: two coordinates per slide (PCA, t-SNE)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0
"""Of t-SNE: about how many neighbours of a slide its place is decided by (van der Maaten and Hinton 2008)."""

FEWEST = 5  # slides below which a neighbour embedding means nothing

COMPONENTS = 50
"""Principal components that t-SNE starts from: neighbours hardly change, and are found ten times as fast."""


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
