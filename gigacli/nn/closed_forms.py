"""Slide vectors that need no training: pooled tiles, whitened by what must not matter. Beyond the paper.

Each is fitted on a stream of slides, one at a time, and kept as a flat dict of arrays that a safetensors file holds.
What is drawn is keyed by the id of a slide: its vector depends neither on the other slides of a batch nor on the order
of the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.nn.views import draw_rows
from gigacli.nn.whitening import Features, FeatureSpace, settled, tile_parts
from gigacli.randomness import keyed_rng

State = dict[str, NDArray[Any]]

VIEWS, VIEW_TILES = 24, 10
"""V and T of the views that tell what differs between two views of one slide."""

VIEW_RIDGE = 0.3

DIRECTIONS = 500
"""Directions of a view's spread that are told apart; the rest share their mean, for its estimate is no better."""

SLIDES_AT_ONCE = 64
"""Slides whose views are added to a covariance in one product."""


@dataclass(frozen=True, eq=False)
class SlideTiles:
    """The tiles of a slide, as a closed form sees them."""

    id: str
    plain: Features  # (n, c), without augmentation
    positions: NDArray[np.float64] | None = None  # (n, 2) in tile units
    augmented: Features | None = None  # (augmentation, draw, c)
    drawn: NDArray[np.int32] | None = None  # (augmentation, draw) which tile each of these is of


