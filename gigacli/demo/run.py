"""The demo: a synthetic cohort through the six verbs, as a user would type them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gigacli.demo.cohort import DemoCohort, write_cohort
from gigacli.progress import SILENT

if TYPE_CHECKING:
    from gigacli.progress import Progress

NOTICE = (
    "This is a small synthetic cohort: a smoke test that everything runs, not evidence about any method. Look at the\n"
    "intervals: with so few slides most differences between rows are within the noise."
)


def prepare(folder: str | Path, *, seed: int = 0, quick: bool = False, progress: Progress = SILENT) -> DemoCohort:
    """Draw the slides of the demo, unless they are there; `quick` draws few and small ones."""
    if quick:
        size_px = (1536, 1152)
        return write_cohort(Path(folder), slides=8, patients=4, labs=2, seed=seed, size_px=size_px, progress=progress)
    size_px = (3072, 2304)
    return write_cohort(Path(folder), slides=96, patients=48, seed=seed, size_px=size_px, progress=progress)


def steps(cohort: DemoCohort, *, seed: int = 0, quick: bool = False) -> list[tuple[str, ...]]:
    """The command lines, after ``giga``; `quick` ones learn next to nothing."""
    store, seeded = str(cohort.folder / "cohort.zarr"), ("--seed", str(seed))
    labels = ("--labels", str(cohort.labels_csv))
    tile_px, tile_epochs, tiles, batch, augmentations, draws, epochs = (
        ("64", "1", "128", "32", "2", "16", "20") if quick else ("128", "2", "1024", "64", "12", "32", "400")
    )
    moco = ("--epochs", tile_epochs, "--max-tiles", tiles, "--batch-size", batch, "--queue", tiles)
    return [
        ("tile", store, "--csv", str(cohort.cohort_csv), "--mpp", "1.0", "--tile-px", tile_px),
        ("pretrain-tiles", store, *moco, *seeded),
        ("bank", store, "--encoder", "moco", "--augmentations", augmentations, "--draws", draws, *seeded),
        ("train", store, "--epochs", epochs, "--batch-size", "32", *seeded),
        ("embed", store, "--views", "50", *seeded),
        ("embed", store, "--views", "50", "--aggregator", "random-init", *seeded),
        ("probe", store, *labels, "-C", "auto", *seeded),
        ("probe", store, *labels, "--fraction", "0.25", "-C", "auto", *seeded),
    ]
