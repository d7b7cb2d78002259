"""What a probe found, as text: tables that fit 80 columns, wide ones, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any, Final

from gigacli.probing.kinds import KINDS
from gigacli.probing.results import ProbeResult, ProbeRow, RetrievalRow
from gigacli.shown import Table

WIDTH: Final = 80
"""Columns of a terminal that a table fits unless it is to be wide."""

SHORT: Final = {
    "accuracy": "acc.",
    "balanced_accuracy": "bal. acc.",
    "f1_macro": "F1",
    "f1_weighted": "F1 wtd.",
    "average_precision": "AP",
    "kappa": "kappa",
    "brier": "Brier",
    "calibration_error": "ECE",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mae": "MAE",
    "c_index_uno": "Uno's",
    "auc_over_time": "AUC(t)",
    "log_rank_p": "log-rank p",
}
"""Metrics in the head of a table."""

ROBUST: Final = ("embedding", "method", "labels", "stains", "seen", "{metric}", "{metric}, seen so", "found", "moved")
"""Head of the second table: how vectors withstand augmentation, by how strongly it jitters the stains."""

RETRIEVED: Final = ("embedding", "k", "acc@k", "by chance", "mMV@k", "mAP@k")
"""Head of the table of retrieval."""


CHANCE: Final = ("p, alone", "p", "chance, 95 %")
"""Head of what permuted labels say, where they were asked."""


def tables(result: ProbeResult, *, wide: bool) -> Iterator[tuple[str, list[Table]]]:
    """Every target with its table and, where it was asked for, that of slides seen under other augmentations."""
    for target in dict.fromkeys([*(row.target for row in result.scores), *(row.target for row in result.retrieval)]):
        rows = [row for row in result.scores if row.target == target]
        found = [Table(_title(rows[0]), *(_wide(rows) if wide else _narrow(rows)))] if rows else []
        robust = [row for row in rows if row.robust]
        if robust:
            title = f"{target}: slides seen under other augmentations"
            found.append(Table(title, _robust_head(rows[0]), _robust(robust)))
        retrieved = [row for row in result.retrieval if row.target == target]
        if retrieved:
            title = f"{target}: the nearest slides of other patients, {retrieved[0].slides} slides looked up"
            found.append(Table(title, RETRIEVED, _retrieved(retrieved)))
        if result.sites:
            from gigacli.probing.site_table import site_tables

            mine = [row for row in result.sites if row.target == target]
            found += [_fitting(Table(*parts), wide=wide) for parts in site_tables(mine, wide=wide)]
        yield target, found


def _title(row: ProbeRow) -> str:
    known = row.patients or {}
    counts = (f"{c} {n}" + (f" of {known[c]} patients" if c in known else "") for c, n in row.classes.items())
    listed = f" ({', '.join(counts)})" if row.classes else ""
    kind = "" if row.task == "classification" else f", {row.task}"
    if row.test:
        fitted = f"fitted on {row.n_train:.0f} of another cohort"
        return f"{row.target}{kind}: {row.slides} slides of {row.test}{listed}, {fitted}"
    return f"{row.target}{kind}: {row.slides} slides{listed}, {row.splits} splits"


def _wide(rows: Sequence[ProbeRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Every column."""
    metric, kind = rows[0].metric, KINDS[rows[0].task]
    others = [name for name in rows[0].metrics if name != metric]
    usual = ("embedding", "method", "labels", f"{kind.title} ± sd", "95 % interval", "above baseline")
    chance = [i for i in range(len(CHANCE)) if any(_chance(row)[i] for row in rows)]
    head = (*usual, *(CHANCE[i] for i in chance), *(SHORT[name] for name in others), "train", "test")
    texts = [
        (
            row.embedding,
            row.setting,
            row.budget,
            f"{row.score_mean:.3f}" + ("" if row.score_std is None else f" ± {row.score_std:.3f}"),
            _interval(row),
            _above(row),
            *(_chance(row)[i] for i in chance),
            *(_figure(name, row.metrics[name]) for name in others),
            f"{row.n_train:.0f}",
            f"{row.n_test:.0f}",
        )
        for row in rows
    ]
    return head, texts


