"""Ridge regression on numbers, and on the levels of an order, its strength chosen inside the training side."""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.model import Model, Vectors
from gigacli.probing.splits import Split, make_splits
from gigacli.probing.standardise import prepared, spread
from gigacli.probing.truth import Truth

GRID: Final = tuple(float(f"{10**e:.1g}") for e in np.arange(-6, 3.5, 0.5))
"""What C is chosen from, 1e-6 to 1e3 in steps of three: standardised vectors want the lower end."""
INNER_FOLDS: Final = 5


def fit_numbers(
    vectors: Vectors,
    truth: Truth,
    groups: NDArray[np.str_] | None,
    *,
    C: float | Literal["auto"] = "auto",
    scale: bool = False,
    seed: int = 0,
) -> Model:
    """Fit numbers of a training side by least squares plus |w|^2 / C: scikit-learn's Ridge with alpha = 1 / C.

    Args:
        vectors: (n, features); their mean is subtracted, and with `scale` they are standardised.
        truth: Numbers.
        groups: Patients, (n,), kept together where C is chosen.
        C: "auto" takes the one of :data:`GRID` with the least squared error in a cross-validation inside.
        scale: Whether to standardise.
        seed: Of the splits of that.
    """
    chosen, _, note = _choose(vectors, truth.y, truth.strata, groups, C=C, scale=scale, seed=seed)
    mean, deviation = spread(vectors, scale=scale, centre=True)
    weights = ridge(prepared(vectors.astype(np.float64), mean, deviation), truth.y, (chosen,))[0]  # (features + 1,)
    return Model(partial(_numbers, weights), weights[None], mean, deviation, chosen, note=note)


def fit_levels(
    vectors: Vectors,
    truth: Truth,
    groups: NDArray[np.str_] | None,
    *,
    C: float | Literal["auto"] = "auto",
    scale: bool = False,
    seed: int = 0,
) -> Model:
    """Fit levels as numbers 0, 1, 2 as :func:`fit_numbers` does, and cut what that predicts into levels.

    A ridge draws predictions towards the mean, so that rounding would hardly ever give the lowest or the highest level.
    The cuts are where predictions of the cross-validation inside, made without having seen the unit, are as often below
    as there are units of the lower levels.
    """
    y = truth.y.astype(np.float64)
    chosen, unseen, note = _choose(vectors, y, truth.strata, groups, C=C, scale=scale, seed=seed)
    mean, deviation = spread(vectors, scale=scale, centre=True)
    train = prepared(vectors.astype(np.float64), mean, deviation)
    weights = ridge(train, y, (chosen,))[0]
    found = np.sort(_numbers(weights, train)[:, 0] if unseen is None else unseen)
    below = np.cumsum(np.bincount(truth.y, minlength=len(truth.classes)))[:-1]  # (levels - 1,)
    cuts = (found[below - 1] + found[below]) / 2
    return Model(partial(_levels, weights, cuts), weights[None], mean, deviation, chosen, note=note, cuts=cuts)


def ridge(train: NDArray[np.float64], y: NDArray[np.float64], strengths: tuple[float, ...]) -> NDArray[np.float64]:
    """Weights at every C, (strengths, features + 1), the intercept last and not penalised.

    From one decomposition of the smaller of the two matrices of products, of features or of units.
    """
    centre, mean = train.mean(axis=0), float(y.mean())
    x, alpha = train - centre, 1 / np.array(strengths)
    wide = x.shape[1] > x.shape[0]
    values, basis = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    aim = y - mean if wide else x.T @ (y - mean)
    solved = basis @ ((basis.T @ aim)[:, None] / (values.clip(min=0)[:, None] + alpha))  # (n or features, strengths)
    weights = (x.T @ solved if wide else solved).T  # (strengths, features)
    return np.column_stack([weights, mean - weights @ centre])


def _choose(
    vectors: Vectors,
    y: NDArray[np.float64],
    strata: NDArray[np.str_],
    groups: NDArray[np.str_] | None,
    *,
    C: float | Literal["auto"],
    scale: bool,
    seed: int,
) -> tuple[float, NDArray[np.float64] | None, str]:
    """The best C, what it predicts of each unit without having seen it, (n,), and why it could not be chosen."""
    try:
        inner, _ = make_splits(strata, groups, folds=INNER_FOLDS, seed=seed)
    except InvalidInput as error:
        middle = 0.01 if C == "auto" else C
        return middle, None, f"C = {middle:g} where it could not be chosen inside the training set: {error.message}."
    grid = GRID if C == "auto" else (C,)
    sums, times = np.zeros((len(grid), len(y))), np.zeros(len(y))
    for part in inner:
        sums[:, part.test] += _unseen(vectors, y, part, grid, scale=scale)
        times[part.test] += 1
    tested = times > 0  # all, but where a cross-validation is repeated and not finished
    unseen = sums[:, tested] / times[tested]
    best = int(np.square(unseen - y[tested]).sum(axis=1).argmin())
    return grid[best], unseen[best] if tested.all() else None, ""


def _unseen(
    vectors: Vectors, y: NDArray[np.float64], part: Split, grid: tuple[float, ...], *, scale: bool
) -> NDArray[np.float64]:
    """What is predicted of the test side of a split at every C, (grid, n_test)."""
    mean, deviation = spread(vectors[part.train], scale=scale, centre=True)
    train, test = (prepared(vectors[p].astype(np.float64), mean, deviation) for p in (part.train, part.test))
    weights = ridge(train, y[part.train], grid)
    return weights[:, :-1] @ test.T + weights[:, -1:]


def _numbers(weights: NDArray[np.float64], vectors: Vectors) -> NDArray[np.float64]:
    return vectors.astype(np.float64) @ weights[:-1, None] + weights[-1]


def _levels(weights: NDArray[np.float64], cuts: NDArray[np.float64], vectors: Vectors) -> NDArray[np.float64]:
    found = _numbers(weights, vectors)[:, 0]
    return np.stack([np.searchsorted(cuts, found, side="right").astype(np.float64), found], axis=1)
