"""Linear evaluation: logistic regression on slide vectors, scored over splits (paper, sections 4.2 and 4.3)."""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.logistic import fit
from gigacli.probing.model import Model, score_splits
from gigacli.probing.scores import Fold
from gigacli.probing.splits import Split, make_splits
from gigacli.probing.standardise import prepared, spread
from gigacli.probing.truth import Truth, classes_of

PAPER_C: Final = 10.0
GRID: Final = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""What `C="auto"` chooses from: standardised vectors want the lower end, vectors of unit length the upper.

Steps of ten cost joined vectors of real tissue .005 of AUC: 1 or 10 where 3 is best (benchmarks/choice_of_c.py)."""
INNER_FOLDS: Final = 5
UNSURE: Final = 0.97
"""Of the loss of knowing nothing, log(classes): where no C is below this, losses say how sure it is, not which is best.

With few labels and much that is none of their business, the C that shrinks everything away wins by saying nothing."""
SHARPNESS: Final = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Mean size of the scores that such losses are compared at instead, each at its best."""
CONVERGED: Final = {"max_steps": 10_000, "tolerance": 1e-8}
"""Limits of a fit to the optimum; the paper's call takes at most 1000 steps to 1e-4."""


def score(
    vectors: NDArray[np.floating],
    labels: ArrayLike,
    splits: Sequence[Split],
    *,
    C: float | Literal["auto"] = PAPER_C,
    scale: bool = False,
    seed: int = 0,
    groups: ArrayLike | None = None,
    converged: bool = False,
    augmented: NDArray[np.floating] | None = None,
) -> list[Fold]:
    """Judge vectors by logistic regression, as :func:`score_splits` does with any other fit.

    Args:
        vectors: One per slide, finite, (slides, features). They are fitted in their own precision.
        labels: Text (slides,).
        splits: Indices of slides. Every class must be on both sides.
        C: As in :func:`fit_logistic`; the same goes for `scale`, `seed` and `converged`.
        scale: Whether to standardise.
        seed: Of the inner splits of C="auto".
        groups: The patient of each slide, text (slides,), kept together by the inner splits too.
        converged: Fit to the optimum.
        augmented: (slides, augmentations, features) of the same slides seen otherwise: test sides are judged so, too.

    Raises:
        InvalidInput: No split, vectors that are not finite, or a split with a class missing from one side.
    """
    fit_one = partial(fit_logistic, C=C, scale=scale, seed=seed, converged=converged)
    return score_splits(vectors, classes_of(labels), splits, fit_one, groups=groups, augmented=augmented)


def fit_logistic(
    vectors: NDArray[np.floating],
    truth: Truth,
    groups: NDArray[np.str_] | None,
    *,
    C: float | Literal["auto"] = PAPER_C,
    scale: bool = False,
    seed: int = 0,
    converged: bool = False,
) -> Model:
    """Fit a balanced logistic regression to the vectors of a training side, (n, features).

    Args:
        vectors: Of the training side.
        truth: Its classes, each there.
        groups: Its patients, (n,), kept together where C is chosen.
        C: Inverse regularisation; "auto" takes the one of :data:`GRID` with the least log loss, balanced by class, of
            what a cross-validation inside the training side predicts (AUC, which sees ranks alone, is too coarse to
            choose by: on real vectors it was worse than 10); where that is hardly less than knowing nothing, the one
            with the least when its scores may be scaled by a number; 10 where a class has too few slides (or
            patients) there.
        scale: Subtract the mean and divide by the standard deviation first (the paper's baseline). Unit-length vectors
            go in as they are or, with C="auto", less the mean.
        seed: Of the inner splits of C="auto".
        converged: Fit to the optimum, in float64, instead of as the authors do.
    """
    limits: dict[str, Any] = CONVERGED if converged else {}
    if converged:
        vectors = vectors.astype(np.float64)
    chosen, stopped, note = C, 0, ""
    if chosen == "auto":
        chosen, stopped, note = _choose(vectors, truth, groups, scale=scale, limits=limits, seed=seed)
    mean, deviation = spread(vectors, scale=scale, centre=C == "auto")
    fitted = fit(prepared(vectors, mean, deviation), truth.y, C=chosen, **limits)
    return Model(fitted.probabilities, fitted.weights, mean, deviation, chosen, stopped + (not fitted.converged), note)


def _choose(
    vectors: NDArray[np.floating],
    truth: Truth,
    groups: NDArray[np.str_] | None,
    *,
    scale: bool,
    limits: dict[str, Any],
    seed: int,
) -> tuple[float, int, str]:
    """Return the best C of the grid, how many fits stopped short, and why it could not choose.

    From weak to strong, each fit starting where the last one ended.
    """
    try:
        inner, _ = make_splits(truth.strata, groups, folds=INNER_FOLDS, seed=seed)
    except InvalidInput as error:
        return PAPER_C, 0, f"C = {PAPER_C:g} where it could not be chosen inside the training set: {error.message}."
    losses = np.zeros(len(GRID))
    stopped = 0
    y, k = truth.y, len(truth.classes)
    logs = np.zeros((len(GRID), len(y), k))  # log probabilities, by the model that has not seen the slide
    for part in inner:
        mean, deviation = spread(vectors[part.train], scale=scale, centre=True)
        train, test = (prepared(vectors[side], mean, deviation) for side in (part.train, part.test))
        start = None
        for i, candidate in enumerate(GRID):
            model = fit(train, y[part.train], C=candidate, start=start, **limits)
            start = model.weights
            probabilities = model.probabilities(test)
            losses[i] += balanced_log_loss(y[part.test], probabilities) / len(inner)
            logs[i, part.test] = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
            stopped += not model.converged
    if losses.min() > UNSURE * np.log(k):
        losses = np.array([_scaled_loss(y, one) for one in logs])
    return GRID[int(losses.argmin())], stopped, ""


def _scaled_loss(y: NDArray[np.int64], logs: NDArray[np.float64]) -> float:
    """The least balanced log loss of log probabilities (n, classes) whose differences may be scaled by a number."""
    centred = logs - logs.mean(axis=1, keepdims=True)
    centred /= max(float(np.abs(centred).mean()), np.finfo(np.float64).tiny)
    losses = []
    for sharpness in SHARPNESS:
        scores = np.exp(sharpness * (centred - centred.max(axis=1, keepdims=True)))
        losses.append(balanced_log_loss(y, scores / scores.sum(axis=1, keepdims=True)))
    return min(losses)


def balanced_log_loss(y: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean over classes of the mean of -log p of the true class; of `y` (n,) and probabilities (n, classes)."""
    loss = -np.log(np.maximum(probabilities[np.arange(len(y)), y], np.finfo(np.float64).tiny))
    counts = np.bincount(y)
    return float((loss / counts[y]).sum() / np.count_nonzero(counts))
