"""``giga probe``: what the vectors are worth (paper, section 4.2).

Logistic regression on frozen vectors (of numbers ridge, of times Cox regression) over splits that keep a patient on one
side, for every target, embedding and label budget, beside the mean of tiles; on request other methods, among them an
attention MIL trained from scratch. Writes nothing in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from gigacli.config.base import options_of
from gigacli.config.probe import Group, Harmonise, Level, Method, ProbeConfig, TaskKind
from gigacli.config.verbs import ClosedForm
from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.evaluation import Evaluation, compare, evaluate_vectors
from gigacli.probing.results import ProbeResult, write
from gigacli.probing.scores import score_fold
from gigacli.probing.task import MEAN, RIVALS, Candidate, Task, make_task, read_tasks
from gigacli.progress import SILENT, Progress
from gigacli.randomness import keyed_rng
from gigacli.store.address import find_store
from gigacli.store.groups import Embedding, Features
from gigacli.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

    from gigacli.probing.site_table import SiteRow

KEPT_TILES = 4096
"""Tiles of a slide that attention MIL keeps in memory, drawn once where there are more: 2 MB of 256 features."""

CLOSED_FORMS = get_args(ClosedForm)
ORDER = ("model", *CLOSED_FORMS[1:], "random-init", *reversed(RIVALS))
"""Kinds of embeddings in the order of the table, baselines last; others are shown with the first."""


@options_of(ProbeConfig)
def probe(
    config: ProbeConfig,
    store: str | Path | Store | None,
    labels: str | Path | DataFrame,
    *,
    target: str | Sequence[str] = (),
    task: TaskKind | None = None,
    time: str | None = None,
    event: str | None = None,
    embedding: str | Sequence[str] = (),
    method: Method | Sequence[Method] = ("linear",),
    level: Level = "slide",
    baseline: str | None = None,
    fraction: float | Sequence[float] = (),
    n_train: int | Sequence[int] = (),
    shots: int | Sequence[int] = (),
    splits: str | Path | None = None,
    split_column: str | None = None,
    allow_missing: bool = False,
    stale: bool = False,
    robust: bool = False,
    folds: int = 10,
    group: Group = "patient",
    site: str | None = None,
    harmonise: Harmonise | Sequence[Harmonise] = (),
    permutations: int = 0,
    c: str | float = "10",
    converged: bool = False,
    wide: bool = False,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress = SILENT,
) -> ProbeResult:
    """Probe a store's embeddings with labels.

    Args:
        store: A store; ``None``: $GIGA_STORE, ./cohort.zarr, or the only ``*.zarr`` here.
        labels: Table (CSV, TSV, xlsx, Parquet or a DataFrame) with columns slide_id, label[, patient_id]; for patients
            also patient_id, label; time and event in place of label for survival.
        progress: Receives progress.

    Raises:
        NotFound: No store, embedding, table or column of that name, or no scikit-survival for a task of survival.
        InvalidInput: A table that cannot be used, or too few slides per class.
        Mismatch: What an embedding was made from has been replaced, and `stale` is off.
    """
    started = monotonic()
    plan = prepare(config, store, labels)
    return summary(plan, work(plan, progress), started=started, progress=progress)


@dataclass(frozen=True, eq=False)
class Plan:
    """Candidates to judge, each on every task; there is one task per target."""

    config: ProbeConfig
    candidates: list[Candidate]
    tasks: list[Task]
    warnings: list[str]  # what is stale, where that is allowed


def prepare(config: ProbeConfig, store: str | Path | Store | None, labels: str | Path | DataFrame) -> Plan:
    """Read labels, then vectors, and split.

    All candidates are judged on the same slides: those that have a vector in every embedding, and tiles if need be.

    Raises:
        NotFound: The store or the table lacks something.
        InvalidInput: A table that cannot be used, too few slides per class, or an unknown baseline.
    """
    tables = read_tasks(labels, config)
    if any(kind == "survival" for _, kind in tables):
        from gigacli.probing.survival import require_survival

        require_survival()
    opened = Store.open(store if store is not None else find_store())
    slides, found = opened.slides, read_candidates(opened, config)
    candidates = [one for one in found if one.methods(config.method)]
    if config.baseline is not None and config.baseline not in (*(one.name for one in candidates), *config.method):
        raise InvalidInput(
            f"`baseline` is {config.baseline!r}, which is not among what is probed: "
            f"{', '.join(one.name for one in candidates)}",
            "Name an embedding, or a method that is among `method`, as abmil.",
        )
    if config.robust and not any(one.augmented is not None for one in candidates):
        raise NotFound(
            f"no embedding of {opened.url} has vectors of slides seen under other augmentations",
            f"run: giga embed {opened.url} --augmented 4 --redo",
        )
    has_vector = np.logical_and.reduce([one.have for one in found])  # (slides,)
    patients = [row.patient for row in slides.rows]
    tasks = [
        make_task(table, kind, slides.ids, patients, has_vector, candidates, config=config, source=labels)
        for table, kind in tables
    ]
    stale = [f"{one.name} is stale: {'; '.join(one.stale)}" for one in found if one.stale]
    return Plan(config, candidates, tasks, stale)


def work(plan: Plan, progress: Progress) -> list[Evaluation]:
    """Judge every candidate on every task with every label budget."""
    progress.start("probing", sum(len(task.budgets) for task in plan.tasks) * len(plan.candidates))
    evaluations: list[Evaluation] = []
    for task in plan.tasks:
        for budget in task.budgets:
            for candidate in plan.candidates:
                if candidate.tiles is None:
                    evaluations += evaluate_vectors(candidate, task, budget, plan.config)
                else:
                    evaluations.append(_evaluate_attention(candidate, task, budget, plan.config, progress))
                progress.advance(note=f"{candidate.name}, {evaluations[-1].method} {evaluations[-1].score:.3f}")
    return evaluations


def summary(
    plan: Plan, evaluations: Sequence[Evaluation], *, started: float, progress: Progress = SILENT
) -> ProbeResult:
    """Table, notes and warnings, written to files where these are wanted."""
    rows = compare(evaluations, plan.config.baseline)
    notes = [note for task in plan.tasks for note in task.notes]
    notes += [f"differences are to {row.baseline}, split by split" for row in rows if row.baseline]
    warnings = [*plan.warnings, *(text for task in plan.tasks for text in task.warnings)]
    warnings += [text for one in evaluations for text in one.warnings]
    sites: list[SiteRow] = []
    files = []
    if plan.config.permutations:
        from gigacli.probing.chance import with_chance

        rows, found = with_chance(rows, evaluations, plan.config, progress)
        notes += found
    if plan.config.by_site:
        from gigacli.probing.site_table import compare_sites

        sites, said, doubts = compare_sites(evaluations, plan.config, progress)
        notes, warnings = [*notes, *said], [*warnings, *doubts]
    if plan.config.out is not None:
        from gigacli.probing.figures import write_probe

        files = [*write(plan.config.out, rows, evaluations), *write_probe(plan.config.out, rows, evaluations)]
        if sites:
            from gigacli.probing.site_table import write_sites

            files.append(write_sites(plan.config.out, sites))
    return ProbeResult(
        scores=rows,
        joins={task.target: task.joined for task in plan.tasks},
        warnings=list(dict.fromkeys(warnings)),
        notes=list(dict.fromkeys(notes)),
        files=files,
        seconds=monotonic() - started,
        wide=plan.config.wide,
        sites=sites,
    )


def _evaluate_attention(
    candidate: Candidate, task: Task, budget: str, config: ProbeConfig, progress: Progress
) -> Evaluation:
    """Train an attention MIL on the tiles of every split's training side."""
    from gigacli.nn.abmil import probabilities, train
    from gigacli.nn.device import pick_device

    assert candidate.tiles is not None
    device = pick_device(config.device)
    y = task.truth.y  # (units,)
    bags = [np.concatenate([candidate.tiles(row) for row in rows.tolist()]) for rows in task.units.slides]
    folds = []
    for split in task.budgets[budget]:
        mine = [bags[i] for i in split.train.tolist()]
        model = train(mine, y[split.train], classes=len(task.truth.classes), seed=config.seed, device=device)
        predicted = probabilities(model, [bags[i] for i in split.test.tolist()])
        folds.append(score_fold(task.truth, predicted, split))
        progress.advance(0, note=f"{candidate.name}, abmil, split {len(folds)}: {folds[-1].score:.3f}")
    return Evaluation(candidate, "abmil", task, budget, "", folds)


