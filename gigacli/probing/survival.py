"""Cox regression on times to an event, and metrics of risks; scikit-survival, an extra, does all but the ridge.

The ridge is fitted here: scikit-survival takes six seconds for one fit to 900 vectors of 512 values, as it adds up a
matrix of features by features per event, and choosing its strength takes hundreds (spec/decisions).
"""
# ruff: noqa: N803 - C is what scikit-learn and everyone else calls it

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, NotFound, from_clone
from gigacli.probing.model import Model, Vectors
from gigacli.probing.splits import make_splits
from gigacli.probing.standardise import prepared, spread
from gigacli.probing.truth import Truth

GRID: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""What C is chosen from."""
INNER_FOLDS: Final = 5
ENOUGH: Final = 1e-5
"""Largest slope, per event, of a fit that counts as converged."""
ALPHAS: Final = (0.01, 0.02, 0.07)
"""Strengths of the elastic net, as Patho-Bench has them; half of it is lasso."""
L1_RATIO: Final = 0.5
QUANTILES: Final = (0.25, 0.5, 0.75)
"""Of the training side's times of events: where the AUC over time is taken."""


def require_survival() -> None:
    """Refuse to start without scikit-survival.

    Raises:
        NotFound: It is not installed.
    """
    if find_spec("sksurv") is None:
        raise NotFound("`task='survival'` needs scikit-survival", from_clone("survival"))


def fit_cox(
    vectors: Vectors,
    truth: Truth,
    groups: NDArray[np.str_] | None,
    *,
    C: float | Literal["auto"] = "auto",
    scale: bool = False,
    seed: int = 0,
) -> Model:
    """Fit a Cox regression with a ridge: minus the log partial likelihood (Breslow's for ties) plus |w|^2 / (2 C).

    Args:
        vectors: Of the training side, (n, features); their mean is subtracted, and with `scale` they are standardised.
        truth: Times.
        groups: Patients, (n,), kept together where C is chosen.
        C: "auto" takes the one of :data:`GRID` with the largest cross-validated partial likelihood inside (Verweij and
            van Houwelingen 1993).
        scale: Whether to standardise.
        seed: Of the splits of that.
    """
    chosen, stopped, note = C, 0, ""
    if chosen == "auto":
        chosen, stopped, note = _choose(vectors, truth, groups, scale=scale, seed=seed)
    mean, deviation = spread(vectors, scale=scale, centre=True)
    weights, converged = cox(prepared(vectors.astype(np.float64), mean, deviation), truth, C=chosen)
    shown = np.append(weights, 0.0)[None]  # a Cox regression has no intercept
    return Model(partial(_risks, weights), shown, mean, deviation, chosen, stopped + (not converged), note)


def fit_coxnet(vectors: Vectors, truth: Truth, _: NDArray[np.str_] | None, *, alpha: float) -> Model:
    """Fit a Cox regression with an elastic net of strength `alpha` to standardised vectors, as scikit-survival does.

    Without the standardising one strength would mean another thing for every embedding, and leave nothing of vectors of
    length 1. A fit that leaves nothing all the same gives everybody one risk.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    mean, deviation = spread(vectors, scale=True, centre=True)
    train = prepared(vectors.astype(np.float64), mean, deviation)
    model = CoxnetSurvivalAnalysis(alphas=np.geomspace(1.0, alpha, 30), l1_ratio=L1_RATIO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = model.fit(train, _structured(truth)).coef_[:, -1]
    shown = np.append(weights, 0.0)[None]
    return Model(
        partial(_risks, weights),
        shown,
        mean,
        deviation,
        not_converged=sum(issubclass(one.category, ConvergenceWarning) for one in caught),
    )


@dataclass(frozen=True, eq=False)
class _Risks:
    """The partial likelihood of some units, their times from late to early."""

    order: NDArray[np.int64]  # (n,)
    event: NDArray[np.bool_]  # in that order
    first: NDArray[np.int64]  # the first unit with the same time, (n,)
    last: NDArray[np.int64]  # the last

    @classmethod
    def of(cls, truth: Truth) -> _Risks:
        assert truth.event is not None
        order = np.argsort(-truth.y, kind="stable")
        _, place, counts = np.unique(-truth.y[order], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return cls(order, truth.event[order], (ends - counts)[place], (ends - 1)[place])

    def loss(self, scores: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Minus the log of it, and its slope by the scores (n,), which are in the order of the units."""
        ordered = scores[self.order]
        at_risk = np.logaddexp.accumulate(ordered)[self.last]  # logarithm of the sum of all that live at that time
        value = float((at_risk - ordered)[self.event].sum())
        seen = np.logaddexp.accumulate(np.where(self.event, -at_risk, -np.inf)[::-1])[::-1]
        slope = np.empty_like(scores)
        slope[self.order] = np.exp(ordered + seen[self.first]) - self.event  # over the events that a unit is at risk in
        return value, slope


