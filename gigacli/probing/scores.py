"""What probabilities on test sides are worth: AUC, accuracy, means over splits, differences on the same splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gigacli.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from gigacli.probing.splits import Split


@dataclass(frozen=True, eq=False)
class FoldScore:
    """What one fit is worth on its test side.

    Attributes:
        auc: Area under the ROC curve of the second class in sorted order; for more than two classes the mean over
            each against the rest.
        accuracy: Share of test slides whose most probable class is theirs.
        balanced_accuracy: The same per class, averaged over classes.
        probabilities: Of each class in sorted order, float64 (n_test, classes), rows as in `split.test`.
        n_train: Slides fitted on.
        n_test: Slides scored.
        pool: Slides of which those fitted on are a part.
        C: The inverse regularisation used; None where there is none.
        not_converged: Fits that stopped short, the inner ones of `C="auto"` included.
        note: Why `C="auto"` could not choose, or "".
    """

    auc: float
    accuracy: float
    balanced_accuracy: float
    probabilities: NDArray[np.float64]
    n_train: int
    n_test: int
    pool: int
    C: float | None = None
    not_converged: int = 0
    note: str = ""


@dataclass(frozen=True, eq=False)
class Score:
    """A set of vectors judged over all splits.

    Attributes:
        auc_mean: Mean of the AUC over the splits.
        auc_std: Its sample standard deviation (ddof = 1; numpy's default, ddof = 0, is 5 % smaller with ten splits);
            None for one split.
        auc_low: Lower end of the 95 % interval of the mean, see :func:`interval`; None for one split.
        auc_high: Its upper end.
        accuracy: Mean over the splits.
        balanced_accuracy: Mean over the splits.
        n_train: Mean number of training slides.
        n_test: Mean number of test slides.
        pool: Mean number of slides of which the training slides are a part.
        splits: How many.
        not_converged: Fits that stopped short, over all splits.
        classes: The classes, in the order of the columns of the probabilities.
        folds: What each split gave.
        notes: What deserves a sentence.
    """

    auc_mean: float
    auc_std: float | None
    auc_low: float | None
    auc_high: float | None
    accuracy: float
    balanced_accuracy: float
    n_train: float
    n_test: float
    pool: float
    splits: int
    not_converged: int
    classes: tuple[str, ...]
    folds: tuple[FoldScore, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """How much higher the AUC is than another on the same splits.

    Attributes:
        mean: Over the splits.
        low: Lower end of the 95 % interval of the mean, see :func:`interval`; None for one split.
        high: Its upper end.
    """

    mean: float
    low: float | None
    high: float | None


def score_fold(y: NDArray[np.int64], probabilities: NDArray[np.float64], split: Split) -> FoldScore:
    """Score one test side; its classes `y[split.test]` are columns of `probabilities` (n_test, classes), each there."""
    truth = y[split.test]  # (n_test,)
    hit = probabilities.argmax(axis=1) == truth  # (n_test,)
    return FoldScore(
        auc=auc(truth, probabilities),
        accuracy=float(hit.mean()),
        balanced_accuracy=float(np.mean([hit[truth == c].mean() for c in range(probabilities.shape[1])])),
        probabilities=probabilities,
        n_train=len(split.train),
        n_test=len(truth),
        pool=split.pool or len(split.train),
    )


def summarise(folds: Sequence[FoldScore], classes: Sequence[str]) -> Score:
    """Mean and spread over the splits.

    Raises:
        InvalidInput: There is no split.
    """
    if not folds:
        raise InvalidInput("there are no splits to score", "Make or read at least one.")
    aucs = np.array([fold.auc for fold in folds])  # (splits,)
    n_train, n_test, pool = (
        float(np.mean(n)) for n in zip(*((f.n_train, f.n_test, f.pool) for f in folds), strict=True)
    )
    several = len(folds) > 1
    low, high = interval(aucs, n_train=pool, n_test=n_test) if several else (None, None)
    return Score(
        auc_mean=float(aucs.mean()),
        auc_std=float(aucs.std(ddof=1)) if several else None,
        auc_low=low,
        auc_high=high,
        accuracy=float(np.mean([fold.accuracy for fold in folds])),
        balanced_accuracy=float(np.mean([fold.balanced_accuracy for fold in folds])),
        n_train=n_train,
        n_test=n_test,
        pool=pool,
        splits=len(folds),
        not_converged=sum(fold.not_converged for fold in folds),
        classes=tuple(classes),
        folds=tuple(folds),
        notes=tuple(dict.fromkeys(fold.note for fold in folds if fold.note)),
    )


def difference(mine: Score, other: Score) -> Difference:
    """Compare two scores split by split: their test sides must be the same."""
    gaps = [a.auc - b.auc for a, b in zip(mine.folds, other.folds, strict=True)]
    low, high = None, None
    if len(gaps) > 1:
        low, high = interval(gaps, n_train=mine.pool, n_test=mine.n_test, lowest=-1.0)
    return Difference(mean=float(np.mean(gaps)), low=low, high=high)


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
            counts = ", ".join(f"`{c}` {n}" for c, n in zip(classes, found, strict=True))
            raise InvalidInput(
                f"a class is missing from the {side} side of a split: {counts}",
                "Leave that class out of the labels, or use splits that have every class on both sides.",
            )


def _area(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The chance that a positive scores higher than a negative, a tie counting half (Mann and Whitney)."""
    high, low = scores[positive], np.sort(scores[~positive])
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * len(high) * len(low)))
