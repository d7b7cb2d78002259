"""Slide vectors of other tools into an embedding: one per file, or all in one array as the authors publish theirs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gigacli.config.tools import ImportConfig
from gigacli.errors import InvalidInput, reason_of
from gigacli.importing.arrays import SlideVectors
from gigacli.importing.destination import ImportSummary, recipe_for
from gigacli.importing.discover import plain_name
from gigacli.importing.feature_set import FeatureSet
from gigacli.importing.slides import SlideMetadata, merged, patient_of, refuse_new, refuse_unused
from gigacli.progress import Progress
from gigacli.store.recipe import Recipe
from gigacli.store.store import Store
from gigacli.store.table import SlideRow


def read_each(sets: Sequence[FeatureSet], broken: Mapping[str, str]) -> SlideVectors:
    """Read one vector per file.

    Args:
        sets: Files of one encoder.
        broken: Slide -> why its file cannot be used.

    Raises:
        InvalidInput: The files do not belong together, or none can be used.
    """
    first = sets[0]
    other = next((one for one in sets if one.width != first.width), None)
    if other is not None:
        raise InvalidInput(
            f"the files do not belong together: {first.path} has {first.width} values, {other.path} has {other.width}",
            "import the vectors of one encoder at a time",
        )
    vectors: dict[str, NDArray[np.floating]] = {}
    failures = dict(broken)
    for one in sets:
        try:
            with one.read() as content:
                vectors[one.id] = content.vectors(0, 1)[0]
        except Exception as error:  # a damaged file raises anything
            failures[one.id] = reason_of(error)
    if not vectors:
        raise InvalidInput(f"none of {len(failures)} files can be used; {next(iter(failures.values()))}")
    patients = {one.id: one.patient for one in sets if one.patient}
    return SlideVectors(
        first.path, vectors, first.width, first.tool, first.encoder, patients=patients, failures=failures
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """An import of slide vectors."""

    config: ImportConfig
    store: Store  # as it was found
    name: str  # of the embedding
    recipe: Recipe  # how it will have been made
    read: SlideVectors  # the vectors; those that cannot be stored are among its failures
    metadata: dict[str, SlideMetadata]  # what the user's table says of slides

    @property
    def slides(self) -> list[str]:
        """Ids of all slides that were named."""
        return sorted({*self.read.vectors, *self.read.failures})


def prepare(
    config: ImportConfig,
    store: Store,
    *,
    read: SlideVectors,
    name: str,
    metadata: dict[str, SlideMetadata],
    progress: Progress,
) -> Plan:
    """See whether the vectors fit into the store.

    Raises:
        NotFound: The user's table names slides that are not there, and that is not allowed.
        Mismatch: The store has another embedding of that name.
        InvalidInput: It has not got these slides.
    """
    encoder = plain_name(read.encoder or name)
    recipe = Recipe("import", {"aggregator": "import", "encoder": encoder, "tool": read.tool}, {})
    recipe = recipe_for(store.embedding(name), recipe, redo=config.redo)
    wrong = [slide for slide, vector in read.vectors.items() if not np.isfinite(vector).all()]
    failures = {**read.failures, **dict.fromkeys(wrong, "its vector holds values that are not numbers")}
    plan = Plan(config, store, name, recipe, replace(read, failures=failures), metadata)
    refuse_new(store, plan.slides)
    if unused := refuse_unused(metadata, plan.slides, known=store, config=config):
        progress.say(unused)
    return plan


def begin(plan: Plan) -> Store:
    """Write the slide table and make room; the store is made if it is not there."""
    store = Store.create(plan.store.url, sync=plan.config.sync)
    said = {
        slide: patient_of(slide, plan.metadata.get(slide), said=plan.read.patients.get(slide, ""))
        for slide in plan.slides
    }
    rows = [SlideRow(id=slide, path="", patient=said[slide]) for slide in plan.slides]
    store.write_slides(merged(store.slides, rows))
    store.embedding(plan.name).begin(plan.recipe, plan.read.width, redo=plan.config.redo)
    return store


def work(plan: Plan, store: Store) -> int:
    """Write the vectors that are not there; how many."""
    embedding, index, failures = store.embedding(plan.name), store.slides.index, plan.read.failures
    finished, earlier = embedding.done().finished, store.failures("import")
    todo = {index[slide]: vector for slide, vector in plan.read.vectors.items() if slide not in failures}
    rows = [row for row in sorted(todo) if not finished[row]]
    if rows:
        embedding.write(np.array(rows), np.stack([todo[row] for row in rows]).astype(np.float32))
    reasons = {index[slide]: failures.get(slide, "") for slide in plan.slides}
    store.fail("import", {row: why for row, why in reasons.items() if why != earlier[row]})
    return len(rows)


def summary(plan: Plan, done: int, *, started: float) -> ImportSummary:
    """What was imported, since a time of the monotonic clock."""
    failures = plan.read.failures
    return ImportSummary(
        name=plan.name,
        kind=plan.store.embedding(plan.name).kind,
        tool=plan.read.tool,
        slides=len(plan.slides),
        done=done,
        skipped=len(plan.slides) - done - len(failures),
        failed=len(failures),
        width=plan.read.width,
        seconds=time.monotonic() - started,
        failures=failures,
    )
