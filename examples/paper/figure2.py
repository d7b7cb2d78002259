"""Figure 2: how far Giga-SSL is above DeepMIL, in points of AUC, with 250, 100 and 50 labelled slides.

python examples/paper/figure2.py STORE LABELS [--out paper]

Of this figure the paper prints only the means over the tasks with 100 and 50 slides (section 4.3); the other published
cells are empty.
"""

from __future__ import annotations

from common import MEAN, TASKS, Run, parser, row_of, run

BUDGETS = ("250", "100", "50")
PUBLISHED = {(MEAN, "100"): 5.1, (MEAN, "50"): 6.3}
HEADER = (
    "task",
    "labels",
    "published",
    "measured",
    "low end of 95 %",
    "high end of 95 %",
    "Giga-SSL, measured",
    "DeepMIL, measured",
)


def work(paper: Run) -> None:
    """Measure every point."""
    embedding = paper.model()
    lines, curves = [], {}
    for task in paper.options.tasks:
        for budget in BUDGETS:
            rows = paper.probe(task, budget, embedding, method=["linear", "abmil"], baseline="abmil")
            ours, deep = row_of(rows), row_of(rows, method="abmil")
            gap = (
                100 * x if x is not None else None for x in (ours.difference, ours.difference_low, ours.difference_high)
            )
            lines.append((TASKS[task], budget, None, *gap, ours.auc_mean, deep.auc_mean))
            curves.setdefault(TASKS[task], []).append((int(budget), lines[-1][3]))
    for budget in BUDGETS:
        here = [line for line in lines if line[1] == budget]
        gap, ours, deep = (sum(line[i] for line in here) / len(here) for i in (3, 6, 7))
        published = PUBLISHED.get((MEAN, budget)) if set(paper.options.tasks) == set(TASKS) else None
        lines.append((MEAN, budget, published, gap, None, None, ours, deep))
        curves.setdefault(MEAN, []).append((int(budget), gap))
    paper.write("figure2", HEADER, [[f"{x:.4g}" if isinstance(x, float) else x for x in line] for line in lines])
    paper.draw("figure2", curves, x="labelled slides", y="Giga-SSL above DeepMIL, points of AUC", zero=True)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    return run(work, parser(__doc__).parse_args(arguments), budgets=BUDGETS)


if __name__ == "__main__":
    raise SystemExit(main())
