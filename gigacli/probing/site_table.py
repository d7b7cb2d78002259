"""Sites in the result of a probe: what is left of every score within sites and at sites that are left out."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from gigacli.config.probe import ProbeConfig
from gigacli.errors import InvalidInput
from gigacli.files import new_file
from gigacli.probing.evaluation import Evaluation
from gigacli.probing.model import score_splits
from gigacli.probing.scores import Fold
from gigacli.probing.site_scores import SiteReading, read_sites, score_sites, verdict, within_sites
from gigacli.probing.sites import Confounding, confounding, leave_one_site_out
from gigacli.probing.splits import Split, make_splits
from gigacli.probing.task import Task
from gigacli.progress import Progress

SHOWN: Final = 10
"""Sites in the table of calibration, the largest, unless it is to be wide."""


@dataclass(frozen=True)
class OneSite:
    """Predictions of the slides of one site, by models that have seen others of the site unless it is left out."""

    site: str
    slides: int  # or patients, where these are judged
    auc: float | None  # among them; None where the site has one class
    left_out: float | None  # AUC of a model that has seen no slide of the site; None where it cannot be tested
    observed: tuple[float, ...]  # share of each class
    predicted: tuple[float, ...]  # mean probability of each class
    limit: tuple[float, ...]  # how far the two may lie apart by chance, if all probabilities are right: 95 %
    brier: float


@dataclass(frozen=True)
class SiteRow:
    """What there is to the AUC of one line of the table."""

    target: str
    embedding: str
    method: str
    c: str
    budget: str
    n_train: float  # mean number of training slides (or patients)
    harmonised: str
    setting: str  # method, C and harmonisation, in a few characters
    auc: float  # over all
    within: float | None  # AUC among slides of one site; None where no site has two classes on one test side
    within_low: float | None  # its 95 % interval
    within_high: float | None
    within_sites: int  # that have both classes on one test side
    left_out: float | None  # mean AUC at sites that the model has not seen; None: too small, or not with all labels
    left_out_sites: int  # so many
    read: float | None  # balanced accuracy of reading the site from vectors; None where too few patients, or tiles
    read_auc: float | None
    read_sites: int  # told apart; 1 / read_sites is chance
    alone: float  # AUC of the site alone
    alone_p: float  # by 200 permutations of the labels
    explained: bool  # whether the site may be what the score comes from
    verdict: str  # why, in a sentence
    classes: tuple[str, ...]
    sites: tuple[OneSite, ...]


def compare_sites(
    evaluations: Sequence[Evaluation], config: ProbeConfig, progress: Progress
) -> tuple[list[SiteRow], list[str], list[str]]:
    """A row for every evaluation of classes, notes, and warnings: one sentence for every target, of its first line.

    The site alone predicts the label over splits that keep patients together, whatever is done with sites.
    """
    rows, notes, warnings = list[SiteRow](), list[str](), list[str]()
    for task in {id(one.task): one.task for one in evaluations}.values():
        if task.truth.kind != "classification":
            notes.append(f"{task.target}: scores within sites are for classes; this is a task of {task.truth.kind}")
            continue
        mine = [one for one in evaluations if one.task is task]
        progress.start("comparing sites", len(mine))
        assert task.sites is not None
        out, said = _left_out_splits(task)
        notes += said
        alone = _alone(task, config)
        readings: dict[tuple[str, str], SiteReading | None] = {}
        for one in mine:
            key = (one.candidate.name, one.harmonised)
            if key not in readings:
                readings[key] = _read(one, config)
            rows.append(_row(one, alone, readings[key], out))
            progress.advance()
        first = _main(rows[-len(mine) :])
        name = mine[rows[-len(mine) :].index(first)].name
        unseen = f"; at sites that are not in training it is {first.auc:.3f}" if config.group == "site" else ""
        (warnings if first.explained else notes).append(f"{task.target}, {name}: {first.verdict}{unseen}")
    return rows, notes, warnings


def _main(rows: Sequence[SiteRow]) -> SiteRow:
    """The first with the most labels, which is not harmonised."""
    return max(rows, key=lambda row: row.n_train)


def _left_out_splits(task: Task) -> tuple[dict[str, Split], list[str]]:
    assert task.sites is not None
    try:
        return leave_one_site_out(task.truth.strata, task.sites, task.units.patient)
    except InvalidInput as error:
        return {}, [f"{task.target}: no site is left out: {error.message}"]


def _alone(task: Task, config: ProbeConfig) -> Confounding:
    assert task.sites is not None
    splits, _ = make_splits(task.truth.strata, task.units.patient, folds=config.folds, seed=config.seed)
    return confounding(task.truth.y, task.sites, splits, task.units.patient, seed=config.seed)


def _read(one: Evaluation, config: ProbeConfig) -> SiteReading | None:
    if one.judged is None or one.task.sites is None:
        return None
    return read_sites(
        one.judged.vectors,
        one.task.sites,
        one.task.units.patient,
        scale=one.candidate.scaled,
        seed=config.seed,
        transform=one.judged.transform,
    )


def _row(one: Evaluation, alone: Confounding, reading: SiteReading | None, out: dict[str, Split]) -> SiteRow:
    task, sites = one.task, one.task.sites
    assert sites is not None
    tested = [(fold.split.test, fold.predicted) for fold in one.folds]
    within = within_sites(task.truth.y, tested, sites)
    # logistic regression weighs classes equally; other methods give what they have seen
    train = [fold.split.train for fold in one.folds] if one.method == "linear" else None
    unseen = _left_out(one, out)
    scored = score_sites(task.truth.y, tested, sites, train=train)
    explained, why = verdict(one.score, within, alone)
    return SiteRow(
        target=task.target,
        embedding=one.candidate.name,
        method=one.method,
        c=one.c,
        budget=one.budget,
        n_train=float(np.mean([len(fold.split.train) for fold in one.folds])),
        harmonised=one.harmonised,
        setting=", ".join(filter(None, [f"C={one.c}" if one.method == "linear" else one.setting, one.harmonised])),
        auc=one.score,
        within=None if within is None else within.auc,
        within_low=None if within is None else within.low,
        within_high=None if within is None else within.high,
        within_sites=0 if within is None else within.sites,
        left_out=float(np.mean([fold.score for fold in unseen.values()])) if unseen else None,
        left_out_sites=len(unseen),
        read=None if reading is None else reading.balanced_accuracy,
        read_auc=None if reading is None else reading.auc,
        read_sites=0 if reading is None else reading.sites,
        alone=alone.auc,
        alone_p=alone.p,
        explained=explained,
        verdict=why,
        classes=task.truth.classes,
        sites=tuple(
            OneSite(
                site=found.site,
                slides=found.slides,
                auc=found.auc,
                left_out=unseen[found.site].score if found.site in unseen else None,
                observed=tuple(found.observed.tolist()),
                predicted=tuple(found.predicted.tolist()),
                limit=tuple(found.limit.tolist()),
                brier=found.brier,
            )
            for found in scored
        ),
    )


def _left_out(one: Evaluation, out: dict[str, Split]) -> dict[str, Fold]:
    """Every site judged by a model of all others; nothing for a part of the labels, or where two sites are all."""
    if one.judged is None or any(len(fold.split.train) < (fold.split.pool or 0) for fold in one.folds):
        return {}
    judged, found = one.judged, dict[str, Fold]()
    for site, split in out.items():
        try:
            [found[site]] = score_splits(
                judged.vectors,
                one.task.truth,
                [split],
                judged.fit,
                groups=one.task.groups,
                transform=judged.transform,
            )
        except InvalidInput:  # all others are one site: nothing to harmonise
            continue
    return found


def site_tables(rows: Sequence[SiteRow], *, wide: bool) -> Iterator[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows: scores within sites of every line, and the calibration of the first at its sites."""
    if not rows:
        return
    first = _main(rows)
    chance = f", read by chance {1 / first.read_sites:.2f}" if first.read_sites else ""
    title = f"{first.target} within sites: AUC of the site alone {first.alone:.3f} (p {first.alone_p:.2g}){chance}"
    budgets = {row.budget for row in rows} != {"all"}
    columns = (
        "embedding",
        "method",
        *(["labels"] if budgets else []),
        "within",
        "95 % interval",
        "site left out",
        "read",
    )
    yield (
        title,
        columns,
        [
            (
                row.embedding,
                row.setting,
                *([row.budget.replace(" per ", "/")] if budgets else []),
                _figure(row.within),
                "" if row.within_low is None else f"{row.within_low:.3f}-{row.within_high:.3f}",
                "" if row.left_out is None else f"{row.left_out:.3f}",
                _figure(row.read, digits=2),
            )
            for row in rows
        ],
    )
    sites = sorted(first.sites, key=lambda one: -one.slides)
    kept = sites if wide else sites[:SHOWN]
    more = f" ({len(kept)} of {len(sites)})" if len(kept) < len(sites) else ""
    yield (
        f"{first.target} at each site{more}: {first.embedding}, {first.setting}",
        ("site", "slides", "AUC", "left out", "class", "its share", "predicted", "Brier"),
        [_of_site(one, first.classes) for one in kept],
    )


