"""What predictions of test sides are worth: their metrics, means over splits, differences on the same splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.probing.kinds import KINDS
from gigacli.probing.splits import Split
from gigacli.probing.truth import Truth


@dataclass(frozen=True, eq=False)
class Fold:
    """One fit: what it predicts of the test side of its split, and how well."""

    split: Split
    # as in `Kind`, float64 (n_test, outputs), rows as in `split.test`: of classes their probabilities, in sorted order
    predicted: NDArray[np.float64]
    metrics: dict[str, float]  # those of the kind of task, by name; NaN: not defined here
    score: float  # the one that methods are compared by
    # under each of other augmentations the score of the test slides that are seen so: as they are, and so
    augmented: tuple[tuple[float, float], ...] = ()
    C: float | None = None  # the inverse regularisation used; None where there is none
    not_converged: int = 0  # fits that stopped short, the inner ones of `C="auto"` included
    note: str = ""  # why `C="auto"` could not choose, or ""

    @property
    def auc(self) -> float:
        """Of classes: area under the ROC curve, for more than two the mean over each against the rest."""
        return self.metrics["auc"]


def score_fold(truth: Truth, predicted: NDArray[np.float64], split: Split) -> Fold:
    """Measure what is predicted of the test side of a split, (n_test, outputs)."""
    kind = KINDS[truth.kind]
    found = kind.measure(truth.take(split.test), predicted, truth.take(split.train))
    return Fold(split, predicted, found, found[kind.metric])


def score_interval(folds: Sequence[Fold], *, lowest: float = 0.0) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean score over splits, see :func:`interval`; None for one split."""
    return _interval_of([fold.score for fold in folds], folds, lowest=lowest, highest=1.0)


def difference(
    mine: Sequence[Fold], other: Sequence[Fold], *, lowest: float = 0.0
) -> tuple[float, float | None, float | None]:
    """Difference of two scores on the same splits, mine minus the other: mean, and its paired 95 % interval."""
    gaps = [a.score - b.score for a, b in zip(mine, other, strict=True)]
    return float(np.mean(gaps)), *_interval_of(gaps, mine, lowest=lowest - 1.0, highest=1.0 - lowest)


def _interval_of(
    values: list[float], folds: Sequence[Fold], *, lowest: float, highest: float
) -> tuple[float, float] | tuple[None, None]:
    """Interval of the mean of a value per fold; several draws from one training side count as one, by their mean."""
    of_split: dict[int, list[float]] = {}
    for i, (value, fold) in enumerate(zip(values, folds, strict=True)):
        of_split.setdefault(i if fold.split.draw_of is None else fold.split.draw_of, []).append(value)
    if len(of_split) < 2:
        return None, None
    n_train = float(np.mean([fold.split.pool or len(fold.split.train) for fold in folds]))
    n_test = float(np.mean([len(fold.split.test) for fold in folds]))
    means = [float(np.mean(one)) for one in of_split.values()]
    return interval(means, n_train=n_train, n_test=n_test, lowest=lowest, highest=highest)


def interval(
    values: ArrayLike, *, n_train: float, n_test: float, lowest: float = 0.0, highest: float = 1.0
) -> tuple[float, float]:
    """Return the 95 % interval of a mean over splits of one cohort, clipped to [`lowest`, `highest`].

    The splits share slides, so their plain standard error is too small: Nadeau and Bengio, Inference for the
    generalization error, Machine Learning 52 (2003), replace 1/J by 1/J + n_test/n_train, with Student's t of J - 1
    degrees of freedom.

    Args:
        values: A score, or a difference of two, per split, (J,), J at least 2.
        n_train: Slides of the training side of each split, before a smaller budget took some of them: it is how much
            of the cohort two splits share that counts.
        n_test: Slides scored in each split.
        lowest: The least value there can be.
        highest: The largest.
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=np.float64)
    error = np.sqrt((1 / len(x) + n_test / n_train) * x.var(ddof=1))
    reach = stdtrit(len(x) - 1, 0.975) * error
    return float(max(lowest, x.mean() - reach)), float(min(highest, x.mean() + reach))
