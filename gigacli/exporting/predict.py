"""``giga predict``: what a fitted head says of the slides of a store."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.config.base import options_of
from gigacli.config.tools import PredictConfig
from gigacli.errors import InvalidInput
from gigacli.exporting.output import check_free, export_file
from gigacli.probing.head import Head
from gigacli.probing.head_card import HeadCard
from gigacli.probing.patients import patients_of
from gigacli.probing.units import Units
from gigacli.shown import Shown
from gigacli.store.groups import Embedding
from gigacli.store.store import Store
from gigacli.weights.heads import embedding_for, slide_table_of

SHOWN = 20  # rows that a person is shown
_NAMED = 5


@dataclass(frozen=True)
class PredictSummary(Shown):
    """What ``giga predict`` found.

    Attributes:
        head: The file of the head.
        task: What it does: classification, survival, regression or ordinal.
        target: The column of labels that it was fitted to predict.
        embedding: The embedding it was applied to.
        predicted: Slides, or patients, that there is a prediction of.
        without_vector: Slides that have no vector, and no prediction.
        predictions: One row each: ``slide_id`` and ``patient_id`` ("" where not known), or of a head of patients
            ``patient_id`` and ``slides`` (how many); then ``p_CLASS`` for every class, ``risk``, ``value``, or
            ``level`` and ``value``.
        seconds: Time it took.
        files: What was written.
        notes: Remarks for the reader.
    """

    head: str
    task: str
    target: str
    embedding: str
    predicted: int
    without_vector: int
    predictions: list[dict[str, str | int | float]]
    seconds: float
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """Title, columns and rows for a person: the first :data:`SHOWN`."""
        rows = self.predictions[:SHOWN]
        title = f"{self.target}" + f", the first {SHOWN} of {self.predicted}" * (len(rows) < self.predicted)
        cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
        return title, list(rows[0]) if rows else [], cells


@options_of(PredictConfig)
def predict(
    config: PredictConfig,
    store: str | Path | Store,
    head: str | Path,
    *,
    embedding: str | None = None,
    out: str | Path | None = None,
    redo: bool = False,
) -> PredictSummary:
    """Apply a head that ``giga probe`` saved to the vectors of a store, which must be made as those it was fitted on.

    Args:
        store: The cohort store; nothing is written into it.
        head: The file of the head. Nothing in it is run.

    Raises:
        NotFound: There is no such file, store or embedding.
        InvalidInput: Several embeddings could be meant, patients are wanted and not known, or `out` is taken.
        Mismatch: The file is no head, or damaged; or tiles, tile encoder, model or join are others than it goes with.
    """
    started = time.monotonic()
    if config.out is not None:
        if config.out.suffix.lower() != ".csv":
            raise InvalidInput(f"`out` is {config.out}; a table is written as CSV", f"name it {config.out.stem}.csv")
        check_free(config.out, folder=False, redo=config.redo)
    loaded, opened = Head.load(head), Store.open(store)
    chosen = embedding_for(opened, loaded.card, config.embedding, head=f"head {head}")
    have = chosen.done().filled
    rows = _rows(loaded, chosen, have)
    files = [] if config.out is None else [_write(config.out, rows)]
    return PredictSummary(
        head=str(head),
        task=loaded.card.task,
        target=loaded.card.target,
        embedding=chosen.name,
        predicted=len(rows),
        without_vector=int((~have).sum()),
        predictions=rows,
        seconds=time.monotonic() - started,
        files=files,
        notes=list(_notes(loaded.card, opened, have)),
    )


def _rows(head: Head, embedding: Embedding, have: NDArray[np.bool_]) -> list[dict[str, str | int | float]]:
    """A row per slide with a vector, in the order of the store, or per patient with one."""
    table, there = embedding.store.slides, np.flatnonzero(have)
    ids = [table.ids[row] for row in there.tolist()]
    known = patients_of(ids, from_store=[table[row].patient for row in there.tolist()]).names
    names: list[dict[str, str | int | float]]
    if head.card.level == "patient":
        if known is None and ids:
            raise InvalidInput(
                f"{head.card.target} is predicted of patients, and which slides are of one patient is not known",
                "say so: giga tile STORE --csv TABLE, with columns slide_id and patient_id",
            )
        slides: dict[str, list[int]] = {}
        for patient, row in zip(known or (), there.tolist(), strict=True):
            slides.setdefault(patient, []).append(row)
        parts = tuple(np.array(rows, dtype=np.int64) for rows in slides.values())
        names = [{"patient_id": patient, "slides": len(rows)} for patient, rows in slides.items()]
    else:
        parts = tuple(there[:, None])
        names = [{"slide_id": s, "patient_id": p} for s, p in zip(ids, known or [""] * len(ids), strict=True)]
    if not parts:
        return []
    nothing = np.full(len(parts), "")  # labels, which a prediction does not need
    units = Units(head.card.level, tuple(nothing.tolist()), nothing, known, parts)
    said = head.table(units.vectors(embedding.read(), unit_length=head.card.unit_length))
    return [name | values for name, values in zip(names, said, strict=True)]


def _write(to: Path, rows: list[dict[str, str | int | float]]) -> str:
    with export_file(to) as path, path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, list(rows[0]) if rows else ["slide_id"])
        lines.writeheader()
        lines.writerows(rows)
    return str(to)


def _notes(card: HeadCard, store: Store, have: NDArray[np.bool_]) -> list[str]:
    """Where the head comes from and how far it can be trusted, and which slides have no vector."""
    of = "" if card.patients is None else f" of {card.patients} patients"
    sites = "" if card.sites is None else f" from {card.sites} sites"
    notes = [f"{card.method} for {card.target!r}, fitted on {card.slides} slides{of}{sites} by {card.created_by}"]
    if card.score is not None:
        ends = "" if card.score.low is None else f" (95 % interval {card.score.low:.3f} to {card.score.high:.3f})"
        notes[0] += f"; {card.score.metric} {card.score.mean:.3f}{ends} in its cross-validation"
    if slide_table_of(store) == card.slide_table:
        notes.append("it was fitted on slides of this store: of those, what it says is no test of it")
    missing = [store.slides.ids[row] for row in np.flatnonzero(~have).tolist()]
    if missing:
        more = " ..." * (len(missing) > _NAMED)
        notes.append(f"{len(missing)} slides have no vector, and no prediction: {', '.join(missing[:_NAMED])}{more}")
    return notes
