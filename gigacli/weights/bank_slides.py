"""What ``giga bank`` encodes of each slide, by its options, and writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.config.bank import BankConfig
from gigacli.config.bank_sizes import set_stains
from gigacli.nn.tile_features import (
    BankViews,
    Batches,
    SlideFeatures,
    calibration_tiles,
    draw_bank_views,
    draw_calibration,
    no_views,
)
from gigacli.store.groups import Bank, Features


@dataclass(frozen=True, eq=False)
class BankSlides:
    """The slides of a bank."""

    config: BankConfig
    bank: Bank
    features: Features
    calibrating: NDArray[np.int64]  # rows of the slides that operators are learnt from
    again: bool  # whether slides that are done are made anew

    @cached_property
    def _calibrates(self) -> frozenset[int]:
        return frozenset(self.calibrating.tolist())

    def to_read(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tiles are read of every slide (slide,), of slides with so many (slide,)."""
        if self.config.features is None:
            return counts
        read = np.zeros_like(counts)
        read[self.calibrating] = np.minimum(counts[self.calibrating], self.config.draws)
        return read

    def tiles(self, row: int, *, count: int) -> NDArray[np.integer]:
        """Numbers of the tiles to read of a slide with `count` of them: all, unless its features are there already."""
        if self.config.features is None:
            return np.arange(count)
        if row not in self._calibrates:
            return np.arange(0)
        return self._calibration(row, count)

    def _calibration(self, row: int, count: int) -> NDArray[np.int32]:
        slide_id = self.bank.store.slides[row].id
        return calibration_tiles(self.config.seed, slide_id, count=count, draws=self.config.draws)

    def encoding(self, batches: Batches, row: int, *, count: int, plain: bool) -> SlideFeatures:
        """What to encode of a slide: everything, or what a smaller bank lacks that was there before.

        Args:
            batches: Feeds the encoder.
            row: Of the slide.
            count: Tiles that are read of it.
            plain: Whether all of them are wanted without augmentation.
        """
        views = self._views(row, count)
        if not self.again and self.config.mode == "tiles":
            views.missing[:] = self.bank.missing(row)
        return SlideFeatures(batches, views, count=count, plain=plain)

    def _views(self, row: int, count: int) -> BankViews:
        config, tile_px = self.config, self.bank.store.tiles.tile_px
        common: dict[str, Any] = {"count": count, "draws": config.draws, "tile_px": tile_px}
        slide_id = self.bank.store.slides[row].id
        if config.mode == "tiles":
            own: dict[str, Any] = {"augmentations": config.augmentations, "independent": config.independent}
            return draw_bank_views(config.seed, slide_id, **common, **own, stain=config.stain)
        if row not in self._calibrates:
            return no_views(tile_px=tile_px)
        stains = set_stains(sets=config.sets, held_out=config.held_out or 0, stain=config.stain)
        return draw_calibration(config.seed, slide_id, stains=stains, **common)

    def write(self, row: int, encoding: SlideFeatures | None) -> None:
        """Write a slide; ``None`` for one that there is nothing to encode of."""
        if self.config.features is None and encoding is None:
            self.features.write(row, None)
        elif encoding is not None and encoding.plain is not None:
            self.features.write(row, encoding.plain.cpu().numpy())
        if encoding is None or not len(encoding.views.tiles):
            self.bank.write_empty(row)
        else:
            views, tiles = encoding.views, encoding.views.tiles
            if self.config.features is not None:  # none but these were read: numbers are places among them
                numbers = self._calibration(row, len(self.features.numbers(row)))
                tiles = np.where(tiles >= 0, numbers[tiles], -1).astype(np.int32)
            self.bank.write(row, encoding.vectors.cpu().numpy(), tiles, made=views.missing)
        self.bank.store.fail("bank", {row: ""})
