"""What a probe found: rows of a table, and files a paper can be written from."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigacli.config.probe import TaskKind
from gigacli.files import new_file
from gigacli.probing.truth import Truth
from gigacli.shown import Block, Drawn

if TYPE_CHECKING:
    from pandas import DataFrame

    from gigacli.probing.evaluation import Evaluation
    from gigacli.probing.site_table import SiteRow


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How vectors withstand augmentations that jitter the stains so strongly."""

    stain: float
    slides: int  # or patients, that are seen so
    clean: float | None  # mean score of those on test sides as they are; None: nowhere enough of them
    score: float | None  # mean score of the same seen so
    found: float  # share of them that are then still nearest to themselves
    moved: float  # how far they move, over the distance of two slides


@dataclass(frozen=True)
class ProbeRow:
    """One line of the table: a target, an embedding with a method, and a label budget."""

    embedding: str  # name in the store; of the features where the method is "abmil"
    target: str  # column that was predicted
    method: str  # "linear": logistic, ridge or Cox regression; or another of `giga probe --method`
    # inverse regularisation, or "auto": chosen inside each training set; "alpha=0.07": strength of an elastic net; ""
    # where there is none
    c: str
    scaled: bool  # whether the values were standardised on the training side, as the paper does with the mean of tiles
    budget: str  # labels used: "all", "25 %", "50" or "10 per class"
    n_train: float  # mean number of training slides (or patients)
    n_test: float  # mean number of test slides (or patients)
    splits: int  # number of splits
    auc_mean: float | None  # mean AUC; macro one-vs-rest for more than two classes; None where no classes are predicted
    auc_std: float | None  # sample standard deviation over the splits
    auc_low: float | None  # lower end of the 95 % interval of the mean (Nadeau and Bengio 2003)
    auc_high: float | None  # upper end
    accuracy: float | None  # mean over splits
    balanced_accuracy: float | None  # mean over splits
    baseline: str  # what it is compared with, "" where it is that itself
    difference: float | None  # mean score above the baseline, on the same splits and with as many labels
    difference_low: float | None  # lower end of its 95 % interval, paired by split
    difference_high: float | None  # upper end
    classes: dict[str, int]  # slides per class, or with an event and censored; {} of numbers
    patients: dict[str, int] | None  # patients per class, or None where they are not known
    aucs: tuple[float, ...]  # AUC of each split
    task: TaskKind
    slides: int  # that are judged, by themselves or with their patient
    metric: str  # what `score_mean` is, and methods are compared by: auc, c_index, r2 or quadratic_kappa
    chance: float  # what knowing nothing scores
    score_mean: float  # mean over splits; of classes the AUC
    score_std: float | None  # sample standard deviation over the splits, or over draws of few labels
    score_low: float | None  # lower end of the 95 % interval of the mean
    score_high: float | None  # upper end
    scores: tuple[float, ...]  # of each split or draw
    # all metrics by name, means over the splits where they are defined; None where that is nowhere. Calibration error
    # and log-rank test are those of all test sides together
    metrics: dict[str, float | None]
    # how the vectors withstand other augmentations, by how strongly these jitter the stains; () where not asked for
    robust: tuple[Seen, ...] = ()
    harmonised: str = ""  # how the site was taken out of the vectors: combat, center or erase; "": not at all
    p_value: float | None = (
        None  # how often permuted labels score as high; None: not asked for, or not of attention MIL
    )
    p_holm: float | None = None  # the same, corrected for all lines it is compared with (Holm 1979)
    null_mean: float | None = None  # mean score with permuted labels
    null_high: float | None = None  # what 95 % of such scores do not exceed
    # store of another cohort that was judged, "" where it is the one that was fitted on; intervals are then those of
    # its patients, drawn with replacement
    test: str = ""

    @property
    def setting(self) -> str:
        """The method with its settings, in a few characters."""
        text = f"{'scaled, ' if self.scaled else ''}C={self.c}"
        if self.method != "linear":
            text = " ".join([self.method, self.c.removeprefix("alpha=")]).strip()
        return f"{text}, {self.harmonised}" if self.harmonised else text


@dataclass(frozen=True)
class RetrievalRow:
    """How often the nearest slides of other patients share the label of a slide: one number of neighbours."""

    embedding: str
    target: str
    k: int  # neighbours looked at
    accuracy: float  # acc@k: share of slides of which one of them has the label
    chance: float  # the same for slides of other patients drawn at random
    majority: float  # mMV@k: share of slides whose label is the most frequent one among them
    precision: float  # mAP@k: mean of the average precision
    slides: int  # that were looked up
    alone: int  # of these, the slides whose label no other patient has: they count as missed


