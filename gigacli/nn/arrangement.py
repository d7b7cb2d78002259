"""How tiles that look alike lie to each other: a block of a slide's vector with a gate that needs no label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.nn.closed_forms import SlideTiles, State
from gigacli.nn.transformer import FARTHEST
from gigacli.nn.whitening import FeatureSpace, settled
from gigacli.randomness import keyed_rng

NEIGHBOURS = 64
"""Nearest tiles that a tile is compared with: on a full grid what lies beyond has a weight of 4e-5 in all."""

LEAST_VARIANCE = 0.05  # of a feature within a slide, as a share of the mean over features


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Autocorrelation in space of every feature, and its mean over features: (c + 1,).

    With h_ci feature c of tile i, standardised and whitened, less the slide's mean, and D distances in units of the
    slide's mean distance to the nearest other place (at most 20):

        I_c = mean_i h_ci sum_j A_ij h_cj / (var_c + .05 mean var),  A = exp(-D^2 / 2) without self, rows of sum 1

    less what it is if positions are shuffled: -var_c / (n - 1) / (var_c + .05 mean var), the mean over all shuffles.
    The c values are scaled to a root mean square length of 1 over the slides, their mean over features to 1, both
    divided by sqrt 2, and all multiplied by the gate w = max(0, 1 - E|I of a shuffle|^2 / E|I|^2): the share of I that
    arrangement explains. Where tissue is not arranged, or tiles lie too far apart to tell, it closes.

    Attributes:
        space: What features are brought into.
        lengths: (2,) root mean square length of I, and of its mean over features.
        gate: w, in [0, 1].
    """

    name: ClassVar[str] = "arrangement"
    space: FeatureSpace
    lengths: NDArray[np.float32]
    gate: float

    @classmethod
    def fit(cls, slides: Iterable[SlideTiles], space: FeatureSpace, *, seed: int) -> Self:
        """Learn lengths and gate from slides with positions, in one pass: one shuffle of each slide is the null.

        Raises:
            InvalidInput: There are no slides.
        """
        real, shuffled, means, count = 0.0, 0.0, 0.0, 0
        for slide in slides:
            tiles, positions = space(slide.plain), _positions(slide)
            rng = keyed_rng(seed, "arrangement", slide.id)
            values = autocorrelation(tiles, positions)
            null = autocorrelation(tiles[rng.permutation(len(tiles))], positions)
            real, shuffled = real + float(values @ values), shuffled + float(null @ null)
            means, count = means + float(values.mean()) ** 2, count + 1
        if not count:
            raise InvalidInput("there are no slides whose arrangement could be looked at")
        gate = max(0.0, 1 - shuffled / real) if real > 0 else 0.0
        kept = settled(np.array([np.sqrt(real / count), np.sqrt(means / count), gate]), scale=np.ones(3))
        return cls(space, kept[:2].astype(np.float32), float(np.float32(kept[2])))

    def transform(self, slide: SlideTiles) -> NDArray[np.float32]:
        """The vector of a slide."""
        values = autocorrelation(self.space(slide.plain), _positions(slide))  # (c,)
        whole, mean = self._lengths()
        block = np.append(values / whole, values.mean() / mean) / np.sqrt(2)
        return (self.gate * block).astype(np.float32)

    def scores(self, slide: SlideTiles, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """As :meth:`WhitenedMean.scores`: a tile has its part in every pair, mean and variance it belongs to.

        The slide's unit of distance and its number of tiles are held fixed.
        """
        whole, mean = self._lengths()
        of_values = weights[:-1] / whole + weights[-1] / mean / (len(weights) - 1)  # (c,)
        return np.asarray(_parts(self.space(slide.plain), _positions(slide)) @ of_values * self.gate / np.sqrt(2))

    def _lengths(self) -> NDArray[np.float64]:
        return np.maximum(self.lengths.astype(np.float64), np.finfo(np.float32).tiny)

    def state(self) -> State:
        """What is kept."""
        return {**self.space.state(), "lengths": self.lengths, "gate": np.array([self.gate], dtype=np.float32)}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """The form that was kept."""
        return cls(FeatureSpace.from_state(state), state["lengths"], float(state["gate"][0]))


def autocorrelation(tiles: NDArray[np.floating], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """I_c of tiles (n, c) at (n, 2), less its mean over all shuffles of the positions: (c,); 0 of a single tile."""
    n, c = tiles.shape
    if n < 2:
        return np.zeros(c)
    h = tiles.astype(np.float64)
    h = h - h.mean(axis=0)
    variance = np.square(h).mean(axis=0)  # (c,)
    floor = variance + LEAST_VARIANCE * variance.mean()
    raw = (h * (_weights(positions) @ h)).mean(axis=0)
    # Rows of A sum to 1 and h to 0, so a shuffle's mean over i and j != i of h_i h_j is -variance / (n - 1).
    return np.asarray((raw + variance / (n - 1)) / np.where(floor > 0, floor, 1))


def _parts(tiles: NDArray[np.floating], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each tile adds to :func:`autocorrelation`, whose value is the mean over tiles: (n, c).

    I less a tile's part is how I changes with the tile's weight: in the mean over i, in the rows of A (where it draws
    others' neighbourhoods to itself), in the slide's mean, and in the variance.
    """
    n, c = tiles.shape
    if n < 2:
        return np.zeros((n, c))
    h, near = tiles.astype(np.float64), _weights(positions)
    h = h - h.mean(axis=0)
    around = near @ h  # (n, c) what lies around each tile
    own = np.square(h)
    variance = own.mean(axis=0)
    floor = variance + LEAST_VARIANCE * variance.mean()
    raw = h * around + h * (near.T @ h) - near.T @ (h * around) - h * around.mean(axis=0)  # (n, c)
    whole = (raw.mean(axis=0) + variance / (n - 1)) / np.where(floor > 0, floor, 1)
    moved = own - variance  # (n, c) how the variance changes with a tile's weight
    relative = moved + LEAST_VARIANCE * moved.mean(axis=1, keepdims=True)
    return np.asarray((raw + own / (n - 1) - whole * relative) / np.where(floor > 0, floor, 1))


def _weights(positions: NDArray[np.float64]) -> Any:
    """A (n, n), sparse: what the nearest other tiles weigh for each tile, in all 1."""
    from scipy.sparse import csr_array
    from scipy.spatial import KDTree

    n = len(positions)
    distances, others = KDTree(positions).query(positions, k=min(n, NEIGHBOURS + 1))  # (n, k), with itself
    places = np.where(distances > 0, distances, np.inf)
    nearest = places.min(axis=1)
    known = np.isfinite(nearest)
    unit = nearest[known].mean() if known.any() else np.inf  # all on one place: all distances are 0
    weights = np.exp(-np.square(np.minimum(distances / unit, FARTHEST)) / 2)
    weights[others == np.arange(n)[:, None]] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    starts = np.arange(n + 1) * distances.shape[1]
    return csr_array((weights.ravel(), others.ravel(), starts), shape=(n, n))


def _positions(slide: SlideTiles) -> NDArray[np.float64]:
    if slide.positions is None:
        raise InvalidInput(f"slide {slide.id!r} does not say where its tiles lie")
    return slide.positions
