"""Table 3: what each part of the method is worth, on three tasks with all labels and with 50.

python examples/paper/table3.py STORE LABELS --imagenet resnet18-f37072fd.pth [--out paper]

Giga-SSL without augmentation of slides, with the augmentation drawn per tile instead of shared by a view (NS), and both
kinds of bank again from a ResNet18 trained on ImageNet, a file in the format of torchvision. Without --imagenet the
rows of that encoder stay empty. Three banks are made beside the one that is there, moco-ns, imagenet and imagenet-ns;
the README shows how to fill them on many machines first.
"""

from __future__ import annotations

from pathlib import Path

from common import Run, parser, row_of, run

TASKS = {"lung": "NSCLC", "kidney": "CRC", "brca": "BRCA"}
"""The paper calls the kidney task CRC here: the first row has the figures of RCC subtyping in table 2."""
BUDGETS = {"full": "100 % data", "50": "50 WSI"}
PUBLISHED = {
    "Giga-SSL": ("0.952", "0.982", "0.905", "0.894", "0.960", "0.793"),
    "w/o slide-aug": ("0.935", "0.973", "0.894", "0.86", "0.951", "0.80"),
    "NS": ("0.933", "0.971", "0.875", "0.847", "0.939", "0.774"),
    "Giga-SSL im": ("0.922", "0.978", "0.888", "0.813", "0.952", "0.751"),
    "Giga-SSL im NS": ("0.897", "0.975", "0.853", "0.777", "0.935", "0.707"),
}
COLUMNS = [(task, budget) for budget in BUDGETS for task in TASKS]


def embeddings(paper: Run) -> dict[str, str]:
    """Name of the embedding of each row that can be measured."""
    encoder, imagenet = paper.options.encoder, paper.options.imagenet
    made = {
        "Giga-SSL": paper.model(),
        "w/o slide-aug": paper.model("giga-no-slide-aug", slide_aug=False),
        "NS": paper.model("giga-ns", bank=paper.bank(f"{encoder}-ns", encoder, independent=True)),
    }
    if imagenet is not None:
        shared = paper.bank("imagenet", str(imagenet))
        made["Giga-SSL im"] = paper.model("giga-imagenet", bank=shared)
        own = paper.bank("imagenet-ns", str(imagenet), independent=True)
        made["Giga-SSL im NS"] = paper.model("giga-imagenet-ns", bank=own)
    return made


def work(paper: Run) -> None:
    """Measure every row."""
    made = embeddings(paper)
    columns = [(task, budget) for task, budget in COLUMNS if task in paper.options.tasks]
    header = ["model"]
    for task, budget in columns:
        header += [f"{BUDGETS[budget]}, {TASKS[task]}, {whose}" for whose in ("published", "measured")]
    lines = []
    for name, published in PUBLISHED.items():
        line = [name]
        for column in columns:
            rows = paper.probe(*column, made[name]) if name in made else None
            measured = "" if rows is None else f"{row_of(rows).auc_mean:.3f}"
            line += [published[COLUMNS.index(column)], measured]
        lines.append(line)
    paper.write("table3", header, lines)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = parser(__doc__, TASKS)
    options.add_argument("--imagenet", type=Path, help="ResNet18 trained on ImageNet, as torchvision names its weights")
    return run(work, options.parse_args(arguments), budgets=BUDGETS)


if __name__ == "__main__":
    raise SystemExit(main())
