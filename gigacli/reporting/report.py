"""``giga report``: a whole cohort on one page of HTML that needs no network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.config.base import options_of
from gigacli.config.tools import ReportConfig
from gigacli.errors import InvalidInput
from gigacli.files import new_file
from gigacli.probing.results import ProbeResult
from gigacli.probing.shown import lines, tables
from gigacli.progress import SILENT, Progress
from gigacli.reporting import plots, slides, vectors
from gigacli.reporting.page import check_place, render
from gigacli.reporting.slides import GalleryImage, Grouping
from gigacli.reporting.svg import learning_curves, svg
from gigacli.shown import Shown
from gigacli.stages.probe import probe
from gigacli.store.groups import Encoder, Model, group_at
from gigacli.store.info import Info, info
from gigacli.store.store import Store
from gigacli.version import __version__

FRACTIONS = (0.25, 0.5, 1.0)  # shares of the training labels that make a learning curve where none were asked for


@dataclass(frozen=True)
class ReportSummary(Shown):
    """What ``giga report`` did.

    Attributes:
        report: The page.
        bytes: Its size.
        slides: Slides of the cohort.
        pictures: Slides that are drawn on it.
        unreadable: Slides that were to be drawn and cannot be read.
        embeddings: Embeddings on it.
        seconds: Time it took.
        files: What was written.
        notes: Remarks for the reader.
    """

    report: str
    bytes: int
    slides: int
    pictures: int
    unreadable: int
    embeddings: int
    seconds: float
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@options_of(ReportConfig)
def report(
    config: ReportConfig,
    store: str | Path | Store,
    labels: str | Path | None = None,
    *,
    target: str | Sequence[str] = (),
    embedding: str | Sequence[str] = (),
    fraction: float | Sequence[float] = (),
    splits: str | Path | None = None,
    allow_missing: bool = False,
    site: str | None = None,
    out: str | Path | None = None,
    thumbnails: int = 96,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ReportSummary:
    """Write a page about a cohort: slides, training, vectors, probe, and the recipe of everything.

    Args:
        store: The cohort store; nothing is written into it.
        labels: Table of labels, for the probe and for colours; without it there is no probe.
        progress: Progress receiver.

    Raises:
        NotFound: There is no store, table, column or embedding of that name.
        InvalidInput: The table cannot be used, or `out` is a file that is no report.
    """
    started = time.monotonic()
    opened = Store.open(store)
    if not opened.registered:
        raise InvalidInput(f"{opened.url} holds no slides yet", f"run: giga tile {opened.url} SLIDES")
    file = config.out or Path(f"{Path(opened.url.rstrip('/')).stem}-report.html")
    check_place(file)
    page, pictures, embeddings = _page(opened, labels, config, progress)
    with new_file(file) as unfinished:
        unfinished.write_bytes(page)
    unreadable = [picture for picture in pictures if not picture.uri]
    notes = [f"no picture of {unreadable[0].slide}: {unreadable[0].note}"] if unreadable else []
    if len(unreadable) > 1:
        notes[0] += f"; and {len(unreadable) - 1} more"
    return ReportSummary(
        report=str(file),
        bytes=len(page),
        slides=len(opened.slides),
        pictures=len(pictures) - len(unreadable),
        unreadable=len(unreadable),
        embeddings=embeddings,
        seconds=time.monotonic() - started,
        files=[str(file)],
        notes=notes,
    )


def _page(
    store: Store, labels: str | Path | None, config: ReportConfig, progress: Progress
) -> tuple[bytes, list[GalleryImage], int]:
    """The page, the pictures on it, and how many embeddings it shows."""
    table, counts, found = store.slides, store.tiles.done().values, info(store)
    groupings, patients = slides.groupings_of(table, labels)
    embeddings = vectors.embeddings_of(store, config.embedding)
    probed = None
    if labels is not None and embeddings:
        probed = probe(
            store,
            labels,
            target=config.target,
            embedding=config.embedding,
            fraction=config.fraction or FRACTIONS,
            splits=config.splits,
            allow_missing=config.allow_missing,
            site=config.site,
            stale=True,
            seed=config.seed,
            progress=progress,
        )
    pictures = slides.gallery_of(
        store, table, counts, most=config.thumbnails, workers=config.workers, progress=progress
    )
    shown = vectors.mapped_slides(len(table), [picture.row for picture in pictures])
    maps, agreements = vectors.maps_of(
        embeddings, groupings, patients, shown=shown, seed=config.seed, progress=progress
    )
    histogram = partial(plots.tile_counts, counts)
    values = {
        "version": __version__,
        "name": Path(store.url.rstrip("/")).name,
        "info": found,
        "recipes": _recipes(store, found),
        "tiles": slides.tile_facts(counts),
        "histogram": svg(histogram, name="tiles", label="Histogram of tiles per slide") if (counts >= 0).any() else "",
        "scanners": slides.scanners_of(table),
        "failures": slides.failures_of(store, table.ids),
        "pictures": pictures,
        "numbers": {row: i for i, row in enumerate(shown.tolist())},
        "captions": {one.row: groupings[0].values[one.row] for one in pictures if groupings},
        "training": _training(store),
        "maps": maps,
        "agreements": agreements,
        "probe": _probe(probed) if probed is not None else None,
        "labels": Path(labels).name if labels is not None else "",
        "embeddings": embeddings,
    }
    data = _data(table.ids, counts, groupings, patients, maps, shown.tolist())
    return render(values, data=data), pictures, len(embeddings)


def _recipes(store: Store, found: Info) -> list[dict[str, Any]]:
    """Every group with the configuration and the inputs it was made from."""
    listed = []
    for group in found.groups:
        recipe = group_at(store, group.path).recipe
        options = sorted((key, str(value)) for key, value in recipe.config.items())
        listed.append({"group": group, "options": options, "inputs": recipe.inputs, "print": recipe.fingerprint})
    return listed


def _training(store: Store) -> list[dict[str, Any]]:
    """Everything in the store that has a training to show."""
    shown: list[dict[str, Any]] = []
    for trained in (*store.groups(Encoder), *store.groups(Model)):
        histories = {name: trained.history(name) for name in ("loss", "chance", "rank", "found", "moved")}
        if histories["loss"] is None:
            continue
        finite = {name: values[np.isfinite(values)] for name, values in histories.items() if values is not None}
        last = {name: float(values[-1]) for name, values in finite.items() if len(values)}
        seen = trained.seen()
        name, label = f"training{len(shown)}", f"Loss of {trained.path} over epochs, beside chance"
        shown.append(
            {
                "path": trained.path,
                "figure": svg(partial(plots.training_curve, trained), name=name, label=label),
                "sentences": _sentences(last, None if seen is None else int(seen.sum())),
                "done": trained.complete,
            }
        )
    return shown


def _sentences(last: dict[str, float], seen: int | None) -> list[str]:
    """How a training ended: figures of its last epoch, and the slides it was trained on, where that is known."""
    sentences = []
    if "loss" in last:
        chance = f", where knowing nothing gives {last['chance']:.3f}" if "chance" in last else ""
        sentences.append(f"Loss {last['loss']:.3f}{chance}.")
    if "rank" in last:
        sentences.append(f"Effective rank of the vectors of a batch: {last['rank']:.1f}.")
    if "found" in last:
        sentences.append(
            f"Seen under other augmentations, {100 * last['found']:.0f} % of slides are nearest to themselves; they "
            f"move by {last['moved']:.2f} of the distance between two slides."
        )
    if seen is not None:
        sentences.append(f"Trained on {seen:,} slides, without labels.")
    return sentences


def _probe(result: ProbeResult) -> list[dict[str, Any]]:
    """Per target: its table, its figures; and, with the last, what was noted."""
    parts = []
    for number, (target, (table, *others)) in enumerate(tables(result, wide=True)):
        rows = [row for row in result.scores if row.target == target]
        figures = learning_curves(rows, number=number) if len({row.budget for row in rows}) > 1 else []
        parts.append(
            {"title": table.title, "rows": table.rows, "columns": table.columns, "figures": figures, "lines": []}
        )
        parts += [
            {"title": one.title, "rows": one.rows, "columns": one.columns, "figures": [], "lines": []} for one in others
        ]
    parts[-1]["lines"] = list(lines(result))
    return parts


def _data(
    ids: Sequence[str],
    counts: NDArray[np.integer],
    groupings: Sequence[Grouping],
    patients: Sequence[str],
    maps: list[dict[str, Any]],
    shown: list[int],
) -> dict[str, Any]:
    """What the page's script draws: the slides in some rows, by number, what they can be coloured by, and the maps."""
    data = {
        "ids": [ids[row] for row in shown],
        "patients": [patients[row] for row in shown] if list(patients) != list(ids) else [],
        "tiles": counts[shown].tolist(),
        "groups": slides.coded(groupings, shown),
        "maps": maps,
    }
    return data if maps else {key: [] for key in data}
