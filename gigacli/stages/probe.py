"""``giga probe``: what the vectors are worth (paper, section 4.2).

Logistic regression on frozen vectors (of numbers ridge, of times Cox regression) over splits that keep a patient on one
side, for every target, embedding and label budget, beside the mean of tiles; on request other methods, among them an
attention MIL trained from scratch. Writes nothing in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.config.base import options_of
from gigacli.config.probe import Group, Harmonise, Level, Method, ProbeConfig, TaskKind
from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.evaluation import Evaluation, compare, evaluate_vectors
from gigacli.probing.results import ProbeResult, ProbeRow, RetrievalRow, write
from gigacli.probing.scores import score_fold
from gigacli.probing.task import Candidate, Task, make_task, read_tasks
from gigacli.progress import SILENT, Progress
from gigacli.store.address import find_store
from gigacli.store.store import Store
from gigacli.weights.candidates import read_candidates

if TYPE_CHECKING:
    from pandas import DataFrame

    from gigacli.probing.site_table import SiteRow


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
    test: str | None = None,
    test_labels: str | Path | None = None,
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
    save: str | Path | None = None,
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

    store: Store
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
    config.check_test()
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
    if config.test is not None:
        from gigacli.weights.other_cohort import other_cohort

        other = other_cohort(opened, candidates, config)
        candidates, tasks = other.beside(candidates), other.tasks(tasks, tables, opened, config)
        tasks[0].notes.extend(other.notes)
        stale += other.warnings
    if config.save is not None:
        from gigacli.weights.heads import head_candidate

        head_candidate(candidates, tasks, config)
    return Plan(opened, config, candidates, tasks, stale)


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
                progress.advance(note=_note(evaluations[-1:]))
    return evaluations


def _note(last: Sequence[Evaluation]) -> str:
    return "".join(f"{one.candidate.name}, {one.method} {one.score:.3f}" for one in last)


def summary(
    plan: Plan, evaluations: Sequence[Evaluation], *, started: float, progress: Progress = SILENT
) -> ProbeResult:
    """Table, notes and warnings, written to files where these are wanted."""
    rows = compare(evaluations, plan.config.baseline)
    notes = [note for task in plan.tasks for note in task.notes]
    notes += [
        f"differences are to {row.baseline}, {'on the same draws of patients' if row.test else 'split by split'}"
        for row in rows
        if row.baseline
    ]
    warnings = [*plan.warnings, *(text for task in plan.tasks for text in task.warnings)]
    warnings += [text for one in evaluations for text in one.warnings]
    sites: list[SiteRow] = []
    if plan.config.permutations and evaluations:
        from gigacli.probing.chance import with_chance

        rows, found = with_chance(rows, evaluations, plan.config, progress)
        notes += found
    if plan.config.by_site:
        from gigacli.probing.site_table import compare_sites

        sites, said, doubts = compare_sites(evaluations, plan.config, progress)
        notes, warnings = [*notes, *said], [*warnings, *doubts]
    result = ProbeResult(
        scores=rows,
        joins=_joins(plan.tasks),
        warnings=list(dict.fromkeys(warnings)),
        notes=list(dict.fromkeys(notes)),
        seconds=monotonic() - started,
        wide=plan.config.wide,
        sites=sites,
        retrieval=_retrieval(plan),
    )
    written = [*_written(plan, result, evaluations), *_saved(plan, rows)]
    return replace(result, files=written).drawn_by(partial(_figures, rows, evaluations))


def _joins(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """How labels and vectors met, by target; of two cohorts in both."""
    joins = {}
    for task in tasks:
        if task.fitted_on is None:
            joins[task.target] = task.joined
        else:
            joins |= {f"{task.target}, fitted on": task.fitted_on, f"{task.target}, judged on": task.joined}
    return joins


def _retrieval(plan: Plan) -> list[RetrievalRow]:
    if "retrieval" not in plan.config.method:
        return []
    from gigacli.probing.retrieval import retrieval_rows

    of_vectors = [one for one in plan.candidates if one.vectors is not None]
    return [row for task in plan.tasks for one in of_vectors for row in retrieval_rows(one, task)]


def _written(plan: Plan, result: ProbeResult, evaluations: Sequence[Evaluation]) -> list[str]:
    """Write tables, predictions and figures where they are wanted; the paths."""
    if plan.config.out is None:
        return []
    from gigacli.probing.written import write_tables

    files = write_tables(plan.config.out, result)
    if evaluations:
        from gigacli.probing.figures import save

        files += write(plan.config.out, result.scores, evaluations)
        figures = _figures(result.scores, evaluations)
        files += [save(draw(), plan.config.out / f"{name}.png") for name, draw in figures.items()]
    if result.sites:
        from gigacli.probing.site_table import write_sites

        files.append(write_sites(plan.config.out, result.sites))
    return files


def _figures(rows: Sequence[ProbeRow], evaluations: Sequence[Evaluation]) -> dict[str, Callable[[], Any]]:
    from gigacli.probing.figures import figures_of

    return figures_of(rows, evaluations) if evaluations else {}


def _saved(plan: Plan, rows: list[ProbeRow]) -> list[str]:
    """Keep what was learnt on all slides, where that is wanted; the path."""
    if plan.config.save is None:
        return []
    from gigacli.weights.heads import fit_head, head_candidate

    chosen = head_candidate(plan.candidates, plan.tasks, plan.config)
    fit_head(plan.store.embedding(chosen.name), chosen, plan.tasks[0], plan.config, rows).save(plan.config.save)
    return [str(plan.config.save)]


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
