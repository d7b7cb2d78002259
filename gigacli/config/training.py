"""What each aggregator is trained with where nothing else is asked for, for how many steps; and the preset `paper`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MANY_TILES = 100
"""Tiles of a slide from which on views of 5 say too little of it: 25 gain nothing at 34 and 47, much at 270."""


@dataclass(frozen=True, kw_only=True)
class Regime:
    """The training of an aggregator.

    Attributes:
        batch_size: Slides per step; all slides where there are fewer.
        least_steps: Fewer leave the encoder half trained, whatever the size of the cohort (measured, on real tissue).
        passes: Passes over the slides where those are more steps.
        weight_decay: Of Adam.
        log_scale: Scales of the axes of a view are exp(u), u uniform in [-log_scale, log_scale]; None: uniform in
            [0.5, 2], as in the paper.
        tiles: Of a view, T.
        of_many: The same where the median slide has :data:`MANY_TILES` and more; a step of the sparse CNN would cost
            too much.
    """

    batch_size: int = 256
    least_steps: int = 1200
    passes: int = 1000
    weight_decay: float = 0.0
    log_scale: float | None = None
    tiles: int = 5
    of_many: int = 5

    def steps(self, slides: int) -> int:
        """Steps for so many slides: it grows with them without a jump."""
        return max(self.least_steps, round(self.passes * slides / self.batch_size))

    def tiles_of_view(self, median: float) -> int:
        """T, where the median slide has so many tiles (benchmarks/study.md)."""
        return self.of_many if median >= MANY_TILES else self.tiles


REGIMES = {
    "sparse-resnet": Regime(),
    "transformer": Regime(batch_size=128, least_steps=600, passes=300, weight_decay=1e-6, log_scale=0.3, of_many=25),
    "attention": Regime(),
    "mlp": Regime(),
}

PAPER: dict[str, Any] = {
    "tiles": 5,
    "epochs": 1000,
    "batch_size": 256,
    "lr": 0.03,
    "warmup": 0.01,
    "temperature": 0.05,
    "aggregator": "sparse-resnet",
    "blocks": 2,
    "stride": 2,
    "standardise": False,
    "whiten": False,
    "slide_aug": True,
    "join": False,
}
"""``--recipe paper``. Batch size, learning rate, warm-up (10 epochs) and temperature are those of its authors' code."""
