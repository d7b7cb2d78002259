"""Learning the operators of :mod:`gigacli.nn.operators` from tiles that were encoded as they are and augmented.

Beyond the paper. All is fitted in the operators' own space: features standardised by the un-augmented tiles of the
cohort, then whitened by what augmentations change. There, ridge regression towards the identity:

    D_k = (C + lambda tr(C)/d I)^-1 (1/n) sum_i (x_i - c)^T (y_ki - x_i - mu_k)

with x_i the tiles, c their mean, C their covariance, y_ki tile i under parameter set k, mu_k the mean of y_ki - x_i.
lambda is one for all sets, chosen on slides that were left out; one eigendecomposition of C serves every set and
lambda. Sums are float64 and rounded by :func:`~gigacli.nn.whitening.settled`: the order of slides leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.nn.operators import Gate, Operators, Residuals, ways
from gigacli.nn.whitening import (
    Features,
    FeatureSpace,
    Spread,
    augmentation_covariance,
    settled,
    spread_rows,
    whitening_matrix,
)
from gigacli.randomness import keyed_seed

FOLDS = 5

LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

LAMBDA_SETS = 8
"""Sets, spread over all, that lambda is chosen on: their errors add up over thousands of tiles and all features."""

LEAST_SLIDES = 2 * FOLDS
"""Slides below which what is learnt on some cannot be judged on others."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Tiles of some slides as they are, and each under the same parameter sets.

    Raises:
        InvalidInput: Shapes do not fit, or there are fewer than :data:`LEAST_SLIDES` slides.
    """

    plain: Features  # (n, d)
    augmented: Features  # (n, k, d); looked at set by set, so that it may be mapped into memory
    slide: NDArray[Any]  # (n,) the id of each tile's slide; tiles of a slide lie together

    def __post_init__(self) -> None:
        n, d = self.plain.shape
        if self.augmented.ndim != 3 or self.augmented.shape[::2] != (n, d) or self.slide.shape != (n,):
            raise InvalidInput(
                f"{n} tiles of {d} features come with augmented features of shape {self.augmented.shape} and "
                f"{len(self.slide)} ids of slides; expected ({n}, sets, {d}) and {n}"
            )
        slides = len(np.unique(self.slide))
        if slides != len(self.first) - 1:
            raise InvalidInput(f"the tiles of {slides} slides lie in {len(self.first) - 1} pieces; sort them by slide")
        if slides < LEAST_SLIDES:
            raise InvalidInput(
                f"operators are learnt from tiles of {slides} slides and judged on slides left out, which takes "
                f"{LEAST_SLIDES}",
                "make a bank of tiles instead",
            )

    @property
    def sets(self) -> int:
        """K."""
        return self.augmented.shape[1]

    @property
    def first(self) -> NDArray[np.int64]:
        """(slides + 1,) the first tile of each slide, and the end."""
        return np.concatenate([[0], np.flatnonzero(self.slide[1:] != self.slide[:-1]) + 1, [len(self.slide)]])

    def folds(self, seed: int) -> NDArray[np.int64]:
        """(n,) the fold of each tile; that of a slide depends on the ids of the slides alone."""
        names = sorted(set(self.slide.tolist()), key=lambda name: keyed_seed(seed, "operators", name))
        fold = {name: i % FOLDS for i, name in enumerate(names)}
        return np.array([fold[name] for name in self.slide.tolist()])

    def slides(self) -> Iterator[tuple[Features, NDArray[np.int32]]]:
        """Per slide its augmented features (k, m, d), and which tile each is of (k, m)."""
        for start, end in zip(self.first[:-1], self.first[1:], strict=True):
            tile = np.broadcast_to(np.arange(end - start, dtype=np.int32), (self.sets, end - start))
            yield self.augmented[start:end].swapaxes(0, 1), tile


def operator_space(calibration: Calibration, spread: Spread) -> FeatureSpace:
    """The space that operators are learnt in: standardised as the cohort's tiles, whitened by their augmentations.

    Raises:
        InvalidInput: Augmentations do not move features, or move them beyond all numbers.
    """
    noise = augmentation_covariance(calibration.slides(), spread.standard)
    return FeatureSpace(spread.standard, whitening_matrix(noise, spread))


def fit_operators(
    calibration: Calibration,
    space: FeatureSpace,
    *,
    rank: int,
    held_out: int = 0,
    residuals: bool = False,
    seed: int = 0,
) -> Operators:
    """Learn one operator per parameter set, and how well they foresee slides that they were not learnt from.

    Args:
        calibration: What is learnt from.
        space: Of :func:`operator_space`.
        rank: Directions, shared by all sets, that operators look at and move along; d or more: all.
        held_out: Sets, the last, that no augmentation will be drawn from; they do not count in the gate.
        residuals: Whether to keep what operators of the other folds could not foresee of each tile and set.
        seed: Seed of the folds.

    Raises:
        InvalidInput: Features are not finite.
    """
    fitting = _Fitting(calibration, space, calibration.folds(seed))
    drawn = calibration.sets - held_out
    penalty = fitting.best_penalty(drawn)
    weights, width = fitting.weights(penalty), fitting.width
    shift = np.empty((calibration.sets, width), dtype=np.float32)
    half, solved = fitting.half(penalty), np.empty((calibration.sets, width, width), dtype=np.float32)
    errors = np.empty((calibration.sets, 3, 2))
    left_out = np.empty(calibration.augmented.shape, dtype=np.float16) if residuals else None
    back = ways(space, width)[1].astype(np.float32)
    for k in range(calibration.sets):
        one = fitting.set(k)
        shift[k], solved[k] = one.shift, half.T @ fitting.cross(one)  # (C + lambda ...)^-1 = half half^T
        unforeseen = fitting.unforeseen(one, weights)
        errors[k] = fitting.errors(one, unforeseen)
        if left_out is not None:
            left_out[:, k] = unforeseen @ back
    left, core, right, kept = _shared_directions(solved, rank=rank)
    total = errors[:drawn].sum(axis=0)
    return Operators(
        space=space,
        centre=fitting.centre,
        shift=shift,
        left=(half @ left).astype(np.float32),
        core=core,
        right=right,
        gate=Gate(*np.round(1 - total[:, 0] / total[:, 1], 4).tolist()),
        r2=np.round(1 - errors[..., 0] / np.maximum(errors[..., 1], np.finfo(np.float64).tiny), 4).astype(np.float32),
        penalty=penalty,
        kept=kept,
        residuals=Residuals(left_out, calibration.first) if left_out is not None else None,
        held_out=held_out,
    )


class _Ridge:
    """The eigendecomposition of the covariance C of tiles (n, d), which solves for every set and penalty."""

    def __init__(self, tiles: Matrix) -> None:
        self.count, self.mean = len(tiles), tiles.mean(axis=0)  # n, (d,)
        centred = tiles - self.mean
        values, self._directions = np.linalg.eigh(settled(centred.T @ centred / len(tiles)))
        self._values = np.maximum(values, 0)

    def half(self, penalty: float) -> Matrix:
        """(d, d) H with H H^T = (C + penalty tr(C)/d I)^-1."""
        return self._directions / np.sqrt(self._values + penalty * self._values.mean())


@dataclass(frozen=True, eq=False)
class _Weights:
    """What foresees each tile x from the tiles outside its fold, whose mean is m, number n' and ridge H.

    x is foreseen to move by shift + (x - m) H H^T (1/n') sum over the tiles outside of (x' - m)^T (y' - x'): a sum over
    all tiles, which a set has once, less that over the fold, less m^T shift.
    """

    values: NDArray[np.float32]  # (n, d) (x - m) H H^T / n'
    own: list[NDArray[np.float32]]  # by fold (n_f, n_f), values times the tiles of the fold
    mean: NDArray[np.float32]  # (n,) (x - m) H H^T m


@dataclass(frozen=True, eq=False)
class _Set:
    """What a parameter set moves tiles by."""

    moved: NDArray[np.float32]  # (n, d) y - x
    outside: NDArray[np.float32]  # (n, d) its mean outside the fold of each tile
    shift: Matrix  # (d,) its mean
    product: Matrix  # (d, d) sum over all tiles of x^T (y - x)


class _Fitting:
    """The calibration in the operators' space, about its mean, and the ridges of all tiles and outside each fold."""

    def __init__(self, calibration: Calibration, space: FeatureSpace, folds: NDArray[np.int64]) -> None:
        self._calibration, self._space = calibration, space
        inside = self._inside(calibration.plain)  # (n, d)
        self.width = inside.shape[1]
        self.centre = settled(inside.mean(axis=0)).astype(np.float32)
        self._tiles = inside - self.centre
        self._parts = [folds == fold for fold in range(FOLDS)]
        self._ridge = _Ridge(self._tiles)
        self._ridges = [_Ridge(self._tiles[~part]) for part in self._parts]

    def _inside(self, features: Features) -> Matrix:
        inside = self._space(features).astype(np.float64)
        if not np.isfinite(inside).all():
            raise InvalidInput(
                "some features of the calibration tiles are not finite", "look at the slides they are of"
            )
        return inside

    def half(self, penalty: float) -> Matrix:
        """(d, d) H of all tiles."""
        return self._ridge.half(penalty)

    def cross(self, one: _Set) -> Matrix:
        """(d, d) covariance of all tiles with what moves them."""
        return settled(one.product / self._ridge.count - np.outer(self._ridge.mean, one.shift))

    def set(self, k: int) -> _Set:
        """Parameter set k."""
        moved = self._inside(self._calibration.augmented[:, k]) - self.centre - self._tiles
        total, outside = moved.sum(axis=0), np.empty(moved.shape, dtype=np.float32)
        for part, ridge in zip(self._parts, self._ridges, strict=True):
            outside[part] = (total - moved[part].sum(axis=0)) / ridge.count
        return _Set(moved.astype(np.float32), outside, settled(total / len(moved)), self._tiles.T @ moved)

    def weights(self, penalty: float) -> _Weights:
        """Of each tile, by the ridge outside its fold."""
        values, own = np.empty(self._tiles.shape, dtype=np.float32), []
        mean = np.empty(len(values), dtype=np.float32)
        for part, ridge in zip(self._parts, self._ridges, strict=True):
            half, tiles = ridge.half(penalty), self._tiles[part]
            solved = (tiles - ridge.mean) @ half @ half.T
            values[part], mean[part] = solved / ridge.count, solved @ ridge.mean
            own.append((solved @ tiles.T / ridge.count).astype(np.float32))
        return _Weights(values, own, mean)

    def unforeseen(self, one: _Set, weights: _Weights) -> NDArray[np.float32]:
        """(n, d) what the tiles outside its fold do not foresee of each."""
        left = one.moved - one.outside * (1 - weights.mean[:, None]) - weights.values @ one.product.astype(np.float32)
        for part, own in zip(self._parts, weights.own, strict=True):
            left[part] += own @ one.moved[part]
        return left

    def best_penalty(self, sets: int) -> float:
        """The lambda of the least error on tiles of slides left out, of the first so many sets."""
        weights, errors = [self.weights(penalty) for penalty in LAMBDAS], np.zeros(len(LAMBDAS))
        for k in spread_rows(sets, LAMBDA_SETS).tolist():
            one = self.set(k)
            errors += [_square(self.unforeseen(one, of_penalty)) for of_penalty in weights]
        return LAMBDAS[int(errors.argmin())]

    def errors(self, one: _Set, unforeseen: NDArray[np.float32]) -> Matrix:
        """(3, 2) square sums of what was not foreseen and of what was to be: tiles, slides, slides by the shift."""
        slides = _square(self._slide_means(one.moved))
        missed, shifted = (_square(self._slide_means(left)) for left in (unforeseen, one.moved - one.outside))
        return np.array([[_square(unforeseen), _square(one.moved)], [missed, slides], [shifted, slides]])

    def _slide_means(self, tiles: NDArray[np.float32]) -> Matrix:
        first = self._calibration.first
        return np.asarray(np.add.reduceat(tiles.astype(np.float64), first[:-1], axis=0) / np.diff(first)[:, None])


def _square(values: NDArray[np.floating]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _shared_directions(
    matrices: NDArray[np.float32], *, rank: int
) -> tuple[Matrix, NDArray[np.float32], NDArray[np.float32], float]:
    """The best few directions that matrices (k, d, d) share: left (d, r), core (k, r, r), right (r, d), share kept.

    Left and right are the leading eigenvectors of sum_k G_k G_k^T and of sum_k G_k^T G_k (De Lathauwer et al. 2000).
    """
    from scipy.linalg import eigh

    width = matrices.shape[1]
    rows, columns = np.zeros((width, width)), np.zeros((width, width))
    for matrix in matrices:
        wide = matrix.astype(np.float64)
        rows, columns = rows + wide @ wide.T, columns + wide.T @ wide
    leading = [width - min(rank, width), width - 1]
    left, right = (eigh(settled(square), subset_by_index=leading)[1] for square in (rows, columns))
    core = np.stack([(left.T @ matrix.astype(np.float64) @ right).astype(np.float32) for matrix in matrices])
    kept = _square(core) / float(np.trace(rows))
    return left, core, np.ascontiguousarray(right.T, dtype=np.float32), round(kept, 4)
