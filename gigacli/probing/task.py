"""Tasks of a probe: what is judged, the target it is to predict, label budgets, and what leaks into the test sides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import Method, ProbeConfig, TaskKind
from gigacli.probing.budgets import make_budgets
from gigacli.probing.kinds import KINDS, Kind
from gigacli.probing.labels import Labels, join, read_labels
from gigacli.probing.linear import PAPER_C
from gigacli.probing.patients import patients_of
from gigacli.probing.splits import Split, leaking_patients, make_splits, read_splits
from gigacli.probing.truth import CENSORED, EVENT, Truth, classes_of, guess_kind, levels_of, numbers_of, times_of
from gigacli.probing.units import Units, units_of
from gigacli.tables import find_column, name_of, read_columns

if TYPE_CHECKING:
    from pandas import DataFrame

MEAN, WHITENED = "mean", "whitened-mean"
RIVALS = (MEAN, WHITENED)
"""Aggregators that need no training and no choice: what others are compared with."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An embedding to judge by a linear probe, or tile features to judge by attention MIL."""

    name: str  # in the store
    features: str  # fingerprint of the tile features behind it
    scaled: bool  # whether to standardise: a mean of tiles, as in the paper, but not vectors of unit length
    rival: bool  # whether it is what others are compared with
    tuned: bool  # whether C is chosen, whatever was asked for: what others are compared with is judged at its best
    have: NDArray[np.bool_]  # which slides have a vector or tiles, (slides,)
    # the encoders behind it, in words, and which slides each was trained on, (slides,); None where that is not
    # known
    encoders: Sequence[tuple[str, NDArray[np.bool_] | None]]
    vectors: NDArray[np.float32] | None = None  # (slides, features) of an embedding
    # (slides, augmentations, features) of the same seen under other augmentations, where that is asked for and there
    augmented: NDArray[np.float32] | None = None
    stains: Sequence[float] = ()  # how strongly each of these augmentations jitters the stains, (augmentations,)
    stale: Sequence[str] = ()  # what it was made from and has been replaced since, in words
    # reads the tile features (tiles, features) of the slide in a row of the store
    tiles: Callable[[int], NDArray[np.float16]] | None = None

    def methods(self, wanted: Sequence[Method]) -> list[Method]:
        """Those of the wanted methods that can judge it; the mean of tiles stands beside attention MIL alone, too."""
        if self.vectors is None:
            return [method for method in wanted if method == "abmil"]
        of_vectors: list[Method] = [method for method in wanted if method != "abmil"]
        return of_vectors or (["linear"] if self.rival else [])

    def strengths(self, kind: TaskKind, c: float | Literal["auto"]) -> list[float | Literal["auto"]]:
        """Values of C to judge at where `c` was asked for.

        On classes the mean of tiles is judged as in the paper and at its best, for an untuned baseline would flatter
        all else.
        """
        if self.scaled and kind == "classification":
            return [PAPER_C if c == "auto" else c, "auto"]
        return ["auto"] if self.tuned else [c]


@dataclass(frozen=True, eq=False)
class Task:
    """A target to predict: its slides or patients, and the splits of every label budget."""

    target: str  # column of the labels; of times to an event that of the times
    units: Units  # the slides or patients
    truth: Truth  # what is known of them, and of what kind it is
    # the patient of each unit, or the group of its sites, kept on one side of every split; None where each unit stands
    # alone
    groups: tuple[str, ...] | None
    budgets: dict[str, list[Split]]  # splits by label budget: "all", "25 %", "50" or "10 per class"
    # how labels and vectors met: counts of `Join` and of the classes
    joined: dict[str, Any]
    notes: list[str]  # what was decided
    warnings: list[str]  # what casts doubt on the scores: leaks, budgets that cannot be met
    sites: tuple[str, ...] | None = (
        None  # where each unit comes from, of a patient its first slide; None: not asked for
    )
    # where another cohort is judged: its store, the first of its units, and the counts of the cohort fitted on
    test: str = ""
    first_judged: int = 0
    fitted_on: dict[str, Any] | None = None

    @property
    def kind(self) -> Kind:
        """The kind of task."""
        return KINDS[self.truth.kind]


