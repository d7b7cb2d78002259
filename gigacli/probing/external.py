"""Another cohort: a probe fitted on all of one cohort, judged on another, with an interval over its patients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.config.probe import TaskKind
from gigacli.errors import InvalidInput
from gigacli.probing import metrics
from gigacli.probing.kinds import KINDS
from gigacli.probing.model import Fit, Transform, score_splits
from gigacli.probing.scores import Fold
from gigacli.probing.splits import Split
from gigacli.probing.task import Task
from gigacli.probing.truth import Truth
from gigacli.randomness import keyed_rng

DRAWS: Final = 1000
LEAST_SHARE: Final = 0.9
"""Of the draws that must have a score: an interval of only those that do would leave out the uncertain ones."""

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Cohort:
    """Vectors of the slides, or patients, of one cohort, and the truth about them."""

    vectors: NDArray[np.floating]  # (n, features), finite
    truth: Truth  # (n,)
    groups: NDArray[np.str_] | None = None  # the patient of each, text (n,); None: each is its own

    @property
    def owners(self) -> NDArray[np.str_]:
        """The patient of each, or a name of its own, text (n,)."""
        return np.arange(len(self.truth)).astype(str) if self.groups is None else self.groups


@dataclass(frozen=True, eq=False)
class ExternalScore:
    """How a probe of one cohort does on another.

    Attributes:
        fold: What was predicted and how well; its split counts the slides of both cohorts, those of the other last.
        drawn: Scores of draws of the other cohort's patients, with replacement, (draws,); NaN where a draw has none,
            empty where there is one patient. The same seed draws the same patients, whatever is judged.
        low: Lower end of the 95 % interval of the score. None where there are too few patients to say.
        high: Upper end.
    """

    fold: Fold
    drawn: NDArray[np.float64]

    @property
    def low(self) -> float | None:  # noqa: D102 - see above
        return ends(self.drawn)[0]

    @property
    def high(self) -> float | None:  # noqa: D102
        return ends(self.drawn)[1]


def score_external(
    train: Cohort,
    test: Cohort,
    fit: Fit,
    *,
    transform: Transform | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> ExternalScore:
    """Fit on all of one cohort and judge on all of another; nothing is chosen or standardised by the second.

    It is :func:`gigacli.probing.model.score_splits` with a single split.

    Args:
        train: The cohort to fit on; what has to be chosen is chosen inside it.
        test: The cohort to judge on, with the same classes.
        fit: Of :func:`gigacli.probing.heads.fit_of`.
        transform: Changes vectors, fitted on `train`.
        draws: Of the patients of `test`.
        seed: Of the draws.

    Raises:
        InvalidInput: The cohorts have other classes or widths, vectors that are not finite, or nothing to score.
    """
    if train.vectors.shape[1] != test.vectors.shape[1]:
        raise InvalidInput(
            f"vectors of {train.vectors.shape[1]} values, and {test.vectors.shape[1]} in the test cohort",
            "probe embeddings that were made alike",
        )
    both, vectors = joined(train.truth, test.truth), np.concatenate([train.vectors, test.vectors])
    split = Split(train=np.arange(len(train.truth)), test=np.arange(len(train.truth), len(both)))
    groups = None if train.groups is None else np.concatenate([train.groups, test.owners])
    [fold] = score_splits(vectors, both, [split], fit, groups=groups, transform=transform)
    score, kind = SCORES[both.kind], KINDS[both.kind]

    def of_drawn(drawn: NDArray[np.int64]) -> float:
        try:
            kind.check(both, replace(split, test=split.test[drawn]))
        except InvalidInput:  # a class is missing, or nothing differs
            return np.nan
        return score(both.take(split.test[drawn]), fold.predicted[drawn])

    return ExternalScore(fold, bootstrap(of_drawn, test.owners, draws=draws, seed=seed))


def joined(train: Truth, test: Truth) -> Truth:
    """The truth about the units of two cohorts, those of `test` last.

    Raises:
        InvalidInput: They are of two kinds, or have other classes.
    """
    if (train.kind, train.classes) != (test.kind, test.classes):
        mine, theirs = (", ".join(one.classes) or one.kind for one in (train, test))
        raise InvalidInput(
            f"the cohort to fit on has the classes {mine}; the test cohort has {theirs}",
            "give classes the same names in both tables, and leave out (an empty label) what only one of them has",
        )
    event = None
    if train.event is not None and test.event is not None:
        event = np.concatenate([train.event, test.event])
    strata = np.concatenate([train.strata, test.strata])
    return replace(train, y=np.concatenate([train.y, test.y]), strata=strata, event=event)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], groups: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """A score of patients drawn with replacement, many times (the bootstrap of Efron 1979).

    Args:
        statistic: Function of the places of slides (m,) drawn, some of them repeatedly, to a score; NaN where these
            have none, as an AUC without one of the classes.
        groups: The patient of each slide, (n,): a patient's slides are drawn together.
        draws: How often.
        seed: Decides the draws.

    Returns:
        The score of every draw, (draws,); none where there is one patient.
    """
    patient = np.unique(np.asarray(groups), return_inverse=True)[1]  # (n,)
    patients, places = int(patient.max()) + 1, np.arange(len(patient))
    rng = keyed_rng(seed, "bootstrap")
    values = np.empty(draws if patients > 1 else 0)
    for i in range(len(values)):
        times = np.bincount(rng.integers(patients, size=patients), minlength=patients)
        values[i] = statistic(np.repeat(places, times[patient]))
    return values


def ends(drawn: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of a score from those of draws, by percentiles.

    None where there are no draws, or more than a tenth of them have no score.
    """
    values = drawn[np.isfinite(drawn)]
    if not len(values) or len(values) < LEAST_SHARE * len(drawn):
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def join_tasks(fitted: Task, judged: Task, *, slides: int, where: str) -> Task:
    """One task of two cohorts with a single split: fitted on all of the first, judged on all of the second.

    Args:
        fitted: Of the first cohort.
        judged: Of the second, with the same target.
        slides: How many slides the store of the first has: rows of the second come after these.
        where: The store of the second.

    Raises:
        InvalidInput: The second has other classes, or a class is missing from one of them.
    """
    truth, first = joined(fitted.truth, judged.truth), len(fitted.truth)
    split = Split(train=np.arange(first), test=np.arange(first, len(truth)))
    KINDS[truth.kind].check(truth, split)
    names = [one.groups for one in (fitted, judged)]
    groups = None
    if any(one is not None for one in names):
        groups = tuple(itertools.chain(*(one.groups or one.units.ids for one in (fitted, judged))))
    return replace(
        judged,
        units=fitted.units.followed_by(judged.units, slides=slides),
        truth=truth,
        groups=groups,
        budgets={"all": [split]},
        fitted_on=fitted.joined,
        test=where,
        first_judged=first,
        notes=[*fitted.notes, *(f"test cohort: {note}" for note in judged.notes)],
        warnings=[*fitted.warnings, *(f"test cohort: {text}" for text in judged.warnings), *_shared(fitted, judged)],
    )


