"""Sites (hospitals, laboratories, scanners): where slides come from, splits that keep them apart, and the label.

A probe that tells the laboratory can tell the disease wherever laboratories differ in what they are sent (Howard et
al., The impact of site-specific digital histology signatures on deep learning model accuracy and bias, Nature
Communications 12, 2021). :mod:`gigacli.probing.site_scores` judges vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.labels import MISSING, match
from gigacli.probing.metrics import auc
from gigacli.probing.patients import connected
from gigacli.probing.permutations import null_scores, p_value
from gigacli.probing.splits import Split, make_splits
from gigacli.tables import find_column, name_of, read_columns, require_column, tcga_site

if TYPE_CHECKING:
    from pandas import DataFrame

TCGA: Final = "tcga"
"""Name of a column that stands for the tissue source site in TCGA's slide ids."""

_SHOWN = 3


@dataclass(frozen=True)
class Sites:
    """Which site each slide comes from."""

    names: tuple[str, ...]  # (slides,)
    source: str  # where they are known from, to be shown


@dataclass(frozen=True)
class Confounding:
    """How well the site alone predicts the label."""

    auc: float  # mean over splits; .5 is chance
    p: float  # how often it is as high with labels permuted among patients

    @property
    def found(self) -> bool:
        """Whether sites differ in how often they see a class."""
        return self.p <= 0.05


def read_site_column(
    source: str | Path | DataFrame, column: str, slide_ids: Sequence[str], patients: Sequence[str]
) -> list[str]:
    """The site of each slide of a store, (slides,), "" where the table does not say.

    Args:
        source: The table of labels, with a column of slides or, without that, of patients.
        column: That of the sites.
        slide_ids: The slides of the store, (slides,).
        patients: Their patients, (slides,), "" where not known.

    Raises:
        InvalidInput: There is no such column, or a slide has two sites.
    """
    table, name = read_columns(source), name_of(source)
    cells = ["" if cell.casefold() in MISSING else cell for cell in table[require_column(table, column, path=name)]]
    of_slides = find_column(table, "slide_id", path=name)
    units = table[of_slides or require_column(table, "patient_id", path=name)]
    said: dict[str, set[str]] = {}
    for unit, cell in zip(units, cells, strict=True):
        if unit and cell:
            said.setdefault(unit, set()).add(cell)
    found: list[set[str]] = [said.get(patient, set()) for patient in patients]
    if of_slides is not None:
        found = [set() for _ in slide_ids]
        for unit, place in zip(said, match(list(said), slide_ids).tolist(), strict=True):
            if place >= 0:
                found[place] |= said[unit]
    several = [slide for slide, names in zip(slide_ids, found, strict=True) if len(names) > 1]
    if several:
        raise InvalidInput(
            f"{name}: {len(several)} slides have more than one {column!r}: {', '.join(several[:_SHOWN])}",
            "Give each slide one site.",
        )
    return [next(iter(names), "") for names in found]


def sites_of(slide_ids: Sequence[str], *, from_labels: Sequence[str | None] | None = None) -> Sites:
    """Say which site each slide comes from.

    A slide without a site, where others have one, is a site of its own. TCGA's codes stand for a hospital *and a study*
    of it: in a cohort of two of its studies every site has one class, and site and class cannot be told apart by them.

    Args:
        slide_ids: The slides, (n,).
        from_labels: Their sites in a column of the labels, (n,), None or "" where not known. Without it, or where it
            says nothing at all, the second field of TCGA barcodes, the tissue source site.

    Raises:
        InvalidInput: No site is known of any slide, or all come from one.
    """
    said = [name or "" for name in from_labels or [""] * len(slide_ids)]
    source = "the column of the labels"
    if not any(said):
        said, source = [tcga_site(slide) for slide in slide_ids], "TCGA's tissue source site, in the slide ids"
    unknown = said.count("")
    known = set(said) - {""}
    if len(known) < 2:
        found = f"all slides come from {next(iter(known))!r}" if known else "it is not known where slides come from"
        raise InvalidInput(found, "Name a column of the labels that holds at least two sites: `site='COLUMN'`.")
    alone = f"; {unknown} slides without one count as one each" if unknown else ""
    names = tuple(name or f"(only {slide})" for name, slide in zip(said, slide_ids, strict=True))
    return Sites(names, f"{len(known)} sites, from {source}{alone}")


