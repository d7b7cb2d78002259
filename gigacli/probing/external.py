"""Another cohort: a probe fitted on all of one cohort, judged on another, with an interval over its patients."""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.linear import PAPER_C, score
from gigacli.probing.scores import Fold, auc
from gigacli.probing.splits import Split
from gigacli.randomness import keyed_rng

DRAWS: Final = 1000
LEAST_SHARE: Final = 0.9
"""Of the draws that must have a score: an interval of only those that do would leave out the uncertain ones."""

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Cohort:
    """Vectors and labels of the slides, or patients, of one cohort."""

    vectors: NDArray[np.floating]  # (n, features), finite
    labels: NDArray[np.str_]  # text (n,)
    groups: NDArray[np.str_] | None = None  # the patient of each, text (n,); None: each is its own


@dataclass(frozen=True, eq=False)
class ExternalScore:
    """How a probe of one cohort does on another.

    Attributes:
        fold: What was predicted and how well; its split counts the slides of both cohorts, those of the other last.
        low: Lower end of the 95 % interval of the AUC: draws of the other cohort's patients, with replacement. None
            where there are too few patients to say.
        high: Upper end.
        draws: Draws that this comes from.
        shared: Names of patients that are in both cohorts.
    """

    fold: Fold
    low: float | None
    high: float | None
    draws: int
    shared: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What casts doubt on it, one sentence each."""
        if not self.shared:
            return []
        first = ", ".join(map(repr, self.shared[:_SHOWN]))
        return [f"{len(self.shared)} patients of the test cohort have the name of one of the other: {first}"]


def score_external(
    train: Cohort,
    test: Cohort,
    *,
    C: float | Literal["auto"] = PAPER_C,
    scale: bool = False,
    seed: int = 0,
    converged: bool = False,
    draws: int = DRAWS,
) -> ExternalScore:
    """Fit on all of one cohort and judge on all of another; nothing is chosen or standardised by the second.

    It is :func:`gigacli.probing.linear.score` with a single split, so that what is said of its options holds here.

    Args:
        train: The cohort to fit on; C="auto" is chosen inside it.
        test: The cohort to judge on, with the same classes.
        C: Inverse regularisation, or "auto".
        scale: Standardise by the mean and deviation of `train`.
        seed: Of the splits of C="auto", and of the draws.
        converged: Fit to the optimum, in float64.
        draws: Of the patients of `test`.

    Raises:
        InvalidInput: The cohorts have other classes or widths, or vectors that are not finite.
    """
    if train.vectors.shape[1] != test.vectors.shape[1]:
        raise InvalidInput(
            f"vectors of {train.vectors.shape[1]} values, and {test.vectors.shape[1]} in the test cohort",
            "probe embeddings that were made alike",
        )
    _check_classes(train, test)
    vectors = np.concatenate([train.vectors, test.vectors])
    labels = np.concatenate([train.labels, test.labels])
    split = Split(train=np.arange(len(train.labels)), test=np.arange(len(train.labels), len(labels)))
    groups = None if train.groups is None else np.concatenate([train.groups, _owners(test)])
    [fold] = score(vectors, labels, [split], C=C, scale=scale, seed=seed, groups=groups, converged=converged)
    truth = np.unique(labels, return_inverse=True)[1][split.test]  # (n_test,)
    classes = fold.probabilities.shape[1]

    def area(drawn: NDArray[np.int64]) -> float:
        whole = np.bincount(truth[drawn], minlength=classes).all()
        return auc(truth[drawn], fold.probabilities[drawn]) if whole else np.nan

    low, high, made = bootstrap(area, _owners(test), draws=draws, seed=seed)
    both = set() if train.groups is None or test.groups is None else {*train.groups.tolist()} & {*test.groups.tolist()}
    return ExternalScore(fold, low, high, made, tuple(sorted(both)))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], groups: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> tuple[float | None, float | None, int]:
    """95 % interval of a score by drawing patients with replacement (the percentile bootstrap of Efron 1979).

    Args:
        statistic: Function of the places of slides (m,) drawn, some of them repeatedly, to a score; NaN where these
            have none, as an AUC without one of the classes.
        groups: The patient of each slide, (n,): a patient's slides are drawn together.
        draws: How often.
        seed: Decides the draws.

    Returns:
        The ends, None where there is one patient, or no score for more than a tenth of the draws; and the draws that
        have one.
    """
    patient = np.unique(np.asarray(groups), return_inverse=True)[1]  # (n,)
    patients, places = int(patient.max()) + 1, np.arange(len(patient))
    if patients < 2:
        return None, None, 0
    rng = keyed_rng(seed, "bootstrap")
    values = np.empty(draws)
    for i in range(draws):
        times = np.bincount(rng.integers(patients, size=patients), minlength=patients)
        values[i] = statistic(np.repeat(places, times[patient]))
    values = values[np.isfinite(values)]
    if len(values) < LEAST_SHARE * draws:
        return None, None, len(values)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high), len(values)


def _owners(cohort: Cohort) -> NDArray[np.str_]:
    return np.arange(len(cohort.labels)).astype(str) if cohort.groups is None else cohort.groups


def _check_classes(train: Cohort, test: Cohort) -> None:
    mine, theirs = (sorted(set(cohort.labels.tolist())) for cohort in (train, test))
    if mine != theirs:
        raise InvalidInput(
            f"the cohort to fit on has the classes {', '.join(mine)}; the test cohort has {', '.join(theirs)}",
            "give classes the same names in both tables, and leave out (an empty label) what only one of them has",
        )
