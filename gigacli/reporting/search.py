"""``giga search``: the slides of other patients that are most like a slide, and a picture of them."""

from __future__ import annotations

import textwrap
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.config.base import options_of
from gigacli.config.tools import SearchConfig
from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.figures import Figure, save
from gigacli.probing.retrieval import nearest
from gigacli.progress import SILENT, Progress
from gigacli.reporting.slides import Picture, find_slide, groupings_of, picture_of
from gigacli.reporting.vectors import comparable, one_embedding
from gigacli.shown import Drawn
from gigacli.store.groups import Embedding
from gigacli.store.store import Store

ACROSS = 4  # pictures side by side
WIDE = 34  # characters of a line above a picture


@dataclass(frozen=True)
class SlideFound:
    """A slide that is like another.

    Attributes:
        slide: Its id.
        patient: Its patient; its own id where that is not known.
        similarity: Cosine of its vector and that of the other, at most 1.
        labels: What is known of it: columns of the labels, TCGA's tissue source site, scanner; "" where not known.
    """

    slide: str
    patient: str
    similarity: float
    labels: dict[str, str]


@dataclass(frozen=True)
class SearchSummary(Drawn):
    """What ``giga search`` found.

    Attributes:
        slide: Id of the slide that others were compared with.
        patient: Its patient; its own id where that is not known.
        labels: What is known of it, as of the slides found.
        embedding: The embedding that was searched.
        searched: Slides of other patients that have a vector.
        typical: The median of their similarities: what an ordinary slide has.
        found: The most similar ones, the most similar first.
        seconds: Time it took.
        files: What was written.
        notes: Remarks for the reader.
    """

    slide: str
    patient: str
    labels: dict[str, str]
    embedding: str
    searched: int
    typical: float
    found: list[SlideFound]
    seconds: float
    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """Title, columns and rows for a person: the slide itself first."""
        columns = ["slide", "patient", "similarity", *self.labels]
        rows = [[one.slide, one.patient, f"{one.similarity:.3f}", *one.labels.values()] for one in self.found]
        first = [self.slide, self.patient, "", *self.labels.values()]
        return f"slides of other patients like {self.slide}", columns, [first, *rows]


@options_of(SearchConfig)
def search(
    config: SearchConfig,
    store: str | Path | Store,
    slide: str,
    labels: str | Path | None = None,
    *,
    embedding: str | None = None,
    k: int = 5,
    image: str | Path | None = None,
    progress: Progress = SILENT,
) -> SearchSummary:
    """Find the slides of other patients whose vectors are nearest to that of a slide, by cosine.

    Args:
        store: The cohort store; nothing is written into it.
        slide: Id of the slide, or that without folders and extension.
        labels: Table of labels: its columns are shown, and its patients count.
        progress: Progress receiver.

    Raises:
        NotFound: There is no such slide, embedding or table, or the slide has no vector.
        InvalidInput: Several embeddings could be meant, no other patient has a slide with a vector, or `image` is not
            called ``.png``.
        Mismatch: The embedding was made from what has been replaced.
    """
    started = time.monotonic()
    if config.image is not None and config.image.suffix.lower() != ".png":
        raise InvalidInput(f"`image` is {config.image}; a PNG is written", f"name it {config.image.stem}.png")
    opened = Store.open(store)
    row, chosen = find_slide(opened, slide), one_embedding(opened, config.embedding)
    groupings, patients = groupings_of(opened.slides, labels, every=True)
    places, similar = nearest_slides(chosen, row, patients)

    def one(at: int, cosine: float) -> SlideFound:
        known = {g.name: g.values[at] for g in groupings if g.compare_neighbours}
        return SlideFound(opened.slides.ids[at], patients[at], cosine, known)

    files, notes = [], []
    shown = [one(row, 1.0), *(one(*pair) for pair in zip(places[: config.k].tolist(), similar.tolist(), strict=False))]
    if config.image is not None:
        pictures = _pictures(opened, shown, progress)
        files.append(save(_sheet(shown, pictures), config.image))
        lacking = [f"{f.slide}: {p.note}" for f, p in zip(shown, pictures, strict=True) if p.image is None]
        notes += [f"{len(lacking)} slides are not drawn, first {lacking[0]}"] if lacking else []
    summary = SearchSummary(
        slide=shown[0].slide,
        patient=shown[0].patient,
        labels=shown[0].labels,
        embedding=chosen.name,
        searched=len(places),
        typical=float(np.median(similar)),
        found=shown[1:],
        seconds=time.monotonic() - started,
        files=files,
        notes=notes,
    )
    return summary.drawn_by(partial(dict, slides=partial(_drawn, opened, shown)))


