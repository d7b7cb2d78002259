"""Logistic regression exactly as scikit-learn fits it, without importing scikit-learn (spec/decisions/0008).

The paper's probe, ``LogisticRegression(C=10, class_weight="balanced", max_iter=1000)``, minimises by L-BFGS from zero
the weighted mean of the losses plus |w|^2 / (2 C n), and stops well before the optimum. To equal it means to follow the
same steps: the same objective, in the same precision, handed to the same scipy routine with the same options.
"""
# ruff: noqa: N803 - C and X are what scikit-learn and everyone else calls them

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Weights = NDArray[np.floating]
Objective = Callable[[Weights], tuple[float, Weights]]

TOLERANCE: Final = 1e-4  # largest component of the gradient at which scikit-learn stops


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted model."""

    # (classes, features + 1), the intercept last; one row for two classes: that of the second
    weights: NDArray[np.floating]
    converged: bool  # whether the steps sufficed
    steps: int  # of L-BFGS

    def probabilities(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probability of each class, (n, classes) float64, computed in the precision of the vectors (n, features)."""
        scores = X @ self.weights[:, :-1].T + self.weights[:, -1]  # (n, classes), or (n, 1) for two
        if len(self.weights) == 1:
            second = expit(scores[:, 0])
            return np.stack([1 - second, second], axis=1).astype(np.float64)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float64)


def fit(
    X: NDArray[np.floating],
    y: NDArray[np.int64],
    *,
    C: float,
    max_steps: int = 1000,
    tolerance: float = TOLERANCE,
    start: NDArray[np.floating] | None = None,
) -> Logistic:
    """Fit with balanced classes and an intercept that is not penalised.

    Args:
        X: Vectors (n, features); float32 is fitted in float32, as scikit-learn does.
        y: Classes 0 ... k - 1, each at least once, (n,).
        C: Inverse regularisation.
        max_steps: At most so many steps.
        tolerance: Stop when no component of the gradient is larger.
        start: Weights to start from, as in :class:`Logistic`; default: zero.
    """
    classes = np.bincount(y)  # (k,)
    rows = 1 if len(classes) == 2 else len(classes)
    sample_weight = (len(y) / (len(classes) * classes))[y].astype(X.dtype)  # (n,)
    strength = 1.0 / (C * float(sample_weight.sum()))
    objective = (_binary if rows == 1 else _multinomial)(X, y, sample_weight, strength)
    shape = (X.shape[1] + 1, rows)  # features first, as scikit-learn orders what L-BFGS sees
    result = minimize(
        objective,
        # in the precision of X: L-BFGS evaluates at points rounded to that of its start
        np.zeros(shape[0] * rows, dtype=X.dtype) if start is None else start.T.ravel().astype(X.dtype),
        method="L-BFGS-B",
        jac=True,
        options={"maxiter": max_steps, "maxls": 50, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps},
    )
    weights = result.x.reshape(shape).T.astype(X.dtype)
    return Logistic(weights=weights, converged=result.status == 0, steps=int(result.nit))


def _binary(
    X: NDArray[np.floating], y: NDArray[np.int64], sample_weight: NDArray[np.floating], strength: float
) -> Objective:
    """Objective and gradient for two classes; pointwise in float64, rounded to the precision of `X` as theirs.

    The weights `w` come in the precision of the start, so that the penalty and the gradient are in it too.
    """
    dtype, total = X.dtype, sample_weight.sum()
    weight, target = sample_weight.astype(np.float64), y.astype(np.float64)

    def objective(w: Weights) -> tuple[float, Weights]:
        score = (X @ w[:-1].astype(dtype) + w[-1].astype(dtype)).astype(np.float64)  # (n,)
        low = score <= -2  # where they change from one form of the loss to the other
        small = np.exp(np.where(low, score, -score.clip(-2, None)))
        losses = np.log1p(small) + np.where(low, -target, 1 - target) * score
        error = np.where(low, (1 - target) * small - target, (1 - target) - target * small) / (1 + small)
        slope = (error * weight).astype(dtype) / total
        value = float((losses * weight).astype(dtype).sum() / total) + float(0.5 * strength * (w[:-1] @ w[:-1]))
        gradient = np.empty_like(w)
        gradient[:-1] = X.T @ slope + strength * w[:-1]
        gradient[-1] = slope.sum()
        return value, gradient

    return objective


def _multinomial(
    X: NDArray[np.floating], y: NDArray[np.int64], sample_weight: NDArray[np.floating], strength: float
) -> Objective:
    """Objective and gradient for more than two classes."""
    dtype, total, rows = X.dtype, sample_weight.sum(), np.arange(len(y))

    def objective(w: Weights) -> tuple[float, Weights]:
        w = w.reshape(X.shape[1] + 1, -1)  # (features + 1, k)
        score = X @ w[:-1].astype(dtype) + w[-1].astype(dtype)  # (n, k)
        highest = score.max(axis=1).astype(np.float64)
        share = np.exp(score - highest[:, None]).astype(dtype)
        totals = share.sum(axis=1, dtype=np.float64).astype(dtype)
        losses = (np.log(totals, dtype=np.float64) + highest).astype(dtype) - score[rows, y]
        share /= totals[:, None]
        share[rows, y] -= 1
        slope = share * sample_weight[:, None] / total  # (n, k)
        penalised = w[:-1].ravel()
        value = float((losses * sample_weight).sum() / total) + float(0.5 * strength * (penalised @ penalised))
        gradient = np.empty_like(w)
        gradient[:-1] = (slope.T @ X).T + strength * w[:-1]
        gradient[-1] = slope.sum(axis=0)
        return value, gradient.ravel()

    return objective
