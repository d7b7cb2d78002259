"""The tables of `benchmarks/study.md`, from the rows of `benchmarks/study.csv`.

python benchmarks/study_tables.py [--csv benchmarks/study.csv ...]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cohorts import COHORTS
from study import ALONE, FORMS, HERE, JOINED, SPATIAL

BEGIN, END = "<!-- tables: python benchmarks/study_tables.py -->", "<!-- end of tables -->"
LEAST = 0.005
"""Differences of AUC below this count as none."""

Row = dict[str, str]
Key = tuple[str, str]
"""Vector and join."""

MAIN: list[Key] = [("mean", ""), *((form, "") for form in FORMS), ("view-whitened", SPATIAL)]
MAIN += [(f"{name}, untrained", ALONE) for name in ("transformer", "sparse-resnet")]
MAIN += [(name, join) for name in ("transformer", "sparse-resnet") for join in (ALONE, JOINED, SPATIAL)]
MAIN += [("both encoders", join) for join in (JOINED, SPATIAL)]

CONTRASTS: list[tuple[str, Key, Key]] = [
    *(
        (f"{name}: joined, less alone", (name, JOINED), (name, ALONE))
        for name in ("transformer", "sparse-resnet", "mlp", "attention")
    ),
    *(
        (f"{name}: joined, less view-whitened", (name, JOINED), ("view-whitened", ""))
        for name in ("transformer", "sparse-resnet", "mlp", "attention", "both encoders")
    ),
    *(
        (f"{name}: joined with the arrangement, less joined", (name, SPATIAL), (name, JOINED))
        for name in ("transformer", "sparse-resnet", "both encoders")
    ),
    *(
        (f"sparse-resnet less transformer, {join}", ("sparse-resnet", join), ("transformer", join))
        for join in (ALONE, JOINED)
    ),
    *(
        (f"both encoders less {name}, joined", ("both encoders", JOINED), (name, JOINED))
        for name in ("transformer", "sparse-resnet")
    ),
    *(
        (f"{name}: trained less untrained", (name, ALONE), (f"{name}, untrained", ALONE))
        for name in ("transformer", "sparse-resnet")
    ),
    ("view-whitened less whitened-mean", ("view-whitened", ""), ("whitened-mean", "")),
]


class Table:
    """The rows, by cohort, vector and join."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.cells: dict[str, dict[Key, dict[str, Row]]] = {cohort: {} for cohort in COHORTS}
        for row in rows:
            self.cells[row["cohort"]].setdefault((row["vector"], row["join"]), {})[row["seed"]] = row

    def values(self, cohort: str, key: Key, score: str) -> dict[str, float]:
        """A score by seed."""
        rows = self.cells[cohort].get(key, {})
        return {seed: float(row[score]) for seed, row in rows.items() if row[score] not in ("", "nan")}

    def difference(self, cohort: str, one: Key, other: Key, score: str) -> list[float]:
        """Seed by seed."""
        ours, theirs = self.values(cohort, one, score), self.values(cohort, other, score)
        return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def head(columns: Iterable[str]) -> list[str]:
    """The head of a table."""
    columns = list(columns)
    return [line(columns), "|---" * len(columns) + "|"]


def number(values: Iterable[float], *, sign: bool = False, spread: bool = True) -> str:
    """Mean and standard deviation; "" of nothing."""
    values = list(values)
    if not values:
        return ""
    text = f"{statistics.mean(values):+.3f}" if sign else f"{statistics.mean(values):.3f}"
    if spread and len(values) > 1:
        text += f" ± {statistics.stdev(values):.3f}"
    return text.replace("0.", ".")


def named(key: Key) -> str:
    """A vector in words."""
    vector, join = key
    return f"{vector}: {join}" if join else vector


def overview(table: Table) -> Iterator[str]:
    """Means of all and of few labels, cohort by cohort."""
    yield from head(["all / few labels", *COHORTS])
    for key in MAIN:
        cells = []
        for cohort in COHORTS:
            both = [number(table.values(cohort, key, score).values(), spread=False) for score in ("all", "few")]
            cells.append(" / ".join(both) if all(both) else "")
        if any(cells):
            yield line([named(key), *cells])


