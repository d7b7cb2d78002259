"""``giga tile-map``: the tiles of one slide, coloured by how far they pull its vector towards a class."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from gigacli.cohort.content import slide_problem
from gigacli.config.base import options_of
from gigacli.config.tools import TileMapConfig
from gigacli.errors import SlideError
from gigacli.exporting.geojson import tile_feature, write_collection
from gigacli.files import new_file
from gigacli.probing.figures import Figure, save
from gigacli.progress import SILENT, Progress
from gigacli.reporting.attribution import Explanation, explain
from gigacli.reporting.plots import THUMBNAIL_PX, tile_squares
from gigacli.shown import Drawn
from gigacli.store.store import Store
from gigacli.store.table import SlideRow
from gigacli.wsi.overlay import Thumbnail, thumbnail

TOWARDS, AWAY = (230, 97, 1), (94, 60, 153)
"""RGB of tiles that pull towards the class, and away from it: the ends of the map's colours."""

WIDEST = 125  # characters of a line below the map

LIMITS = (
    "A map explains the probe, not the disease: it says which tiles move this score, and the probe may rest on stain "
    "or scanner. Noise is that of drawing views; that of the probe's weights is not in it. Tiles that matter only "
    "together share their pull."
)


@dataclass(frozen=True)
class TileMapSummary(Drawn):
    """What ``giga tile-map`` found.

    Attributes:
        slide: Id of the slide.
        target: The column of labels.
        positive: The class that tiles pull to or away from.
        label: The slide's own label, "" where it has none.
        embedding: The embedding explained.
        tiles: Tiles of the slide.
        views: Views that this was estimated from, 0 where none are needed.
        towards: Tiles that pull towards the class, beyond the noise.
        away: Tiles that pull away from it, beyond the noise.
        logit: Score of the slide: log odds of the class by a probe that has not seen its patient.
        auc_mean: How well that probe tells the class from the others; None where that is not known.
        auc_low: Lower end of the 95 % interval of the mean.
        auc_high: Upper end.
        trained_on: Slides the probe was fitted on.
        left_out: Labelled slides of this slide's patient, which it was not.
        similarity: Cosine of the stored vector and the one these views give.
        seconds: Time it took.
        files: What was written.
        notes: Remarks for the reader.
    """

    slide: str
    target: str
    positive: str
    label: str
    embedding: str
    tiles: int
    views: int
    towards: int
    away: int
    logit: float
    auc_mean: float | None
    auc_low: float | None
    auc_high: float | None
    trained_on: int
    left_out: int
    similarity: float
    seconds: float
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@options_of(TileMapConfig)
def tile_map(
    config: TileMapConfig,
    store: str | Path | Store,
    slide: str,
    labels: str | Path,
    *,
    target: str | None = None,
    positive: str | None = None,
    embedding: str | None = None,
    views: int = 100,
    out: str | Path = ".",
    device: str = "auto",
    seed: int = 0,
    progress: Progress = SILENT,
) -> TileMapSummary:
    """Draw which tiles of a slide speak for a class, and write them down for QuPath.

    Args:
        store: The cohort store.
        slide: Id of the slide.
        labels: Table of labels, as for ``giga probe``.
        progress: Progress receiver.

    Raises:
        NotFound: No such slide, embedding, table or column.
        InvalidInput: No such class, or the slide has too few tiles.
        Mismatch: The embedding was made from tiles or with a model that are no longer there.
    """
    started = time.monotonic()
    opened = Store.open(store)
    found = explain(opened, slide, labels, config, progress=progress)
    small, notes = _thumbnail(opened, found.slide)
    config.out.mkdir(parents=True, exist_ok=True)
    stem = config.out / re.sub(r"[^\w.-]", "_", f"{found.slide.id}.{found.probe.positive}").lstrip(".")
    files = [f"{stem}.geojson", f"{stem}.png"]
    with new_file(Path(files[0])) as unfinished:
        write_collection(unfinished, tiles_of(found), giga=_about(found))
    draw = partial(_draw, found, small)
    save(draw(), Path(files[1]))
    summary = _summary(found, files=files, notes=notes, seconds=time.monotonic() - started)
    return summary.drawn_by(partial(dict, map=draw))


