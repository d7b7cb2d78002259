"""What is fitted on one side and predicts the other, whatever the method; and the scoring of every split so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from gigacli.errors import InvalidInput
from gigacli.probing.kinds import KINDS
from gigacli.probing.scores import Fold, score_fold
from gigacli.probing.splits import Split
from gigacli.probing.standardise import Moments, prepared
from gigacli.probing.truth import Truth

Vectors = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Model:
    """A head that was fitted to the vectors of a training side."""

    # what it gives for vectors (n, features) after `mean` and `deviation`: (n, outputs) as in `Kind`
    of_prepared: Callable[[Vectors], NDArray[np.float64]]
    # of a linear one, (outputs, features + 1), the intercept last; for two classes one row, that of the second
    weights: NDArray[np.floating] | None = None
    mean: Moments = None  # is subtracted from vectors, (features,); None: nothing is
    deviation: Moments = None  # and they are divided by it, (features,)
    C: float | None = None  # the inverse regularisation used; None where there is none
    not_converged: int = 0  # fits that stopped short, the inner ones that chose C included
    note: str = ""  # why C could not be chosen, or ""
    cuts: NDArray[np.float64] | None = None  # of levels: where one ends and the next begins, (levels - 1,)

    def predict(self, vectors: Vectors) -> NDArray[np.float64]:
        """What is predicted of vectors as a store has them, (n, features): (n, outputs) as in :class:`Kind`."""
        return self.of_prepared(prepared(vectors, self.mean, self.deviation))


Fit = Callable[[Vectors, Truth, NDArray[np.str_] | None], Model]
"""Fits a head: (vectors of the training side (n, features), the truth about it, its patients (n,) or None)."""

Apply = Callable[[Vectors, NDArray[np.int64]], Vectors]
Transform = Callable[[Vectors, NDArray[np.int64]], Apply]
"""Fits what is done to vectors before a head sees them, as harmonisation: (vectors of the training side, its places
among the units) -> a function of (vectors, their places) that gives these vectors changed. It is never shown the test
side while it is fitted."""


def score_splits(
    vectors: Vectors,
    truth: Truth,
    splits: Sequence[Split],
    fit: Fit,
    *,
    groups: ArrayLike | None = None,
    augmented: Vectors | None = None,
    transform: Transform | None = None,
) -> list[Fold]:
    """Fit and score every split, in their order, with one BLAS thread: these problems are too small to share.

    Args:
        vectors: One per unit, finite, (units, features).
        truth: What is known of the units.
        splits: Places of units.
        fit: Of :func:`gigacli.probing.heads.fit_of`.
        groups: The patient of each unit, text (units,), kept together by whatever splits the training side again.
        augmented: (units, augmentations, features) of the same units seen otherwise, NaN where one is not: test sides
            are judged so, too.
        transform: Changes vectors, fitted on every training side anew; what chooses C sees the changed ones.

    Raises:
        InvalidInput: No split, vectors that are not finite, or a split with a side that cannot be used.
    """
    if not splits:
        raise InvalidInput("there are no splits to score", "Make or read at least one.")
    names = None if groups is None else np.asarray(groups)
    folds = []
    with threadpool_limits(1):
        for split in splits:
            KINDS[truth.kind].check(truth, split)
            train, test = _finite(vectors[split.train], "training"), _finite(vectors[split.test], "test")
            change: Apply = _as_they_are if transform is None else transform(train, split.train)
            inside = None if names is None else names[split.train]
            model = fit(change(train, split.train), truth.take(split.train), inside)
            fold = score_fold(truth, model.predict(change(test, split.test)), split)
            if augmented is not None:
                sides = [augmented[:, a] for a in range(augmented.shape[1])]
                pairs = [_seen(vectors, side, truth, split, model, change) for side in sides]
                fold = replace(fold, augmented=tuple(pairs))
            folds.append(replace(fold, C=model.C, not_converged=model.not_converged, note=model.note))
    return folds


def _seen(
    vectors: Vectors, otherwise: Vectors, truth: Truth, split: Split, model: Model, change: Apply
) -> tuple[float, float]:
    """Score of those of a test side that are seen under an augmentation: as they are, and so; NaN: of too few."""
    some = replace(split, test=split.test[np.isfinite(otherwise[split.test]).all(axis=1)])
    try:
        KINDS[truth.kind].check(truth, some)
    except InvalidInput:
        return np.nan, np.nan
    clean, seen = (
        score_fold(truth, model.predict(change(side[some.test], some.test)), some).score
        for side in (vectors, otherwise)
    )
    return clean, seen


def _as_they_are(vectors: Vectors, _: NDArray[np.int64]) -> Vectors:
    return vectors


def _finite(vectors: Vectors, side: str) -> Vectors:
    if not np.isfinite(vectors).all():
        raise InvalidInput(f"{side} vectors are not finite", "Leave out slides without a vector.")
    return vectors
