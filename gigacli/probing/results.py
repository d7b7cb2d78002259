"""What a probe found: rows of a table, files a paper can be written from, lines for a person."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigacli.files import new_file

if TYPE_CHECKING:
    from gigacli.probing.evaluation import Evaluation


@dataclass(frozen=True)
class ProbeRow:
    """One line of the table: a target, an embedding with a method, and a label budget."""

    embedding: str  # name in the store; of the features where the method is "abmil"
    target: str  # column that was predicted
    method: str  # "linear": logistic regression; "abmil": attention MIL on the tiles
    c: str  # inverse regularisation, or "auto": chosen inside each training set; "" where there is none
    scaled: bool  # whether the values were standardised on the training side, as the paper does with the mean of tiles
    budget: str  # labels used: "all", "25 %" or "50"
    n_train: float  # mean number of training slides (or patients)
    n_test: float  # mean number of test slides (or patients)
    splits: int  # number of splits
    auc_mean: float  # mean AUC; macro one-vs-rest for more than two classes
    auc_std: float | None  # sample standard deviation over the splits
    auc_low: float | None  # lower end of the 95 % interval of the mean (Nadeau and Bengio 2003)
    auc_high: float | None  # upper end
    accuracy: float  # mean over splits
    balanced_accuracy: float  # mean over splits
    baseline: str  # what it is compared with, "" where it is that itself
    difference: float | None  # mean AUC above the baseline, on the same splits and with as many labels
    difference_low: float | None  # lower end of its 95 % interval, paired by split
    difference_high: float | None  # upper end
    classes: dict[str, int]  # slides per class
    patients: dict[str, int] | None  # patients per class, or None where they are not known
    aucs: tuple[float, ...]  # AUC of each split
    augmented_auc: float | None = None  # mean AUC with test slides seen under other augmentations; None: not asked for
    found: float | None = None  # share of slides that are then still nearest to themselves
    moved: float | None = None  # how far they move, over the distance of two slides

    @property
    def setting(self) -> str:
        """The method with its settings, in a few characters."""
        return f"{'scaled, ' if self.scaled else ''}C={self.c}" if self.method == "linear" else self.method


@dataclass(frozen=True)
class ProbeResult:
    """What ``giga probe`` found.

    Attributes:
        scores: One row per target, embedding, method and budget.
        joins: How labels and vectors met, by target.
        warnings: What casts doubt on the scores: leaks, small classes, fits that stopped short.
        notes: What was decided: where patients come from, how splits were made.
        files: What was written with ``out``.
        seconds: Time it took.
    """

    scores: list[ProbeRow]
    joins: dict[str, dict[str, Any]]
    warnings: list[str]
    notes: list[str]
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` shows: with a single target, `joins` are its counts."""
        joins = next(iter(self.joins.values())) if len(self.joins) == 1 else self.joins
        return {**asdict(self), "joins": joins}


def write(folder: Path, rows: Sequence[ProbeRow], evaluations: Sequence[Evaluation]) -> list[str]:
    """Write scores.csv and predictions.csv; the paths.

    predictions.csv has a row per test slide, split and line of the table, with a column `p_CLASS` per class.
    """
    scores, predictions = folder / "scores.csv", folder / "predictions.csv"
    names = [f.name for f in fields(ProbeRow)]
    with new_file(scores) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(names)
        table.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    classes = sorted({name for one in evaluations for name in one.task.units.classes})
    unit = evaluations[0].task.units.level
    with new_file(predictions) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        header = ["target", "embedding", "method", "c", "budget", "split", unit, "truth", *(f"p_{c}" for c in classes)]
        lines = csv.DictWriter(file, header, restval="")
        lines.writeheader()
        for row, one in zip(rows, evaluations, strict=True):
            what = {name: getattr(row, name) for name in header[:5]}
            lines.writerows({**what, **prediction} for prediction in _predictions(one, unit))
    return [str(scores), str(predictions)]


