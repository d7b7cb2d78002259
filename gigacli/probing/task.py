"""Tasks of a probe: what is judged, the target it is to predict, label budgets, and what leaks into the test sides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gigacli.config.verbs import ProbeConfig
from gigacli.probing.labels import Labels, join
from gigacli.probing.linear import PAPER_C
from gigacli.probing.patients import patients_of
from gigacli.probing.scores import check_split
from gigacli.probing.splits import Split, leaking_patients, make_splits, read_splits, subsample
from gigacli.probing.units import Units, units_of

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
    stale: Sequence[str] = ()  # what it was made from and has been replaced since, in words
    # reads the tile features (tiles, features) of the slide in a row of the store
    tiles: Callable[[int], NDArray[np.float16]] | None = None

    @property
    def method(self) -> Literal["linear", "abmil"]:
        """Logistic regression on vectors, attention MIL on tiles."""
        return "abmil" if self.vectors is None else "linear"

    def strengths(self, c: float | Literal["auto"]) -> list[float | Literal["auto"]]:
        """Values of C to judge at where `c` was asked for.

        The mean of tiles is judged as in the paper and at its best, for an untuned baseline would flatter all else.
        """
        if self.scaled:
            return [PAPER_C if c == "auto" else c, "auto"]
        return ["auto"] if self.tuned else [c]


@dataclass(frozen=True, eq=False)
class Task:
    """A target to predict: its slides or patients, and the splits of every label budget."""

    target: str  # column of the labels
    units: Units  # the slides or patients
    # the patient of each unit, kept on one side of every split; None where each unit stands alone
    groups: tuple[str, ...] | None
    budgets: dict[str, list[Split]]  # splits by label budget: "all", "25 %" or "50"
    # how labels and vectors met: counts of `Join` and of the classes
    joined: dict[str, Any]
    notes: list[str]  # what was decided
    warnings: list[str]  # what casts doubt on the scores: leaks, budgets that cannot be met


def make_task(
    labels: Labels,
    slide_ids: Sequence[str],
    patients: Sequence[str],
    has_vector: NDArray[np.bool_],
    candidates: Sequence[Candidate],
    *,
    config: ProbeConfig,
) -> Task:
    """Join labels and vectors as :func:`join` does, split as `config` says, and look for leaks to the candidates.

    Raises:
        InvalidInput: Labels and vectors do not meet, or a class is too small to be on both sides of a split.
    """
    joined = join(labels, slide_ids, has_vector, patients=patients_of(slide_ids, from_store=patients).names)
    known = patients_of(slide_ids, from_store=patients, from_labels=joined.patients)
    units = units_of(joined, slide_ids, patients=known, level=config.level)
    groups = None if config.group == "none" else units.patient
    notes = [*labels.notes]
    notes.append(f"patients: {known.source}" if units.patient else "patients are not known: each slide counts as one")
    if config.level == "patient":
        notes.append(f"{len(units.ids)} patients are judged, each by the mean of the vectors of its slides")
    splits, found, fewer = _splits(units, slide_ids, groups, config)
    seen, unseen = _training_leaks(units, splits, candidates)
    budgets = {
        name: [subsample(split, units.label, seed=config.seed, **limit) if limit else split for split in splits]
        for name, limit in _budgets(config).items()
    }
    y = np.searchsorted(units.classes, units.label)  # (units,)
    for split in itertools.chain(*budgets.values()):
        check_split(y, split, units.classes)
    least = min(len(split.train) for split in splits)
    short = [
        f"{n} training labels were asked for, but a split has only {least}: all are used"
        for n in config.n_train
        if n > least
    ]
    warnings = [*joined.warnings, *known.warnings, *fewer, *_patient_leaks(units, splits, config), *seen, *short]
    counts = {**joined.counts, **units.per_class()}
    return Task(labels.target, units, groups, budgets, counts, [*notes, *found, *unseen], warnings)


def _splits(
    units: Units, slide_ids: Sequence[str], groups: Sequence[str] | None, config: ProbeConfig
) -> tuple[list[Split], list[str], list[str]]:
    """Splits of the units, made or read, notes about them, and warnings."""
    if config.splits is None:
        splits, warnings = make_splits(units.label, groups, folds=config.folds, seed=config.seed)
        return splits, [], warnings
    slides = [slide_ids[row] for rows in units.slides for row in rows.tolist()]
    owners = [name for name, rows in zip(units.ids, units.slides, strict=True) for _ in rows]
    patients = owners if config.level == "patient" else None
    splits, notes = read_splits(config.splits, slides, patients=patients, allow_missing=config.allow_missing)
    return splits, [f"splits: {len(splits)} files of {config.splits}", *notes], []


def _budgets(config: ProbeConfig) -> dict[str, dict[str, Any]]:
    """Arguments of :func:`subsample` by the name of the label budget; all labels where no budget was asked for."""
    budgets: dict[str, dict[str, Any]] = {f"{100 * f:g} %": {"fraction": f} for f in config.fraction}
    budgets |= {str(n): {"n_train": n} for n in config.n_train}
    return budgets or {"all": {}}


def _patient_leaks(units: Units, splits: Sequence[Split], config: ProbeConfig) -> list[str]:
    """A warning where patients are on both sides of a split."""
    leaks = sum(leaking_patients(split, units.patient) for split in splits) if units.patient is not None else 0
    if not leaks:
        return []
    which = "`group='none'`: the splits" if config.splits is None else "the given splits"
    share = f"{100 * leaks / sum(len(split.test) for split in splits):.1f} %"
    return [f"{which} leak: {share} of test slides have a slide of the same patient in training"]


def _training_leaks(
    units: Units, splits: Sequence[Split], candidates: Sequence[Candidate]
) -> tuple[list[str], list[str]]:
    """What encoders saw of the test slides in training (without labels): warnings, and notes where that is nothing."""
    tested = np.unique(np.concatenate([split.test for split in splits]))  # units
    slides = np.concatenate([units.slides[i] for i in tested.tolist()])
    warnings: list[str] = []
    notes: list[str] = []
    for candidate in candidates:
        for encoder, trained_on in candidate.encoders:
            if trained_on is None:
                notes.append(f"{candidate.name}: the store does not say which slides {encoder} was trained on")
                continue
            seen = int(trained_on[slides].sum())
            text = f"{encoder} was trained, without labels, on {seen} of the {len(slides)} test slides"
            (warnings if seen else notes).append(f"{candidate.name}: {text}")
    return warnings, notes