def read_candidates(store: Store, config: ProbeConfig) -> list[Candidate]:
    """The embeddings of a store, baselines last, and for attention MIL the tile features behind them.

    The mean of the same features stands beside the embeddings that were named.

    Raises:
        NotFound: There are none, or none of a name.
    """
    wanted, there = config.embedding, store.groups(Embedding)
    for name in wanted or ((None,) if not there and "linear" in config.method else ()):
        store.pick(Embedding, name)
    behind = {_features_behind(one) for one in there if one.name in wanted} - {""}
    named = [one for one in there if one.name in wanted or not wanted]
    beside = [one for one in there if one.aggregator in RIVALS and one not in named]
    means = [one for one in beside if _features_behind(one) in behind]
    rank = {kind: i for i, kind in enumerate(ORDER)}
    embeddings = sorted([*named, *means], key=lambda one: (rank.get(one.aggregator, 0), one.name))
    with store.tiles.read_once():
        candidates = [_embedding(one, stale=config.stale, robust=config.robust) for one in embeddings]
    if "abmil" not in config.method:
        return candidates
    used = {one.features for one in candidates}
    features = [one for one in store.groups(Features) if one.fingerprint in used or not wanted]
    if not features:
        raise NotFound(
            f"`method='abmil'` needs tile features; {store.url} holds none{' behind those embeddings' * bool(wanted)}",
            f"run: giga bank {store.url}",
        )
    return [*candidates, *map(_tile_features, features)]


