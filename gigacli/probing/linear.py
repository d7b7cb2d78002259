"""Linear evaluation: logistic regression on slide vectors, scored over splits (paper, sections 4.2 and 4.3)."""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from scipy.special import stdtrit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from gigacli.errors import InvalidInput
from gigacli.probing.splits import Split, make_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

PAPER_C: Final = 10.0
GRID: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""What `C="auto"` chooses from: standardised vectors want the lower end, vectors of unit length the upper."""
INNER_FOLDS: Final = 5


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
        C: The inverse regularisation used.
        not_converged: Fits that stopped short, the inner ones of `C="auto"` included.
        note: Why `C="auto"` could not choose, or "".
    """

    auc: float
    accuracy: float
    balanced_accuracy: float
    probabilities: NDArray[np.float64]
    n_train: int
    n_test: int
    C: float
    not_converged: int
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
    splits: int
    not_converged: int
    classes: tuple[str, ...]
    folds: tuple[FoldScore, ...]
    notes: tuple[str, ...]


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
) -> Score:
    """Fit and score every split (arguments as in :func:`fit_and_score`).

    Raises:
        InvalidInput: No split, vectors that are not finite, or a split with a class missing from one side.
    """
    if not splits:
        raise InvalidInput("there are no splits to score", "Make or read at least one.")
    folds = tuple(
        fit_and_score(vectors, labels, split, C=C, scale=scale, seed=seed, groups=groups, converged=converged)
        for split in splits
    )
    aucs = np.array([fold.auc for fold in folds])  # (splits,)
    n_train, n_test = (float(np.mean(n)) for n in zip(*((f.n_train, f.n_test) for f in folds), strict=True))
    several = len(folds) > 1
    low, high = interval(aucs, n_train=n_train, n_test=n_test) if several else (None, None)
    return Score(
        auc_mean=float(aucs.mean()),
        auc_std=float(aucs.std(ddof=1)) if several else None,
        auc_low=low,
        auc_high=high,
        accuracy=float(np.mean([fold.accuracy for fold in folds])),
        balanced_accuracy=float(np.mean([fold.balanced_accuracy for fold in folds])),
        n_train=n_train,
        n_test=n_test,
        splits=len(folds),
        not_converged=sum(fold.not_converged for fold in folds),
        classes=tuple(str(c) for c in np.unique(np.asarray(labels))),
        folds=folds,
        notes=tuple(dict.fromkeys(fold.note for fold in folds if fold.note)),
    )


def fit_and_score(
    vectors: NDArray[np.floating],
    labels: ArrayLike,
    split: Split,
    *,
    C: float | Literal["auto"] = PAPER_C,
    scale: bool = False,
    seed: int = 0,
    groups: ArrayLike | None = None,
    converged: bool = False,
) -> FoldScore:
    """Fit a logistic regression on the training side and score it on the test side, on one thread.

    The fit is the authors': `LogisticRegression(C=10, class_weight="balanced", max_iter=1000)`, scikit-learn's defaults
    for the rest, in the precision of `vectors`. It stops before the optimum, by up to 1e-2 of a fold's AUC.

    Args:
        vectors: One per slide, (slides, features).
        labels: Text (slides,).
        split: Places in both.
        C: Inverse regularisation. "auto": the one of :data:`GRID` with the best mean AUC in a cross-validation
            inside the training side (the smallest of equals), then fitted on all of it.
        scale: Standardise the features by the training side, as the paper does for the mean of tiles. Vectors of unit
            length are left as they are.
        seed: Decides the inner splits of "auto".
        groups: The patient of each slide, text (slides,), kept together by the inner splits too.
        converged: Fit to the optimum, in float64, instead of as the authors do.

    Raises:
        InvalidInput: Vectors that are not finite, or a class that is missing from one side of the split.
    """
    names = np.asarray(labels)
    classes, y = np.unique(names, return_inverse=True)  # (classes,), (slides,)
    _check(vectors, y, split, classes)
    fit = partial(_fit, vectors.astype(np.float64) if converged else vectors, y, scale=scale, converged=converged)
    with threadpool_limits(1):
        if C == "auto":
            chosen, stopped, note = _choose(fit, names, split, groups=groups, seed=seed)
        else:
            chosen, stopped, note = C, 0, ""
        probabilities, short = fit(split, C=chosen)
    truth = y[split.test]
    hit = probabilities.argmax(axis=1) == truth  # (n_test,)
    return FoldScore(
        auc=_auc(truth, probabilities),
        accuracy=float(hit.mean()),
        balanced_accuracy=float(np.mean([hit[truth == c].mean() for c in range(len(classes))])),
        probabilities=probabilities,
        n_train=len(split.train),
        n_test=len(split.test),
        C=chosen,
        not_converged=stopped + short,
        note=note,
    )


