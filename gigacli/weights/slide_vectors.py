"""Vectors of slides by a slide encoder: the mean over R views of T un-augmented tiles, at length 1 (paper, 4.2)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from gigacli.nn.giga import embed_views
from gigacli.nn.views import TilePositions, ViewBatch, cells_of, draw_rows, slide_views
from gigacli.randomness import keyed_rng
from gigacli.store.groups import Features
from gigacli.weights.fresh import FreshFeatures

Encode = Callable[[ViewBatch], torch.Tensor]
Cells = Callable[[NDArray[np.float64]], NDArray[np.int64]]


def encode_slides(
    encode: Encode,
    features: Features | FreshFeatures,
    rows: NDArray[np.int64],
    *,
    views: int,
    tiles: int,
    seed: int,
    device: torch.device,
    precision: str,
    cells: Cells = cells_of,
) -> NDArray[np.float32]:
    """Vectors (rows, width) of slides that are done and have tiles, all in memory at once.

    Args:
        encode: Function from views to vectors (b, width), in eval mode.
        features: Their tiles, without augmentation.
        rows: (n,) of the slides.
        views: R, views averaged per slide.
        tiles: T, tiles of a view.
        seed: Of the views; each slide's are keyed by its id, so that they depend neither on others nor on their order.
        device: Where `encode` works.
        precision: fp32 or bf16, as in :func:`~gigacli.nn.giga.embed_views`.
        cells: As in :func:`~gigacli.nn.views.make_views`.
    """
    store = features.store
    positions = TilePositions(store.tiles.grids(rows))
    drawn = np.empty((len(rows), views, tiles), dtype=np.int64)
    for i, row in enumerate(rows.tolist()):
        rng, numbers = keyed_rng(seed, "embed", store.slides[row].id), features.numbers(row)
        drawn[i] = numbers[draw_rows(rng, np.full(views, len(numbers)), tiles)]  # (R, T)
    batch = slide_views(map(features.read, rows.tolist()), positions, drawn, device=device, cells=cells)
    return embed_views(encode, batch, [views] * len(rows), precision=precision).cpu().numpy()
