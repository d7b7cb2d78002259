"""How vectors of a small cohort are judged, in two ways: each gives an AUC per split, with all labels and with few.

`judge` is for cohorts without patients, as `../shared/cohorts` asks for: ten random splits, balanced logistic
regression; all labels of a training side, or a stratified 50 of them, five draws a split. C is the one of the lowest
leave-one-out log loss on the training side, by the approximation of Rad and Maleki (2020), which needs one fit per C.
`probed` fits as `giga probe` does, at a given C or at the one of `-C auto`, on these splits or on those of
`giga probe`. Splits are two halves: what is chosen on one may be reported on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit

from gigacli.probing.linear import score
from gigacli.probing.logistic import fit
from gigacli.probing.splits import Split, make_splits, subsample
from gigacli.probing.standardise import moments, standardise

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = tuple(10.0 ** np.arange(-3, 3.5, 0.5))
FEW, DRAWS, FOLDS, TEST = 50, 5, 10, 0.25
DRAWS_OF_PATIENTS = 3


@dataclass(frozen=True, eq=False)
class Judgement:
    """AUC per split, with all labels and with few (mean over draws)."""

    every: NDArray[np.float64]  # (splits,)
    few: NDArray[np.float64]  # (splits,)

    def halves(self) -> dict[str, float]:
        """Means over all splits and over each half."""
        half = len(self.every) // 2
        parts = {"": slice(None), "_first": slice(half), "_second": slice(half, None)}
        scores = {"all": self.every, "few": self.few}
        return {
            f"{name}{at}": float(values[part].mean()) for at, part in parts.items() for name, values in scores.items()
        }


def judge(vectors: NDArray[np.floating], labels: NDArray[np.int64], *, scale: bool = False) -> Judgement:
    """Judge vectors (slides, p) of labelled slides, 0 or 1; `scale` standardises them on the training side."""
    splits, few = shuffled(labels)
    every = [auc(vectors, labels, s.train, s.test, scale=scale) for s in splits]
    less = [[auc(vectors, labels, s.train, s.test, scale=scale) for s in draws] for draws in few]
    return Judgement(np.array(every), np.mean(less, axis=1))


Splits = tuple[list[Split], list[list[Split]]]
"""With all labels, and the draws of each with few."""


def shuffled(labels: NDArray[np.generic], *, draws: int = DRAWS) -> Splits:
    """Ten random splits, stratified, and draws of 50 labels of each."""
    sides = StratifiedShuffleSplit(FOLDS, test_size=TEST, random_state=0).split(labels, labels)
    splits = [Split(train, test) for train, test in sides]
    few = []
    for number, split in enumerate(splits):
        shuffle = StratifiedShuffleSplit(draws, train_size=FEW, random_state=number)
        parts = shuffle.split(split.train, labels[split.train])
        few.append([Split(split.train[part], split.test) for part, _ in parts])
    return splits, few


def by_patient(labels: NDArray[np.str_], patients: Sequence[str], *, few: int) -> Splits:
    """The ten splits of `giga probe`, no patient on both sides, and three draws of few labels of each."""
    splits, _ = make_splits(labels, patients, folds=FOLDS, seed=0)
    return splits, [[subsample(s, labels, n_train=few, seed=draw) for draw in range(DRAWS_OF_PATIENTS)] for s in splits]


def probed(
    vectors: NDArray[np.floating],
    labels: NDArray[np.str_],
    splits: Splits,
    *,
    c: float | Literal["auto"],
    scale: bool,
    patients: Sequence[str] | None,
) -> Judgement:
    """Judge vectors (slides, p) as `giga probe` does, at C or at what `-C auto` takes in each training side."""
    every, few = splits
    flat = [draw for draws in few for draw in draws]
    folds = score(vectors, labels, [*every, *flat], C=c, scale=scale, groups=patients)
    aucs = np.array([fold.auc for fold in folds])
    return Judgement(aucs[: len(every)], aucs[len(every) :].reshape(len(few), -1).mean(axis=1))


def auc(
    vectors: NDArray[np.floating],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    *,
    scale: bool,
) -> float:
    """AUC on the test side of the classifier of the training side."""
    mean, deviation = moments(vectors[train])
    deviation = deviation if scale else np.ones_like(deviation)
    inside, outside = (standardise(vectors[side].astype(np.float64), mean, deviation) for side in (train, test))
    # The classifier's weights are a sum of training rows: nothing is lost in the space that these span.
    _, _, axes = np.linalg.svd(inside, full_matrices=False)
    inside, outside = inside @ axes.T, outside @ axes.T
    y, best, chosen, start = labels[train], np.inf, None, None
    for c in GRID:
        model = fit(inside, y, C=c, tolerance=1e-6, start=start)
        start = model.weights
        loss = leave_one_out_loss(inside, y, model.weights[0], c)
        if loss < best:
            best, chosen = loss, model
    assert chosen is not None
    return float(roc_auc_score(labels[test], chosen.probabilities(outside)[:, 1]))


def leave_one_out_loss(x: NDArray[np.float64], y: NDArray[np.int64], weights: NDArray[np.float64], c: float) -> float:
    """Balanced log loss of every row under the classifier of the others, to first order.

    The score of row i without itself is s_i + e_i h_i / (1 - v_i h_i), e_i = w_i (p_i - y_i) the slope of its loss,
    v_i = w_i p_i (1 - p_i) the curvature, h_i = x_i H^-1 x_i with the Hessian H of the penalised loss.
    """
    rows = np.column_stack([x, np.ones(len(x))])
    balance = (len(y) / (2 * np.bincount(y)))[y]
    score = rows @ weights
    p = 1 / (1 + np.exp(-score))
    curvature = balance * p * (1 - p)
    penalty = np.append(np.full(x.shape[1], 1 / c), 1e-9)
    hessian = (rows * curvature[:, None]).T @ rows + np.diag(penalty)
    h = (rows * np.linalg.solve(hessian, rows.T).T).sum(axis=1)
    left_out = score + balance * (p - y) * h / np.maximum(1 - curvature * h, 1e-6)
    return float((balance * (np.logaddexp(0, left_out) - y * left_out)).mean())