def _narrow(rows: Sequence[ProbeRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns that fit; names of embeddings are folded between their parts, never inside a word."""
    texts = [
        (
            row.embedding,
            row.setting.removeprefix("scaled, "),
            row.budget.replace(" per ", "/"),
            f"{row.score_mean:.3f}",
            _interval(row),
            _above(row, short=True),
            _chance(row)[1],
        )
        for row in rows
    ]
    head = ("embedding", "method", "labels", KINDS[rows[0].task].title, "95 % interval", "above baseline", "p")
    kept = [i for i in range(len(head)) if i != 2 or {row.budget for row in rows} != {"all"}]
    kept = [i for i in kept if i < 3 or any(text[i] for text in texts)]
    room = WIDTH - sum(2 + max(len(text[i]) for text in (head, *texts)) for i in kept[1:])
    return tuple(head[i] for i in kept), [(_folded(t[0], room), *(t[i] for i in kept[1:])) for t in texts]


def _fitting(table: Table, *, wide: bool) -> Table:
    """A table whose first column is folded so that it fits, unless it is to be wide."""
    columns = list(zip(table.columns, *table.rows, strict=True))
    room = WIDTH - sum(2 + max(map(len, column)) for column in columns[1:])
    return (
        table if wide else Table(table.title, table.columns, [(_folded(row[0], room), *row[1:]) for row in table.rows])
    )


def _folded(name: str, width: int) -> str:
    return "\n".join(wrap(name, max(1, width), break_long_words=False))


def _robust_head(row: ProbeRow) -> tuple[str, ...]:
    return tuple(text.format(metric=KINDS[row.task].title) for text in ROBUST)


def _robust(rows: Sequence[ProbeRow]) -> list[tuple[str, ...]]:
    return [
        (
            row.embedding,
            row.setting,
            row.budget,
            f"{seen.stain:g}",
            str(seen.slides),
            *("-" if x is None else f"{x:.3f}" for x in (seen.clean, seen.score, seen.found, seen.moved)),
        )
        for row in rows
        for seen in row.robust
    ]


def _retrieved(rows: Sequence[RetrievalRow]) -> list[tuple[str, ...]]:
    return [
        (
            row.embedding,
            str(row.k),
            *(f"{value:.3f}" for value in (row.accuracy, row.chance, row.majority, row.precision)),
        )
        for row in rows
    ]


def lines(result: ProbeResult) -> Iterator[str]:
    """Sentences to show: how labels and vectors met, what was decided, warnings, and what was written."""
    for target, counts in result.joins.items():
        for line in _join_lines(counts):
            yield line if len(result.joins) == 1 else f"{target}: {line}"
    yield from result.notes
    yield from (f"warning: {text}" for text in _together(result.warnings))
    yield from (f"wrote {file}" for file in result.files)


def _together(warnings: Sequence[str]) -> Iterator[str]:
    """Warnings that say the same of several rows as one: "giga, all; mean, all: what is the matter"."""
    rows: dict[str, list[str]] = {}
    for text in warnings:
        row, colon, what = text.partition(": ")
        rows.setdefault(colon + what or text, []).append(row)
    yield from ("; ".join(of) + what if what.startswith(": ") else what for what, of in rows.items())


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


def _interval(row: ProbeRow) -> str:
    if row.score_low is None or row.score_high is None:
        return ""
    return f"{row.score_low:.3f}{'-' if row.score_low >= 0 else ' to '}{row.score_high:.3f}"


def _above(row: ProbeRow, *, short: bool = False) -> str:
    """The difference to the baseline with its interval, or with half the width of that."""
    if row.difference is None:
        return ""
    low, high = row.difference_low, row.difference_high
    if low is None or high is None:
        return f"{row.difference:+.3f}"
    ends = f" ± {(high - low) / 2:.3f}" if short else f" ({low:+.3f} to {high:+.3f})"
    return f"{row.difference:+.3f}{ends}"


def _chance(row: ProbeRow) -> tuple[str, str, str]:
    """p-value, the same corrected, and what chance does not exceed."""
    if row.p_value is None or row.p_holm is None or row.null_high is None:
        return "", "", ""
    return f"{row.p_value:.2g}", f"{row.p_holm:.2g}", f"{row.null_high:.3f}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if name == "log_rank_p" else f"{value:.3g}" if name == "mae" else f"{value:.3f}"
