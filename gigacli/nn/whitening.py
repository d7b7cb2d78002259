"""The space that features are brought into before an encoder sees them: standardised, then whitened.

Sums over slides are taken in float64, in the order of the slides. What is made of them is rounded by :func:`settled`,
so that the same slides in another order give the same bytes but for one case in a thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput

WHITENING_DRAWS = 8
"""Draws per augmentation that the whitening looks at: 400 rows a slide are plenty for a covariance over a cohort."""

WHITENING_TILES = 32
"""Tiles of a slide whose augmentations the whitening looks at."""

SCALE_TILES = 64
"""Tiles of a slide, spread over it, that the scale of the whitened features is taken from."""

LEAST_SD = 1e-3
"""Added to a feature's deviation: one that hardly varies is not blown up."""

VALUES_AT_ONCE = 2**22
"""Values of tiles that are worked on together, in several copies of float64: a slide may have a million tiles."""

Features = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Standard:
    """Mean and deviation of every feature over tiles."""

    mean: NDArray[np.float32]  # (c,)
    sd: NDArray[np.float32]  # (c,) deviation + LEAST_SD

    def __call__(self, features: Features) -> NDArray[np.float64]:
        """Standardise features (..., c)."""
        return (features.astype(np.float64) - self.mean) / self.sd


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Features f become ((f - mean) / sd) M; either part may be missing."""

    standard: Standard | None
    matrix: NDArray[np.float32] | None  # (c, c) M

    def __call__(self, features: Features) -> NDArray[np.float32]:
        """Bring features (..., c) into the space."""
        inside = features.astype(np.float32)
        if self.standard is not None:
            inside = (inside - self.standard.mean) / self.standard.sd
        return inside if self.matrix is None else np.asarray(inside @ self.matrix)

    def state(self) -> dict[str, NDArray[Any]]:
        """What is there, under the names that a model keeps it by."""
        kept = {} if self.standard is None else {"feature_mean": self.standard.mean, "feature_sd": self.standard.sd}
        return kept if self.matrix is None else {**kept, "whitening": self.matrix}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """The space that was kept; other arrays beside it are not looked at."""
        standardised = "feature_mean" in state
        standard = Standard(state["feature_mean"], state["feature_sd"]) if standardised else None
        return cls(standard, state.get("whitening"))


@dataclass(frozen=True, eq=False)
class Spread:
    """How the un-augmented tiles of a cohort spread."""

    standard: Standard
    second: NDArray[np.float64]  # (c, c) mean of x x^T over tiles spread over the slides, standardised


def spread_of(slides: Iterable[Features]) -> Spread:
    """Mean and deviation of all un-augmented tiles (n, c) of each slide, in one pass.

    Raises:
        InvalidInput: A feature is not finite, or there are no tiles.
    """
    zero = np.zeros(1)  # of any width
    count, total, squares, seen, seen_total, outer = 0, zero, zero, 0, zero, zero
    for slide in slides:
        for part in tile_parts(slide):
            rows = part.astype(np.float64)  # (n, c)
            count, total, squares = count + len(rows), total + rows.sum(axis=0), squares + np.square(rows).sum(axis=0)
        rows = slide[spread_rows(len(slide), SCALE_TILES)].astype(np.float64)
        seen, seen_total, outer = seen + len(rows), seen_total + rows.sum(axis=0), outer + rows.T @ rows
    if not count or not np.isfinite(total).all():
        raise InvalidInput(
            f"features of {count} tiles are to be standardised; "
            + ("some are not finite" if count else "there is none"),
            "look at them: giga validate STORE",
        )
    mean = total / count
    sd = np.sqrt(np.maximum(squares / count - np.square(mean), 0))  # float16 leaves nothing to cancel
    sd = sd + LEAST_SD
    mean, sd = settled(mean, scale=np.maximum(np.abs(mean), sd)), settled(sd, scale=sd)
    standard = Standard(mean.astype(np.float32), sd.astype(np.float32))
    # The mean of (x - m)(x - m)^T, from sums that were taken before m was known.
    centre, at = standard.mean.astype(np.float64), seen_total / seen
    second = outer / seen - np.outer(at, centre) - np.outer(centre, at) + np.outer(centre, centre)
    return Spread(standard, settled(second / np.outer(standard.sd, standard.sd)))


def tile_parts(tiles: Features) -> Iterator[Features]:
    """Tiles (n, c) of a slide, some at a time: one part, unless there are very many."""
    step = max(1, VALUES_AT_ONCE // max(1, tiles.shape[1]))
    return (tiles[i : i + step] for i in range(0, max(1, len(tiles)), step))


def slide_covariance(slides: Iterable[Features], standard: Standard | None = None) -> NDArray[np.float64]:
    """Covariance (c, c) of a slide's augmented features (augmentation, draw, c) about their mean, pooled over slides.

    Directions in which tiles and augmentations of one slide differ most say least about which slide it is.
    """
    total, rows = np.zeros(1), 0
    for slide in slides:
        features = slide[:, :WHITENING_DRAWS]
        features = features.astype(np.float64) if standard is None else standard(features)  # (a, d, c)
        spread = (features - features.mean(axis=(0, 1))).reshape(-1, features.shape[2])  # (a * d, c)
        total, rows = total + spread.T @ spread, rows + len(spread)
    return np.asarray(total / rows)


def augmentation_covariance(
    slides: Iterable[tuple[Features, NDArray[np.int32]]], standard: Standard | None = None
) -> NDArray[np.float64]:
    """Covariance (c, c) of the augmentations of one tile about their mean, pooled over tiles.

    N = mean over tiles i and augmentations a of (x_i^a - mean_a x_i^a)(x_i^a - mean_a x_i^a)^T: what differs between
    pictures of the same tissue. Looks at :data:`WHITENING_TILES` tiles of a slide.

    Args:
        slides: Per slide its augmented features (augmentation, draw, c), and which tiles those are of.
        standard: What features are standardised by first.
    """
    total, rows = np.zeros(1), 0
    for slide, tile in slides:
        chosen = np.isin(tile, np.unique(tile[0])[:WHITENING_TILES])  # (a, d)
        features = slide[chosen].astype(np.float64) if standard is None else standard(slide[chosen])  # (r, c)
        _, of, copies = np.unique(tile[chosen], return_inverse=True, return_counts=True)
        sums = np.zeros((len(copies), features.shape[1]))
        np.add.at(sums, of, features)
        spread = features - (sums / copies[:, None])[of]  # (r, c)
        total, rows = total + spread.T @ spread, rows + len(spread)
    return np.asarray(total / rows)


def whitening_matrix(covariance: NDArray[np.float64], spread: Spread | None = None) -> NDArray[np.float32]:
    """The matrix M that makes the spread N of features alike in all directions: s (N + tr(N)/c I)^(-1/2).

    s is 1 without the spread of the tiles, else what brings the deviation of all whitened values of tiles to 1.

    Returns:
        (c, c), symmetric.

    Raises:
        InvalidInput: There is no spread to even out, or it is not finite.
    """
    if not 0 < np.trace(covariance) < np.inf:
        raise InvalidInput(
            f"features spread by {np.trace(covariance):g} within slides, so there is nothing to even out",
            "look at them, or train with `whiten=False`",
        )
    if spread is None:
        return inverse_root(covariance).astype(np.float32)
    matrix = inverse_root(settled(covariance))
    after = float(np.sum((matrix @ spread.second) * matrix)) / len(matrix)  # mean square of a whitened value
    return (matrix / np.sqrt(after) if after > 0 else matrix).astype(np.float32)


def inverse_root(covariance: NDArray[np.float64], *, ridge: float = 1.0) -> NDArray[np.float64]:
    """(N + ridge tr(N)/c I)^(-1/2), symmetric, of a covariance N (c, c)."""
    width = len(covariance)
    values, directions = np.linalg.eigh(covariance + ridge * np.trace(covariance) / width * np.eye(width))
    return np.asarray((directions / np.sqrt(values)) @ directions.T)


def settled(values: NDArray[np.float64], *, scale: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Finite values rounded to 2^-24 of a scale: what the order of a sum has left in their last digits is gone.

    The scale is positive and of the values' shape; by default the largest value.
    """
    if scale is None:
        least = np.finfo(np.float64).tiny
        scale = np.maximum(values.max(keepdims=True, initial=least), -values.min(keepdims=True, initial=-least))
    step = np.exp2(np.ceil(np.log2(scale)) - 24)
    steps = np.asarray(values / step)  # in place from here on: of wide features it has half a gigabyte
    np.rint(steps, out=steps)
    steps *= step
    return steps


def spread_rows(n: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `n` rows, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64)) if n else np.zeros(0, dtype=np.int64)
