"""Retrieval: which slides of other patients lie nearest to a slide, and how often they share its label.

A slide never finds a slide of its own patient (leave-patient-out). The measures are those of the field: acc@k (one of
the k nearest has the label), mMV@k (most of them have it) and mAP@k; TITAN (Ding et al. 2024) and SISH (Chen et al.
2022) report them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.results import RetrievalRow
from gigacli.probing.standardise import moments, standardise
from gigacli.probing.task import Candidate, Task

ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What the nearest slides of other patients tell of a label, slide by slide.

    Attributes:
        k: How many neighbours were looked at.
        queries: Places of the slides that have a slide of another patient, int64 (queries,); the others are not judged.
        hit: Whether one of its neighbours has the label of the slide, bool (queries,).
        chance: How likely that is for as many slides of other patients drawn at random, float64 (queries,).
        majority: Whether the most frequent label of its neighbours is its own, bool (queries,). Of labels that are
            equally frequent, the one of the nearest counts.
        precision: Average precision of its neighbours, float64 (queries,): the mean over those that have the label of
            the share that has it up to there; 0 where none has.
        alone: Queries whose label no other patient has: they cannot be found, and count as missed.
    """

    k: int
    queries: NDArray[np.int64]
    hit: NDArray[np.bool_]
    chance: NDArray[np.float64]
    majority: NDArray[np.bool_]
    precision: NDArray[np.float64]
    alone: int

    @property
    def accuracy(self) -> float:
        """acc@k: share of slides of which one of the k nearest has the label."""
        return float(self.hit.mean())

    @property
    def chance_accuracy(self) -> float:
        """acc@k of neighbours drawn at random: with few classes and k of 5 it is hardly below 1."""
        return float(self.chance.mean())

    @property
    def majority_accuracy(self) -> float:
        """mMV@k: share of slides whose label is the most frequent one among the k nearest."""
        return float(self.majority.mean())

    @property
    def mean_average_precision(self) -> float:
        """mAP@k: mean of the average precision."""
        return float(self.precision.mean())


def retrieve(
    vectors: NDArray[np.floating], labels: ArrayLike, *, ks: Sequence[int] = (1, 3, 5), groups: ArrayLike | None = None
) -> list[Retrieval]:
    """Judge vectors by the nearest slides of other patients, by cosine, for several numbers of neighbours.

    Args:
        vectors: (n, features), finite. A mean of tiles is standardised first.
        labels: Text (n,).
        ks: Numbers of neighbours, each at least 1. Where there are fewer slides of other patients, these are taken.
        groups: The patient of each slide, text (n,); None: each slide is its own.

    Raises:
        InvalidInput: A number of neighbours below 1, vectors that are not finite, or no two patients.
    """
    names = np.asarray(labels)
    owners = np.arange(len(names)).astype(str) if groups is None else np.asarray(groups)
    if not ks or min(ks) < 1:
        raise InvalidInput(f"{list(ks)} neighbours: at least 1 must be looked at", "1, 3 and 5 are usual.")
    if not np.isfinite(vectors).all():
        raise InvalidInput("vectors are not finite", "Leave out slides without a vector.")
    if len(set(owners.tolist())) < 2:
        raise InvalidInput(f"all {len(owners)} slides are of one patient", "Retrieval needs slides of other patients.")
    places, _ = nearest(vectors, max(ks), groups=owners.tolist())
    return [judge(names, places[:, :k], owners, k=k) for k in ks]


def retrieval_rows(candidate: Candidate, task: Task) -> list[RetrievalRow]:
    """What an embedding's nearest slides of other patients tell of a target, by number of neighbours."""
    assert candidate.vectors is not None
    vectors: NDArray[np.floating] = task.units.vectors(candidate.vectors, unit_length=not candidate.scaled)
    if candidate.scaled:
        vectors = standardise(vectors.astype(np.float64), *moments(vectors))
    return [
        RetrievalRow(
            candidate.name,
            task.target,
            one.k,
            one.accuracy,
            one.chance_accuracy,
            one.majority_accuracy,
            one.mean_average_precision,
            len(one.queries),
            one.alone,
        )
        for one in retrieve(vectors, task.units.label, groups=task.groups)
    ]


