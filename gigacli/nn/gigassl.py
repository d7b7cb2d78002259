"""The slide encoder of the authors' released checkpoints: variant ``gigassl``, for their weights only.

The layers are those of :class:`~gigacli.nn.slide_encoder.SlideEncoder`, the cells (:func:`gigassl_cells`) and the
border of the strided convolution (:func:`output_limits`) are not: see spec/decisions/0010. The rules were established
by running the authors' code; none of it is used here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gigacli.nn.slide_encoder import SlideEncoder
from gigacli.nn.sparse import KernelMap, SparseMap, strided_map

DOWNMAP = 224  # what coordinates are divided by

LEVEL0_PER_PX = 4
"""The authors' tiles are of level 1 of slides scanned at 40x, with coordinates of level 0: four of their units to a
pixel of the tile's resolution."""

_SMALLEST = 7  # a map has at least so many cells a side


class GigasslEncoder(SlideEncoder):
    """The slide encoder with the far border of the authors' maps, placed view by view, as in their inference."""

    def _strided(self, sites: SparseMap) -> KernelMap:
        return strided_map(sites, limits=output_limits(sites))


def output_limits(sites: SparseMap) -> Tensor:
    """Outputs of the strided convolution along y and x of each view, (b, 2) int64.

    A map whose largest cell is m has the smallest size S >= max(m + 1, 7) with S % 4 == 3 (7, 11, 15, ...), and
    (S - 1) / 2 outputs: a cell on the far border feeds one less.
    """
    largest = sites.cells.new_zeros(sites.size, 2)
    largest.scatter_reduce_(0, sites.owner[:, None].expand(-1, 2), sites.cells, reduce="amax")
    size = (largest + 1).clamp(min=_SMALLEST)
    return (size + (3 - size) % 4 - 1) // 2


def gigassl_cells(positions: NDArray[Any]) -> NDArray[np.int64]:
    """The cells of views: divide by 224, subtract the view's smallest, cut off, all in float32 and in this order.

    One tile in nine of a regular grid may land one cell off. Positions (b, t, 2) are (x, y) in the authors' units, four
    to a pixel of the tile's resolution.

    Returns:
        (b, t, 2) int64, **(y, x)**, as :func:`gigacli.nn.views.cells_of` gives them.
    """
    cells = positions.astype(np.float32) / np.float32(DOWNMAP)
    cells -= cells.min(axis=1, keepdims=True)
    return np.ascontiguousarray(cells.astype(np.int64)[..., ::-1])