def _features_behind(embedding: Embedding) -> str:
    """Fingerprint of the tile features that an embedding was made from, "" where it is not known."""
    return embedding.recipe.inputs.get("features", "")


def _embedding(embedding: Embedding, *, stale: bool, robust: bool) -> Candidate:
    recipe, encoders, done = embedding.recipe, [], embedding.done()
    reasons = embedding.stale_by(done)
    if not stale:
        embedding.refuse_stale(reasons, unless=", or probe what there is: `stale`")
    if embedding.aggregator == "model":
        model = embedding.store.model(str(recipe.config.get("model")))
        same = model.found is not None and not any(model.path in why for why in reasons)
        encoders.append((f"slide encoder {model.name!r}", model.seen() if same else None))
    vectors = embedding.read()
    return Candidate(
        embedding.name,
        _features_behind(embedding),
        scaled=embedding.aggregator == MEAN,
        rival=embedding.aggregator in RIVALS,
        tuned=embedding.aggregator in CLOSED_FORMS,
        have=done.filled | (done.stale & np.isfinite(vectors).all(axis=1)),
        encoders=[*encoders, *_tile_encoder(embedding.features)],
        vectors=vectors,
        augmented=embedding.read_augmented() if robust else None,
        stale=reasons,
    )


def _tile_features(features: Features) -> Candidate:
    slides = features.store.slides

    @cache
    def tiles_of(row: int) -> NDArray[np.float16]:
        tiles = features.read(row)
        if len(tiles) > KEPT_TILES:
            tiles = tiles[np.sort(keyed_rng("abmil", slides[row].id).permutation(len(tiles))[:KEPT_TILES])]
        return tiles

    return Candidate(
        features.name,
        features.fingerprint,
        scaled=False,
        rival=False,
        tuned=False,
        have=features.done().filled,
        encoders=[*_tile_encoder(features)],
        tiles=tiles_of,
    )


def _tile_encoder(features: Features | None) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
    """The encoder that made tile features, and which slides it was trained on; nothing where it is not known."""
    recipe = features.found if features else None
    name = recipe.config.get("encoder") if recipe else None
    if features and name:
        yield f"tile encoder {name!r}", features.store.encoder(name).seen()