def read_tasks(path: str | Path | DataFrame, config: ProbeConfig) -> list[tuple[Labels, TaskKind]]:
    """Read the labels of every target, and say of what kind each is, with a note where that is a guess.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is not a table, lacks a column, or options make no sense for the kind of task.
    """
    found: list[tuple[Labels, TaskKind, str]]
    aside = (config.site, config.split_column)
    if _is_survival(path, config):
        time, event = config.time or "time", config.event or "event"
        labels = read_labels(path, target=time, level=config.level, required=(event,))
        found = [(labels, "survival", f"the table has columns {time!r} and {event!r}")]
    else:
        targets = config.target or (None,)
        tables = [read_labels(path, target=target, level=config.level, aside=aside) for target in targets]
        found = [(labels, *guess_kind(labels.label)) for labels in tables]
    tasks: list[tuple[Labels, TaskKind]] = []
    for labels, guess, why in found:
        kind = config.task or guess
        config.check_task(kind)
        note = (f"{labels.target}: a task of {kind}, as {why}",) if config.task is None else ()
        tasks.append((replace(labels, notes=(*labels.notes, *note)), kind))
    return tasks


def _is_survival(path: str | Path | DataFrame, config: ProbeConfig) -> bool:
    if config.task is not None or config.time or config.event or config.target:
        return config.task == "survival" or bool(config.time or config.event)
    table = read_columns(path)
    time, event, label = (find_column(table, name, path=name_of(path)) for name in ("time", "event", "label"))
    return time is not None and event is not None and label is None


