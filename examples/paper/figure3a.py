"""Figure 3 A: NSCLC subtyping over the number of tiles per view, T, in training and embedding.

python examples/paper/figure3a.py STORE LABELS [--tiles 5 25 50 100] [--out paper]

The paper draws this figure without printing its numbers; those of T = 5 are in tables 2 and 3, the rest is empty.
"""

from __future__ import annotations

from common import Run, numbers, parser, row_of, run

BUDGETS = {"full": "100 %", "50": "50"}
T = 5
PUBLISHED = {(T, "full"): "0.952", (T, "50"): "0.894"}
HEADER = ("tiles", "labels", "published", "measured", "standard deviation")


def work(paper: Run) -> None:
    """Train a model for every T."""
    lines, curves = [], {}
    for tiles in paper.options.tiles:
        embedding = paper.model() if tiles == T else paper.model(f"giga-t{tiles}", tiles=tiles)
        for budget, labels in BUDGETS.items():
            row = row_of(paper.probe("lung", budget, embedding))
            lines.append((tiles, labels, PUBLISHED.get((tiles, budget)), *numbers(row)))
            curves.setdefault(f"{labels} labels", []).append((tiles, row.auc_mean))
    paper.write("figure3a", HEADER, lines)
    paper.draw("figure3a", curves, x="tiles per view", y="AUC", zero=False)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = parser(__doc__, ["lung"])
    options.add_argument("--tiles", type=int, nargs="+", default=[5, 25, 50, 100], help="T (5 25 50 100)")
    return run(work, options.parse_args(arguments), budgets=BUDGETS)


if __name__ == "__main__":
    raise SystemExit(main())
