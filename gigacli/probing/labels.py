"""Labels of slides: read from a table, joined with the slides that have a vector, and the patients behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.protocols import FOLD
from gigacli.tables import SYNONYMS, bare_id, differ_in_capitals, find_column, name_of, read_columns, require_column

if TYPE_CHECKING:
    from pandas import DataFrame

MISSING: Final = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null"})
"""Cells that say "not known", in lower case. `none` is not among them: it is the name of a class often enough."""

_SHOWN: Final = 5


@dataclass(frozen=True)
class Labels:
    """One label per slide or per patient, as the table gives them."""

    slide_id: tuple[str, ...]  # the slides as the table names them, each once; of a table of patients, these
    label: tuple[str, ...]  # their labels, as text
    # their patients (None where the cell is empty), or None when the table has no such column
    patient_id: tuple[str | None, ...] | None
    target: str  # the column the labels come from
    missing: int  # rows left out because their label is empty
    notes: tuple[str, ...]  # what was decided while reading, one sentence each
    per_patient: bool = False  # whether the table has a row per patient and no column of slides
    beside: dict[str, tuple[str, ...]] = field(default_factory=dict)  # other columns that were asked for, as text


@dataclass(frozen=True, eq=False)
class Join:
    """The slides that have both a label and a vector, and the counts of those that have not.

    Attributes:
        index: Their places among the slide ids, ascending, int64 (matched,).
        label: Their labels, text (matched,).
        patients: The patient of every slide of the store as the table has it, (slides), "" where it does not say.
        counts: `labels` and `vectors` (how many there are), `matched` (slides with both), `unmatched` (labels of
            slides that are not there), `unmatched_first` (five of them), `without_vector` (labels of slides that are
            there but have no vector), `without_vector_first`, `unlabelled` (vectors without a label),
            `unlabelled_first`, `missing` (rows with an empty label) and `classes` (matched slides per label). In a
            table of patients, `labels`, `unmatched` and `without_vector` are patients.
        warnings: Unmatched labels whose slide or patient has the name in other capitals, in words.
        beside: Other columns of the table, text (matched,).
    """

    index: NDArray[np.int64]
    label: NDArray[np.str_]
    patients: tuple[str, ...]
    counts: dict[str, Any]
    warnings: tuple[str, ...] = ()
    beside: dict[str, NDArray[np.str_]] = field(default_factory=dict)


def read_labels(
    source: str | Path | DataFrame,
    *,
    target: str | None = None,
    level: Literal["slide", "patient"] = "slide",
    required: Sequence[str] = (),
    aside: Sequence[str | None] = (),
) -> Labels:
    """Read a table of labels, one row per slide; for patients it may have one row per patient and no slides.

    Args:
        source: Any table that :func:`gigacli.tables.read_columns` reads, with a column of slide ids.
        target: The column of labels. Default: `label`, or else the only column that is nothing else.
        level: What is to be judged.
        required: Other columns that go with the label: a row without one of them has none.
        aside: Columns that are no labels, nor are those of folds: where `target` is to be guessed.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is not a table, lacks a column, has no labels, or contradicts itself about a slide.
    """
    table, path = read_columns(source), name_of(source)
    patient_column = find_column(table, "patient_id", path=path)
    slide_column = find_column(table, "slide_id", path=path)
    per_patient = level == "patient" and slide_column is None and patient_column is not None
    if not per_patient:
        slide_column = require_column(table, "slide_id", path=path)
    unit_column = patient_column if per_patient else slide_column
    label_column = _label_column(table, target, path, aside)
    beside = {name: table[require_column(table, name, path=path)] for name in required}
    notes = []
    if target is None and label_column.casefold() != "label":
        notes.append(f"No column 'label': the labels are those of {label_column!r}.")
    units, labels = table[str(unit_column)], table[label_column]
    patients = [""] * len(units) if patient_column is None else table[patient_column]
    values = list(zip(labels, *beside.values(), strict=True))
    known = [all(text.casefold() not in MISSING for text in cells) for cells in values]
    nameless = sum(label_is_known and not unit for unit, label_is_known in zip(units, known, strict=True))
    if nameless:
        notes.append(f"{nameless} labels without a {'patient' if per_patient else 'slide'} id are left out.")
    cells = zip(units, patients, values, known, strict=True)
    rows = list(dict.fromkeys((unit, patient, *texts) for unit, patient, texts, known in cells if known and unit))
    if not rows:
        columns = " or ".join(map(repr, (label_column, *beside)))
        raise InvalidInput(f"{path}: every cell of the column {columns} is empty", "Choose another `target`.")
    _check_consistent(rows, path, columns=("patient", "label", *beside), per_patient=per_patient)
    known_patients = tuple(None if patient.casefold() in MISSING else patient for _, patient, *_ in rows)
    return Labels(
        slide_id=tuple(row[0] for row in rows),
        label=tuple(row[2] for row in rows),
        patient_id=None if patient_column is None else known_patients,
        target=label_column,
        missing=len(known) - sum(known),
        notes=tuple(notes),
        per_patient=per_patient,
        beside={name: tuple(row[3 + i] for row in rows) for i, name in enumerate(beside)},
    )


def match(names: Sequence[str], slide_ids: Sequence[str]) -> NDArray[np.int64]:
    """Find each name among the slide ids: as it stands, or else with folders and a known extension taken off both.

    Returns:
        For each name its place in `slide_ids`, or -1; int64 (names,). A short name that two ids share finds neither.
    """
    exact = {slide: i for i, slide in enumerate(slide_ids)}
    short = [bare_id(slide) for slide in slide_ids]
    times = Counter(short)
    bare = {name: i for i, name in enumerate(short) if times[name] == 1}
    found = (exact[name] if name in exact else bare.get(bare_id(name), -1) for name in names)
    return np.fromiter(found, dtype=np.int64, count=len(names))


def join(
    labels: Labels, slide_ids: Sequence[str], has_vector: ArrayLike, *, patients: Sequence[str] | None = None
) -> Join:
    """Bring labels and vectors together.

    Args:
        labels: From :func:`read_labels`.
        slide_ids: The slides of the store, in its order.
        has_vector: Whether each of them has a vector, bool (slides,).
        patients: Their patients, (slides,), "" where not known: where a table of patients is joined.

    Raises:
        InvalidInput: No label meets a vector, two labels meet the same one, or all that are left are the same.
    """
    has = np.asarray(has_vector, dtype=bool)  # (slides,)
    row_of, unmatched = _rows_of_patients(labels, patients) if labels.per_patient else _rows_of(labels, slide_ids)
    index = np.array(sorted(i for i in row_of if has[i]), dtype=np.int64)  # (matched,)
    unit, names = ("patient", list(patients or ())) if labels.per_patient else ("slide", slide_ids)
    if not len(index):
        raise _nothing_matched(labels, unit, names, row_of)
    rows = [row_of[i] for i in index.tolist()]
    matched = np.array([labels.label[row] for row in rows])
    classes = dict(sorted(Counter(matched.tolist()).items()))
    if len(classes) < 2:
        raise InvalidInput(
            f"all {len(rows)} slides with a label and a vector have the same {labels.target!r}: {next(iter(classes))}",
            "A probe needs two classes: choose another `target` or embed slides of the other classes.",
        )
    without = [labels.slide_id[row] for row in sorted(set(row_of.values()) - set(rows))]
    unlabelled = np.setdiff1d(np.flatnonzero(has), index)
    counts = {
        "labels": len(labels.slide_id),
        "vectors": int(has.sum()),
        "matched": len(rows),
        "unmatched": len(unmatched),
        "unmatched_first": unmatched[:_SHOWN],
        "without_vector": len(without),
        "without_vector_first": without[:_SHOWN],
        "unlabelled": len(unlabelled),
        "unlabelled_first": [slide_ids[i] for i in unlabelled[:_SHOWN].tolist()],
        "missing": labels.missing,
        "classes": classes,
    }
    said = {} if labels.patient_id is None else {i: labels.patient_id[row] or "" for i, row in row_of.items()}
    alike = differ_in_capitals(unmatched, names)
    warnings = (f"of {len(unmatched)} labels that name no {unit} here, {alike}",) if alike else ()
    beside = {name: np.array([texts[row] for row in rows]) for name, texts in labels.beside.items()}
    return Join(index, matched, tuple(said.get(i, "") for i in range(len(slide_ids))), counts, warnings, beside)


def _rows_of(labels: Labels, slide_ids: Sequence[str]) -> tuple[dict[int, int], list[str]]:
    """Map slides of the store to rows of the labels; and the labelled slides that are not in the store."""
    places = match(labels.slide_id, slide_ids).tolist()  # (labels,)
    row_of: dict[int, int] = {}
    for row, place in enumerate(places):
        earlier = row_of.setdefault(place, row) if place >= 0 else row
        for what, values in (("labels", labels.label), ("patients", labels.patient_id), *labels.beside.items()):
            if values is not None and values[row] != values[earlier]:
                first, second = labels.slide_id[earlier], labels.slide_id[row]
                raise InvalidInput(
                    f"{first!r} and {second!r} have different {what} but are one slide", "Keep one of them."
                )
    return row_of, [name for name, place in zip(labels.slide_id, places, strict=True) if place < 0]


def _rows_of_patients(labels: Labels, patients: Sequence[str] | None) -> tuple[dict[int, int], list[str]]:
    """Map slides of the store to rows of a table of patients; and the labelled patients that are not in the store."""
    row = {name: i for i, name in enumerate(labels.slide_id)}
    there = set(patients or ())
    row_of = {i: row[name] for i, name in enumerate(patients or ()) if name in row}
    return row_of, [name for name in labels.slide_id if name not in there]


def _label_column(table: dict[str, list[str]], target: str | None, path: str, aside: Sequence[str | None]) -> str:
    if target is not None:
        return require_column(table, target, path=path)
    found = find_column(table, "label", path=path)
    if found is not None:
        return found
    taken = {name for canonical, names in SYNONYMS.items() for name in (canonical, *names)}
    taken |= {name.casefold() for name in aside if name is not None}
    candidates = [c for c in table if c.casefold() not in taken and not FOLD.fullmatch(c)]
    if len(candidates) == 1:
        return candidates[0]
    raise InvalidInput(
        f"{path} has no column 'label': found {', '.join(map(repr, table))}",
        "Say which column holds the labels: `target='COLUMN'`." if candidates else "Add a column 'label'.",
    )


def _check_consistent(
    rows: Sequence[tuple[str, ...]], path: str | Path, *, columns: Sequence[str], per_patient: bool
) -> None:
    """Refuse a unit that comes with several values of a column; `rows` are the unit, then the columns."""
    unit = "patients" if per_patient else "slides"
    for place, what in enumerate(columns, start=1):
        values_of: dict[str, list[str]] = {}
        for row in rows:
            values = values_of.setdefault(row[0], [])
            values += [row[place]] if row[place] not in values else []
        several = {name: values for name, values in values_of.items() if len(values) > 1}
        if several:
            first = " and ".join(map(repr, next(iter(several.values()))))
            raise InvalidInput(
                f"{path}: {len(several)} {unit} have more than one {what}: {', '.join(list(several)[:_SHOWN])} "
                f"(the first: {first})",
                f"Give each {unit[:-1]} one {what}.",
            )


def _nothing_matched(labels: Labels, unit: str, names: Sequence[str], in_store: dict[int, int]) -> InvalidInput:
    if in_store:
        return InvalidInput(f"{len(in_store)} slides have a label, but none has a vector", "Run `giga embed` first.")
    known = list(dict.fromkeys(name for name in names if name))
    ours, theirs = ", ".join(known[:3]), ", ".join(labels.slide_id[:3])
    alike = differ_in_capitals(labels.slide_id, known)
    return InvalidInput(
        f"none of {len(labels.slide_id)} labelled {unit}s is among the {len(known)} of the store: the labels name "
        f"{theirs}; the store has {ours or 'none'}{'; ' * bool(alike)}{alike}",
        f"Make the {unit} ids of the table those of the store (`giga info` lists them).",
    )
