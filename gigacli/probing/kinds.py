"""The kinds of tasks: how predictions of each are measured, and what a test side needs for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import TaskKind
from gigacli.errors import InvalidInput
from gigacli.probing import metrics
from gigacli.probing.splits import Split
from gigacli.probing.truth import Truth

Predicted = NDArray[np.float64]
Metrics = dict[str, float]
Tested = Sequence[tuple[NDArray[np.int64], Predicted]]


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    What is predicted of a unit is a row of an array (units, outputs): the probability of every class; a number; the
    place of a level and the number behind it; or a risk, the higher the sooner the event.
    """

    metric: str  # the metric that methods are compared by, among those of `measure`
    title: str  # the same in a table
    chance: float  # what knowing nothing gives
    lowest: float  # the least there can be; the most is 1
    # metrics of one test side: (its truth, predicted of it, the truth of the training side)
    measure: Callable[[Truth, Predicted, Truth], Metrics]
    # metrics of all test sides together, of which each alone is too small: (the truth about all units, and of each
    # test side its units and what is predicted of them)
    pooled: Callable[[Truth, Tested], Metrics]
    check: Callable[[Truth, Split], None]  # raises InvalidInput where a split has a side that cannot be used


def measure_classes(test: Truth, predicted: Predicted, _: Truth) -> Metrics:
    """Metrics of probabilities of classes."""
    truth, k = test.y, predicted.shape[1]
    best = predicted.argmax(axis=1)
    hit = best == truth
    counts = np.bincount(truth, minlength=k)  # (classes,), each there
    f1 = metrics.f1(truth, best, k)
    return {
        "auc": metrics.auc(truth, predicted),
        "accuracy": float(hit.mean()),
        "balanced_accuracy": float(np.mean([hit[truth == c].mean() for c in range(k)])),
        "f1_macro": float(f1.mean()),
        "f1_weighted": float(f1 @ counts / len(truth)),
        "average_precision": metrics.average_precision(truth, predicted),
        "kappa": metrics.kappa(truth, best, k),
        "brier": metrics.brier(truth, predicted),
    }


def _measure_levels(test: Truth, predicted: Predicted, _: Truth) -> Metrics:
    truth, level, k = test.y, predicted[:, 0].astype(np.int64), len(test.classes)
    return {
        "quadratic_kappa": metrics.kappa(truth, level, k, quadratic=True),
        "accuracy": float((level == truth).mean()),
        "spearman": metrics.spearman(truth, predicted[:, 1]),
        "mae": float(np.abs(level - truth).mean()),
    }


def _measure_numbers(test: Truth, predicted: Predicted, _: Truth) -> Metrics:
    truth, found = test.y, predicted[:, 0]
    return {
        "r2": metrics.r2(truth, found),
        "pearson": metrics.pearson(truth, found),
        "spearman": metrics.spearman(truth, found),
        "mae": float(np.abs(truth - found).mean()),
    }


def _measure_times(test: Truth, predicted: Predicted, train: Truth) -> Metrics:
    from gigacli.probing.survival import measure_risks

    return measure_risks(test, predicted[:, 0], train)


def _pooled_classes(truth: Truth, tested: Tested) -> Metrics:
    places, predicted = (np.concatenate(parts) for parts in zip(*tested, strict=True))
    return {"calibration_error": metrics.calibration_error(truth.y[places], predicted)}


def _pooled_times(truth: Truth, tested: Tested) -> Metrics:
    from gigacli.probing.survival import log_rank

    return {"log_rank_p": log_rank(truth, tested)}


def _nothing(_: Truth, __: Tested) -> Metrics:
    return {}


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


def _check_classes(truth: Truth, split: Split) -> None:
    check_split(truth.y, split, truth.classes)


def _check_numbers(truth: Truth, split: Split) -> None:
    for side, places in (("training", split.train), ("test", split.test)):
        if len(np.unique(truth.y[places])) < 2:
            raise InvalidInput(
                f"the {side} side of a split has {len(places)} numbers, all the same: nothing there to explain",
                "Use fewer `folds`, or splits with more on both sides.",
            )


def _check_times(truth: Truth, split: Split) -> None:
    assert truth.event is not None
    if not truth.event[split.train].any():
        raise InvalidInput(
            f"none of the {len(split.train)} units on the training side of a split has an event",
            "Use more labels, or fewer `folds`.",
        )
    times, seen = truth.y[split.test], truth.event[split.test]
    if not seen.any() or not (times > times[seen].min()).any():
        raise InvalidInput(
            f"the test side of a split ({len(times)} units, {int(seen.sum())} events) has no event that comes before "
            "the time of anybody else: nothing there to rank",
            "Use fewer `folds`, or splits with more on both sides.",
        )


KINDS: Final[dict[TaskKind, Kind]] = {
    "classification": Kind("auc", "AUC", 0.5, 0.0, measure_classes, _pooled_classes, _check_classes),
    "ordinal": Kind("quadratic_kappa", "quadratic kappa", 0.0, -1.0, _measure_levels, _nothing, _check_classes),
    "regression": Kind("r2", "R2", 0.0, -np.inf, _measure_numbers, _nothing, _check_numbers),
    "survival": Kind("c_index", "c-index", 0.5, 0.0, _measure_times, _pooled_times, _check_times),
}
