"""The groups ``embeddings/<name>``: one vector per slide."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gigacli.progress import SILENT, Progress
from gigacli.store.features import Features
from gigacli.store.recipe import Recipe
from gigacli.store.slide_group import SlideGroup


class Embedding(SlideGroup):
    """Vectors of slides; a slide without tiles has none, and is done."""

    kind, input_name = "embeddings", "embedding"

    def begin(self, recipe: Recipe, width: int, *, redo: bool) -> None:
        """Make room for vectors of `width` values, and for those of other augmentations that the recipe says.

        With `redo` what is there goes first.

        Raises:
            Mismatch: There is an embedding of this name made otherwise, and `redo` is off.
        """
        n, fresh = self.store.registered, len(stains_of(recipe))
        shapes: dict[str, tuple[int, ...]] = {"vectors": (n, width), "done": (n,)}
        if fresh:
            shapes["augmented"] = (n, fresh, width)
        self._begin(recipe, shapes, redo=redo)

    def write(
        self,
        rows: NDArray[np.int64],
        vectors: NDArray[np.float32] | None,
        *,
        empty: NDArray[np.int64] | None = None,
        augmented: NDArray[np.float32] | None = None,
    ) -> None:
        """Write the vectors of many slides, then mark them done, and slides without tiles with them.

        Args:
            rows: (n,) of the slides, ascending.
            vectors: (n, width); None where there are no rows.
            empty: Rows of slides without tiles.
            augmented: (n, augmentations, width) of the same slides seen otherwise; None where there are none.
        """
        both = rows if empty is None else np.sort(np.concatenate([rows, empty]))
        self._reopen(both)
        if len(rows):
            self.array("vectors").oindex[rows] = vectors
            if augmented is not None:
                self.array("augmented").oindex[rows] = augmented
        if empty is not None and len(empty):
            self.array("vectors").oindex[empty] = np.nan
        if len(both):
            self.store.settle()
            self.array("done").oindex[both] = self._origins_at(both)

    def copy_from(
        self, source: Self, rows: NDArray[np.int64], to: NDArray[np.int64], progress: Progress = SILENT
    ) -> list[int]:
        """Copy the vectors of slides that are done from the same embedding of another store.

        Args:
            source: That embedding.
            rows: (n,) of the slides there, ascending.
            to: (n,) of the same slides here, ascending.
            progress: Is told of every slide.

        Returns:
            Rows, there, of slides that were changed while they were copied: they are not done here.
        """
        filled, before = source.done().filled, source._marks()
        step = int(source.array("vectors").chunks[0])
        for mine in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows // step)) + 1) if len(rows) else ():
            some, has = rows[mine], filled[rows[mine]]
            start = int(some[0]) // step * step
            vectors, others = (
                source.array(name)[start : start + step][some[has] - start] if source.has(name) else None
                for name in ("vectors", "augmented")
            )
            self.write(to[mine][has], vectors, empty=to[mine][~has], augmented=others)
            progress.advance(len(mine))
        changed = rows[source._marks()[rows] != before[rows]].tolist()
        self.take_back(to[np.isin(rows, changed)].tolist())
        return changed

    def keep_state(self, data: bytes) -> None:
        """Keep what a closed form has learnt, before its first vector is written."""
        self.store.write_bytes(f"{self.path}/state", data)
        self.store.settle()

    @property
    def state(self) -> bytes:
        """What a closed form has learnt; empty where nothing is kept."""
        return self.store.read_bytes(f"{self.path}/state") if self.has("state") else b""

    def read(self) -> NDArray[np.float32]:
        """(slide, width) all vectors, NaN where a slide has none."""
        vectors: NDArray[np.float32] = self.array("vectors")[: self.store.registered]
        return vectors

    @property
    def stains(self) -> list[float]:
        """How strongly each of the other augmentations jitters the stains."""
        return stains_of(self.recipe)

    def blocks(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Vectors (m, width) of slides in some rows, ascending, in their order: as many together as a chunk holds."""
        array = self.array("vectors")
        step = int(array.chunks[0])
        for mine in np.split(rows, np.flatnonzero(np.diff(rows // step)) + 1):
            if len(mine):
                start = int(mine[0]) // step * step
                yield array[start : start + step][mine - start]

    def read_augmented(self) -> NDArray[np.float32] | None:
        """(slide, augmentation, width) vectors of slides seen under other augmentations; None where there are none."""
        if not self.has("augmented"):
            return None
        vectors: NDArray[np.float32] = self.array("augmented")[: self.store.registered]
        return vectors

    def _amounts(self, counts: NDArray[np.int32] | None) -> NDArray[np.integer]:
        if counts is not None:
            return np.where(counts > 0, 1, 0)
        return np.where(np.isfinite(self.read()).all(axis=1), 1, 0)

    def _flags(self) -> str:
        if self.aggregator == "join":
            return f" --join {shlex.join(self.config['parts'])}{super()._flags()}"
        made = {"--model": self.config.get("model"), "--features": self.config.get("features_name")}
        source = "--model" if made["--model"] else "--features"
        chosen = f" {source} {shlex.quote(str(made[source]))}" if made[source] else ""
        return f"{chosen} --aggregator {self.aggregator}{super()._flags()}"

    def _from_tiles(self) -> bool:
        return bool(self.recipe.inputs)

    @property
    def width(self) -> int:
        """Values of a vector."""
        return int(self.array("vectors").shape[1])

    @property
    def aggregator(self) -> str:
        """Maker of the vectors: model, random-init, mean, or import."""
        return str(self.config.get("aggregator", ""))

    @property
    def features(self) -> Features | None:
        """The tile features it was made from; None where the recipe does not say, as of one that was imported."""
        config = self.config
        name = config.get("features_name")
        if name is None and config.get("model"):
            model = self.store.model(config["model"]).found
            name = model.config.get("bank") if model else None
        return self.store.features(name) if name else None


def stains_of(recipe: Recipe) -> list[float]:
    """How strongly each of the other augmentations of a recipe jitters the stains; [] where there are none."""
    return [float(stain) for stain in recipe.config.get("stains", [0.0] * int(recipe.config.get("augmented", 0)))]
