"""The demo: a synthetic cohort through the six verbs, as a user would type them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gigacli.demo.cohort import DemoCohort, write_cohort
from gigacli.progress import SILENT

if TYPE_CHECKING:
    from gigacli.progress import Progress

NOTICE = (
    "This is a tiny synthetic cohort: a smoke test that everything runs, not evidence about any method. With so few\n"
    "slides the differences between rows are within the noise."
)


def prepare(folder: str | Path, *, seed: int = 0, progress: Progress = SILENT) -> DemoCohort:
    """Draw the slides of the demo, unless they are there."""
    return write_cohort(Path(folder), slides=36, patients=18, seed=seed, progress=progress)


def steps(cohort: DemoCohort, *, seed: int = 0) -> list[tuple[str, ...]]:
    """The command lines, after ``giga``."""
    store, seeded = str(cohort.folder / "cohort.zarr"), ("--seed", str(seed))
    labels = ("--labels", str(cohort.labels_csv))
    moco = ("--epochs", "2", "--max-tiles", "1024", "--batch-size", "64", "--queue", "1024")
    return [
        ("tile", store, "--csv", str(cohort.cohort_csv), "--mpp", "1.0", "--tile-px", "128"),
        ("pretrain-tiles", store, *moco, *seeded),
        ("bank", store, "--encoder", "moco", "--augmentations", "8", "--draws", "32", *seeded),
        ("train", store, "--epochs", "200", "--whiten", *seeded),
        ("embed", store, "--views", "50", *seeded),
        ("embed", store, "--views", "50", "--aggregator", "random-init", *seeded),
        ("probe", store, *labels, *seeded),
        ("probe", store, *labels, "--fraction", "0.25", *seeded),
    ]