@dataclass(frozen=True)
class ProbeResult(Drawn):
    """What ``giga probe`` found.

    Attributes:
        scores: One row per target, embedding, method and budget.
        joins: How labels and vectors met, by target.
        warnings: What casts doubt on the scores: leaks, small classes, fits that stopped short.
        notes: What was decided: where patients come from, how splits were made.
        files: What was written with ``out``.
        seconds: Time it took.
        wide: Whether to show every column.
        sites: What there is to a score within sites, per line of `scores` that predicts classes; [] where no sites
            were asked for.
        retrieval: With `method` retrieval, one row per target, embedding and number of neighbours.
    """

    scores: list[ProbeRow]
    joins: dict[str, dict[str, Any]]
    warnings: list[str]
    notes: list[str]
    files: list[str] = field(default_factory=list)
    seconds: float = 0.0
    wide: bool = False
    sites: list[SiteRow] = field(default_factory=list)
    retrieval: list[RetrievalRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` shows: with a single target, `joins` are its counts."""
        joins = next(iter(self.joins.values())) if len(self.joins) == 1 else self.joins
        return {name: value for name, value in (asdict(self) | {"joins": joins}).items() if name != "wide"}

    def to_frame(self) -> DataFrame:
        """The scores as a table of pandas: a row per line, a column per figure, those of `metrics` among them."""
        from pandas import DataFrame

        return DataFrame([_flat(row) for row in self.scores])

    def blocks(self) -> Iterator[Block]:
        """The tables, and what to keep in mind of them."""
        from gigacli.probing.shown import lines, tables

        for _, found in tables(self, wide=self.wide):
            yield from (replace(one, rows=[(row[0].replace("\n", ""), *row[1:]) for row in one.rows]) for one in found)
        yield from lines(self)


def _flat(row: ProbeRow) -> dict[str, Any]:
    """The fields of a row by name, with its metrics, and what is said of other augmentations, each as a column."""
    values = asdict(row)
    for i, seen in enumerate(values.pop("robust")):
        stain = f"_stain_{seen.pop('stain'):g}" if i else ""
        values |= {f"augmented_{name}{stain}": value for name, value in seen.items()}
    return {**values.pop("metrics"), **values}


def write(folder: Path, rows: Sequence[ProbeRow], evaluations: Sequence[Evaluation]) -> list[str]:
    """Write scores.csv and predictions.csv; the paths.

    scores.csv has a column per field of :class:`ProbeRow` and metric. predictions.csv has a row per test slide, split
    and line of the table: with a column `p_CLASS` per class; `predicted` for numbers and levels; `event` and `risk`.
    """
    scores, predictions = folder / "scores.csv", folder / "predictions.csv"
    flat = [_flat(row) for row in rows]
    names = [f.name for f in fields(ProbeRow) if f.name not in ("metrics", "robust")]
    names = list(dict.fromkeys([*names, *(name for one in flat for name in one)]))
    with new_file(scores) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(names)
        table.writerows([_cell(one.get(name)) for name in names] for one in flat)
    unit = evaluations[0].task.units.level
    what = [
        "target",
        "embedding",
        "method",
        "c",
        "budget",
        *(["harmonised"] if any(r.harmonised for r in rows) else []),
    ]
    columns = sorted({f"p_{name}" for one in evaluations for name in _classes(one.task.truth)})
    kinds = {one.task.truth.kind for one in evaluations}
    columns += [name for name, of in _OTHER_COLUMNS.items() if kinds & set(of)]
    with new_file(predictions) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, [*what, "split", unit, "truth", *columns], restval="")
        lines.writeheader()
        for row, one in zip(rows, evaluations, strict=True):
            same = {name: getattr(row, name) for name in what}
            lines.writerows({**same, **prediction} for prediction in _predictions(one, unit))
    return [str(scores), str(predictions)]


_OTHER_COLUMNS: dict[str, tuple[TaskKind, ...]] = {
    "predicted": ("regression", "ordinal"),
    "event": ("survival",),
    "risk": ("survival",),
}
"""Of predictions.csv, where no classes are predicted."""


def _classes(truth: Truth) -> tuple[str, ...]:
    return truth.classes if truth.kind == "classification" else ()


def _predictions(one: Evaluation, unit: str) -> Iterator[dict[str, object]]:
    units, truth = one.task.units, one.task.truth
    columns = [f"p_{name}" for name in _classes(truth)]
    for number, fold in enumerate(one.folds):
        for i, values in zip(fold.split.test.tolist(), fold.predicted.tolist(), strict=True):
            case = {"split": number, unit: units.ids[i], "truth": units.label[i]}
            if truth.kind == "ordinal":
                case["predicted"] = truth.classes[int(values[0])]
            elif truth.event is not None:
                case |= {"event": int(truth.event[i]), "risk": values[0]}
            elif truth.kind == "regression":
                case["predicted"] = values[0]
            yield case | dict(zip(columns, values, strict=False))


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return "; ".join(f"{name} {n}" for name, n in value.items())
    if isinstance(value, tuple):
        return " ".join(f"{x:.6f}" for x in value)
    return "" if value is None else value
