"""Whether vectors of slides withstand an augmentation of their tiles: another stain, crop or blur of one tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1024
"""Slides whose distances to all others are held at once."""


@dataclass(frozen=True)
class Robustness:
    """How far vectors move when slides are seen under another augmentation.

    Attributes:
        slides: That are seen so.
        found: Share of slides whose vector is then nearest to their own, of all slides as they are.
        moved: Mean distance between the two, over that between two slides as they are; 0: they do not move.
    """

    slides: int
    found: float
    moved: float


def robustness(clean: NDArray[np.floating], augmented: NDArray[np.floating], *, scale: bool) -> Robustness:
    """Compare vectors of slides as they are (n, p) with those under other augmentations (n, a, p), n at least 2.

    Slides that are not seen so have NaN; some must be.

    With `scale`, values are first divided by their deviation over slides, as for vectors that are not of unit length.
    """
    mean = clean.mean(axis=0, dtype=np.float64)
    deviation = clean.std(axis=0, dtype=np.float64) if scale else np.ones(clean.shape[1])
    deviation = np.where(deviation > 0, deviation, 1)
    rows = (clean - mean) / deviation  # (n, p)
    square = np.square(rows).sum(axis=1)  # (n,)
    n = len(rows)
    # The mean over pairs of distinct slides of |x - y|, from blocks of the matrix of distances.
    blocks = (slice(i, i + AT_ONCE) for i in range(0, n, AT_ONCE))
    apart = sum(_distances(rows[b], square[b], rows, square).sum() for b in blocks) / (n * (n - 1))
    found, moved = [], []
    for a in range(augmented.shape[1]):
        seen = np.flatnonzero(np.isfinite(augmented[:, a]).all(axis=1))  # (m,)
        other = (augmented[seen, a] - mean) / deviation  # (m, p)
        moved.append(np.linalg.norm(other - rows[seen], axis=1).mean())
        for start in range(0, len(seen), AT_ONCE):
            part = other[start : start + AT_ONCE]
            nearest = _distances(part, np.square(part).sum(axis=1), rows, square).argmin(axis=1)
            found.append(nearest == seen[start : start + AT_ONCE])
    return Robustness(
        slides=int(np.isfinite(augmented).all(axis=(1, 2)).sum()),
        found=float(np.concatenate(found).mean()),
        moved=float(np.mean(moved) / apart) if apart > 0 else 0.0,
    )


def _distances(
    x: NDArray[np.float64], x_square: NDArray[np.float64], y: NDArray[np.float64], y_square: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.maximum(x_square[:, None] + y_square - 2 * x @ y.T, 0)))