def _predictions(one: Evaluation, unit: str) -> Iterator[dict[str, object]]:
    units = one.task.units
    columns = [f"p_{name}" for name in units.classes]
    for number, fold in enumerate(one.folds):
        for i, shares in zip(fold.split.test.tolist(), fold.probabilities.tolist(), strict=True):
            case = {"split": number, unit: units.ids[i], "truth": units.label[i]}
            yield case | dict(zip(columns, shares, strict=True))


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return "; ".join(f"{name} {n}" for name, n in value.items())
    if isinstance(value, tuple):
        return " ".join(f"{x:.6f}" for x in value)
    return "" if value is None else value


COLUMNS = (
    "embedding", "method", "labels", "AUC ± sd", "95 % interval", "above baseline", "acc.", "bal. acc.", "train", "test"
)  # fmt: skip


ROBUST_COLUMNS = ("embedding", "method", "labels", "AUC", "AUC, augmented", "found", "moved")
"""Of the second table: how vectors withstand augmentation."""


def robust_rows(result: ProbeResult, target: str) -> list[tuple[str, ...]]:
    """Rows of the second table, under :data:`ROBUST_COLUMNS`; none where nobody asked."""
    return [
        (
            row.embedding,
            row.setting,
            row.budget,
            f"{row.auc_mean:.3f}",
            f"{row.augmented_auc:.3f}",
            f"{row.found:.3f}",
            f"{row.moved:.3f}",
        )
        for row in result.scores
        if row.target == target and row.augmented_auc is not None
    ]


def tables(result: ProbeResult) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Tables to show: per target its title, and its rows as text under :data:`COLUMNS`."""
    for target in dict.fromkeys(row.target for row in result.scores):
        rows = [row for row in result.scores if row.target == target]
        first, known = rows[0], rows[0].patients or {}
        counts = (f"{c} {n}" + (f" of {known[c]} patients" if c in known else "") for c, n in first.classes.items())
        title = f"{target}: {sum(first.classes.values())} slides ({', '.join(counts)}), {first.splits} splits"
        yield title, [_texts(row) for row in rows]


def lines(result: ProbeResult) -> Iterator[str]:
    """Sentences to show: how labels and vectors met, what was decided, warnings, and what was written."""
    for target, counts in result.joins.items():
        for line in _join_lines(counts):
            yield line if len(result.joins) == 1 else f"{target}: {line}"
    yield from result.notes
    yield from (f"warning: {text}" for text in result.warnings)
    yield from (f"wrote {file}" for file in result.files)


def _join_lines(counts: dict[str, Any]) -> Iterator[str]:
    yield f"joined {counts['labels']} labels with {counts['vectors']} vectors: {counts['matched']} slides matched"
    for key, what in (
        ("unmatched", "labels name no slide here"),
        ("without_vector", "labelled slides have no vector"),
        ("unlabelled", "vectors have no label"),
    ):
        if counts[key]:
            yield f"{counts[key]} {what}, first: {', '.join(counts[f'{key}_first'])}"
    if counts["missing"]:
        yield f"{counts['missing']} rows of the labels have an empty label"


def _texts(row: ProbeRow) -> tuple[str, ...]:
    return (
        row.embedding,
        row.setting,
        row.budget,
        f"{row.auc_mean:.3f}" + ("" if row.auc_std is None else f" ± {row.auc_std:.3f}"),
        "" if row.auc_low is None else f"{row.auc_low:.3f}-{row.auc_high:.3f}",
        _above(row),
        f"{row.accuracy:.3f}",
        f"{row.balanced_accuracy:.3f}",
        f"{row.n_train:.0f}",
        f"{row.n_test:.0f}",
    )


def _above(row: ProbeRow) -> str:
    if row.difference is None:
        return ""
    ends = "" if row.difference_low is None else f" ({row.difference_low:+.3f} to {row.difference_high:+.3f})"
    return f"{row.difference:+.3f}{ends}"
