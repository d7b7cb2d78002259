"""Labels of slides: read from a table, joined with the slides that have a vector, and the patients behind them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gigacli.errors import InvalidInput
from gigacli.tables import SYNONYMS, bare_id, find_column, read_table, require_column

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

MISSING: Final = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "null"})
"""Cells that say "not known", in lower case. `none` is not among them: it is the name of a class often enough."""

_BARCODE: Final = re.compile(r"TCGA-..-....")
_SHOWN: Final = 5


@dataclass(frozen=True)
class Labels:
    """One label per slide, as the table gives them.

    Attributes:
        slide_id: The slides as the table names them, each once.
        label: Their labels, as text.
        patient_id: Their patients (None where the cell is empty), or None when the table has no such column.
        target: The column the labels come from.
        missing: Rows left out because their label is empty.
        notes: What was decided while reading, one sentence each.
    """

    slide_id: tuple[str, ...]
    label: tuple[str, ...]
    patient_id: tuple[str | None, ...] | None
    target: str
    missing: int
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Join:
    """The slides that have both a label and a vector, and the counts of those that have not.

    Attributes:
        index: Their places among the slide ids, ascending, int64 (matched,).
        label: Their labels, text (matched,).
        patient_id: Their patients as in :class:`Labels`, in the same order.
        counts: `labels` and `vectors` (how many there are), `matched`, `unmatched` (labels of slides that are not
            there), `unmatched_first` (five of them), `without_vector` (labels of slides that are there but have no
            vector), `unlabelled` (vectors without a label), `missing` (rows with an empty label) and `classes`
            (matched slides per label).
    """

    index: NDArray[np.int64]
    label: NDArray[np.str_]
    patient_id: tuple[str | None, ...] | None
    counts: dict[str, Any]


def read_labels(path: str | Path, *, target: str | None = None) -> Labels:
    """Read a table of labels, one row per slide.

    Args:
        path: Any table that :func:`gigacli.tables.read_table` reads, with a column of slide ids.
        target: The column of labels. Default: `label`, or else the only column that is nothing else.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is not a table, lacks a column, has no labels, or contradicts itself about a slide.
    """
    table = read_table(path)
    slide_column = require_column(table, "slide_id", path=path)
    patient_column = find_column(table, "patient_id", path=path)
    label_column = _label_column(table, target, path)
    notes = []
    if target is None and label_column.casefold() != "label":
        notes.append(f"No column `label`: the labels are those of `{label_column}`.")
    rows = table[[slide_column, label_column]].set_axis(["slide", "label"], axis=1)
    rows["patient"] = "" if patient_column is None else table[patient_column]
    known = ~rows["label"].str.casefold().isin(MISSING)
    nameless = known & (rows["slide"] == "")
    if nameless.any():
        notes.append(f"{nameless.sum()} labels without a slide id are left out.")
    missing = int((~known).sum())
    rows = rows[known & ~nameless].drop_duplicates()
    if rows.empty:
        raise InvalidInput(f"{path}: every cell of the column `{label_column}` is empty", "Choose another --target.")
    _check_consistent(rows, path)
    patients = tuple(None if p.casefold() in MISSING else p for p in rows["patient"])
    return Labels(
        slide_id=tuple(rows["slide"]),
        label=tuple(rows["label"]),
        patient_id=None if patient_column is None else patients,
        target=label_column,
        missing=missing,
        notes=tuple(notes),
    )


def match(names: Sequence[str], slide_ids: Sequence[str]) -> NDArray[np.int64]:
    """Find each name among the slide ids: as it stands, or else with folders and a known extension taken off both.

    Returns:
        For each name its place in `slide_ids`, or -1; int64 (names,). A short name that two ids share finds neither.
    """
    exact = {slide: i for i, slide in enumerate(slide_ids)}
    times = Counter(map(bare_id, slide_ids))
    bare = {bare_id(slide): i for slide, i in exact.items() if times[bare_id(slide)] == 1}
    return np.array([exact.get(name, bare.get(bare_id(name), -1)) for name in names], dtype=np.int64)


def join(labels: Labels, slide_ids: Sequence[str], has_vector: ArrayLike) -> Join:
    """Bring labels and vectors together.

    Args:
        labels: From :func:`read_labels`.
        slide_ids: The slides of the store, in its order.
        has_vector: Whether each of them has a vector, bool (slides,).

    Raises:
        InvalidInput: No label meets a vector, two labels meet the same one, or only one class is left.
    """
    has = np.asarray(has_vector, dtype=bool)  # (slides,)
    places = match(labels.slide_id, slide_ids)  # (labels,)
    row_of: dict[int, int] = {}
    for row, place in enumerate(places.tolist()):
        if place >= 0 and labels.label[row] != labels.label[row_of.setdefault(place, row)]:
            first, second = labels.slide_id[row_of[place]], labels.slide_id[row]
            raise InvalidInput(f"`{first}` and `{second}` have different labels but are one slide", "Keep one of them.")
    index = np.array(sorted(i for i in row_of if has[i]), dtype=np.int64)  # (matched,)
    if not len(index):
        raise _nothing_matched(labels, slide_ids, row_of)
    rows = [row_of[i] for i in index.tolist()]
    matched = np.array([labels.label[row] for row in rows])
    classes = dict(sorted(Counter(matched.tolist()).items()))
    if len(classes) < 2:
        raise InvalidInput(
            f"all {len(rows)} slides with a label and a vector have the same `{labels.target}`: {next(iter(classes))}",
            "A probe needs two classes: choose another --target or embed slides of the other classes.",
        )
    unmatched = [name for name, place in zip(labels.slide_id, places, strict=True) if place < 0]
    counts = {
        "labels": len(labels.slide_id),
        "vectors": int(has.sum()),
        "matched": len(rows),
        "unmatched": len(unmatched),
        "unmatched_first": unmatched[:_SHOWN],
        "without_vector": len(row_of) - len(rows),
        "unlabelled": int(has.sum()) - len(rows),
        "missing": labels.missing,
        "classes": classes,
    }
    patients = None if labels.patient_id is None else tuple(labels.patient_id[row] for row in rows)
    return Join(index=index, label=matched, patient_id=patients, counts=counts)


def patients_of(
    slide_ids: Sequence[str], *, from_store: Sequence[str | None] | None, from_labels: Sequence[str | None] | None
) -> tuple[list[str] | None, str]:
    """Say which patient each slide belongs to.

    The labels' own column decides, then the store's, then TCGA barcodes, whose first 12 characters are the patient. A
    slide without a patient, in a column that has some, is taken for a patient of its own.

    Args:
        slide_ids: The slides, (n,).
        from_store: Their patients in the store, (n,); None or empty where not known.
        from_labels: Their patients in the table of labels, likewise.

    Returns:
        The patients, (n,), or None when nothing is known of any; and where they come from, to be shown.
    """
    for patients, source in ((from_labels, "the labels' patient column"), (from_store, "the store's patients")):
        unknown = 0 if patients is None else sum(not patient for patient in patients)
        if patients is None or unknown == len(patients):
            continue
        if unknown:
            source = f"{source} ({unknown} slides without a patient count as one each)"
        return [patient or slide for patient, slide in zip(patients, slide_ids, strict=True)], source
    if slide_ids and all(_BARCODE.match(slide) for slide in slide_ids):
        return [slide[:12] for slide in slide_ids], "TCGA barcodes (the first 12 characters of the slide id)"
    return None, "nowhere: each slide counts as a patient of its own"


def _label_column(table: pd.DataFrame, target: str | None, path: str | Path) -> str:
    if target is not None:
        return require_column(table, target, path=path)
    found = find_column(table, "label", path=path)
    if found is not None:
        return found
    taken = {name for canonical, names in SYNONYMS.items() for name in (canonical, *names)}
    candidates = [str(column) for column in table.columns if str(column).casefold() not in taken]
    if len(candidates) == 1:
        return candidates[0]
    raise InvalidInput(
        f"{path} has no column `label`: found {', '.join(f'`{c}`' for c in table.columns)}",
        "Say which column holds the labels: --target COLUMN." if candidates else "Add a column `label`.",
    )


def _check_consistent(rows: pd.DataFrame, path: str | Path) -> None:
    for what in ("label", "patient"):
        pairs = rows[["slide", what]].drop_duplicates()
        slides = pairs.loc[pairs["slide"].duplicated(), "slide"].unique()
        if len(slides):
            values = " and ".join(f"`{value}`" for value in pairs.loc[pairs["slide"] == slides[0], what])
            raise InvalidInput(
                f"{path}: {len(slides)} slides have more than one {what}: {', '.join(slides[:_SHOWN])} "
                f"(the first: {values})",
                f"Give each slide one {what}.",
            )


def _nothing_matched(labels: Labels, slide_ids: Sequence[str], in_store: dict[int, int]) -> InvalidInput:
    if in_store:
        return InvalidInput(f"{len(in_store)} slides have a label, but none has a vector", "Run `giga embed` first.")
    ours, theirs = ", ".join(slide_ids[:3]), ", ".join(labels.slide_id[:3])
    return InvalidInput(
        f"none of {len(labels.slide_id)} labelled slides is among the {len(slide_ids)} of the store: the labels name "
        f"{theirs}; the store has {ours or 'none'}",
        "Make the slide ids of the table those of the store (`giga info` lists them).",
    )
