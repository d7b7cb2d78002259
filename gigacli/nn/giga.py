"""Giga-SSL (paper, section 3.1): slide encoder, projector and loss, and the views they see, in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from gigacli.nn.losses import nt_xent
from gigacli.nn.slide_encoder import Projector, SlideEncoder
from gigacli.nn.views import ViewBatch, augment_positions, cells_of, draw_slide_augmentation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class GigaSSL(nn.Module):
    """Slide encoder and projector under NT-Xent.

    Args:
        width_in: Features of a tile.
        temperature: Of NT-Xent.
        seed: Of the initial weights.
    """

    def __init__(self, width_in: int, *, temperature: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.encoder = SlideEncoder(width_in, generator=generator)
        self.projector = Projector(self.encoder.width, generator=generator)
        self.temperature = temperature

    def forward(self, views: ViewBatch) -> Tensor:
        """Loss of 2n views, the first views of n slides followed by their second: one sparse batch for both."""
        projections = self.projector(self.encoder(views))  # (2n, p)
        first, second = projections.chunk(2)
        return nt_xent(first, second, temperature=self.temperature)


def positions_of(coords: NDArray[np.int32], *, tile_l0_px: float) -> NDArray[np.float64]:
    """Level-0 corners (n, 2) of a slide's tiles in tile units, the smallest subtracted in integers first."""
    return (coords.astype(np.int64) - coords.min(axis=0)) / tile_l0_px


def make_views(
    features: NDArray[np.float16] | NDArray[np.float32],
    positions: NDArray[np.float64],
    *,
    rng: np.random.Generator | None,
    device: torch.device,
) -> ViewBatch:
    """Views from drawn tiles: augment their positions (paper, step 4) if there is an `rng`, put them on cells.

    Args:
        features: (b, t, c).
        positions: (b, t, 2) in tile units.
        rng: Source of flips, rotations and scales; ``None`` leaves the slide as it lies.
        device: Where the views go.
    """
    if rng is not None:
        positions = augment_positions(positions, draw_slide_augmentation(len(positions), rng))
    return ViewBatch(
        features=torch.from_numpy(features).to(device, torch.float32),
        cells=torch.from_numpy(cells_of(positions)).to(device),
    )


@torch.inference_mode()
def embed_views(encoder: nn.Module, views: ViewBatch, counts: Sequence[int]) -> Tensor:
    """Slide vectors: the mean of each slide's views, scaled to unit length (paper, section 4.2).

    Args:
        encoder: In eval mode, so that no view depends on another.
        views: The views of all slides, one slide after the other.
        counts: Views of each slide, (s,).

    Returns:
        (s, width) float32.
    """
    vectors = encoder(views).double()  # (sum of counts, width)
    means = torch.stack([v.mean(dim=0) for v in vectors.split(list(counts))])  # (s, width)
    return torch.nn.functional.normalize(means, dim=1).float()
