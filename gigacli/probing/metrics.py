"""Metrics of predictions, each as scikit-learn or torchmetrics computes it, in numpy alone."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15
"""Bins of confidence of a calibration error, as in Guo et al. 2017."""

Truth = NDArray[np.int64]
Shares = NDArray[np.float64]


def auc(truth: Truth, probabilities: Shares) -> float:
    """Area under the ROC curve of the second of two classes; for more, the mean over each against the rest."""
    return float(np.mean([_area(truth == c, probabilities[:, c]) for c in _scored(probabilities)]))


def average_precision(truth: Truth, probabilities: Shares) -> float:
    """Mean of precision over the steps of recall, of the second of two classes; for more, the mean over each."""
    return float(np.mean([_precision(truth == c, probabilities[:, c]) for c in _scored(probabilities)]))


def f1(truth: Truth, predicted: Truth, classes: int) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall of each class, (classes,); 0 for one that is never found."""
    hits = np.bincount(truth[truth == predicted], minlength=classes)
    both = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    return 2 * hits / np.maximum(both, 1)


def kappa(truth: Truth, predicted: Truth, classes: int, *, quadratic: bool = False) -> float:
    """Cohen's kappa: agreement beyond chance; with `quadratic` weights for levels in order. 0 where chance is all."""
    found = np.bincount(classes * truth + predicted, minlength=classes**2).reshape(classes, classes)
    expected = np.outer(found.sum(axis=1), found.sum(axis=0)) / len(truth)
    gap = np.subtract.outer(np.arange(classes), np.arange(classes))
    weights = gap**2 if quadratic else gap != 0
    chance = float((weights * expected).sum())
    return 1.0 - float((weights * found).sum()) / chance if chance > 0 else 0.0


def brier(truth: Truth, probabilities: Shares) -> float:
    """Mean squared error of the probability of the second of two classes; for more, summed over all."""
    squares = np.square(probabilities - np.eye(probabilities.shape[1])[truth]).sum(axis=1)
    return float(squares.mean()) / (2 if probabilities.shape[1] == 2 else 1)


def reliability(truth: Truth, probabilities: Shares, bins: int = BINS) -> NDArray[np.float64]:
    """How sure predictions are and how often they are right, by bins of the probability of the predicted class.

    Returns:
        (3, bins that are not empty): predictions, their mean probability, and the share of them that is right.
    """
    sure, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    number = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)  # a bin holds its upper end
    counts = np.bincount(number, minlength=bins)
    sums = np.stack([counts, np.bincount(number, sure, minlength=bins), np.bincount(number, hit, minlength=bins)])
    kept = sums[:, counts > 0].astype(np.float64)
    kept[1:] /= kept[0]
    return kept


def calibration_error(truth: Truth, probabilities: Shares, bins: int = BINS) -> float:
    """Expected calibration error: how far from right the stated probability of the predicted class is, on average."""
    counts, sure, right = reliability(truth, probabilities, bins)
    return float(np.abs(sure - right) @ counts / counts.sum())


def r2(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Share of the variance that is explained: 0 for the mean, below it for worse; `truth` (n,) not all the same."""
    return 1.0 - float(np.square(truth - predicted).sum() / np.square(truth - truth.mean()).sum())


def pearson(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Pearson's correlation; NaN where one of the two is constant."""
    x, y = x - x.mean(dtype=np.float64), y - y.mean(dtype=np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length > 0 else float("nan")


def spearman(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Spearman's correlation of ranks, equal values sharing theirs; NaN where one of the two is constant."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: NDArray[np.floating]) -> NDArray[np.float64]:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def roc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rates, each (points,), at every distinct threshold from high to low, (0, 0) first."""
    false, true = _counts(positive, scores)
    return false / max(1, false[-1]), true / max(1, true[-1])


def _counts(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Negatives and positives at or above every distinct threshold, from high to low, 0 and 0 first."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])  # (n,) positives above and at each score
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # ends of runs of equal scores
    true = np.append(0, hits[last])
    return np.append(0, last + 1) - true, true


def _precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    false, true = (counts[1:] for counts in _counts(positive, scores))
    return float(np.diff(true, prepend=0) @ (true / (true + false)) / true[-1])


def _scored(probabilities: Shares) -> list[int]:
    return [1] if probabilities.shape[1] == 2 else list(range(probabilities.shape[1]))


def _area(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The chance that a positive scores higher than a negative, a tie counting half (Mann and Whitney)."""
    high, low = scores[positive], np.sort(scores[~positive])
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * len(high) * len(low)))