def _shared(fitted: Task, judged: Task) -> list[str]:
    """A warning where the cohorts share patients or, where these are not known, slides."""
    what = "slides" if fitted.groups is None or judged.groups is None else "patients"
    mine, theirs = (one.units.ids if what == "slides" else one.groups for one in (fitted, judged))
    shared = sorted({*(mine or ())} & {*(theirs or ())})
    first = ", ".join(map(repr, shared[:_SHOWN]))
    return [f"{len(shared)} {what} of the test cohort have the name of one of the other: {first}"] if shared else []


def _c_index(truth: Truth, predicted: NDArray[np.float64]) -> float:
    from sksurv.metrics import concordance_index_censored

    assert truth.event is not None
    return float(concordance_index_censored(truth.event, truth.y, predicted[:, 0])[0])


def _quadratic_kappa(truth: Truth, predicted: NDArray[np.float64]) -> float:
    return metrics.kappa(truth.y, predicted[:, 0].astype(np.int64), len(truth.classes), quadratic=True)


SCORES: Final[dict[TaskKind, Callable[[Truth, NDArray[np.float64]], float]]] = {
    "classification": lambda truth, predicted: metrics.auc(truth.y, predicted),
    "ordinal": _quadratic_kappa,
    "regression": lambda truth, predicted: metrics.r2(truth.y, predicted[:, 0]),
    "survival": _c_index,
}
"""The metric that methods are compared by, alone: a thousand draws need no others."""