def cox(
    train: NDArray[np.float64], truth: Truth, *, C: float, start: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], bool]:
    """Weights (features,) of a Cox regression with a ridge, and whether the steps sufficed."""
    from scipy.optimize import minimize

    risks = _Risks.of(truth)
    unit = max(1, int(risks.event.sum()))  # so that the tolerance does not depend on how many there are

    def objective(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = risks.loss(train @ w)
        return (value + float(w @ w) / (2 * C)) / unit, (train.T @ slope + w / C) / unit

    found = minimize(
        objective,
        np.zeros(train.shape[1]) if start is None else start,
        method="L-BFGS-B",
        jac=True,
        options={"maxiter": 5000, "maxls": 50, "gtol": 1e-7, "ftol": np.finfo(float).eps},
    )
    return found.x, bool(found.success or np.abs(found.jac).max() < ENOUGH)  # where rounding ends a search for less


def _choose(
    vectors: Vectors, truth: Truth, groups: NDArray[np.str_] | None, *, scale: bool, seed: int
) -> tuple[float, int, str]:
    """The best C, fits that stopped short, and why it could not be chosen."""
    try:
        inner, _ = make_splits(truth.strata, groups, folds=INNER_FOLDS, seed=seed)
    except InvalidInput as error:
        return 0.01, 0, f"C = 0.01 where it could not be chosen inside the training set: {error.message}."
    everyone, likelihood, stopped = _Risks.of(truth), np.zeros(len(GRID)), 0
    for part in inner:
        mean, deviation = spread(vectors[part.train], scale=scale, centre=True)
        whole = prepared(vectors.astype(np.float64), mean, deviation)
        train, known, start = whole[part.train], truth.take(part.train), None
        mine = _Risks.of(known)
        for i, candidate in enumerate(GRID):
            start, converged = cox(train, known, C=candidate, start=start)
            likelihood[i] += mine.loss(train @ start)[0] - everyone.loss(whole @ start)[0]
            stopped += not converged
    return GRID[int(likelihood.argmax())], stopped, ""


def _risks(weights: NDArray[np.float64], vectors: Vectors) -> NDArray[np.float64]:
    return vectors.astype(np.float64) @ weights[:, None]


def measure_risks(test: Truth, risk: NDArray[np.float64], train: Truth) -> dict[str, float]:
    """Harrell's and Uno's c-index, and the AUC over time, of risks (n,) of a test side.

    Uno's and the AUC weigh by how many are still watched, which the training side says, and so count times up to its
    last alone; NaN where none of the test side's events is among them.
    """
    from sksurv.metrics import concordance_index_censored, concordance_index_ipcw

    assert test.event is not None
    found = {"c_index": float(concordance_index_censored(test.event, test.y, risk)[0])}
    last = float(train.y.max())
    early = test.y < last
    uno = float("nan")
    if _comparable(test, early):
        known, ours = _structured(train), _structured(test)
        uno = float(concordance_index_ipcw(known, ours, risk, tau=last)[0])
    return {**found, "c_index_uno": uno, "auc_over_time": _auc_over_time(test, risk, train)}


def _comparable(truth: Truth, early: NDArray[np.bool_]) -> bool:
    """Whether an event among the early ones comes before the time of anybody else."""
    assert truth.event is not None
    seen = truth.event & early
    return bool(seen.any() and (truth.y > truth.y[seen].min()).any())


def _auc_over_time(test: Truth, risk: NDArray[np.float64], train: Truth) -> float:
    """Mean AUC of having had the event at :data:`QUANTILES` of its times; NaN where no test unit has, or all have."""
    from sksurv.metrics import cumulative_dynamic_auc

    assert train.event is not None
    kept = test.take(np.flatnonzero(test.y < train.y.max()))
    if not len(kept) or kept.event is None or not kept.event.any():
        return float("nan")
    first, last = float(kept.y[kept.event].min()), float(kept.y.max())
    times = np.unique(np.quantile(train.y[train.event], QUANTILES))
    times = times[(times >= first) & (times < last)]
    if not len(times):
        return float("nan")
    scores, _ = cumulative_dynamic_auc(_structured(train), _structured(kept), risk[test.y < train.y.max()], times)
    return float(np.mean(scores))


def halves(
    truth: Truth, tested: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]
) -> tuple[Truth, NDArray[np.bool_]]:
    """The units of all test sides, each once, and which of them have a risk above the median of their test side."""
    above, times = np.zeros(len(truth)), np.zeros(len(truth))
    for places, predicted in tested:
        above[places] += predicted[:, 0] > np.median(predicted[:, 0])
        times[places] += 1
    there = np.flatnonzero(times)
    return truth.take(there), above[there] > times[there] / 2


def log_rank(truth: Truth, tested: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]]) -> float:
    """P of the log-rank test between the halves of high and low risk; NaN where there is but one of them."""
    from sksurv.compare import compare_survival

    known, high = halves(truth, tested)
    return float(compare_survival(_structured(known), high)[1]) if 0 < high.sum() < len(high) else float("nan")


def kaplan_meier(truth: Truth) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and the share that had no event until then, (points,) each, from time 0 on."""
    from sksurv.nonparametric import kaplan_meier_estimator

    times, share = kaplan_meier_estimator(truth.event, truth.y)
    return np.append(0.0, times), np.append(1.0, share)


def _structured(truth: Truth) -> NDArray[Any]:
    from sksurv.util import Surv

    return Surv.from_arrays(truth.event, truth.y)