def _of_site(one: OneSite, classes: Sequence[str]) -> tuple[str, ...]:
    """A row of a site: the class whose predicted share is furthest off, for what chance may do; of two the second."""
    off = [abs(p - o) / max(limit, 1e-9) for p, o, limit in zip(one.predicted, one.observed, one.limit, strict=True)]
    c = 1 if len(classes) == 2 else int(np.argmax(off))
    mark = " !" if off[c] > 1 else ""
    return (
        one.site,
        str(one.slides),
        _figure(one.auc),
        _figure(one.left_out),
        classes[c],
        f"{one.observed[c]:.2f}",
        f"{one.predicted[c]:.2f} ± {one.limit[c]:.2f}{mark}",
        f"{one.brier:.3f}",
    )


def _figure(value: float | None, *, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write_sites(folder: Path, rows: Sequence[SiteRow]) -> str:
    """Write sites.csv, a row per line of the table, site and class; the path."""
    path = folder / "sites.csv"
    of_line = ("target", "embedding", "method", "c", "budget", "harmonised")
    of_site = ("site", "slides", "auc", "left_out", "brier")
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*of_line, *of_site, "class", "observed", "predicted", "limit"])
        for row in rows:
            for one in row.sites:
                same = [getattr(row, name) for name in of_line] + [getattr(one, name) for name in of_site]
                shares = zip(row.classes, one.observed, one.predicted, one.limit, strict=True)
                table.writerows(["" if x is None else x for x in (*same, *share)] for share in shares)
    return str(path)
