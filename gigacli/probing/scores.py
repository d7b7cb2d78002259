"""What probabilities on test sides are worth: AUC, accuracy, means over splits, differences on the same splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.splits import Split


@dataclass(frozen=True, eq=False)
class Fold:
    """One fit: what it predicts of the test side of its split, and how well."""

    split: Split
    # of each class in sorted order, float64 (n_test, classes), rows as in `split.test`
    probabilities: NDArray[np.float64]
    # area under the ROC curve of the second class in sorted order; for more than two classes the mean over each
    # against the rest
    auc: float
    accuracy: float  # share of test slides whose most probable class is theirs
    balanced_accuracy: float  # the same per class, averaged over classes
    augmented_auc: float | None = None  # the same with test slides seen under other augmentations, the mean over these
    C: float | None = None  # the inverse regularisation used; None where there is none
    not_converged: int = 0  # fits that stopped short, the inner ones of `C="auto"` included
    note: str = ""  # why `C="auto"` could not choose, or ""


def score_fold(y: NDArray[np.int64], probabilities: NDArray[np.float64], split: Split) -> Fold:
    """Score one test side; its classes `y[split.test]` are columns of `probabilities` (n_test, classes), each there."""
    truth = y[split.test]  # (n_test,)
    hit = probabilities.argmax(axis=1) == truth  # (n_test,)
    by_class = [hit[truth == c].mean() for c in range(probabilities.shape[1])]
    return Fold(split, probabilities, auc(truth, probabilities), float(hit.mean()), float(np.mean(by_class)))


def auc_interval(folds: Sequence[Fold]) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the mean AUC over splits, see :func:`interval`; None for one split."""
    return _interval_of([fold.auc for fold in folds], folds, lowest=0.0)


def difference(mine: Sequence[Fold], other: Sequence[Fold]) -> tuple[float, float | None, float | None]:
    """Difference of two AUCs on the same splits, mine minus the other: mean, and its paired 95 % interval."""
    gaps = [a.auc - b.auc for a, b in zip(mine, other, strict=True)]
    return float(np.mean(gaps)), *_interval_of(gaps, mine, lowest=-1.0)


def _interval_of(
    values: list[float], folds: Sequence[Fold], *, lowest: float
) -> tuple[float, float] | tuple[None, None]:
    if len(values) < 2:
        return None, None
    n_train = float(np.mean([fold.split.pool or len(fold.split.train) for fold in folds]))
    return interval(values, n_train=n_train, n_test=float(np.mean([len(f.split.test) for f in folds])), lowest=lowest)


def interval(values: ArrayLike, *, n_train: float, n_test: float, lowest: float = 0.0) -> tuple[float, float]:
    """Return the 95 % interval of a mean over splits of one cohort, clipped to [`lowest`, 1].

    The splits share slides, so their plain standard error is too small: Nadeau and Bengio, Inference for the
    generalization error, Machine Learning 52 (2003), replace 1/J by 1/J + n_test/n_train, with Student's t of J - 1
    degrees of freedom.

    Args:
        values: An AUC, or a difference of two, per split, (J,), J at least 2.
        n_train: Slides of the training side of each split, before a smaller budget took some of them: it is how much
            of the cohort two splits share that counts.
        n_test: Slides scored in each split.
        lowest: The least value there can be.
    """
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=np.float64)
    error = np.sqrt((1 / len(x) + n_test / n_train) * x.var(ddof=1))
    reach = stdtrit(len(x) - 1, 0.975) * error
    return float(max(lowest, x.mean() - reach)), float(min(1.0, x.mean() + reach))


def auc(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Area under the ROC curve of the second of two classes; for more, the mean over each against the rest."""
    classes = range(probabilities.shape[1])
    scored = [1] if len(classes) == 2 else classes
    return float(np.mean([_area(truth == c, probabilities[:, c]) for c in scored]))


def roc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, each (points,), at every distinct threshold from high to low, (0, 0) first."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])  # (n,) positives above and at each score
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # ends of runs of equal scores
    true = np.append(0, hits[last])
    false = np.append(0, last + 1) - true
    return false / max(1, false[-1]), true / max(1, true[-1])


def check_split(y: NDArray[np.int64], split: Split, classes: Sequence[str]) -> None:
    """Refuse a split that has not every class on both sides.

    Raises:
        InvalidInput: A class is missing from one side.
    """
    for side, places in (("training", split.train), ("test", split.test)):
        found = np.bincount(y[places], minlength=len(classes))  # (classes,)
        if not found.all():
            counts = ", ".join(f"{c!r} {n}" for c, n in zip(classes, found, strict=True))
            raise InvalidInput(
                f"a class is missing from the {side} side of a split: {counts}",
                "Leave that class out of the labels, or use splits that have every class on both sides.",
            )


def _area(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The chance that a positive scores higher than a negative, a tie counting half (Mann and Whitney)."""
    high, low = scores[positive], np.sort(scores[~positive])
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * len(high) * len(low)))