def make_task(
    labels: Labels,
    kind: TaskKind,
    slide_ids: Sequence[str],
    patients: Sequence[str],
    has_vector: NDArray[np.bool_],
    candidates: Sequence[Candidate],
    *,
    config: ProbeConfig,
    source: str | Path | DataFrame,
) -> Task:
    """Join labels and vectors as :func:`join` does, split as `config` says, and look for leaks to the candidates.

    `source` is the table that the labels come from.

    Raises:
        InvalidInput: Labels and vectors do not meet, are not of the kind, or a class is too small to be on both sides
            of a split.
    """
    joined = join(labels, slide_ids, has_vector, patients=patients_of(slide_ids, from_store=patients).names)
    known = patients_of(slide_ids, from_store=patients, from_labels=joined.patients)
    units = units_of(joined, slide_ids, patients=known, level=config.level)
    sites, groups = None, None if config.group == "none" else units.patient
    where: list[str] = []
    if config.by_site:
        sites, where = _sites(units, slide_ids, known.names or joined.patients, source, config)
    if config.group == "site":
        from gigacli.probing.sites import site_groups

        assert sites is not None
        groups = site_groups(sites, units.patient)
    truth = _truth(labels, kind, units, parts=max(2, min(4, len(set(groups or units.ids)) // config.folds)))
    notes = [*labels.notes]
    notes.append(f"patients: {known.source}" if units.patient else "patients are not known: each slide counts as one")
    if config.level == "patient":
        notes.append(f"{len(units.ids)} patients are judged, each by the mean of the vectors of its slides")
    notes += where
    counts = {**joined.counts, "classes": {}}
    if kind != "regression":
        names = truth.strata.tolist() if truth.event is None else np.where(truth.event, EVENT, CENSORED).tolist()
        counts |= units.per_class(names)
    if not config.splits_needed:
        doubts = [*joined.warnings, *known.warnings, *_one_by_one(units, kind)]
        return Task(labels.target, units, truth, groups, {}, counts, notes, doubts, sites)
    splits, found, fewer = _splits(units, truth, slide_ids, groups, config, source)
    budgets, short, drawn = make_budgets(splits, truth.strata, config)
    for split in itertools.chain(*budgets.values()):
        KINDS[kind].check(truth, split)
    warnings = [*joined.warnings, *known.warnings, *fewer, *_patient_leaks(units, splits, config), *short]
    warnings += _one_by_one(units, kind)
    said = [*notes, *found, *_seen_in_training(units, splits, candidates), *drawn]
    return Task(labels.target, units, truth, groups, budgets, counts, said, warnings, sites)


def _sites(
    units: Units,
    slide_ids: Sequence[str],
    patients: Sequence[str],
    source: str | Path | DataFrame,
    config: ProbeConfig,
) -> tuple[tuple[str, ...], list[str]]:
    """The site of each unit, (units,), and a note where they are known from."""
    from gigacli.probing.sites import TCGA, read_site_column, sites_of

    said = None
    if config.site not in (None, TCGA):
        said = read_site_column(source, str(config.site), slide_ids, patients)
    first = [int(rows[0]) for rows in units.slides]
    found = sites_of([slide_ids[i] for i in first], from_labels=None if said is None else [said[i] for i in first])
    return found.names, [f"sites: {found.source}"]


def _one_by_one(units: Units, kind: TaskKind) -> list[str]:
    """A warning where patients with several slides are watched, and each slide counts as one of them."""
    if kind != "survival" or units.patient is None or len(set(units.patient)) == len(units.ids):
        return []
    return [
        f"{len(units.ids)} slides of {len(set(units.patient))} patients are judged one by one, as if each were a "
        "patient: `level='patient'` judges patients"
    ]


def _truth(labels: Labels, kind: TaskKind, units: Units, *, parts: int) -> Truth:
    """What is known of the units; `parts`, early and late or low and high, are kept in proportion by the splits."""
    texts = units.label.tolist()
    if kind == "classification":
        return classes_of(units.label)
    if kind == "ordinal":
        return levels_of(texts, column=labels.target)
    if kind == "regression":
        return numbers_of(texts, column=labels.target, parts=parts)
    ((event, seen),) = units.beside.items()
    return times_of(texts, seen.tolist(), time=labels.target, event=event, parts=parts)


def _splits(
    units: Units,
    truth: Truth,
    slide_ids: Sequence[str],
    groups: Sequence[str] | None,
    config: ProbeConfig,
    source: str | Path | DataFrame,
) -> tuple[list[Split], list[str], list[str]]:
    """Splits of the units, made or read, notes about them, and warnings."""
    if config.splits is None and config.split_column is None:
        unit = "sites" if config.group == "site" else "patients"
        splits, warnings = make_splits(truth.strata, groups, folds=config.folds, seed=config.seed, unit=unit)
        return splits, [], warnings
    slides = [slide_ids[row] for rows in units.slides for row in rows.tolist()]
    owners = [name for name, rows in zip(units.ids, units.slides, strict=True) for _ in rows]
    patients = owners if config.level == "patient" else None
    given, column = config.splits or source, config.split_column
    splits, notes = read_splits(given, slides, patients=patients, column=column, allow_missing=config.allow_missing)
    what = f"the column {column!r} of {name_of(given)}" if column else f"{len(splits)} of {given}"
    return splits, [f"splits: {what}", *notes], []


def _patient_leaks(units: Units, splits: Sequence[Split], config: ProbeConfig) -> list[str]:
    """A warning where patients are on both sides of a split."""
    leaks = sum(leaking_patients(split, units.patient) for split in splits) if units.patient is not None else 0
    if not leaks:
        return []
    made = config.splits is None and config.split_column is None
    which = "`group='none'`: the splits" if made else "the given splits"
    share = f"{100 * leaks / sum(len(split.test) for split in splits):.1f} %"
    return [f"{which} leak: {share} of test slides have a slide of the same patient in training"]


def _seen_in_training(units: Units, splits: Sequence[Split], candidates: Sequence[Candidate]) -> Iterator[str]:
    """What encoders saw of the test slides in training, without labels: of one cohort that is its ordinary use.

    A line an encoder, with the names of the vectors that it had a part in.
    """
    tested = np.unique(np.concatenate([split.test for split in splits]))  # units
    slides = np.concatenate([units.slides[i] for i in tested.tolist()])
    vectors: dict[str, list[str]] = {}
    for candidate in candidates:
        for encoder, trained_on in candidate.encoders:
            if trained_on is None:
                said = f"the store does not say which slides {encoder} was trained on"
            else:
                seen = int(trained_on[slides].sum())
                said = f"{encoder} was trained, without labels, on {seen} of the {len(slides)} test slides"
            vectors.setdefault(said, []).append(candidate.name)
    yield from (f"{', '.join(dict.fromkeys(names))}: {said}" for said, names in vectors.items())
