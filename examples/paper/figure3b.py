"""Figure 3 B: NSCLC subtyping over the number of views averaged per slide, R, for models trained with T = 5 and 100.

python examples/paper/figure3b.py STORE LABELS [--views 1 2 5 10 20 50 100 200] [--tiles 5 100] [--out paper]

The paper draws this figure without printing its numbers; that of T = 5, R = 50 is in table 2, the rest is empty. Of
T = 5 it says that the AUC gains 4 points from R = 1 on and no more beyond R = 50, of T = 100 that it gains nothing.
"""

from __future__ import annotations

from common import R, Run, numbers, parser, row_of, run

T = 5
PUBLISHED = {(T, R): "0.952"}
HEADER = ("tiles", "views", "published", "measured", "standard deviation")


def work(paper: Run) -> None:
    """Train a model for every T, and embed with it for every R."""
    lines, curves = [], {}
    for tiles in paper.options.tiles:
        model = paper.model() if tiles == T else paper.model(f"giga-t{tiles}", tiles=tiles)
        for views in paper.options.views:
            row = row_of(paper.probe("lung", "full", paper.embedding(model, views)))
            lines.append((tiles, views, PUBLISHED.get((tiles, views)), *numbers(row)))
            curves.setdefault(f"T = {tiles}", []).append((views, row.auc_mean))
    paper.write("figure3b", HEADER, lines)
    paper.draw("figure3b", curves, x="views per slide", y="AUC", zero=False)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = parser(__doc__, ["lung"])
    options.add_argument("--tiles", type=int, nargs="+", default=[5, 100], help="T (5 100)")
    options.add_argument("--views", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100, 200], help="R")
    return run(work, options.parse_args(arguments), budgets=["full"])


if __name__ == "__main__":
    raise SystemExit(main())
