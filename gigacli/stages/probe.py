"""``giga probe``: what the vectors are worth (paper, section 4.2).

Logistic regression on frozen vectors over splits that keep a patient on one side, for every embedding and
label budget, beside the mean of tiles. Writes nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gigacli.config import ProbeConfig
from gigacli.probing.labels import join, patients_of, read_labels
from gigacli.probing.linear import score
from gigacli.probing.splits import leaking_patients, make_splits, read_splits, subsample
from gigacli.progress import SILENT
from gigacli.store.store import Store, find_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gigacli.probing.labels import Join
    from gigacli.probing.splits import Split
    from gigacli.progress import Progress
    from gigacli.store.store import Recipe

# Vectors of unit length are probed as they are; a mean of tile features is standardised, as in the paper.
MEAN = "mean"


@dataclass(frozen=True)
class ProbeRow:
    """One line of the table: an embedding with a method and a label budget.

    Attributes:
        embedding: Name in the store.
        target: Column that was predicted.
        method: "linear": logistic regression.
        c: Inverse regularisation, or "auto": chosen inside each training set.
        scaled: Whether the values were standardised on the training side, as the paper does with the mean of tiles.
        budget: Labels used: "all", "25 %" or "50".
        n_train: Mean number of training slides.
        n_test: Mean number of test slides.
        splits: Number of splits.
        auc_mean: Mean AUC; macro one-vs-rest for more than two classes.
        auc_std: Sample standard deviation over the splits.
        auc_low: Lower end of the 95 % interval of the mean (Nadeau and Bengio 2003).
        auc_high: Upper end.
        accuracy: Mean over splits.
        balanced_accuracy: Mean over splits.
    """

    embedding: str
    target: str
    method: str
    c: str
    scaled: bool
    budget: str
    n_train: float
    n_test: float
    splits: int
    auc_mean: float
    auc_std: float | None
    auc_low: float | None
    auc_high: float | None
    accuracy: float
    balanced_accuracy: float


@dataclass(frozen=True)
class ProbeResult:
    """What ``giga probe`` found.

    Attributes:
        scores: One row per embedding, method and budget.
        joins: How labels and vectors met.
        warnings: What deserves a sentence: leaks, small classes, fits that stopped short.
        notes: What was decided: where patients come from, how splits were made.
        seconds: Time it took.
    """

    scores: list[ProbeRow]
    joins: dict[str, Any]
    warnings: list[str]
    notes: list[str]
    seconds: float = field(default=0.0)


def probe(
    store: str | Path | Store | None,
    labels: str | Path,
    *,
    progress: Progress = SILENT,
    **options: Any,
) -> ProbeResult:
    """Probe a store's embeddings with labels.

    Args:
        store: A store; ``None``: $GIGA_STORE, ./cohort.zarr, or the only ``*.zarr`` here.
        labels: CSV with columns slide_id, label[, patient_id].
        progress: Who listens.
        options: Fields of :class:`~gigacli.config.ProbeConfig`.

    Raises:
        NotFound: No store, embedding, table or column of that name.
        InvalidInput: A table that cannot be used, or too few slides per class.
    """
    started = time.monotonic()
    config = ProbeConfig.of(options)
    table = read_labels(labels, target=config.target)
    opened = Store.open(store if store is not None else find_store())
    names = _embeddings(opened, config.embedding)
    slides = opened.slides
    have = {name: opened.array(f"embeddings/{name}/done")[:] > 0 for name in names}
    common = np.logical_and.reduce(list(have.values()))  # all embeddings are judged on the same slides
    joined = join(table, slides.ids, common)
    groups, notes, warnings = _groups(joined, slides.ids, [row.patient for row in slides.rows], config)
    splits = _splits(joined, [slides.ids[i] for i in joined.index], groups, config, notes, warnings)
    _warn_of_seen_slides(opened, names, joined, notes)
    rows = []
    budgets = _budgets(config)
    progress.start("probing", len(names) * len(budgets))
    for name in names:
        vectors = opened.array(f"embeddings/{name}/vectors")[:][joined.index]
        recipe = opened.require(f"embeddings/{name}")
        for budget, limits in budgets.items():
            limited = [subsample(s, joined.label, seed=config.seed, **limits) if limits else s for s in splits]
            for scale, c in _methods(recipe, config):
                result = score(vectors, joined.label, limited, C=c, scale=scale, seed=config.seed, groups=groups)
                warnings.extend(f"{name}, {budget}: {note}" for note in result.notes)
                figures: dict[str, Any] = {k: v for k, v in vars(result).items() if k in ProbeRow.__dataclass_fields__}
                how: dict[str, Any] = {"method": "linear", "c": c if c == "auto" else f"{c:g}", "scaled": scale}
                rows.append(ProbeRow(embedding=name, target=table.target, budget=budget, **how, **figures))
            progress.advance(note=f"{name} {rows[-1].auc_mean:.3f}")
    return ProbeResult(
        scores=rows,
        joins=joined.counts,
        warnings=list(dict.fromkeys(warnings)),
        notes=[*table.notes, *notes],
        seconds=time.monotonic() - started,
    )


def _embeddings(store: Store, wanted: Sequence[str]) -> list[str]:
    """The embeddings to judge, baselines last; the mean of the same features stands beside whatever was named."""
    there = store.names("embeddings")
    for name in wanted or (None,):
        if not there or name is not None:
            store.pick("embeddings", name)
    recipes = {name: store.require(f"embeddings/{name}") for name in there}
    features = {recipes[name].inputs.get("features") for name in wanted}
    baselines = [n for n in there if _is_mean(recipes[n]) and recipes[n].inputs.get("features") in features]
    chosen = list(wanted) + [n for n in baselines if n not in wanted] if wanted else there
    order = ["model", "random-init", MEAN]
    return sorted(chosen, key=lambda n: (order.index(recipes[n].config.get("aggregator", "model")), n))


def _is_mean(recipe: Recipe) -> bool:
    return recipe.config.get("aggregator") == MEAN


def _groups(
    joined: Join, ids: Sequence[str], patients: Sequence[str], config: ProbeConfig
) -> tuple[list[str] | None, list[str], list[str]]:
    """Which patient each slide belongs to, and what to say about it."""
    mine = [ids[i] for i in joined.index]
    groups, source = patients_of(mine, from_store=[patients[i] for i in joined.index], from_labels=joined.patient_id)
    if config.group == "none":
        warnings = ["--group none: slides of one patient may stand on both sides of a split"] if groups else []
        return None, ["slides are split one by one"], warnings
    said = f"patients: {source}" if groups else "patients are not known: each slide counts as one of its own"
    return groups, [said], []


def _splits(
    joined: Join,
    ids: Sequence[str],
    groups: Sequence[str] | None,
    config: ProbeConfig,
    notes: list[str],
    warnings: list[str],
) -> list[Split]:
    if config.splits is None:
        splits, said = make_splits(joined.label, groups, folds=config.folds, seed=config.seed)
        notes.extend(said)
        return splits
    splits, said = read_splits(config.splits, ids)
    notes.extend([f"splits: {len(splits)} files of {config.splits}", *said])
    if groups is not None:
        leaks, tested = sum(leaking_patients(s, groups) for s in splits), sum(len(s.test) for s in splits)
        if leaks:
            warnings.append(
                f"the given splits leak: {100 * leaks / tested:.1f} % of test slides have a slide of the same patient "
                "in training"
            )
    return splits


def _warn_of_seen_slides(store: Store, names: Sequence[str], joined: Join, notes: list[str]) -> None:
    """Say how many of the judged slides the slide encoder was trained on (without labels)."""
    for name in names:
        made = store.require(f"embeddings/{name}").config
        path = f"models/{made.get('model')}/trained_on"
        if made.get("aggregator") == "model" and path in store.root:
            seen = int(store.array(path)[:][joined.index].sum())
            notes.append(f"{name}: {seen} of {len(joined.index)} slides were in its self-supervised training")


def _budgets(config: ProbeConfig) -> dict[str, dict[str, Any]]:
    """Label budgets by their name in the table; all labels where none was asked for."""
    budgets: dict[str, dict[str, Any]] = {f"{100 * f:g} %": {"fraction": f} for f in config.fraction}
    budgets |= {str(n): {"n_train": n} for n in config.n_train}
    return budgets or {"all": {}}


def _methods(recipe: Recipe, config: ProbeConfig) -> list[tuple[bool, float | Literal["auto"]]]:
    """(standardise, C) per row: everything also at its best C, for a baseline left untuned flatters us."""
    mean, chosen = _is_mean(recipe), config.c_value
    return [(mean, chosen)] if chosen == "auto" else [(mean, chosen), (mean, "auto")]
