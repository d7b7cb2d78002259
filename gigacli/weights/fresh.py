"""Tiles of slides as they would be seen under another augmentation: what vectors must withstand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, NotFound
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Bank, Features
from gigacli.weights.operators import held_out_stains


class FreshFeatures:
    """Features of tiles under one augmentation, shared by all tiles of a slide; read like :class:`Features`.

    These are encodings of augmented tiles. A bank of tiles has them of every slide: its own augmentations are counted
    from the last, and those beyond what it holds out have been seen by an encoder that was trained on it. Beside
    operators there are only those of the slides that calibrate, under the sets held out: what operators themselves make
    of features lacks what they cannot foresee, and vectors withstand it far better (`benchmarks/operators.md`).

    Args:
        features: The features as they are.
        number: Which of several, counted from 0.
        stain: How strongly it jitters the stains, too.

    Raises:
        NotFound: There is no bank of these features, it lacks slides of theirs, or its operators are not learnt yet.
        InvalidInput: Its operators hold out none of this strength, or not so many.
    """

    def __init__(self, features: Features, number: int, *, stain: float = 0.0) -> None:
        self.store, self._features, self._number = features.store, features, number
        self._bank: Bank = self.store.bank(features.name)
        if self._bank.found is None:
            raise NotFound(
                f"{self.store.url} holds no bank of {features.path}, so no tile of theirs is seen otherwise",
                f"run: giga bank {self.store.url} --mode operators --features {features.name} --encoder NAME",
            )
        lacking = int((features.done().filled & ~self._bank.done().filled).sum())
        if lacking or (self._bank.learns and not self._bank.fitted):
            what = f"lacks {lacking} slides of {features.path}" if lacking else "has no operators yet"
            raise NotFound(
                f"{self.store.url}/{self._bank.path} {what}", f"run: {self._bank.again.removesuffix(' --redo')}"
            )
        self._counts = self.store.tiles.done().counts
        self._among = self._held_out(stain)  # sets of operators, of which a slide is seen under one

    def _held_out(self, stain: float) -> list[int]:
        config = self._bank.config
        if not self._bank.learns:
            return []
        stains = held_out_stains(config)
        strength = stain or config.get("stain", 0.0)
        among = [config["sets"] - len(stains) + i for i, one in enumerate(stains) if one == strength]
        if self._number >= len(among):
            raise InvalidInput(
                f"the operators of {self.store.url}/{self._bank.path} hold out {len(among)} augmentations of stains "
                f"jittered by {strength:g}; {self._number + 1} are asked for",
                f"ask for fewer, or run: {self._bank.again} --held-out {4 * (self._number + 1)}",
            )
        return among

    @property
    def bank(self) -> Bank:
        """What says how tiles are seen otherwise."""
        return self._bank

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) which slides are seen so at all."""
        return self._bank.calibrates[rows] if self._bank.learns else np.ones(len(rows), dtype=bool)

    def read(self, row: int) -> NDArray[np.float16]:
        """Vectors (n, width) of all tiles of a slide; NaN of those that are not seen."""
        seen = np.full((int(self._counts[row]), self._bank.width), np.nan, dtype=np.float16)
        tiles, vectors = self._encoded(row)
        seen[tiles] = vectors
        return seen

    def numbers(self, row: int) -> NDArray[np.int64]:
        """(m,) numbers of the tiles that are seen, ascending."""
        return np.unique(self._encoded(row)[0]).astype(np.int64)

    def _encoded(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Numbers of tiles (m,), and their vectors (m, width)."""
        if self._bank.learns:
            order = keyed_rng("fresh", self.store.slides[row].id).permutation(self._among)
            vectors, tiles = self._bank.read_calibration(row)
            return tiles, vectors[:, order[self._number]]
        at = self._bank.shape[1] - 1 - self._number % self._bank.shape[1]
        return self._bank.drawn(row, at), self._bank.read(row, at)
