"""Attribution of a slide's score to its tiles: which tiles pull it towards a class (spec/decisions/0016).

The *pull* of tile i of n is ``n * (score of the slide - score of the slide without tile i)``: to first order, how much
higher the score would be if the whole slide were like this tile. Where every T-subset of the tiles is equally likely as
a view, it is ``T * (mean of views with i - mean of views without i)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput

FALSE_DISCOVERIES = 0.05  # share of the tiles called significant that may be there by chance


@dataclass(frozen=True, eq=False)
class TileAttribution:
    """How far every tile of a slide pulls its score."""

    value: NDArray[np.float64]  # in units of the score (log odds), (n,); positive: towards the class
    error: NDArray[np.float64]  # standard error, from the sampling of views, (n,); 0 where none are sampled
    # whether the value is beyond the noise of sampling, (n,), at a false discovery rate of :data:`FALSE_DISCOVERIES`
    # (Benjamini and Hochberg 1995)
    significant: NDArray[np.bool_]


def balanced_views(rng: np.random.Generator, n: int, *, tiles: int, per_tile: int) -> NDArray[np.int64]:
    """Views that hold every tile equally often: shuffle all tiles, cut them into views, `per_tile` times.

    Every view by itself is a subset of `tiles` tiles drawn uniformly, as in ``giga embed``. Where `n` is no multiple,
    the last view of a shuffle is filled up from its beginning.

    Returns:
        (views, tiles) int64, numbers in [0, n).

    Raises:
        InvalidInput: The slide has no more tiles than a view, so that every view holds all of them.
    """
    if n <= tiles:
        raise InvalidInput(
            f"the slide has {n} tiles, and a view holds {tiles}: no view is without a tile",
            "Only slides with more tiles than a view can be explained.",
        )
    filled = -(-n // tiles) * tiles  # n rounded up to a multiple
    shuffled = [np.resize(rng.permutation(n), filled) for _ in range(per_tile)]
    return np.concatenate(shuffled).reshape(-1, tiles)


def attribution_from_views(
    scores: NDArray[np.float64], views: NDArray[np.int64], n: int, *, exact: NDArray[np.float64] | None = None
) -> TileAttribution:
    """Attribution to `n` tiles, estimated from the scores of views.

    Args:
        scores: Of each view, (views,).
        views: Tiles of each view, (views, tiles), as :func:`balanced_views` makes them: each tile in at least two.
        n: Tiles of the slide.
        exact: Pull (n,) of a part of the score that is known without views, and is added.
    """
    from scipy.stats import false_discovery_control, t

    tiles = views.shape[1]
    times = np.bincount(views.ravel(), minlength=n)  # (n,) views that hold a tile
    centred = scores - scores.mean()
    spread = np.repeat(centred, tiles)
    inside = np.bincount(views.ravel(), spread, minlength=n)
    squares = np.bincount(views.ravel(), spread**2, minlength=n)
    others = len(scores) - times
    mean_in, mean_out = inside / times, -inside / others
    var_in = (squares / times - mean_in**2) * times / (times - 1)
    var_out = ((centred**2).sum() - squares) / others - mean_out**2
    error = np.sqrt(var_in.clip(min=0) / times + var_out.clip(min=0) / others)
    gap = mean_in - mean_out + (0 if exact is None else exact / tiles)
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = 2 * t.sf(np.abs(gap / error), times - 1)  # (n,)
    chance = np.where(error > 0, chance, np.where(gap == 0, 1.0, 0.0))
    return TileAttribution(tiles * gap, tiles * error, false_discovery_control(chance) <= FALSE_DISCOVERIES)


def attribution_of_mean(scores: NDArray[np.float64]) -> TileAttribution:
    """Attribution of a score that is the mean of tiles' own scores (n,): exact where it is linear in the tiles."""
    n = len(scores)
    if n < 2:
        raise InvalidInput(f"the slide has {n} tiles; without one nothing is left", "Choose a slide with more tiles.")
    without = (scores.sum() - scores) / (n - 1)
    return TileAttribution(scores - without, np.zeros(n), np.ones(n, dtype=bool))
