"""Heads and the embeddings they go with: made from one, and found again in another store."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from gigacli.config.probe import ProbeConfig, TaskKind
from gigacli.errors import InvalidInput, Mismatch
from gigacli.probing.evaluation import fits_of
from gigacli.probing.head import Head, LinearMap
from gigacli.probing.head_card import HeadCard, HeadScore, VectorKind
from gigacli.probing.results import ProbeRow
from gigacli.probing.task import Candidate, Task
from gigacli.store.groups import Embedding
from gigacli.store.recipe import CREATED_BY
from gigacli.store.store import Store
from gigacli.weights.vector_kind import kind_of, same_encoder, same_kind, same_tiles

METHODS: Final[dict[TaskKind, str]] = {
    "classification": "logistic regression",
    "survival": "Cox regression",
    "regression": "ridge regression",
    "ordinal": "ridge regression, cut into levels",
}
"""What `method` linear is, in words."""


def head_of(
    embedding: Embedding,
    learnt: LinearMap,
    *,
    task: TaskKind,
    target: str,
    classes: tuple[str, ...],
    method: str,
    c: float | None,
    level: Literal["slide", "patient"],
    unit_length: bool,
    slides: int,
    patients: int | None,
    sites: int | None,
    score: HeadScore | None,
) -> Head:
    """The head that was fitted on an embedding, with what its card must say of that; the rest is as in the card."""
    card = HeadCard(
        task=task,
        target=target,
        classes=classes,
        link=learnt.link,
        method=method,
        c=c,
        level=level,
        unit_length=unit_length,
        embedding=embedding.name,
        recipe=embedding.fingerprint,
        vectors=kind_of(embedding),
        slide_table=slide_table_of(embedding.store),
        slides=slides,
        patients=patients,
        sites=sites,
        score=score,
        created_by=CREATED_BY,
    )
    return Head(card, learnt)


def fit_head(embedding: Embedding, candidate: Candidate, task: Task, config: ProbeConfig, rows: list[ProbeRow]) -> Head:
    """Fit the linear probe of an embedding on all units of a task, or of the cohort that another is judged by.

    Args:
        embedding: The embedding.
        candidate: The same, as it is judged.
        task: What is predicted.
        config: With C; where the mean of tiles is judged at several, it is the one that was asked for.
        rows: The table, which says how well it did in cross-validation.
    """
    assert candidate.vectors is not None
    kind, units = task.truth.kind, task.units
    places = np.arange(task.first_judged or len(task.truth))
    names = None if task.groups is None else np.array(task.groups)[places]
    fits = {c: fit for _, c, fit in fits_of(candidate, kind, config)}
    asked = config.strength(kind)
    c = asked if asked == "auto" else f"{asked:g}"
    c = c if c in fits else next(iter(fits))
    model = fits[c](
        units.vectors(candidate.vectors, unit_length=not candidate.scaled)[places], task.truth.take(places), names
    )
    mine = [row for row in rows if (row.embedding, row.c, row.budget, row.test) == (candidate.name, c, "all", "")]
    score = None
    if mine:
        row = mine[0]
        score = HeadScore(
            metric=task.kind.title, mean=row.score_mean, low=row.score_low, high=row.score_high, splits=row.splits
        )
    return head_of(
        embedding,
        LinearMap.of(model, kind),
        task=kind,
        target=task.target,
        classes=task.truth.classes,
        method=METHODS[kind],
        c=model.C,
        level=units.level,
        unit_length=not candidate.scaled,
        slides=sum(len(units.slides[i]) for i in places.tolist()),
        patients=None if units.patient is None else len({units.patient[i] for i in places.tolist()}),
        sites=None,
        score=score,
    )


def head_candidate(candidates: list[Candidate], tasks: list[Task], config: ProbeConfig) -> Candidate:
    """The embedding whose head is to be kept.

    Raises:
        InvalidInput: There are several embeddings, or targets.
    """
    named = [one for one in candidates if one.name in config.embedding] or candidates
    if len(named) > 1:
        found = ", ".join(one.name for one in named)
        raise InvalidInput(f"`save` keeps the head of one embedding; found {found}", "name one: `embedding`")
    if len(tasks) > 1:
        found = ", ".join(task.target for task in tasks)
        raise InvalidInput(f"`save` keeps the head of one target; found {found}", "name one: `target`")
    return named[0]


def slide_table_of(store: Store) -> str:
    """The fingerprint of the ids of all slides of a store."""
    return str(store.slides.ids_bound(store.registered)["fingerprint"])


def embedding_for(store: Store, card: HeadCard, name: str | None, *, head: str) -> Embedding:
    """The embedding of a store that a head can read: the one that is named, or else the only one of its kind.

    Of several, it is the one that is called as in the store the head was fitted in.

    Args:
        store: The store.
        card: Of the head.
        name: Of an embedding; None for any.
        head: Name of the head, for messages.

    Raises:
        NotFound: There is no embedding, or none of that name.
        InvalidInput: There are several of this kind, and none was named.
        Mismatch: The one that is named, or everything there is, is of another kind, or made from what was replaced.
    """
    there = [store.pick(Embedding, name)] if name is not None else store.groups(Embedding)
    there = there or [store.pick(Embedding, None)]  # raises: there are none
    differences = {one.name: same_kind(one, card) for one in there}
    fit = [one for one in there if not differences[one.name]]
    called = [one for one in fit if one.name == card.embedding]
    if len(fit) > 1 and not called:
        found = ", ".join(one.name for one in fit)
        raise InvalidInput(
            f"{store.url} holds several embeddings that {head} goes with: {found}", "name one: `embedding`"
        )
    if not fit:
        nearest = min(there, key=lambda one: (one.name != card.embedding, len(differences[one.name])))
        refuse_other_kind(nearest, card, wanted=head)
    chosen = (called or fit)[0]
    chosen.refuse_stale()
    return chosen


def refuse_other_kind(found: Embedding, expected: Embedding | HeadCard, *, wanted: str) -> None:
    """Refuse vectors of another kind than a head, or another embedding, has.

    Raises:
        Mismatch: They are; the message says what was found and what was expected, the hint how to make these.
    """
    lines = same_kind(found, expected)
    if lines:
        kind = expected.vectors if isinstance(expected, HeadCard) else kind_of(expected)
        said = "; ".join(lines)
        raise Mismatch(f"{found.store.url}/{found.path} does not go with {wanted}: {said}", _remedy(found, kind))


def _remedy(found: Embedding, wanted: VectorKind) -> str:
    """How to make vectors of a kind, beginning with the first thing that is another one."""
    url, there = found.store.url, kind_of(found)
    if not same_tiles(there, wanted) and wanted.mpp is not None:
        return f"tile as expected: giga tile NEW.zarr SLIDES --mpp {wanted.mpp:g} --tile-px {wanted.tile_px}"
    if not same_encoder(there, wanted):
        return f"make features with the tile encoder that is expected: giga bank {url} --encoder NAME-OR-FILE"
    if wanted.aggregator == "mean":
        return f"run: giga embed {url} --aggregator mean"
    if wanted.model:
        file = f"{wanted.model.removesuffix('.safetensors')}.safetensors"
        return (
            f"where that model is: giga export STORE models/{file.removesuffix('.safetensors')} --to {file}; "
            f"then here: giga embed {url} --model {file} --redo"
        )
    if wanted.learnt:
        return "each cohort has its own closed forms: use a head of a model's vectors, or of the mean of tiles"
    return "make or import vectors as they are expected"
