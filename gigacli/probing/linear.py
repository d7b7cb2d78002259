"""Linear evaluation: logistic regression on slide vectors, scored over splits (paper, sections 4.2 and 4.3)."""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from gigacli.errors import InvalidInput
from gigacli.probing.logistic import fit
from gigacli.probing.scores import Fold, auc, check_split, score_fold
from gigacli.probing.splits import Split, make_splits
from gigacli.probing.standardise import moments, standardise

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
    """Fit and score every split, in their order, with one BLAS thread: these problems are too small to share.

    Args:
        vectors: One per slide, finite, (slides, features). They are fitted in their own precision.
        labels: Text (slides,).
        splits: Indices of slides. Every class must be on both sides.
        C: Inverse regularisation; "auto" takes the one of :data:`GRID` with the least log loss, balanced by class, of
            what a cross-validation inside the training side predicts (AUC, which sees ranks alone, is too coarse to
            choose by: on real vectors it was worse than 10); where that is hardly less than knowing nothing, the one
            with the least when its scores may be scaled by a number; 10 where a class has too few slides (or
            patients) there.
        scale: Subtract the mean and divide by the standard deviation of the training side first (the paper's
            baseline). Unit-length vectors go in as they are or, with C="auto", less the mean of the training side.
        seed: Of the inner splits of C="auto".
        groups: The patient of each slide, text (slides,), kept together by the inner splits too.
        converged: Fit to the optimum, in float64, instead of as the authors do.
        augmented: (slides, augmentations, features) of the same slides seen otherwise: test sides are judged so, too.

    Raises:
        InvalidInput: No split, vectors that are not finite, or a split with a class missing from one side.
    """
    if not splits:
        raise InvalidInput("there are no splits to score", "Make or read at least one.")
    names = np.asarray(labels)
    classes, y = np.unique(names, return_inverse=True)  # (classes,), (slides,)
    limits: dict[str, Any] = CONVERGED if converged else {}
    if converged:
        vectors = vectors.astype(np.float64)
    folds = []
    with threadpool_limits(1):
        for split in splits:
            check_split(y, split, classes.tolist())
            _check_finite(vectors, split)
            chosen, stopped, note = C, 0, ""
            if chosen == "auto":
                chosen, stopped, note = _choose(
                    vectors, names, y, split, scale=scale, limits=limits, groups=groups, seed=seed
                )
            train, test = _sides(vectors, split, scale=scale, centre=C == "auto")
            model = fit(train, y[split.train], C=chosen, **limits)
            fold = score_fold(y, model.probabilities(test), split)
            if augmented is not None:
                seen = [
                    _sides(vectors, split, scale=scale, centre=C == "auto", test=augmented[split.test, a])[1]
                    for a in range(augmented.shape[1])
                ]
                aucs = [auc(y[split.test], model.probabilities(side)) for side in seen]
                fold = replace(fold, augmented_auc=float(np.mean(aucs)))
            folds.append(replace(fold, C=chosen, not_converged=stopped + (not model.converged), note=note))
    return folds


def _sides(
    vectors: NDArray[np.floating],
    split: Split,
    *,
    scale: bool,
    centre: bool,
    test: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Vectors of the training and the test side, (n_train, features) and (n_test, features), as they are fitted.

    `test` are those of the test side where they are not among `vectors`.
    """
    train, test = vectors[split.train], vectors[split.test] if test is None else test
    if scale or centre:
        mean, deviation = moments(train)
        deviation = deviation if scale else np.ones_like(deviation)
        return standardise(train, mean, deviation), standardise(test, mean, deviation)
    return train, test


def _choose(
    vectors: NDArray[np.floating],
    labels: NDArray[np.str_],
    y: NDArray[np.int64],
    split: Split,
    *,
    scale: bool,
    limits: dict[str, Any],
    groups: ArrayLike | None,
    seed: int,
) -> tuple[float, int, str]:
    """Return the best C of the grid inside the training side, how many fits stopped short, and why it could not choose.

    From weak to strong, each fit starting where the last one ended.
    """
    inside = None if groups is None else np.asarray(groups)[split.train]
    try:
        inner, _ = make_splits(labels[split.train], inside, folds=INNER_FOLDS, seed=seed)
    except InvalidInput as error:
        return PAPER_C, 0, f"C = {PAPER_C:g} where it could not be chosen inside the training set: {error.message}."
    losses = np.zeros(len(GRID))
    stopped = 0
    mine, k = y[split.train], len(np.unique(y[split.train]))
    logs = np.zeros((len(GRID), len(mine), k))  # log probabilities, by the model that has not seen the slide
    for part in inner:
        fold = Split(train=split.train[part.train], test=split.train[part.test])
        train, test = _sides(vectors, fold, scale=scale, centre=True)
        start = None
        for i, candidate in enumerate(GRID):
            model = fit(train, y[fold.train], C=candidate, start=start, **limits)
            start = model.weights
            probabilities = model.probabilities(test)
            losses[i] += balanced_log_loss(y[fold.test], probabilities) / len(inner)
            logs[i, part.test] = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
            stopped += not model.converged
    if losses.min() > UNSURE * np.log(k):
        losses = np.array([_scaled_loss(mine, one) for one in logs])
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


def _check_finite(vectors: NDArray[np.floating], split: Split) -> None:
    for side, places in (("training", split.train), ("test", split.test)):
        if not np.isfinite(vectors[places]).all():
            raise InvalidInput(f"{side} vectors are not finite", "Leave out slides without a vector.")
