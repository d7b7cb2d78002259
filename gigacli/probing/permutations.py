"""What scores are worth by chance: the same evaluation with labels permuted among patients (`--permutations`).

A cohort of sixty slides gives an AUC of .65 to vectors of noise often enough; the distribution of such scores says how
often. What a score has over it is no proof that the disease was found (:mod:`gigacli.probing.sites`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from gigacli.probing.logistic import fit
from gigacli.probing.metrics import auc
from gigacli.probing.splits import Split
from gigacli.progress import SILENT, Progress

Sides = Sequence[tuple[NDArray[np.floating], NDArray[np.floating]]]
"""Vectors of the training and the test side of each split, (n_train, features) and (n_test, features), as they are
fitted: standardised, centred or harmonised already. None of that looks at labels, so it is done once."""


def permuted(values: ArrayLike, patients: ArrayLike | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw an order (n,) int64 such that `values[order]` are the values permuted as if they meant nothing.

    Patients are what is exchanged, not slides: two slides of one patient look alike and mostly have one label, so that
    labels shuffled slide by slide would be harder to predict than labels that mean nothing. Patients whose slides all
    have one value exchange it, however many slides they have; the others exchange all their values with patients of as
    many slides, each in a random order (in a design of pairs, every patient keeps one slide of each class).

    Args:
        values: What is predicted, one for each slide, (n,); of rows (n, k), such as time and event, a row is a value.
        patients: The patient of each slide, (n,); None: each slide is its own.
        rng: Draws the permutation.
    """
    rows = np.asarray(values)
    if patients is None:
        return rng.permutation(len(rows)).astype(np.int64)
    value = np.unique(rows, axis=0, return_inverse=True)[1].ravel()  # (n,)
    patient = np.unique(np.asarray(patients), return_inverse=True)[1]  # (n,)
    of_patient = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    kinds: dict[int, list[NDArray[np.int64]]] = {}  # patients that may exchange: 0 those with one value
    for mine in of_patient:
        kinds.setdefault(0 if len(set(value[mine].tolist())) == 1 else len(mine), []).append(mine)
    order = np.empty(len(rows), dtype=np.int64)
    for kind, members in kinds.items():
        for mine, other in zip(members, rng.permutation(len(members)).tolist(), strict=True):
            order[mine] = members[other][0] if kind == 0 else rng.permutation(members[other])
    return order


def null_scores(
    score: Callable[[NDArray[np.int64]], float],
    values: ArrayLike,
    patients: ArrayLike | None,
    *,
    permutations: int,
    seed: int,
    progress: Progress = SILENT,
) -> NDArray[np.float64]:
    """Scores (permutations,) of an evaluation whose labels are permuted as :func:`permuted` does.

    Args:
        score: Evaluates with the values in an order (n,): `values[order]` in place of `values`.
        values: What is predicted, (n,) or (n, k).
        patients: The patient of each, (n,), or None.
        permutations: How many.
        seed: Decides them; permutation i is the same for any number of them, and for every embedding.
        progress: Counts them.
    """
    scores = np.empty(permutations)
    for i, key in enumerate(np.random.SeedSequence(seed).spawn(permutations)):
        scores[i] = score(permuted(values, patients, np.random.default_rng(key)))
        progress.advance()
    return scores


def null_aucs(
    sides: Sides,
    y: NDArray[np.int64],
    splits: Sequence[Split],
    strengths: Sequence[float],
    patients: ArrayLike | None,
    *,
    permutations: int,
    seed: int,
    progress: Progress = SILENT,
) -> NDArray[np.float64]:
    """Mean AUC over splits of logistic regression on permuted labels, (permutations,).

    Held fixed are the splits, the vectors as they are fitted, and the C of every split as it was found on the true
    labels. So the distribution is that of a probe that does not choose its C anew; the choice is made inside the
    training side, and cannot favour the true labels on the test side. A split whose training or test side lacks a class
    after the permutation does not count in that permutation. Splits that were stratified by the true labels are not by
    the permuted ones: with few patients the test is a little on the safe side (4 % of p-values at or below .05).

    Args:
        sides: The vectors of every split.
        y: Classes 0 ... k - 1, (slides,).
        splits: Indices of slides.
        strengths: The C of every split.
        patients: The patient of each slide, (slides,), or None.
        permutations: How many; 200 fits of 937 vectors of 512 features for each of 10 splits take some 15 seconds.
        seed: Decides them.
        progress: Counts them.
    """
    classes = int(y.max()) + 1

    def score(order: NDArray[np.int64]) -> float:
        labels, aucs = y[order], []
        for (train, test), split, strength in zip(sides, splits, strengths, strict=True):
            mine, theirs = labels[split.train], labels[split.test]
            if all(np.bincount(side, minlength=classes).all() for side in (mine, theirs)):
                aucs.append(auc(theirs, fit(train, mine, C=strength).probabilities(test)))
        return float(np.mean(aucs)) if aucs else 0.5

    with threadpool_limits(1):
        return null_scores(score, y, patients, permutations=permutations, seed=seed, progress=progress)


def p_value(score: float, null: ArrayLike) -> float:
    """How often chance alone does as well: (1 + number of `null` (n,) at or above `score`) / (1 + n).

    It is never 0, and with n permutations never below 1 / (1 + n) (Phipson and Smyth, Permutation p-values should never
    be zero, 2010). Of what is better when it is lower, give the negatives.
    """
    chance = np.asarray(null, dtype=np.float64)
    reached = chance >= score - 1e-12  # a permutation that changes nothing may differ by rounding
    return float((1 + reached.sum()) / (1 + len(chance)))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values (n,) corrected for there being n of them (Holm 1979), in their order.

    Those at or below .05 are all right together with a chance of 95 %, whatever they have to do with each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected
