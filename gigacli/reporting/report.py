"""``giga report``: a whole cohort on one page of HTML that needs no network."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.config.base import options_of
from gigacli.config.tools import ReportConfig
from gigacli.errors import InvalidInput
from gigacli.probing import results as probe_report
from gigacli.progress import SILENT
from gigacli.reporting import slides, svg, vectors
from gigacli.reporting.page import check_place, render, write
from gigacli.stages.probe import probe
from gigacli.store.info import info
from gigacli.store.store import Store
from gigacli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gigacli.probing.results import ProbeResult
    from gigacli.progress import Progress
    from gigacli.reporting.slides import Attribute, Picture

FRACTIONS = (0.25, 0.5, 1.0)
"""Shares of the training labels that make a learning curve where none were asked for."""


@dataclass(frozen=True)
class ReportSummary:
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
        notes: What deserves a sentence.
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
    attributes, patients = slides.attributes_of(opened, labels)
    names = vectors.order_of(opened, config.embedding)
    probed = None
    if labels is not None and names:
        probed = probe(
            opened,
            labels,
            target=config.target,
            embedding=config.embedding,
            fraction=config.fraction or FRACTIONS,
            splits=config.splits,
            seed=config.seed,
            progress=progress,
        )
    maps, shared = vectors.maps_of(opened, names, attributes, patients, seed=config.seed, progress=progress)
    pictures = slides.pictures_of(opened, most=config.thumbnails, workers=config.workers, progress=progress)
    page = render(
        {
            "version": __version__,
            "name": Path(opened.url.rstrip("/")).name,
            "info": info(opened),
            "recipes": _recipes(opened),
            "tiles": slides.tile_facts(opened),
            "histogram": svg.tile_counts(opened) if slides.tile_facts(opened) else "",
            "scanners": slides.scanners_of(opened),
            "failures": slides.failures_of(opened),
            "pictures": pictures,
            "captions": _captions(pictures, attributes),
            "training": _training(opened),
            "maps": maps,
            "shared": shared,
            "probe": _probe(probed) if probed is not None else None,
            "labels": Path(labels).name if labels is not None else "",
            "embeddings": names,
        },
        data=_data(opened, attributes, patients, maps),
    )
    write(file, page)
    unreadable = [picture for picture in pictures if not picture.uri]
    notes = [f"no picture of {unreadable[0].slide}: {unreadable[0].note}"] if unreadable else []
    if len(unreadable) > 1:
        notes[0] += f"; and {len(unreadable) - 1} more"
    return ReportSummary(
        report=str(file),
        bytes=len(page),
        slides=opened.registered,
        pictures=len(pictures) - len(unreadable),
        unreadable=len(unreadable),
        embeddings=len(names),
        seconds=time.monotonic() - started,
        files=[str(file)],
        notes=notes,
    )


def _recipes(store: Store) -> list[dict[str, Any]]:
    """Every group with the configuration and the inputs it was made from."""
    listed = []
    for group in info(store).groups:
        recipe = store.require(group.path)
        options = sorted((key, str(value)) for key, value in recipe.config.items())
        listed.append({"group": group, "options": options, "inputs": recipe.inputs, "print": recipe.fingerprint})
    return listed


def _training(store: Store) -> list[dict[str, Any]]:
    """Everything in the store that has a training to show."""
    found: list[dict[str, Any]] = []
    for kind in ("encoders", "models"):
        for name in store.names(kind):
            path = f"{kind}/{name}"
            if f"{path}/history/loss" not in store.root:
                continue
            last: dict[str, float] = {}
            for figure in ("loss", "chance", "rank"):
                if f"{path}/history/{figure}" in store.root:
                    values = store.array(f"{path}/history/{figure}")[:]
                    last |= {figure: float(values[np.isfinite(values)][-1])} if np.isfinite(values).any() else {}
            seen = f"{path}/trained_on"
            found.append(
                {
                    "path": path,
                    "figure": svg.training(store, path, number=len(found)),
                    "sentences": _sentences(last, int(store.array(seen)[:].sum()) if seen in store.root else None),
                    "done": bool(store.array(f"{path}/done")[()] == 1),
                }
            )
    return found


def _sentences(last: dict[str, float], seen: int | None) -> list[str]:
    """How a training ended.

    Args:
        last: Figures of its last epoch.
        seen: Slides it was trained on, where that is known.
    """
    said = []
    if "loss" in last:
        chance = f", where knowing nothing gives {last['chance']:.3f}" if "chance" in last else ""
        said.append(f"Loss {last['loss']:.3f}{chance}.")
    if "rank" in last:
        said.append(f"Effective rank of the vectors of a batch: {last['rank']:.1f}.")
    if seen is not None:
        said.append(f"Trained on {seen:,} slides, without labels.")
    return said


def _probe(result: ProbeResult) -> list[dict[str, Any]]:
    """Per target: its table, its figures; and, with the first, what was noted."""
    parts = []
    for number, (title, rows) in enumerate(probe_report.tables(result)):
        target = list(dict.fromkeys(row.target for row in result.scores))[number]
        mine = [row for row in result.scores if row.target == target]
        figure = svg.learning_curves(mine, number=number) if len({row.budget for row in mine}) > 1 else []
        parts.append({"title": title, "rows": rows, "columns": probe_report.COLUMNS, "figures": figure, "lines": []})
    parts[-1]["lines"] = list(probe_report.lines(result))
    return parts


def _captions(pictures: Sequence[Picture], attributes: Sequence[Attribute]) -> dict[int, str]:
    """The first thing known of each slide that is drawn: its label."""
    known = attributes[0].values if attributes else []
    return {picture.row: known[picture.row] for picture in pictures if known}


def _data(
    store: Store, attributes: Sequence[Attribute], patients: Sequence[str], maps: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the page's script draws: slides by row, what they can be coloured by, and the maps."""
    groups = []
    for attribute in attributes:
        names = sorted(set(attribute.values) - {""})
        code = {name: i for i, name in enumerate(names)} | {"": -1}
        groups.append({"name": attribute.name, "names": names, "codes": [code[v] for v in attribute.values]})
    return {
        "ids": store.slides.ids if maps else [],
        "patients": list(patients) if maps and list(patients) != store.slides.ids else [],
        "tiles": slides.tile_numbers(store).tolist() if maps else [],
        "groups": groups if maps else [],
        "maps": maps,
    }