def nearest_slides(
    embedding: Embedding, row: int, patients: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of all slides of other patients that have a vector, the most similar first, and their similarities.

    Args:
        embedding: Whose vectors are compared.
        row: Of the slide that others are compared with.
        patients: Of all slides of the store.

    Raises:
        NotFound: The slide has no vector.
        InvalidInput: Its vector is zero, or no other patient has a slide with one.
    """
    store = embedding.store
    rows, vectors = comparable(embedding)
    slide, at = store.slides.ids[row], np.flatnonzero(rows == row)
    if not len(at):
        raise NotFound(f"slide {slide!r} has no vector in {embedding.name!r}", f"run: giga embed {store.url}")
    if not vectors[at].any():
        raise InvalidInput(
            f"the vector of {slide!r} in {embedding.name!r} is zero, so no slide is more like it than another",
            "choose another `embedding`; an arrangement is zero where tissue is not arranged",
        )
    owners = [patients[i] for i in rows.tolist()]
    places, similar = nearest(vectors, len(rows), groups=owners, queries=at)
    there = places[0] >= 0 if places.size else np.zeros(0, dtype=bool)
    if not there.any():
        raise InvalidInput(
            f"all {len(rows)} slides with a vector are of the patient of {slide!r}, {patients[row]}",
            "slides of other patients are searched: embed some, or correct the patients of the table",
        )
    return rows[places[0][there]], similar[0][there]


def _drawn(store: Store, shown: list[SlideFound]) -> Figure:
    return _sheet(shown, _pictures(store, shown, SILENT))


def _pictures(store: Store, shown: list[SlideFound], progress: Progress) -> list[Picture]:
    counts = store.tiles.done().values
    progress.start("drawing slides", len(shown))
    pictures = []
    for one in shown:
        row = store.slides.index[one.slide]
        pictures.append(picture_of(store, row, tiles=int(counts[row])))
        progress.advance()
    return pictures


def _sheet(shown: list[SlideFound], pictures: list[Picture]) -> Figure:
    """Draw the pictures of slides, the first of which was searched for, with their names."""
    from matplotlib import rc_context

    across, down = min(len(shown), ACROSS), -(-len(shown) // ACROSS)
    high = max([0.75, *(one.image.height / one.image.width for one in pictures if one.image is not None)])
    with rc_context({"text.parse_math": False}):  # names come from tables: a dollar is a dollar
        figure = Figure(figsize=(2.3 * across, (2.3 * min(high, 2.0) + 0.5) * down), layout="constrained")
        for i, (one, picture) in enumerate(zip(shown, pictures, strict=True)):
            axes = figure.add_subplot(down, across, i + 1)
            said = [f"{name} {value}" for name, value in one.labels.items() if value]
            lines = [one.slide, ", ".join([f"{i}: {one.similarity:.3f}" if i else "searched for", *said])]
            title = "\n".join(textwrap.shorten(line, 2 * WIDE, placeholder=" ...") for line in lines)
            wrapped = "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, WIDE))
            axes.set_title(wrapped, fontsize=6, loc="left", fontweight="normal" if i else "bold")
            axes.set(xticks=[], yticks=[], anchor="N")
            if picture.image is not None:
                axes.imshow(np.asarray(picture.image))
            else:
                axes.set_box_aspect(0.75)
                axes.text(0.5, 0.5, textwrap.fill(picture.note[:200], 28), fontsize=6, ha="center", va="center")
    return figure
