"""Training and test sides of an evaluation: made with no patient on both, or read from files; and smaller budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.labels import match
from gigacli.probing.protocols import named_splits, split_of_column
from gigacli.tables import read_columns, refuse_missing

if TYPE_CHECKING:
    from pandas import DataFrame

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Split:
    """One training and one test side."""

    train: NDArray[np.int64]  # places in the list of slides that was split, int64 (n_train,)
    test: NDArray[np.int64]  # places in the same list, int64 (n_test,)
    pool: int | None = None  # of how many slides the training side is a part, where a smaller budget took some
    draw_of: int | None = None  # number of the split it was drawn from, where there are several draws of each


def make_splits(
    labels: ArrayLike, groups: ArrayLike | None, *, folds: int = 10, seed: int = 0, unit: str = "patients"
) -> tuple[list[Split], list[str]]:
    """Split slides `folds` times, every group (patient) on one side only and every class on both.

    A k-fold cross-validation of the groups, stratified by how many slides of each class they have (as scikit-learn's
    StratifiedGroupKFold), where k is `folds`, or the number of groups that have the rarest class if that is less. In
    the second case the cross-validation is repeated with other shuffles, and the first `folds` of its splits are taken.

    Args:
        labels: Text (slides,).
        groups: The patient of each slide, text (slides,); None: each slide is its own.
        folds: How many splits, at least 2.
        seed: Decides the shuffles.
        unit: What the groups are, for messages.

    Returns:
        The splits, with ascending indices, and a warning when k is less than `folds`.

    Raises:
        InvalidInput: Fewer than 2 folds, fewer than 2 classes, a class that fewer than 2 groups have, or groups whose
            classes are so mixed that no two sides have all of them.
    """
    if folds < 2:
        raise InvalidInput(f"{folds} folds: a cross-validation needs at least 2", "The default is 10.")
    classes, y = np.unique(np.asarray(labels), return_inverse=True)  # (classes,), (slides,)
    if len(classes) < 2:
        raise InvalidInput(f"all {len(y)} slides have the same label: {classes.tolist()}", "A probe needs two classes.")
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    group_of = np.unique(names, return_inverse=True)[1]  # (slides,)
    slides = np.zeros((group_of.max() + 1, len(classes)), dtype=np.int64)  # (groups, classes)
    np.add.at(slides, (group_of, y), 1)
    sizes = (slides > 0).sum(axis=0)  # (classes,) groups that have a class
    unit = "slides" if groups is None else unit
    if sizes.min() < 2:
        raise _too_small(classes, sizes, slides.sum(axis=0), unit)
    k, rng, splits = min(folds, int(sizes.min())), np.random.default_rng(seed), list[Split]()
    while len(splits) < folds:
        found = _folds(slides, k, rng)
        if found is None and k == 2:
            raise InvalidInput(
                f"{len(slides)} {unit} have their classes so mixed that no two sides have all {len(classes)} of them",
                f"Leave a class out of the table (an empty label), or label more {unit}.",
            )
        if found is None:
            k, splits = k - 1, []
            continue
        fold_of = found[group_of]  # (slides,)
        pairs = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(k)]
        splits += [Split(train=train, test=test) for train, test in pairs[: folds - len(splits)]]
    if k == folds:
        return splits, []
    why = f"{sizes.min()} {unit} have the rarest class ({str(classes[sizes.argmin()])!r})"
    return splits, [f"{folds} splits from repeated {k}-fold cross-validation: {why}."]


def read_splits(
    source: str | Path | DataFrame,
    slide_ids: Sequence[str],
    *,
    patients: Sequence[str] | None = None,
    column: str | None = None,
    allow_missing: bool = False,
) -> tuple[list[Split], list[str]]:
    """Read given splits, in any of the ways of :mod:`gigacli.probing.protocols`.

    Args:
        source: A folder of split files or a table with columns of folds; with `column`, any table.
        slide_ids: The slides that have a label and a vector, (n,). Names are matched as in :func:`labels.match`.
        patients: Their patients, (n,), where these are to be split; the files may name slides or patients, and indices
            count the patients in the order in which they come here.
        column: Take the one split that this column of the table makes. Its rows are those of the labels: the ones
            without a label or a vector are left out.
        allow_missing: Whether the files may name others, which are left out.

    Returns:
        The splits, indices in the order of the files, and notes: how many names are on neither side (validation), have
        no label or no vector, or stand twice on one side. All are left out.

    Raises:
        NotFound: There is no such folder or no such file in it, or a name has no label or vector and must have.
        InvalidInput: A file lacks a column, has a side without any of the slides, or a slide (or a patient that is to
            be split) on both sides.
    """
    named = named_splits(source) if column is None else [split_of_column(read_columns(source), column, source)]
    names = [name for split in named for side in (split.train, split.test) for name in side]
    units = list(slide_ids if patients is None else dict.fromkeys(patients))
    place = _places(list(dict.fromkeys(names)), slide_ids, patients, units)
    unknown = [name for name in names if place[name] < 0]
    said = f"of the {len(names)} names in the splits have no label or vector"
    allowed = allow_missing or column is not None
    missing = refuse_missing(unknown, among=[*slide_ids, *units], said=said, allow=allowed)
    notes, splits = [missing] if missing else [], []
    unused = sum(split.unused for split in named)
    if unused:
        notes.append(f"{unused} names in the splits are on neither side, for validation, and are left out.")
    for split in named:
        known = [dict.fromkeys(place[name] for name in side if place[name] >= 0) for side in (split.train, split.test)]
        train, test = (np.array(list(side), dtype=np.int64) for side in known)
        what = "slides" if patients is None else "patients"
        splits.append(_checked(Split(train=train, test=test), units, split.source, what=what))
    twice = len(names) - len(unknown) - sum(len(split.train) + len(split.test) for split in splits)
    if twice and patients is None:
        notes.append(f"{twice} names stand twice on one side of a split and count once.")
    return splits, notes


def _places(
    names: list[str], slide_ids: Sequence[str], patients: Sequence[str] | None, units: list[str]
) -> dict[str, int]:
    """Place of each name among the units that are split, slides or patients; -1 where it is none of them."""
    found = match(names, slide_ids if patients is None else [*slide_ids, *units])
    if patients is not None:
        number = {patient: i for i, patient in enumerate(units)}
        found = np.array([*(number[patient] for patient in patients), *range(len(units)), -1])[found]  # -1 is the last
    return dict(zip(names, found.tolist(), strict=True))


def leaking_patients(split: Split, groups: ArrayLike) -> int:
    """Count the test slides whose patient (`groups`, text (slides,)) also has a slide in training."""
    names = np.asarray(groups)
    return int(np.isin(names[split.test], names[split.train]).sum())


def subsample(
    split: Split, labels: ArrayLike, *, fraction: float | None = None, n_train: int | None = None, seed: int
) -> Split:
    """Keep part of the training side, at least one slide of every class; the test side stays.

    Each class is shuffled once; seats are then given one by one, first one to every class, then by the method of
    Sainte-Laguë, which keeps the classes in proportion and never takes a seat back. So of two budgets with one seed the
    smaller is part of the larger.

    Args:
        split: Indices into `labels`.
        labels: Text (slides,).
        fraction: Of the training slides, in (0, 1]. Either this or `n_train`.
        n_train: Number of training slides; all of them when there are fewer.
        seed: Decides the shuffles.

    Raises:
        InvalidInput: Both or neither budget given, one out of range, or one smaller than the number of classes.
    """
    if (fraction is None) == (n_train is None):
        raise InvalidInput("a budget is either a fraction or a number of training slides", "Give one of them.")
    if fraction is not None and not 0 < fraction <= 1:
        raise InvalidInput(f"fraction {fraction} is not in (0, 1]", "0.25 means a quarter of the training slides.")
    train = np.sort(split.train)  # so that the order of a split file does not matter
    y = np.unique(np.asarray(labels)[train], return_inverse=True)[1]  # (train,)
    sizes = np.bincount(y)  # (classes,)
    budget = n_train if n_train is not None else max(len(sizes), round((fraction or 0) * len(train)))
    if budget < len(sizes):
        raise InvalidInput(f"{budget} training slides cannot cover {len(sizes)} classes", "Raise `n_train`.")
    rng = np.random.default_rng(seed)
    rank = np.empty(len(train), dtype=np.int64)  # (train,) place of a slide in the shuffle of its class
    for c, size in enumerate(sizes):
        rank[y == c] = rng.permutation(size)
    seat = np.where(rank == 0, 0.0, (2 * rank + 1) / sizes[y])  # (train,) the lower, the earlier
    kept = np.lexsort((y, seat))[:budget]
    return Split(train=np.sort(train[kept]), test=split.test, pool=len(train))


TRIES = 20
"""Shuffles after which no way is looked for any longer to have every class in every fold."""


def _folds(slides: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """A fold, 0 ... k - 1, for each group, of its slides of each class (groups, classes); None where none is found.

    Every class is in every fold.
    """
    if ((slides > 0).sum(axis=1) == 1).all():
        return _dealt(slides.argmax(axis=1), k, rng)
    for _ in range(TRIES):
        folds = _balanced(slides, k, rng)
        held = np.zeros((k, slides.shape[1]), dtype=np.int64)  # slides of each class in each fold
        np.add.at(held, folds, slides)
        if held.all():
            return folds
    return None


def _dealt(y: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold for each of (n,): shuffled, and dealt out class by class, so that sizes differ by one."""
    order = np.concatenate([rng.permutation(np.flatnonzero(y == c)) for c in range(y.max() + 1)])
    folds = np.empty(len(y), dtype=np.int64)
    folds[order] = rng.permutation(k)[np.arange(len(y)) % k]
    return folds


