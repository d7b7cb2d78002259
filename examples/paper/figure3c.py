"""Figure 3 C: NSCLC subtyping over the epochs of training, with the sparse CNN and with attention as the aggregator.

python examples/paper/figure3c.py STORE LABELS [--lengths 10 30 100 300 1000] [--out paper]

The paper follows one training. Here every point is a whole training of that many epochs, whose learning rate has
fallen to zero: a point says what so much training is worth, and does not change when a longer one is added. All of them
take 1.44 times as long as the longest. The paper draws this figure without printing its numbers; that of the sparse CNN
after 1000 epochs is in table 2, the rest is empty.
"""

from __future__ import annotations

from common import Run, numbers, parser, row_of, run

AGGREGATORS = {"sparse-resnet": "SparseConvMIL", "attention": "DeepMIL"}
PUBLISHED = {("sparse-resnet", 1000): "0.952"}
HEADER = ("aggregator", "epochs", "published", "measured", "standard deviation")


def work(paper: Run) -> None:
    """Train both aggregators for every number of epochs."""
    lines, curves = [], {}
    for aggregator, name in AGGREGATORS.items():
        for epochs in paper.options.lengths:
            embedding = paper.model(f"giga-{aggregator}-e{epochs}", aggregator=aggregator, epochs=epochs)
            row = row_of(paper.probe("lung", "full", embedding))
            published = PUBLISHED.get((aggregator, epochs))
            lines.append((name, epochs, published, *numbers(row)))
            curves.setdefault(name, []).append((epochs, row.auc_mean))
    paper.write("figure3c", HEADER, lines)
    paper.draw("figure3c", curves, x="epochs", y="AUC", zero=False)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = parser(__doc__, ["lung"])
    options.add_argument("--lengths", type=int, nargs="+", default=[10, 30, 100, 300, 1000], help="epochs")
    return run(work, options.parse_args(arguments), budgets=["full"])


if __name__ == "__main__":
    raise SystemExit(main())