def judge(labels: ArrayLike, places: NDArray[np.int64], groups: ArrayLike, *, k: int) -> Retrieval:
    """Judge neighbours that are known.

    Args:
        labels: Text (n,).
        places: Of the neighbours, the nearest first, (n, m) with m at most `k`; -1 where there are no more.
        groups: The patient of each slide, text (n,); no neighbour is of the same.
        k: How many were asked for.
    """
    classes, y = np.unique(np.asarray(labels), return_inverse=True)
    found = places >= 0  # (n, m)
    queries = np.flatnonzero(found.any(axis=1))
    found, places, mine = found[queries], places[queries], y[queries]
    theirs = np.where(found, y[places], -1)  # (q, m)
    right = theirs == mine[:, None]
    ranks = np.arange(1, right.shape[1] + 1)
    precision = (right.cumsum(axis=1) / ranks * right).sum(axis=1) / np.maximum(right.sum(axis=1), 1)
    votes = np.zeros((len(queries), len(classes) + 1), dtype=np.int64)  # the last column is of those that are not there
    np.add.at(votes, (np.arange(len(queries))[:, None], theirs), 1)
    votes[:, -1] = 0
    winner = np.take_along_axis(votes, theirs, axis=1).argmax(axis=1)  # the first of the most frequent: the nearest
    same, others = _others(y, np.asarray(groups))
    return Retrieval(
        k=k,
        queries=queries,
        hit=right.any(axis=1),
        chance=_chance(same[queries], others[queries], k),
        majority=theirs[np.arange(len(queries)), winner] == mine,
        precision=precision,
        alone=int((same[queries] == 0).sum()),
    )


def _others(y: NDArray[np.int64], groups: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each slide, the slides of other patients with its label, and all slides of other patients; (n,) each."""
    patient = np.unique(groups, return_inverse=True)[1]
    table = np.zeros((patient.max() + 1, y.max() + 1), dtype=np.int64)
    np.add.at(table, (patient, y), 1)  # (patients, classes)
    others = table.sum(axis=0) - table[patient]  # (n, classes)
    return others[np.arange(len(y)), y], others.sum(axis=1)


def _chance(same: NDArray[np.int64], others: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """How likely one of k of `others` is among `same` of them, drawn without replacement; (n,)."""
    missed = np.ones(len(same))
    for i in range(k):
        left = np.maximum(others - i, 1)
        missed *= np.where(others > i, np.maximum(others - same - i, 0) / left, 1.0)
    return 1 - missed


def nearest(
    vectors: NDArray[np.floating],
    k: int,
    *,
    groups: Sequence[str] | None = None,
    queries: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` most similar others of every slide, by the cosine of the angle between their vectors.

    Args:
        vectors: (n, features).
        k: How many; fewer where there are not so many.
        groups: The patient of each slide, (n,): those of the same patient do not count.
        queries: Places of the slides (q,) whose neighbours are wanted; default: all.

    Returns:
        Their places (q, k), the most similar first, -1 where there is none; and the similarities (q, k).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    group = np.arange(len(units)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    asked = np.arange(len(units)) if queries is None else queries
    k = min(k, len(units) - 1)
    places = np.empty((len(asked), max(0, k)), dtype=np.int64)
    similar = np.empty(places.shape)
    for start in range(0, len(asked) if k > 0 else 0, ROWS_AT_ONCE):
        block = slice(start, start + ROWS_AT_ONCE)
        cosine = units[asked[block]] @ units.T  # (rows, n)
        cosine[group[asked[block], None] == group] = -np.inf
        best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosine, best, axis=1), axis=1, kind="stable")
        places[block] = np.take_along_axis(best, order, axis=1)
        similar[block] = np.take_along_axis(cosine, places[block], axis=1)
    places[~np.isfinite(similar)] = -1
    return places, similar


def agreement(values: Sequence[str], groups: Sequence[str], neighbour: NDArray[np.int64]) -> tuple[float, float] | None:
    """How often a slide has a label, a lab, in common with its nearest slide of another patient, and by chance.

    Args:
        values: What is compared, (n,); "" where not known.
        groups: Patients, (n,).
        neighbour: Place of the nearest slide of another patient, (n,), -1 where there is none.

    Returns:
        Share of slides where both are known and equal, and the share expected of a slide of another patient drawn at
        random; None where fewer than two values are known.
    """
    names, code = np.unique(np.asarray(values), return_inverse=True)
    known = names[code] != ""
    if len(set(names.tolist()) - {""}) < 2:
        return None
    counted = known & (neighbour >= 0)  # (n,)
    counted[counted] = known[neighbour[counted]]
    patient = np.unique(np.asarray(groups), return_inverse=True)[1]
    table = np.zeros((patient.max() + 1, len(names)))
    np.add.at(table, (patient[known], code[known]), 1)  # (patients, values)
    others = table.sum(axis=0) - table[patient]  # (n, values)
    chance = others[np.arange(len(code)), code] / np.maximum(others.sum(axis=1), 1)
    if not counted.any():
        return None
    return float((code[counted] == code[neighbour[counted]]).mean()), float(chance[counted].mean())
