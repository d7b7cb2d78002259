"""The cohorts of `benchmarks/lab.py`, and their vectors: features brought into a space, pooled or encoded.

A space is features standardised and then whitened by one of :data:`KINDS`. Two are giga's own: the covariance of the
tiles of a slide, and that of the augmentations of a tile. `views` is the covariance of the means of views of 10 tiles
about their slide's mean of them. `cut` takes out the eighth of all directions in which augmentations move features
most, then whitens by augmentations, `cut slides` by slides; `relative cut` looks for those in which they move most
beside how the tiles of a slide spread. In spaces that `giga train` has no option for, encoders are trained on a bank
whose features are in the space already.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh

import gigacli as giga
from gigacli.nn.closed_forms import ViewWhitened, WhitenedMean
from gigacli.nn.views import draw_rows
from gigacli.nn.whitening import (
    FeatureSpace,
    Spread,
    augmentation_covariance,
    slide_covariance,
    spread_of,
    whitening_matrix,
)
from gigacli.randomness import keyed_rng
from gigacli.weights.slide_tiles import tiles_of_slides

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.floating]

VIEWS, VIEW_TILES = 24, 10
CUT = 8  # one direction of so many is cut
KINDS = ("slides", "augmentations", "views", "cut", "cut slides", "relative cut")
OF_GIGA = ("slides", "augmentations")  # kinds of whitening that are trained with by an option


@dataclass(frozen=True, eq=False)
class Cohort:
    """A store up to a bank, and labels."""

    name: str
    seed: int
    path: Path
    table: dict[str, dict[str, str]]  # by slide: label, patient_id and lab
    bank: str
    stain: float = 0.0

    @cached_property
    def store(self) -> giga.Store:
        """The store, open."""
        return giga.open(self.path)

    @property
    def slides(self) -> range:
        """Rows of all slides."""
        return range(self.store.registered)

    def column(self, name: str) -> list[str]:
        """A column of the table, in the order of the store."""
        return [self.table[slide][name] for slide in self.store.slides.ids]

    @cached_property
    def spread(self) -> Spread:
        """How the un-augmented tiles spread."""
        return spread_of(map(self.store.features(self.bank).read, self.slides))

    def space(self, kind: str) -> FeatureSpace:
        """Features standardised and whitened: by a covariance of giga's, by that of view means, or after a cut."""
        bank, standard, spread = self.store.bank(self.bank).mapped(), self.spread.standard, self.spread
        noise = augmentation_covariance(zip(bank.slides(), bank.tile, strict=True), standard)
        cut = None
        if "cut" in kind:
            cut = self._relative_cut(noise) if kind == "relative cut" else _cut(noise)
        if kind in ("slides", "cut slides"):
            noise = slide_covariance(bank.slides(), standard)
        elif kind == "views":
            noise = self._of_views()
        if cut is None:
            return FeatureSpace(standard, whitening_matrix(noise, spread))
        matrix = whitening_matrix(cut.T @ noise @ cut, Spread(standard, cut.T @ spread.second @ cut))
        return FeatureSpace(standard, (cut @ matrix).astype(np.float32))

    def _of_views(self) -> NDArray[np.float64]:
        """Covariance (c, c) of the means of views of a slide about their mean."""
        total = np.zeros_like(self.spread.second)
        for name, slide in zip(self.store.slides.ids, self.store.bank(self.bank).mapped().slides(), strict=True):
            rng = keyed_rng(self.seed, "views", name)
            chosen = rng.integers(0, len(slide), VIEWS)
            tiles = draw_rows(rng, np.full(VIEWS, slide.shape[1]), VIEW_TILES)  # (V, T)
            means = self.spread.standard(slide[chosen[:, None], tiles]).mean(axis=1)  # (V, c)
            means -= means.mean(axis=0)
            total += means.T @ means
        return total / (VIEWS * len(self.slides))

    def _relative_cut(self, noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """A projection (c, c) of rows: without what augmentations move most in units of how plain tiles spread.

        With N of augmentations and C of the plain tiles of one slide, the w of N w = l C w with the largest l are
        taken, and x loses what the numbers x w tell of it.
        """
        c = len(noise)
        plain = (self.store.features(self.bank).read(row)[:, None] for row in self.slides)  # (n, 1, c)
        inside = slide_covariance(plain, self.spread.standard)
        inside += 0.01 * np.trace(inside) / c * np.eye(c)
        w = eigh(noise, inside, subset_by_index=[c - c // CUT, c - 1])[1]  # w.T @ inside @ w = 1
        return np.eye(c) - w @ w.T @ inside

    def closed(self, kind: str) -> dict[str, Rows]:
        """The whitened mean, and the view-whitened mean and deviation, in a space."""
        space, rows = self.space(kind), np.array(self.slides)
        features, bank = self.store.features(self.bank), self.store.bank(self.bank)
        forms = [WhitenedMean(space), ViewWhitened.fit(tiles_of_slides(features, rows, bank=bank), space, seed=0)]
        plain = list(tiles_of_slides(features, rows, augmented=False))
        return {form.name: np.stack([form.transform(slide) for slide in plain]) for form in forms}

    def trained(self, aggregator: str, kind: str) -> tuple[Rows, float]:
        """Vectors of an encoder trained in a space, and the processor time of its training."""
        options: dict[str, Any] = {"bank": self.bank, "standardise": True, "whiten": True, "whitening": kind}
        if kind not in OF_GIGA:
            options = {"bank": self._inside(kind), "standardise": False, "whiten": False}
        began = time.process_time()
        giga.train(self.path, name="lab", aggregator=aggregator, join=False, seed=self.seed, redo=True, **options)
        seconds = time.process_time() - began
        giga.embed(self.path, model="lab", name="lab", seed=self.seed, redo=True)
        return giga.open(self.path).embedding("lab").read(), seconds

    def _inside(self, kind: str) -> str:
        """The name of a bank, and of features, that are in a space already: one that giga train cannot make."""
        name, space = f"inside-{kind.replace(' ', '-')}", self.space(kind)
        store, source, plain = giga.Store.open(self.path, write=True), self.store.bank(self.bank).mapped(), self.bank
        bank, features = store.bank(name), store.features(name)
        bank.begin(self.store.bank(self.bank).recipe, source.width, redo=True)
        features.begin(self.store.features(plain).recipe, source.width, redo=True)
        for row, slide, tile in zip(self.slides, source.slides(), source.tile, strict=True):
            features.write(row, space(self.store.features(plain).read(row)).astype(np.float16))
            bank.write(row, space(slide).astype(np.float16), tile, made=np.ones(tile.shape, dtype=bool))
        return name


def _cut(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """A projection (c, c) of rows: without the directions in which augmentations move features most."""
    directions = np.linalg.eigh(noise)[1][:, -(len(noise) // CUT) :]
    return np.eye(len(noise)) - directions @ directions.T
