"""The demo: a synthetic cohort through the six verbs, as a user would type them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gigacli.config.base import options_of
from gigacli.config.tools import DemoConfig
from gigacli.demo.cohort import DemoCohort, write_cohort
from gigacli.progress import SILENT, Progress

NOTICE = (
    "This is a small synthetic cohort: a smoke test that everything runs, not evidence about any method. Look at the\n"
    "intervals: with so few slides most differences between rows are within the noise."
)

QUICK_NOTICE = "With --quick next to nothing is learnt, and the figures above mean nothing: for a table run giga demo."

LEVEL = 0.01
"""Differences of AUC below this are called none."""


def conclusion(cohort: DemoCohort, *, seed: int) -> str:
    """One sentence that says what the table of all labels shows: the trained vectors beside what needs no training."""
    from gigacli.stages.probe import probe

    rows = probe(cohort.folder / "cohort.zarr", cohort.labels_csv, c="auto", seed=seed).scores
    ours = next(row for row in rows if row.embedding == "giga")
    best = max((row for row in rows if row.embedding not in ("giga", "random-giga")), key=lambda row: row.score_mean)
    gap = ours.score_mean - best.score_mean
    said = "level with" if abs(gap) < LEVEL else ("above" if gap > 0 else "below")
    return (
        f"Here the trained vectors have an AUC of {ours.score_mean:.3f}, {said} the best of what needs no training, "
        f"{best.embedding} with {best.score_mean:.3f}; one split differs from the next by {ours.score_std or 0:.3f}."
    )


@dataclass(frozen=True)
class Demo:
    """A synthetic cohort, and what to do with it."""

    cohort: DemoCohort  # slides and labels, drawn now or found
    steps: list[tuple[str, ...]]  # command lines that take it through the six verbs, each without ``giga``
    seed: int  # of everything random in them
    quick: bool = False  # whether its figures mean nothing


@options_of(DemoConfig)
def demo(
    config: DemoConfig,
    folder: str | Path = "giga-demo",
    *,
    quick: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Demo:
    """Draw the slides of the demo, unless they are there, and say what to run on them.

    Args:
        folder: Where to put them; its store is to be cohort.zarr.
        progress: Progress receiver.
    """
    slides, patients, labs, size_px = (8, 4, 2, (1536, 1152)) if config.quick else (96, 48, 3, (3072, 2304))
    cohort = write_cohort(
        Path(folder), slides=slides, patients=patients, labs=labs, seed=config.seed, size_px=size_px, progress=progress
    )
    return Demo(cohort, steps(cohort, config), config.seed, config.quick)


def steps(cohort: DemoCohort, config: DemoConfig) -> list[tuple[str, ...]]:
    """Return the command lines, after ``giga``; quick ones learn next to nothing."""
    store, seeded = str(cohort.folder / "cohort.zarr"), ("--seed", str(config.seed))
    labels = ("--labels", str(cohort.labels_csv))
    tile_px, tile_epochs, tiles, batch, train_steps = (
        ("64", "1", "128", "32", "20") if config.quick else ("128", "2", "1024", "64", "1800")
    )
    small = ("--augmentations", "2", "--draws", "16") if config.quick else ()
    moco = ("--epochs", tile_epochs, "--max-tiles", tiles, "--batch-size", batch, "--queue", tiles)
    return [
        ("tile", store, "--csv", str(cohort.cohort_csv), "--mpp", "1.0", "--tile-px", tile_px),
        ("pretrain-tiles", store, *moco, *seeded),
        ("bank", store, "--encoder", "moco", *small, *seeded),
        ("train", store, "--steps", train_steps, "--batch-size", "32", "--tiles", "16", *seeded),
        ("embed", store, "--views", "50", *seeded),
        ("embed", store, "--views", "50", "--aggregator", "random-init", *seeded),
        ("embed", store, "--aggregator", "view-whitened", *seeded),
        ("probe", store, *labels, "-C", "auto", *seeded),
        ("probe", store, *labels, "--fraction", "0.25", "-C", "auto", *seeded),
    ]