def _summary(found: Explanation, *, files: list[str], notes: list[str], seconds: float) -> TileMapSummary:
    probe, significant = found.probe, found.attribution.value[found.attribution.significant]
    return TileMapSummary(
        slide=found.slide.id,
        target=probe.target,
        positive=probe.positive,
        label=probe.label,
        embedding=found.embedding,
        tiles=len(found.coords),
        views=found.views,
        towards=int((significant > 0).sum()),
        away=int((significant < 0).sum()),
        logit=probe.logit,
        auc_mean=probe.auc[0],
        auc_low=probe.auc[1],
        auc_high=probe.auc[2],
        trained_on=probe.trained_on,
        left_out=probe.left_out,
        similarity=found.similarity,
        seconds=seconds,
        files=files,
        notes=[*found.notes, *notes, LIMITS],
    )


def tiles_of(found: Explanation) -> Iterator[dict[str, Any]]:
    """Tiles as features that QuPath reads: squares in level-0 pixels with measurements.

    Tiles within the noise carry their measurements, too, but no class.
    """
    positive, edge = found.probe.positive, found.edge_px
    for i, (x, y) in enumerate(found.coords.tolist()):
        value = float(found.attribution.value[i])
        members: dict[str, Any] = {"measurements": {"pull": value, "standard error": float(found.attribution.error[i])}}
        if found.attribution.significant[i]:
            name, colour = (f"towards {positive}", TOWARDS) if value > 0 else (f"away from {positive}", AWAY)
            members["classification"] = {"name": name, "color": list(colour)}
        yield tile_feature(i, (x, y, x + edge, y + edge), isLocked=True, **members)


def _about(found: Explanation) -> dict[str, str]:
    """What the features are about."""
    return {
        "slide": found.slide.id,
        "target": found.probe.target,
        "class": found.probe.positive,
        "embedding": found.embedding,
        "limits": LIMITS,
    }


def _thumbnail(store: Store, slide: SlideRow) -> tuple[Thumbnail | None, list[str]]:
    """Thumbnail of the slide, or a note why there is none."""
    why = slide_problem(store, store.slides.index[slide.id])
    if not why:
        try:
            return thumbnail(slide.path, mpp=slide.mpp, long_px=THUMBNAIL_PX), []
        except SlideError as error:
            why = error.message
    return None, [f"the tiles are drawn without the slide: {why}"]


def _draw(found: Explanation, small: Thumbnail | None) -> Figure:
    """Draw the map."""
    from matplotlib import rc_context

    probe, significant = found.probe, found.attribution.significant
    span = np.ptp(found.coords, axis=0) + found.edge_px if small is None else np.array(small.pixels.shape[1::-1])
    ratio = float(np.clip(span[1] / span[0], 0.4, 2.5))
    with rc_context({"text.parse_math": False}):  # names come from tables: a dollar is a dollar
        figure = Figure(figsize=(7.2, 5.7 * ratio + 0.8), layout="constrained")
        axes = figure.add_subplot()
        tile_squares(found.coords, found.edge_px, axes, small=small, attribution=found.attribution)
        bar = figure.colorbar(axes.collections[-1], ax=axes, shrink=0.7, extend="both")
        bar.set_label(f"pull towards {probe.positive} (log odds)", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        axes.set_title(f"{found.slide.id}{f', labelled {probe.label}' * bool(probe.label)}", fontsize=10, loc="left")
        auc = f", AUC {probe.auc[0]:.3f}" if probe.auc[0] is not None else ""
        said = (
            f"{found.embedding}, {f'{found.views:,} views' if found.views else 'without sampling'}; coloured: "
            f"{int(significant.sum())} of {len(found.coords)} tiles, those beyond the noise. "
            f"Probe without this patient{auc}: log odds {probe.logit:+.2f}"
        )
        figure.supxlabel("\n".join(wrap(said, WIDEST)), fontsize=7)
    return figure
