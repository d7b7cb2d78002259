"""What the page asks for: slides and what is known of them, maps of vectors, what is like what. Reads the store alone.

A slide is called by its row, an embedding and a class by their numbers in the list of slides: no name and no path comes
from outside.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.cohort.content import slide_problem
from gigacli.cohort.registration import file_problem
from gigacli.config.tools import TileMapConfig
from gigacli.errors import NotFound
from gigacli.probing.labels import match, read_labels
from gigacli.reporting.attribution import explain
from gigacli.reporting.search import nearest_slides
from gigacli.reporting.slides import Grouping, coded, groupings_of
from gigacli.reporting.tile_map import LIMITS
from gigacli.reporting.vectors import comparable, embeddings_of, map_of, mapped_slides
from gigacli.store.groups import Embedding, Features
from gigacli.store.layout import STAGES
from gigacli.store.store import Store
from gigacli.store.table import SlideRow
from gigacli.viewing.alike import tiles_like
from gigacli.viewing.open_slides import OpenSlides
from gigacli.viewing.outline import outline_of
from gigacli.wsi.slide_files import size_and_time

KEPT = 32
"""Answers that took long and are kept: maps, outlines."""

PICTURE_PX = 400
PARTS = 1000
"""Similarities and pulls are sent as whole numbers, thousandths."""

Answer = TypeVar("Answer")


class _Once:
    """Answers that were computed; one at a time is."""

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), OrderedDict[tuple[int, ...], Any]()

    def get(self, key: tuple[int, ...], compute: Callable[[], Answer]) -> Answer:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = compute()
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            found: Answer = self._kept[key]
            return found

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()


class Answers:
    """Answers about a store. Any number of threads may ask: one at a time reads the store, one of each kind computes.

    Args:
        store: Path or URL of the store.
        labels: Table of labels, if any.
        target: Its column whose classes tiles are mapped for.
        embeddings: Names of those to show; none: all.

    Raises:
        NotFound: There is no store, table, column or embedding of that name.
        InvalidInput: The table cannot be used.
    """

    def __init__(
        self, store: str | Path | Store, *, labels: str | Path | None, target: str | None, embeddings: Sequence[str]
    ) -> None:
        self._store = Store.open(store)
        self._labels, self._target, self._wanted = labels, target, bool(embeddings)
        self._names = [one.name for one in embeddings_of(self._store, embeddings)]
        self._classes, self._patients = self._read_labels(), self._groupings()[1]
        self._reading = threading.RLock()
        self._outlines, self._vectors, self._maps, self._alike = (_Once() for _ in range(4))
        self._seen: tuple[Any, ...] = ()
        self.open = OpenSlides()

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._store.url

    def row(self, row: int) -> SlideRow:
        """The slide in a row.

        Raises:
            NotFound: There is none.
        """
        if not 0 <= row < len(self._store.slides):
            raise NotFound(f"{self.url} has no slide in row {row}; it has {len(self._store.slides)} slides")
        return self._store.slides[row]

    def slides(self) -> dict[str, Any]:
        """All slides, a list per property, and what they can be asked about; read anew."""
        with self._reading:
            store = self._store
            store.refresh()
            self._forget_if_changed()
            if not self._wanted:
                self._names += [one.name for one in embeddings_of(store, ()) if one.name not in self._names]
            counts = store.tiles.done().values
            failures = [""] * len(store.slides)
            for stage in STAGES:
                for i, reason in enumerate(store.failures(stage)):
                    failures[i] = failures[i] or (reason and f"{stage}: {reason.splitlines()[0]}")
        rows = store.slides.rows
        groupings, self._patients = self._groupings()
        paint = {one.name for one in groupings_of(store.slides, self._labels)[0]}
        every = range(len(rows))
        return {
            "store": Path(self.url.rstrip("/")).name,
            "ids": store.slides.ids,
            "patients": self._patients if self._patients != store.slides.ids else [],
            "mpp": [row.mpp if row.usable else None for row in rows],
            "width": [row.size_px[0] for row in rows],
            "height": [row.size_px[1] for row in rows],
            "tiles": counts.tolist(),
            "failures": failures,
            "groups": [{**one, "paint": one["name"] in paint} for one in coded(groupings, every)],
            "embeddings": self._names,
            "features": bool(store.names(Features)),
            "classes": self._classes,
        }

    def about(self, row: int) -> dict[str, Any]:
        """What is needed to show a slide, or a `problem`, which says why it cannot be shown."""
        slide = self.row(row)
        with self._reading:
            why = self._problem(row, slide)
            edge_px = self._store.tiles.edge_um / slide.mpp if self._store.tiles.found is not None else 0.0
        if why:
            return {"problem": why}
        with self.open.zoom(row, slide) as zoom:
            width, height = zoom.size_px
            levels = {"first": zoom.first, "last": zoom.last, "dark": zoom.dark}
            return {"width": width, "height": height, "mpp": slide.mpp, "edge": edge_px, **levels}

    def overview(self, row: int) -> NDArray[np.uint8]:
        """A small picture of a slide, uint8 (h, w, 3), at most :data:`PICTURE_PX` pixels a side."""
        with self.open.zoom(row, self.row(row)) as zoom:
            small = zoom.overview()
        return np.asarray(Image.fromarray(small).reduce(-(-max(small.shape) // PICTURE_PX)))

    def tile(self, row: int, number: int, *, px: int) -> NDArray[np.uint8]:
        """A tile of the tiling, at most `px` pixels a side, uint8 (n, n, 3)."""
        slide = self.row(row)
        with self._reading:
            coords, edge_px = self._store.tiles.grid(row)
        if number >= len(coords):
            raise NotFound(f"slide {slide.id!r} has no tile {number}; it has {len(coords)}")
        with self.open.zoom(row, slide) as zoom:
            return zoom.square(*coords[number].tolist(), edge_px=edge_px, px=px)

    def grid(self, row: int) -> bytes:
        """Corners of a slide's tiles: int32, little endian, x, y, x, y, ... from the corner of what is shown on."""
        slide = self.row(row)
        with self._reading:
            coords = self._store.tiles.grid(row).coords if self._store.tiles.found is not None else np.zeros((0, 2))
        with self.open.zoom(row, slide) as zoom:
            return (coords - np.array(zoom.origin_px)).astype("<i4").tobytes()

    def outline(self, row: int) -> list[list[int]]:
        """Borders of a slide's tissue, as :func:`outline_of` gives them."""
        slide = self.row(row)

        def find() -> list[list[int]]:
            with self.open.zoom(row, slide) as zoom:
                return outline_of(zoom.slide, mask=slide.mask)

        return self._outlines.get((row,), find)

    def vectors(self, embedding: int, *, neighbours: bool) -> dict[str, Any] | None:
        """Places of slides on a map, their rows in `rows`, by t-SNE only if asked for; None of fewer than two."""

        def lay() -> dict[str, Any] | None:
            store = Store.open(self.url)
            chosen = self._embedding(store, embedding)
            rows, vectors = comparable(chosen, mapped_slides(len(store.slides), []))
            return map_of(chosen.name, vectors, rows, 0, neighbours=neighbours) if len(rows) >= 2 else None

        return self._vectors.get((embedding, neighbours), lay)

    def near(self, row: int, embedding: int) -> dict[str, Any]:
        """All slides of other patients that have a vector, the most similar first, and thousandths of the cosine."""
        self.row(row)
        with self._reading:
            rows, similar = nearest_slides(self._embedding(self._store, embedding), row, self._patients)
        return {"rows": rows.tolist(), "similar": np.rint(PARTS * similar).astype(int).tolist()}

    def tile_map(self, row: int, embedding: int, positive: int) -> dict[str, Any]:
        """How far every tile of a slide pulls its vector towards a class, in thousandths of `most`."""
        slide = self.row(row)
        if positive >= len(self._classes) or self._labels is None:
            raise NotFound(f"there is no class {positive}; there are {len(self._classes)}", "start with labels")
        labels, name = self._labels, self._classes[positive]

        def ask() -> dict[str, Any]:
            store = Store.open(self.url)
            chosen = self._embedding(store, embedding).name
            config = TileMapConfig(positive=name, embedding=chosen, target=self._target)
            found = explain(store, slide.id, labels, config)
            pull, sure = found.attribution.value, found.attribution.significant
            most = float(np.quantile(np.abs(pull[sure]), 0.98)) if sure.any() else 1.0
            return {
                "positive": name,
                "most": most,
                "pull": np.rint(PARTS * pull / most).astype(int).tolist(),
                "sure": sure.astype(int).tolist(),
                "auc": found.probe.auc[0],
                "logit": found.probe.logit,
                "notes": [*found.notes, LIMITS],
            }

        return self._maps.get((row, embedding, positive), ask)

    def alike(self, row: int, number: int, embedding: int) -> dict[str, Any]:
        """Tiles like a tile of a slide: its own, thousandths of the cosine each, and the best of the nearest slides."""
        self.row(row)

        def look() -> dict[str, Any]:
            store = Store.open(self.url)
            chosen = self._embedding(store, embedding) if self._names else None
            return tiles_like(store, row, number, chosen, self._patients)

        return self._alike.get((row, number, embedding), look)

    def _forget_if_changed(self) -> None:
        """Forget what was computed from a store that has other slides, tiles or results now."""
        store = self._store
        recipes = tuple(group.recipe.fingerprint for group in store.all_groups())
        now = (len(store.slides), store.tiles.identities().tobytes(), recipes, *store.progress().items())
        if now != self._seen:
            for kept in (self._outlines, self._vectors, self._maps, self._alike):
                kept.forget()
            self._seen = now

    def _problem(self, row: int, slide: SlideRow) -> str:
        """Why a slide cannot be shown, "" if it can: a file of the size and time it had is taken to be the same."""
        if why := file_problem(slide):
            return why
        if not slide.usable:
            return self._store.failures("tile")[row] or "its size or resolution is not known"
        tiled = self._store.tiles.found is not None and slide.modified_ns != size_and_time(Path(slide.path))[1]
        return slide_problem(self._store, row) if tiled else ""

    def _embedding(self, store: Store, number: int) -> Embedding:
        if number >= len(self._names):
            raise NotFound(f"{self.url} has no embedding {number} to show", f"run: giga embed {self.url}")
        chosen = store.pick(Embedding, self._names[number])
        chosen.refuse_stale()
        return chosen

    def _groupings(self) -> tuple[list[Grouping], list[str]]:
        """What slides are sorted by, and their patients."""
        return groupings_of(self._store.slides, self._labels, every=True)

    def _read_labels(self) -> list[str]:
        """The classes of the slides of the store."""
        if self._labels is None:
            return []
        found = read_labels(self._labels, target=self._target)
        places = match(found.slide_id, self._store.slides.ids).tolist()
        return sorted({name for name, place in zip(found.label, places, strict=True) if place >= 0})
