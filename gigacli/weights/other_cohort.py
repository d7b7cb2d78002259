"""Another cohort to judge a probe on: its vectors beside those of the first, made alike or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gigacli.config.probe import ProbeConfig, TaskKind
from gigacli.errors import InvalidInput
from gigacli.nn.forms import FORMS
from gigacli.nn.forms import Vectors as FormVectors
from gigacli.probing.external import join_tasks
from gigacli.probing.labels import Labels
from gigacli.probing.task import Candidate, Task, make_task, read_tasks
from gigacli.store.groups import Embedding, Features
from gigacli.store.store import Store
from gigacli.weights.candidates import candidate_of
from gigacli.weights.heads import refuse_other_kind
from gigacli.weights.slide_tiles import tiles_of_slides
from gigacli.weights.vector_kind import kind_of, same_kind, tile_encoder_of


@dataclass(frozen=True, eq=False)
class OtherCohort:
    """A store to judge on, and its vectors by the embeddings of the first that they go with."""

    store: Store
    theirs: dict[str, Candidate]  # by the name of the embedding of the first
    notes: list[str]  # which vectors were made here, in memory
    warnings: list[str]  # what is stale, and embeddings of the first that this one has nothing for

    def beside(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those of the candidates that can be judged here, with vectors of both stores, (slides of both, features)."""
        return [_beside(one, self.theirs[one.name]) for one in candidates if one.name in self.theirs]

    def tasks(
        self, tasks: Sequence[Task], tables: Sequence[tuple[Labels, TaskKind]], first: Store, config: ProbeConfig
    ) -> list[Task]:
        """Tasks of both cohorts, fitted on the first and judged on this one, from those of the first.

        Raises:
            InvalidInput: Labels of this cohort cannot be used, or have other classes.
        """
        assert config.test_labels is not None
        slides, joint = self.store.slides, []
        has_vector = np.logical_and.reduce([one.have for one in self.theirs.values()])  # (slides,)
        patients = [row.patient for row in slides.rows]
        for task, (labels, kind) in zip(tasks, tables, strict=True):
            target = (labels.target,) if config.target else ()
            [(table, _)] = read_tasks(config.test_labels, config.but(task=kind, target=target))
            judged = make_task(
                table, kind, slides.ids, patients, has_vector, (), config=config, source=config.test_labels
            )
            joint.append(join_tasks(task, judged, slides=len(first.slides), where=self.store.url))
        return joint


def other_cohort(first: Store, candidates: Sequence[Candidate], config: ProbeConfig) -> OtherCohort:
    """Find in another store what the candidates of the first can be judged on.

    An embedding goes with the one that was made alike, whatever it is called. Closed forms other than the mean are
    fitted to a cohort: their vectors are made here, with what was learnt on the first, from the features of the other.

    Args:
        first: The store of the candidates.
        candidates: Those of embeddings.
        config: Which store is the other.

    Raises:
        NotFound: There is no such store, or nothing in it.
        Mismatch: Its embedding of that name was made otherwise: other tiles, tile encoder, model or join.
        InvalidInput: It has nothing for an embedding that was named, or for any.
    """
    assert config.test is not None
    store, theirs, notes, lacking = Store.open(config.test), {}, [], []
    for one in candidates:
        mine = first.embedding(one.name)
        features = _features_like(mine, store) if mine.aggregator in FORMS and mine.state else None
        if features is not None:
            theirs[one.name] = _by_form(mine, one, features)
            notes.append(f"{one.name}: its vectors of {store.url} are made here, as learnt on {first.url}")
        elif (found := _made_alike(mine, store)) is not None:
            theirs[one.name] = candidate_of(found, stale=config.stale, robust=False)
        else:
            lacking.append(one.name)
    if named := [name for name in lacking if name in config.embedding or not theirs]:
        raise InvalidInput(
            f"{store.url} holds no vectors made as {named[0]!r} of {first.url}",
            f"make them: giga embed {store.url}, with the model or the tile encoder of the first",
        )
    warnings = [f"{name} is left out: {store.url} holds no vectors, or no features, made alike" for name in lacking]
    warnings += [f"{name} of {store.url} is stale: {'; '.join(one.stale)}" for name, one in theirs.items() if one.stale]
    return OtherCohort(store, theirs, notes, [*warnings, *_seen(theirs)])


def _made_alike(mine: Embedding, store: Store) -> Embedding | None:
    """The embedding of another store that was made as one of the first; of several, the one that is called so."""
    there = store.groups(Embedding) or [store.pick(Embedding, None)]  # raises: there are none
    alike = [one for one in there if not same_kind(one, mine)]
    called = [one for one in there if one.name == mine.name]
    if not alike and called:
        refuse_other_kind(called[0], mine, wanted=f"{mine.name!r} of {mine.store.url}")
    return next((one for one in alike if one in called), alike[0] if alike else None)


def _features_like(mine: Embedding, store: Store) -> Features | None:
    """Features of another store, of the tiles and the tile encoder that an embedding of the first was made from."""
    wanted = kind_of(mine)
    for features in store.groups(Features):
        encoder, sha256 = tile_encoder_of(features.recipe)
        mpp, tile_px = float(store.tiles.mpp), int(store.tiles.tile_px)
        made = replace(wanted, encoder=encoder, encoder_sha256=sha256, mpp=mpp, tile_px=tile_px)
        if not same_kind(made, wanted):
            return features
    return None


def _by_form(mine: Embedding, candidate: Candidate, features: Features) -> Candidate:
    """The candidate on slides of another store, by a closed form as it was fitted on the first."""
    form, have = FormVectors.from_bytes(mine.aggregator, mine.state), features.done().filled
    vectors = np.full((len(have), mine.width), np.nan, dtype=np.float32)
    rows = np.flatnonzero(have)
    if len(rows):
        vectors[rows] = form.transform(tiles_of_slides(features, rows, augmented=False))
    return replace(candidate, vectors=vectors, have=have, encoders=(), stale=(), augmented=None)


def _beside(mine: Candidate, theirs: Candidate) -> Candidate:
    assert mine.vectors is not None
    assert theirs.vectors is not None
    both: NDArray[np.float32] = np.concatenate([mine.vectors, theirs.vectors])
    return replace(mine, vectors=both, have=np.concatenate([mine.have, theirs.have]))


def _seen(theirs: dict[str, Candidate]) -> list[str]:
    """Warnings where encoders were trained, without labels, on slides of the other cohort."""
    return [
        f"{name}: {encoder} was trained, without labels, on {int(rows.sum())} slides of the test cohort"
        for name, one in theirs.items()
        for encoder, rows in one.encoders
        if rows is not None and rows.any()
    ]