def site_groups(sites: Sequence[str], patients: Sequence[str] | None) -> tuple[str, ...]:
    """The group of each slide, (slides,), such that neither a site nor a patient is divided, named after its sites."""
    group = connected(list(zip(sites, patients or [f"{i}" for i in range(len(sites))], strict=True)))
    members: dict[int, dict[str, None]] = {}
    for g, site in zip(group, sites, strict=True):
        members.setdefault(g, {})[site] = None
    return tuple("+".join(members[g]) for g in group)


def site_preserved_splits(
    labels: ArrayLike, sites: Sequence[str], patients: Sequence[str] | None, *, folds: int, seed: int = 0
) -> tuple[list[Split], list[str]]:
    """Cross-validation with no site on both sides, classes as evenly spread as :func:`make_splits` can (Howard 2021).

    Args:
        labels: What splits keep in proportion, text (slides,).
        sites: The site of each slide, (slides,).
        patients: The patient of each, (slides,), or None. Sites that share a patient stay together.
        folds: How many splits.
        seed: Decides the shuffles.

    Returns:
        The splits, and a warning where they are of fewer folds.

    Raises:
        InvalidInput: A class that comes from one site only, or sites that cannot be divided with all classes in each.
    """
    return make_splits(labels, site_groups(sites, patients), folds=folds, seed=seed, unit="sites")


def leave_one_site_out(
    labels: ArrayLike, sites: Sequence[str], patients: Sequence[str] | None, *, least: int = 2
) -> tuple[dict[str, Split], list[str]]:
    """Every site as the test side once, all others in training.

    A site with fewer than `least` slides of a class is in training only: there is nothing to rank in it. Slides of
    other sites whose patient is tested are left out of training.

    Args:
        labels: Text (slides,).
        sites: The site of each slide, (slides,).
        patients: The patient of each, (slides,), or None.
        least: Slides of every class that a site needs to be tested.

    Returns:
        The splits by the name of the site, in sorted order; and a note about the sites that are not tested.

    Raises:
        InvalidInput: No site can be tested.
    """
    names, where = np.asarray(labels), np.asarray(sites)
    who = np.arange(len(names)) if patients is None else np.asarray(patients)
    classes = np.unique(names)
    splits, few = dict[str, Split](), []
    for site in np.unique(where).tolist():
        test = where == site
        train = ~test & ~np.isin(who, who[test])
        inside, outside = Counter(names[test].tolist()), set(names[train].tolist())
        if min(inside[c] for c in classes.tolist()) < least or outside != set(classes.tolist()):
            few.append(site)
        else:
            splits[site] = Split(train=np.flatnonzero(train), test=np.flatnonzero(test))
    if not splits:
        raise InvalidInput(
            f"none of {len(few)} sites has {least} slides of every class, with all classes at others, too",
            "No site can be left out: here the site cannot be told from the label.",
        )
    examples = ", ".join(few[:_SHOWN]) + " ..." * (len(few) > _SHOWN)
    note = f"{len(few)} sites have fewer than {least} slides of a class and are in training only: {examples}"
    return splits, [note] if few else []


def confounding(
    y: NDArray[np.int64],
    sites: Sequence[str],
    splits: Sequence[Split],
    patients: Sequence[str] | None,
    *,
    permutations: int = 200,
    seed: int = 0,
) -> Confounding:
    """Predict classes from the site alone: from how often it has them on the training side.

    A slide is given the shares of the classes among the training slides of its site, with one slide more of the shares
    of all; one of a site that is not in training gets these. Where small sites have classes in exactly the same shares
    this is worse than chance, for who is taken out to be tested is missing among his like: no reason to worry.

    Args:
        y: Classes 0 ... k - 1, (slides,).
        sites: The site of each slide, (slides,).
        splits: Those that vectors are judged on; no patient on both sides.
        patients: The patient of each slide, (slides,), or None.
        permutations: Of the labels, among patients.
        seed: Decides them.
    """
    names, site = np.unique(np.asarray(sites), return_inverse=True)
    k = int(y.max()) + 1

    def alone(order: NDArray[np.int64]) -> float:
        labels, aucs = y[order], []
        for split in splits:
            pairs = site[split.train] * k + labels[split.train]
            counts = np.bincount(pairs, minlength=len(names) * k).reshape(-1, k)  # (sites, classes)
            shares = (counts + counts.sum(axis=0) / counts.sum()) / (counts.sum(axis=1, keepdims=True) + 1)
            truth = labels[split.test]
            if np.bincount(truth, minlength=k).all():
                aucs.append(auc(truth, shares[site[split.test]]))
        return float(np.mean(aucs)) if aucs else 0.5

    found = alone(np.arange(len(y)))
    null = null_scores(alone, y, patients, permutations=permutations, seed=seed)
    return Confounding(found, p_value(found, null))
