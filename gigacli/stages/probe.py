"""``giga probe``: what the vectors are worth (paper, section 4.2).

Logistic regression on frozen vectors over splits that keep a patient on one side, for every target, embedding and
label budget, beside the mean of tiles; on request an attention MIL trained from scratch. Writes nothing in the store.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gigacli.config.base import options_of
from gigacli.config.verbs import ProbeConfig
from gigacli.errors import NotFound
from gigacli.probing.compare import compared
from gigacli.probing.labels import join, patients_of, read_labels
from gigacli.probing.linear import PAPER_C, score
from gigacli.probing.results import Judged, ProbeResult, ProbeRow, write
from gigacli.probing.scores import check_split, score_fold, summarise
from gigacli.probing.splits import leaking_patients, make_splits, read_splits, subsample
from gigacli.probing.units import units_of
from gigacli.progress import SILENT
from gigacli.randomness import keyed_rng
from gigacli.store.address import find_store
from gigacli.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.config.verbs import Group, Level, Method
    from gigacli.probing.labels import Labels
    from gigacli.probing.scores import Score
    from gigacli.probing.splits import Split
    from gigacli.probing.units import Units
    from gigacli.progress import Progress

# Vectors of unit length are probed as they are; a mean of tile features is standardised, as in the paper.
MEAN = "mean"

KEPT_TILES = 4096
"""Tiles of a slide that attention MIL keeps in memory, drawn once where there are more: 2 MB of 256 features."""


@options_of(ProbeConfig)
def probe(
    config: ProbeConfig,
    store: str | Path | Store | None,
    labels: str | Path,
    *,
    target: str | Sequence[str] = (),
    embedding: str | Sequence[str] = (),
    method: Method | Sequence[Method] = ("linear",),
    level: Level = "slide",
    baseline: str | None = None,
    fraction: float | Sequence[float] = (),
    n_train: int | Sequence[int] = (),
    splits: str | Path | None = None,
    folds: int = 10,
    group: Group = "patient",
    c: str | float = "10",
    converged: bool = False,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = SILENT,
) -> ProbeResult:
    """Probe a store's embeddings with labels.

    Args:
        store: A store; ``None``: $GIGA_STORE, ./cohort.zarr, or the only ``*.zarr`` here.
        labels: CSV with columns slide_id, label[, patient_id]; for patients also patient_id, label.
        progress: Progress receiver.

    Raises:
        NotFound: No store, embedding, table or column of that name.
        InvalidInput: A table that cannot be used, or too few slides per class.
    """
    started = time.monotonic()
    tables = [read_labels(labels, target=target, level=config.level) for target in config.target or (None,)]
    cohort = _Cohort.read(Store.open(store if store is not None else find_store()), config)
    warnings: list[str] = []
    notes = [note for table in tables for note in table.notes]
    joins: dict[str, Any] = {}
    rows: list[ProbeRow] = []
    judged: list[Judged] = []
    tasks = [_Task.of(table, cohort, config, joins, notes, warnings) for table in tables]
    progress.start("probing", sum(len(task.budgets) for task in tasks) * len(cohort.rows(config)))
    for task in tasks:
        for budget, drawn in task.budgets.items():
            scored = [one for entry in cohort.rows(config) for one in task.judge(entry, budget, drawn, progress)]
            warnings += [f"{one.name}, {budget}: {text}" for one in scored for text in _doubts(one.score)]
            mine = compared(scored, config.baseline)
            notes += [f"differences are to {row.baseline}, split by split" for row in mine if row.baseline]
            rows += mine
            judged += scored
    files = []
    if config.out is not None:
        from gigacli.probing.figures import write_probe

        files = [*write(config.out, rows, judged), *write_probe(config.out, rows, judged)]
    return ProbeResult(
        scores=rows,
        joins=joins[tables[0].target] if len(tables) == 1 else joins,
        warnings=list(dict.fromkeys(warnings)),
        notes=list(dict.fromkeys(notes)),
        files=files,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True, eq=False)
class _Entry:
    """An embedding, or tile features for attention MIL.

    Attributes:
        name: In the store.
        kind: "model", "random-init", "mean" or "abmil".
        features: Fingerprint of the tile features behind it.
        have: Which slides have a vector or tiles, (slides,).
        vectors: (slides, features); None for attention MIL.
    """

    name: str
    kind: str
    features: str
    have: NDArray[np.bool_]
    vectors: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class _Cohort:
    """What the store holds that matters here: slides, and everything that is to be judged on the same of them."""

    store: Store
    ids: tuple[str, ...]
    patients: list[str]
    entries: list[_Entry]
    bags: dict[tuple[str, int], NDArray[np.float16]]

    @classmethod
    def read(cls, store: Store, config: ProbeConfig) -> _Cohort:
        entries = _embeddings(store, config) if "linear" in config.method or "embeddings" in store.root else []
        if "abmil" in config.method:
            entries += _features(store, [e.features for e in entries] if config.embedding else None)
        slides = store.slides
        return cls(store, tuple(slides.ids), [row.patient for row in slides.rows], entries, {})

    def rows(self, config: ProbeConfig) -> list[_Entry]:
        """What is asked for; the mean of tiles stands beside attention MIL alone, too."""
        return [
            e for e in self.entries if ("abmil" if e.kind == "abmil" else "linear") in config.method or e.kind == MEAN
        ]

    def bag(self, entry: _Entry, slides: NDArray[np.int64]) -> NDArray[np.float16]:
        """Tile features of one slide, or of all slides of a patient, (tiles, features)."""
        for row in slides.tolist():
            if (entry.name, row) not in self.bags:
                count = int(self.store.array("tiles/count")[row])
                tiles = self.store.array(f"features/{entry.name}/vectors")[row, :count]
                if count > KEPT_TILES:
                    tiles = tiles[np.sort(keyed_rng("abmil", self.ids[row]).permutation(count)[:KEPT_TILES])]
                self.bags[entry.name, row] = tiles
        return np.concatenate([self.bags[entry.name, row] for row in slides.tolist()])

    def seen(self, entry: _Entry) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
        """The encoders behind an entry, and which slides each was trained on, (slides,); None where not known."""
        if entry.kind == "abmil":
            features: str | None = entry.name
        else:
            recipe = self.store.require(f"embeddings/{entry.name}")
            model = self.store.recipe(f"models/{recipe.config.get('model')}")
            features = recipe.config.get("features_name") or (model.config.get("bank") if model else None)
            if entry.kind == "model":
                same = model is not None and recipe.inputs.get("model", model.fingerprint) == model.fingerprint
                name = str(recipe.config.get("model"))
                yield f"slide encoder `{name}`", self._trained_on(f"models/{name}") if same else None
        made = self.store.recipe(f"features/{features}") if features else None
        encoder = made.config.get("encoder") if made else None
        if encoder:
            yield f"tile encoder `{encoder}`", self._trained_on(f"encoders/{encoder}")

    def _trained_on(self, path: str) -> NDArray[np.bool_] | None:
        array = f"{path}/trained_on"
        return self.store.array(array)[:] if array in self.store.root else None


@dataclass(frozen=True, eq=False)
class _Task:
    """A target: its slides or patients, and the splits of every label budget."""

    target: str
    cohort: _Cohort
    config: ProbeConfig
    units: Units
    groups: tuple[str, ...] | None
    budgets: dict[str, list[Split]]

    @classmethod
    def of(
        cls,
        labels: Labels,
        cohort: _Cohort,
        config: ProbeConfig,
        joins: dict[str, Any],
        notes: list[str],
        warnings: list[str],
    ) -> _Task:
        """Join labels and vectors, split, and say what was found on the way."""
        common = np.logical_and.reduce([e.have for e in cohort.entries])  # all are judged on the same slides
        everyone, _ = patients_of(cohort.ids, from_store=cohort.patients, from_labels=None)
        joined = join(labels, cohort.ids, common, patients=everyone)
        units, source = units_of(joined, cohort.ids, cohort.patients, level=config.level)
        joins[labels.target] = {**joined.counts, **units.per_class()}
        notes.append(f"patients: {source}" if units.patient else "patients are not known: each slide counts as one")
        if config.level == "patient":
            notes.append(f"{len(units.ids)} patients are judged, each by the mean of the vectors of its slides")
        groups = None if config.group == "none" else units.patient
        if config.splits is None:
            splits, said = make_splits(units.label, groups, folds=config.folds, seed=config.seed)
        else:
            slides = [cohort.ids[row] for rows in units.slides for row in rows.tolist()]
            owners = [name for name, rows in zip(units.ids, units.slides, strict=True) for _ in rows]
            splits, said = read_splits(config.splits, slides, patients=owners if config.level == "patient" else None)
            said = [f"splits: {len(splits)} files of {config.splits}", *said]
        notes += said
        _say_leaks(cohort, config, units, splits, notes, warnings)
        budgets = {
            name: [subsample(s, units.label, seed=config.seed, **limits) if limits else s for s in splits]
            for name, limits in _budgets(config).items()
        }
        for n in config.n_train:
            least = min(len(split.train) for split in splits)
            if n > least:
                warnings.append(f"{n} training labels were asked for, but a split has only {least}: all are used")
        return cls(labels.target, cohort, config, units, groups, budgets)

    def judge(self, entry: _Entry, budget: str, splits: list[Split], progress: Progress) -> Iterator[Judged]:
        """Every row of one embedding at one budget."""
        shared = (budget, self.target, entry.features, self.units, splits)
        if entry.vectors is None:
            scored = self._attention(entry, splits, progress)
            yield Judged(entry.name, "abmil", "", False, *shared, scored)  # noqa: FBT003
            progress.advance(note=f"{entry.name}, abmil {scored.auc_mean:.3f}")
            return
        scale, config = entry.kind == MEAN, self.config
        vectors = self.units.vectors(entry.vectors, unit_length=not scale)
        for c in _strengths(entry, config):
            scored = score(
                vectors,
                self.units.label,
                splits,
                C=c,
                scale=scale,
                seed=config.seed,
                groups=self.groups,
                converged=config.converged,
            )
            yield Judged(entry.name, "linear", c if c == "auto" else f"{c:g}", scale, *shared, scored)
        progress.advance(note=f"{entry.name} {scored.auc_mean:.3f}")

    def _attention(self, entry: _Entry, splits: list[Split], progress: Progress) -> Score:
        from gigacli.nn.abmil import probabilities, train
        from gigacli.nn.device import pick_device

        device = pick_device(self.config.device)
        classes, y = np.unique(self.units.label, return_inverse=True)
        bags = [self.cohort.bag(entry, rows) for rows in self.units.slides]
        folds = []
        for split in splits:
            check_split(y, split, classes.tolist())
            mine = [bags[i] for i in split.train.tolist()]
            model = train(mine, y[split.train], classes=len(classes), seed=self.config.seed, device=device)
            found = probabilities(model, [bags[i] for i in split.test.tolist()])
            folds.append(score_fold(y, found, split))
            progress.advance(0, note=f"{entry.name}, abmil, split {len(folds)}: {folds[-1].auc:.3f}")
        return summarise(folds, classes.tolist())


def _embeddings(store: Store, config: ProbeConfig) -> list[_Entry]:
    """The embeddings to judge, baselines last; the mean of the same features stands beside whatever was named."""
    wanted, there = config.embedding, store.names("embeddings")
    for name in wanted or (None,):
        if name is not None or (not there and "linear" in config.method):
            store.pick("embeddings", name)
    recipes = {name: store.require(f"embeddings/{name}") for name in there}
    kinds = {name: recipe.config.get("aggregator", "model") for name, recipe in recipes.items()}
    features = {name: recipe.inputs.get("features", "") for name, recipe in recipes.items()}
    behind = {features[name] for name in wanted} - {""}
    chosen = [n for n in there if not wanted or n in wanted or (kinds[n] == MEAN and features[n] in behind)]
    order = ["model", "random-init", MEAN]
    chosen.sort(key=lambda n: (order.index(kinds[n]) if kinds[n] in order else 0, n))
    return [
        _Entry(
            name,
            kinds[name],
            features[name],
            store.array(f"embeddings/{name}/done")[:] > 0,
            store.array(f"embeddings/{name}/vectors")[:],
        )
        for name in chosen
    ]


def _features(store: Store, behind: list[str] | None) -> list[_Entry]:
    """Tile features for attention MIL: those behind the embeddings that were named, else all."""
    there = {name: store.require(f"features/{name}").fingerprint for name in store.names("features")}
    chosen = [name for name, fingerprint in there.items() if behind is None or fingerprint in behind]
    if not chosen:
        raise NotFound(
            f"--method abmil needs tile features; {store.url} holds none{' behind those embeddings' if there else ''}",
            f"run: giga bank {store.url}",
        )
    return [_Entry(n, "abmil", there[n], store.array(f"features/{n}/done")[:] > 0) for n in chosen]


def _strengths(entry: _Entry, config: ProbeConfig) -> list[float | Literal["auto"]]:
    """C per row. The mean of tiles also at its best: a baseline left untuned flatters us."""
    if entry.kind != MEAN:
        return [config.c_value]
    return [PAPER_C if config.c_value == "auto" else config.c_value, "auto"]


def _budgets(config: ProbeConfig) -> dict[str, dict[str, Any]]:
    """Label budgets by their name in the table; all labels where none was asked for."""
    budgets: dict[str, dict[str, Any]] = {f"{100 * f:g} %": {"fraction": f} for f in config.fraction}
    budgets |= {str(n): {"n_train": n} for n in config.n_train}
    return budgets or {"all": {}}


def _say_leaks(
    cohort: _Cohort, config: ProbeConfig, units: Units, splits: list[Split], notes: list[str], warnings: list[str]
) -> None:
    """Patients on both sides of a split, and test slides that the encoders were trained on (without labels)."""
    if units.patient is not None:
        leaks, tested = sum(leaking_patients(s, units.patient) for s in splits), sum(len(s.test) for s in splits)
        which = "--group none: the splits" if config.splits is None else "the given splits"
        if leaks:
            share = f"{100 * leaks / tested:.1f} %"
            warnings.append(f"{which} leak: {share} of test slides have a slide of the same patient in training")
    tested_units = np.unique(np.concatenate([split.test for split in splits]))
    slides = np.concatenate([units.slides[i] for i in tested_units.tolist()])
    for entry in cohort.rows(config):
        for encoder, trained_on in cohort.seen(entry):
            if trained_on is None:
                notes.append(f"{entry.name}: the store does not say which slides {encoder} was trained on")
                continue
            seen = int(trained_on[slides].sum())
            text = f"{encoder} was trained, without labels, on {seen} of the {len(slides)} test slides"
            (warnings if seen else notes).append(f"{entry.name}: {text}")


def _doubts(scored: Score) -> Iterator[str]:
    yield from scored.notes
    if scored.not_converged:
        yield f"{scored.not_converged} fits stopped before they converged"