def mean_and_deviation(tiles: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean and standard deviation of every feature, side by side: tiles (..., n, c) -> (..., 2 c)."""
    return np.concatenate([tiles.mean(axis=-2), tiles.std(axis=-2)], axis=-1)


def pooled(space: FeatureSpace, tiles: Features, *, dtype: type[np.floating] = np.float32) -> NDArray[np.float64]:
    """Mean and deviation (2 c,) of tiles (n, c) in a space, worked out in a type, of some tiles at a time."""
    parts = list(tile_parts(tiles))
    found = [mean_and_deviation(space(part).astype(dtype, copy=False)) for part in parts]
    means, deviations = np.split(np.stack(found).astype(np.float64), 2, axis=1)
    share = np.array([len(part) for part in parts]) / len(tiles)
    mean = share @ means
    return np.concatenate([mean, np.sqrt(share @ (np.square(deviations) + np.square(means - mean)))])


@dataclass(frozen=True, eq=False)
class WhitenedMean:
    """The mean of a slide's tiles, standardised and whitened: (c,)."""

    name: ClassVar[str] = "whitened-mean"
    space: FeatureSpace

    def transform(self, slide: SlideTiles) -> NDArray[np.float32]:
        """The vector of a slide."""
        parts = list(tile_parts(slide.plain))
        means = [self.space(part).mean(axis=0) for part in parts]
        return np.average(means, axis=0, weights=[len(part) for part in parts]).astype(np.float32)

    def scores(self, slide: SlideTiles, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each tile (n,) adds to the product of the slide's vector and weights (of its width).

        The mean over tiles is that product. What a value exceeds the mean by is the rate at which the product grows
        with the tile's share of the slide: exact where the vector is a mean over tiles, to first order otherwise.
        """
        return np.concatenate([self.space(part).astype(np.float64) @ weights for part in tile_parts(slide.plain)])

    def state(self) -> State:
        """What is kept."""
        return self.space.state()

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """The form that was kept."""
        return cls(FeatureSpace.from_state(state))


@dataclass(frozen=True, eq=False)
class MeanStd(WhitenedMean):
    """Mean and deviation of a slide's tiles, standardised and whitened: (2 c,)."""

    name: ClassVar[str] = "mean-std"

    def transform(self, slide: SlideTiles) -> NDArray[np.float32]:
        """The vector of a slide."""
        return pooled(self.space, slide.plain).astype(np.float32)

    def scores(self, slide: SlideTiles, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """As :meth:`WhitenedMean.scores`: a deviation s is the mean over tiles of (s + (x - mean)^2 / s) / 2."""
        return _scores(self.space, slide.plain, weights)


@dataclass(frozen=True, eq=False)
class ViewWhitened:
    """Mean and deviation of a slide's tiles, whitened by how they differ between views of one slide: (2 c,).

    For every slide and v = 1..V, 10 tiles are drawn without replacement under one augmentation; z_v is the mean and
    deviation of that view, N the mean over slides and views of (z_v - mean_v z_v)(...)^T. The vector is that of all
    un-augmented tiles times (N + .3 tr(N)/p I)^(-1/2), p = 2 c. It is the closed form of "two views agree".
    """

    name: ClassVar[str] = "view-whitened"
    space: FeatureSpace
    directions: NDArray[np.float32]  # (p, k) unit vectors in which views differ most
    shrink: NDArray[np.float32]  # (k + 1,) what each is multiplied by, and what everything else is

    @classmethod
    def fit(cls, slides: Iterable[SlideTiles], space: FeatureSpace, *, seed: int) -> Self:
        """Learn how views differ, from slides with augmented tiles, in one pass.

        Raises:
            InvalidInput: There are no slides, or their views do not differ.
        """
        total, count, waiting = np.zeros(1), 0, []
        for slide in slides:
            views = _views(slide, space, seed)  # (V, p)
            waiting.append(views - views.mean(axis=0))
            if len(waiting) == SLIDES_AT_ONCE:
                total, count, waiting = _added(total, waiting), count + len(waiting), []
        if waiting:
            total, count = _added(total, waiting), count + len(waiting)
        total /= max(count, 1) * VIEWS
        if not 0 < np.trace(np.atleast_2d(total)) < np.inf:
            raise InvalidInput(f"the views of {count} slides do not differ, so there is nothing to even out")
        return cls(space, *_shrinkage(settled(total)))

    def transform(self, slide: SlideTiles) -> NDArray[np.float32]:
        """The vector of a slide."""
        whole = pooled(self.space, slide.plain).astype(np.float32)  # (p,)
        along = whole @ self.directions  # (k,)
        rest = self.shrink[-1]
        return (rest * whole + self.directions @ ((self.shrink[:-1] - rest) * along)).astype(np.float32)

    def scores(self, slide: SlideTiles, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """As :meth:`MeanStd.scores`."""
        rest, directions = float(self.shrink[-1]), self.directions.astype(np.float64)
        shrunk = rest * weights + directions @ ((self.shrink[:-1] - rest) * (directions.T @ weights))
        return _scores(self.space, slide.plain, shrunk)

    def state(self) -> State:
        """What is kept."""
        return {**self.space.state(), "directions": self.directions, "shrink": self.shrink}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """The form that was kept."""
        return cls(FeatureSpace.from_state(state), state["directions"], state["shrink"])


def _scores(space: FeatureSpace, tiles: Features, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each of tiles (n, c) adds to their mean and deviation in a space times weights (2 c,): (n,)."""
    mean, deviation = np.split(pooled(space, tiles, dtype=np.float64), 2)
    of_means, of_deviations = np.split(weights, 2)
    scores = []
    for part in tile_parts(tiles):
        rows = space(part).astype(np.float64)
        squares = np.square(rows - mean) / np.where(deviation > 0, deviation, 1)
        scores.append(rows @ of_means + (deviation + squares) / 2 @ of_deviations)
    return np.concatenate(scores)


def _views(slide: SlideTiles, space: FeatureSpace, seed: int) -> NDArray[np.float64]:
    """(V, p) mean and deviation of views of a slide."""
    if slide.augmented is None:
        raise InvalidInput(f"slide {slide.id!r} has no augmented tiles to take views of")
    augmentations, draws, _ = slide.augmented.shape
    rng = keyed_rng(seed, "view-whitened", slide.id)
    chosen = rng.integers(0, augmentations, VIEWS)  # (V,)
    rows = draw_rows(rng, np.full(VIEWS, draws), VIEW_TILES)  # (V, T)
    return mean_and_deviation(space(slide.augmented[chosen[:, None], rows])).astype(np.float64)


def _added(total: NDArray[np.float64], views: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    rows = np.concatenate(views)
    product = rows.T @ rows
    product += total
    return np.asarray(product)


def _shrinkage(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Directions (p, k) and factors (k + 1,) of (N + .3 tr(N)/p I)^(-1/2)."""
    from scipy.linalg import eigh

    p, trace = len(covariance), float(np.trace(covariance))
    k = min(p, DIRECTIONS)
    values, directions = eigh(covariance.T, subset_by_index=[p - k, p - 1], overwrite_a=True)  # without a copy
    values = np.maximum(values, 0)
    others = max(0.0, trace - float(values.sum())) / max(1, p - k)  # mean spread along everything else
    spreads = np.append(values, others) + VIEW_RIDGE * trace / p
    return np.ascontiguousarray(directions, dtype=np.float32), (1 / np.sqrt(spreads)).astype(np.float32)