def interval(aucs: ArrayLike, *, n_train: float, n_test: float) -> tuple[float, float]:
    """Return the 95 % interval of a mean over splits of one cohort, clipped to [0, 1].

    The splits share slides, so their plain standard error is too small: Nadeau and Bengio, Inference for the
    generalization error, Machine Learning 52 (2003), replace 1/J by 1/J + n_test/n_train, with Student's t of J - 1
    degrees of freedom.

    Args:
        aucs: One per split, (J,), J at least 2.
        n_train: Slides fitted on in each split.
        n_test: Slides scored in each split.
    """
    values = np.asarray(aucs, dtype=np.float64)
    error = np.sqrt((1 / len(values) + n_test / n_train) * values.var(ddof=1))
    reach = stdtrit(len(values) - 1, 0.975) * error
    return float(max(0.0, values.mean() - reach)), float(min(1.0, values.mean() + reach))


def _fit(
    vectors: NDArray[np.floating], y: NDArray[np.int64], split: Split, *, C: float, scale: bool, converged: bool
) -> tuple[NDArray[np.float64], int]:
    """Return the probabilities of the test side, (n_test, classes), and 1 if the fit stopped before it converged."""
    train, test = vectors[split.train], vectors[split.test]  # (n_train, features), (n_test, features)
    if scale:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    precision = {"max_iter": 10_000, "tol": 1e-8} if converged else {"max_iter": 1000}
    model = LogisticRegression(C=C, class_weight="balanced", **precision)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train, y[split.train])
    stopped = [issubclass(warning.category, ConvergenceWarning) for warning in caught]
    for warning, known in zip(caught, stopped, strict=True):
        if not known:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model.predict_proba(test).astype(np.float64), int(any(stopped))


def _auc(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    classes = range(probabilities.shape[1])
    scored = [1] if len(classes) == 2 else classes
    return float(np.mean([roc_auc_score(truth == c, probabilities[:, c]) for c in scored]))


def _choose(
    fit: Callable[..., tuple[NDArray[np.float64], int]],
    labels: NDArray[np.str_],
    split: Split,
    *,
    groups: ArrayLike | None,
    seed: int,
) -> tuple[float, int, str]:
    """Return the best C of the grid inside the training side, how many fits stopped short, and why it had no choice."""
    inside = None if groups is None else np.asarray(groups)[split.train]
    try:
        inner, _ = make_splits(labels[split.train], inside, folds=INNER_FOLDS, seed=seed)
    except InvalidInput as error:
        return PAPER_C, 0, f"C = {PAPER_C:g} where it could not be chosen inside the training set: {error.message}."
    y = np.unique(labels, return_inverse=True)[1]
    aucs = np.zeros(len(GRID))
    stopped = 0
    for part in inner:
        part = Split(train=split.train[part.train], test=split.train[part.test])
        for i, candidate in enumerate(GRID):
            probabilities, short = fit(part, C=candidate)
            aucs[i] += _auc(y[part.test], probabilities)
            stopped += short
    return GRID[int(aucs.argmax())], stopped, ""


def _check(vectors: NDArray[np.floating], y: NDArray[np.int64], split: Split, classes: NDArray[np.str_]) -> None:
    for side, places in (("training", split.train), ("test", split.test)):
        if not np.isfinite(vectors[places]).all():
            raise InvalidInput(f"{side} vectors are not finite", "Leave out slides without a vector.")
        found = np.bincount(y[places], minlength=len(classes))  # (classes,)
        if not found.all():
            counts = ", ".join(f"`{c}` {n}" for c, n in zip(classes, found, strict=True))
            raise InvalidInput(
                f"a class is missing from the {side} side of a split: {counts}",
                "Leave that class out of the labels, or use splits that have every class on both sides.",
            )
