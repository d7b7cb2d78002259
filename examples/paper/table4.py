"""Table 4: does it carry over? NSCLC subtyping with a slide encoder that never saw a centre of the NSCLC slides.

python examples/paper/table4.py STORE LABELS --exclude excluded.csv [--out paper]

--exclude is a table of the slides not to train on (column slide_id, or patient_id). Without it, those are left out
whose code of the tissue source site, the second field of a TCGA barcode, also stands in the label table. That is fewer
than the paper leaves out: a centre has another code for every disease, and the paper counts 41 centres where the NSCLC
slides have 66 codes. The GDC publishes the table of codes and centres. As in the paper, the tile encoder has seen all.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from common import Run, cell, parser, row_of, run

import gigacli as giga
from gigacli.errors import InvalidInput
from gigacli.probing.labels import read_labels
from gigacli.tables import tcga_site

if TYPE_CHECKING:
    from collections.abc import Iterable

BUDGETS = {"full": "100 % data", "50": "50 WSI"}
PUBLISHED = {
    "Full dataset": ("0.952 ± 0.020", "0.894 ± 0.045"),
    "Independent training set": ("0.948 ± 0.017", "0.885 ± 0.045"),
}
HEADER = ["model", *(f"{budget}, {whose}" for budget in BUDGETS.values() for whose in ("published", "measured"))]


def of_the_same_sites(slides: Iterable[str], labelled: Iterable[str]) -> list[str]:
    """Slides whose tissue source site is that of a labelled one; the ids are TCGA barcodes.

    Raises:
        InvalidInput: One is no TCGA barcode.
    """
    sites = {_site(name) for name in labelled}
    return [name for name in slides if _site(name) in sites]


def _site(name: str) -> str:
    site = tcga_site(name)
    if not site:
        raise InvalidInput(
            f"{name!r} is no TCGA barcode, so its centre is not known", "say whom to leave out: --exclude"
        )
    return site


def work(paper: Run) -> None:
    """Train twice and measure both."""
    options = paper.options
    excluded = options.exclude
    if excluded is None:
        labelled = read_labels(options.labels / "tables" / "lung.csv").slide_id
        found = of_the_same_sites(giga.open(options.store).slides.ids, labelled)
        excluded = options.out / "table4-excluded.csv"
        excluded.parent.mkdir(parents=True, exist_ok=True)
        with excluded.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["slide_id"], *([name] for name in found)])
    made = {
        "Full dataset": paper.model(),
        "Independent training set": paper.model("giga-independent", exclude=excluded),
    }
    lines = []
    for name, published in PUBLISHED.items():
        line = [name]
        for budget, figure in zip(BUDGETS, published, strict=True):
            line += [figure, cell(row_of(paper.probe("lung", budget, made[name])))]
        lines.append(line)
    paper.write("table4", HEADER, lines)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = parser(__doc__, ["lung"])
    options.add_argument("--exclude", type=Path, help="table of slides not to train on")
    return run(work, options.parse_args(arguments), budgets=BUDGETS)


if __name__ == "__main__":
    raise SystemExit(main())
