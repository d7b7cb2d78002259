"""How vectors of a small cohort are judged: balanced logistic regression, C chosen inside each training set.

Ten splits of the labelled slides; all labels of a training side, or a stratified 50 of them, five draws a split. C is
the one of the lowest leave-one-out log loss on the training side, by the approximation of Rad and Maleki (2020), which
needs one fit per C. Splits are two halves: what is chosen on one may be reported on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit

from gigacli.probing.logistic import fit
from gigacli.probing.standardise import moments, standardise

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRID = tuple(10.0 ** np.arange(-3, 3.5, 0.5))
FEW, DRAWS, FOLDS, TEST = 50, 5, 10, 0.25


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
    splits = StratifiedShuffleSplit(FOLDS, test_size=TEST, random_state=0)
    every, few = [], []
    for number, (train, test) in enumerate(splits.split(vectors, labels)):
        every.append(auc(vectors, labels, train, test, scale=scale))
        drawn = StratifiedShuffleSplit(DRAWS, train_size=FEW, random_state=number)
        few.append(
            np.mean(
                [auc(vectors, labels, train[part], test, scale=scale) for part, _ in drawn.split(train, labels[train])]
            )
        )
    return Judgement(np.array(every), np.array(few))


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
