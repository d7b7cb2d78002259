"""What the lines of the table are worth by chance: p-values by labels that are permuted among patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gigacli.config.probe import ProbeConfig
from gigacli.errors import InvalidInput
from gigacli.probing.evaluation import Evaluation, Judged
from gigacli.probing.heads import fit_of
from gigacli.probing.kinds import KINDS
from gigacli.probing.permutations import Sides, holm, null_aucs, null_scores, p_value
from gigacli.probing.results import ProbeRow
from gigacli.probing.standardise import prepared, spread
from gigacli.probing.truth import Truth
from gigacli.progress import Progress

LEVEL = 0.05


def with_chance(
    rows: Sequence[ProbeRow], evaluations: Sequence[Evaluation], config: ProbeConfig, progress: Progress
) -> tuple[list[ProbeRow], list[str]]:
    """Give every row its p-values, corrected for the rows they are compared with; and notes about them.

    Splits, harmonisation and the C of every split are those that were found on the true labels. Attention MIL would
    have to be trained as often: it gets none. Rows of one target and budget are
    compared, harmonised ones by themselves.
    """
    n = config.permutations
    judged = [one for one in evaluations if one.judged is not None]
    progress.start(f"permuting labels, {n} times for each of {len(judged)} lines", n * len(judged))
    nulls = {id(one): null_of(one, one.judged, config, progress) for one in judged if one.judged is not None}
    found = [_with_p(row, nulls.get(id(one))) for row, one in zip(rows, evaluations, strict=True)]
    families: dict[tuple[str, str, str], list[int]] = {}
    for i, row in enumerate(found):
        if row.p_value is not None:
            families.setdefault((row.target, row.budget, row.harmonised), []).append(i)
    for places in families.values():
        ps = np.array([found[i].p_value for i in places], dtype=np.float64)
        for i, p in zip(places, holm(ps).tolist(), strict=True):
            found[i] = replace(found[i], p_holm=p)
    most = max(map(len, families.values()), default=0)
    corrected = f"; corrected for the {most} lines that are compared (Holm)" * (most > 1)
    notes = [
        f"p: how often one of {n} permutations of the labels among patients scores as high, on the same splits with "
        f"the same C{corrected}"
    ]
    if most / (n + 1) > LEVEL:
        notes.append(f"{n} permutations cannot give {most} lines a p of {LEVEL:g}: that takes {round(most / LEVEL)}")
    if len(judged) < len(rows):
        notes.append("abmil has no p: it would have to be trained anew for every permutation")
    return found, notes


def _with_p(row: ProbeRow, null: NDArray[np.float64] | None) -> ProbeRow:
    if null is None:
        return row
    p, mean, high = p_value(row.score_mean, null), float(null.mean()), float(np.quantile(null, 1 - LEVEL))
    return replace(row, p_value=p, null_mean=mean, null_high=high)


def null_of(one: Evaluation, judged: Judged, config: ProbeConfig, progress: Progress) -> NDArray[np.float64]:
    """Mean scores (permutations,) of an evaluation on permuted labels."""
    truth, patients, n, seed = one.task.truth, one.task.units.patient, config.permutations, config.seed
    if one.method == "linear" and truth.kind == "classification" and not config.converged:
        sides, splits = _prepared_sides(one, judged), [fold.split for fold in one.folds]
        strengths = [fold.C for fold in one.folds if fold.C is not None]
        return null_aucs(sides, truth.y, splits, strengths, patients, permutations=n, seed=seed, progress=progress)
    sides = _sides(one, judged)
    values = truth.y if truth.event is None else np.column_stack([truth.y, truth.event])

    def score(order: NDArray[np.int64]) -> float:
        return _score(one, judged, sides, truth.take(order), config)

    with threadpool_limits(1):
        return null_scores(score, values, patients, permutations=n, seed=seed, progress=progress)


def _sides(one: Evaluation, judged: Judged) -> Sides:
    """The vectors of both sides of every split, harmonised where they were."""
    sides = []
    for split in (fold.split for fold in one.folds):
        train, test = judged.vectors[split.train], judged.vectors[split.test]
        if judged.transform is not None:
            change = judged.transform(train, split.train)
            train, test = change(train, split.train), change(test, split.test)
        sides.append((train, test))
    return sides


def _prepared_sides(one: Evaluation, judged: Judged) -> Sides:
    """The same as logistic regression is fitted to them."""
    sides = []
    for train, test in _sides(one, judged):
        moments = spread(train, scale=one.candidate.scaled, centre=one.c == "auto")
        sides.append((prepared(train, *moments), prepared(test, *moments)))
    return sides


def _score(one: Evaluation, judged: Judged, sides: Sides, truth: Truth, config: ProbeConfig) -> float:
    """Mean score over the splits on other labels; splits that cannot be scored on these do not count."""
    kind, scores = KINDS[truth.kind], []
    for fold, (train, test) in zip(one.folds, sides, strict=True):
        try:
            kind.check(truth, fold.split)
        except InvalidInput:
            continue
        fit = judged.fit
        if fold.C is not None:
            fit = fit_of(
                truth.kind,
                one.method,
                C=fold.C,
                scale=one.candidate.scaled,
                seed=config.seed,
                converged=config.converged,
            )
        groups = None if one.task.groups is None else np.asarray(one.task.groups)[fold.split.train]
        mine = truth.take(fold.split.train)
        predicted = fit(train, mine, groups).predict(test)
        scores.append(kind.measure(truth.take(fold.split.test), predicted, mine)[kind.metric])
    return float(np.mean(scores)) if scores else kind.chance