def pairs(table: Table, contrasts: Iterable[tuple[str, Key, Key]]) -> Iterator[str]:
    """Differences of two vectors, seed by seed, cohort by cohort."""
    yield from head(["all / few labels", *COHORTS])
    for label, one, other in contrasts:
        cells = []
        for cohort in COHORTS:
            both = [number(table.difference(cohort, one, other, s), sign=True) for s in ("all", "few")]
            cells.append(" / ".join(both) if all(both) else "")
        if any(cells):
            yield line([label, *cells])


def changes(table: Table) -> list[tuple[str, Key, Key]]:
    """Every change of a default that was tried, against the default."""
    names = dict.fromkeys(vector for cells in table.cells.values() for vector, join in cells if join == ALONE)
    tried = [name for name in names if "," in name and "untrained" not in name]
    return [(f"{name}: {join}", (name, join), (name.split(",")[0], join)) for name in tried for join in (ALONE, JOINED)]


def strengths(table: Table) -> Iterator[str]:
    """In how many vectors a C that is chosen is worse than C = 10."""
    kinds: dict[str, Callable[[str], bool]] = {
        "mean of tiles, standardised": lambda vector: vector == "mean",
        "closed forms": lambda vector: vector in FORMS,
        "encoders and joins": lambda vector: vector != "mean" and vector not in FORMS,
    }
    yield from head(["cohort", "vectors", "labels", "judged", "worse", "better", "mean difference", "worst"])
    for cohort in COHORTS:
        for (kind, belongs), labels in itertools.product(kinds.items(), ("all", "few")):
            mine = [k for k in table.cells[cohort] if belongs(k[0]) and not k[0].startswith("truth")]
            chosen = {"": f"auto_{labels}"}
            if cohort == "idc" and labels == "all":
                chosen[", C by leaving one out"] = "all"
            for how, score in chosen.items():
                gaps = [
                    v - table.values(cohort, key, f"c10_{labels}")[seed]
                    for key in mine
                    for seed, v in table.values(cohort, key, score).items()
                ]
                if gaps:
                    counts = [len(gaps), sum(g < -LEAST for g in gaps), sum(g > LEAST for g in gaps)]
                    numbers = [number([value], sign=True) for value in (statistics.mean(gaps), min(gaps))]
                    yield line([cohort, f"{kind}{how}", labels, *map(str, counts), *numbers])


def long(table: Table, cohort: str) -> Iterator[str]:
    """Everything about a cohort."""
    scores = {"all labels": "all", "few": "few", "all, second half": "all_second", "few, second half": "few_second"}
    scores |= {"C = 10, all": "c10_all", "C = 10, few": "c10_few"}
    if cohort == "idc":
        scores |= {"auto, all": "auto_all", "auto, few": "auto_few"}
    spatial = any(row.get("arrangement") for rows in table.cells[cohort].values() for row in rows.values())
    scores |= {"arrangement": "arrangement"} if spatial else {}
    yield from head(["vector", "seeds", *scores, "s", "date, giga, device"])
    for key, rows in table.cells[cohort].items():
        seconds = [v for v in table.values(cohort, key, "seconds").values() if math.isfinite(v)]
        cells = [number(table.values(cohort, key, score).values()) for score in scores.values()]
        made = sorted({f"{r['date']} {r['commit']} {r['device']}" for r in rows.values()})
        spent = f"{statistics.mean(seconds):.0f}" if seconds else ""
        yield line([named(key), str(len(rows)), *cells, spent, "; ".join(made)])


def tables(table: Table) -> str:
    """All of them."""
    parts = [
        ("### Defaults and rivals", overview(table)),
        ("### Pairs", pairs(table, CONTRASTS)),
        ("### Changes of a default", pairs(table, changes(table))),
        ("### C: `auto` beside 10", strengths(table)),
        *((f"### {cohort}", long(table, cohort)) for cohort in COHORTS if table.cells[cohort]),
    ]
    return "\n".join(f"{title}\n\n" + "\n".join(lines) + "\n" for title, lines in parts)


def main() -> None:
    """Put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=HERE / "study.csv")
    parser.add_argument("--page", type=Path, default=HERE / "study.md")
    options = parser.parse_args()
    with options.csv.open() as file:
        made = tables(Table(csv.DictReader(file)))
    before, _, rest = options.page.read_text().partition(BEGIN)
    options.page.write_text(f"{before}{BEGIN}\n\n{made}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