def _balanced(slides: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold for each group: shuffled, the largest first, each where least is of the classes that it has."""
    shares = slides / slides.sum(axis=0)  # (groups, classes) of all slides of a class
    order = rng.permutation(len(slides))
    order = order[np.argsort(-np.square(shares[order]).sum(axis=1), kind="stable")]
    held, folds = np.zeros((k, slides.shape[1])), np.empty(len(slides), dtype=np.int64)
    for group in order.tolist():
        # What a group adds to the squares of what folds hold, but for a constant; of equals the emptiest.
        crowded = held @ shares[group]  # (k,)
        equal = np.flatnonzero(crowded <= crowded.min() + 1e-12)
        folds[group] = equal[held[equal].sum(axis=1).argmin()]
        held[folds[group]] += shares[group]
    return folds


def _checked(split: Split, ids: Sequence[str], source: str, *, what: str) -> Split:
    both = np.intersect1d(split.train, split.test)
    if len(both):
        examples = ", ".join(ids[i] for i in both[:_SHOWN].tolist())
        raise InvalidInput(
            f"{source} has {len(both)} {what} in both train and test: {examples}", "Remove them from one."
        )
    for side, places in (("train", split.train), ("test", split.test)):
        if not len(places):
            raise InvalidInput(
                f"no slide on the {side} side of {source} has a label and a vector",
                "Make the names in the splits those of the labels and the store.",
            )
    return split


def _too_small(
    classes: NDArray[np.str_], sizes: NDArray[np.int64], slides: NDArray[np.int64], unit: str
) -> InvalidInput:
    order = np.argsort(sizes, kind="stable")[:_SHOWN]
    found = ", ".join(
        f"{str(classes[c])!r} has {sizes[c]}" + ("" if unit == "slides" else f" ({slides[c]} slides)") for c in order
    )
    return InvalidInput(
        f"a class needs at least 2 {unit} to be in training and test: {found}{' ...' if len(classes) > _SHOWN else ''}",
        "Leave the class out of the table (an empty label), or label more slides of it.",
    )
