"""The grid of tiles of a slide, and how much tissue each tile holds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput

# Footprints that end on the border exactly, as 4 x 512 px in 2048 px do, must not be lost to rounding in floats.
_EPSILON_PX = 1e-6


def tile_grid(
    size_px: tuple[int, int],
    *,
    mpp: float,
    slide_mpp: float,
    tile_px: int,
    overlap_px: int = 0,
    bounds_px: tuple[int, int, int, int] | None = None,
) -> NDArray[np.int32]:
    """Return the level-0 corners of every whole tile of a slide, row by row.

    Tile (i, j) begins at ``bounds origin + floor(i * step + 0.5)`` with
    ``step = (tile_px - overlap_px) * mpp / slide_mpp`` level-0 pixels, a fraction in general: rounding each corner, not
    the step, keeps the grid from drifting. Only tiles whose footprint of ``tile_px * mpp / slide_mpp`` level-0
    pixels lies inside the bounds are listed.

    Args:
        size_px: Width and height of level 0.
        mpp: Microns per pixel of the tiles.
        slide_mpp: Microns per pixel of level 0.
        tile_px: Side of a tile, in pixels at `mpp`.
        overlap_px: Pixels at `mpp` that neighbours share.
        bounds_px: The scanned region (x, y, width, height) in level-0 pixels; the whole slide if not given.

    Returns:
        int32 (n, 2): x and y of the top-left corners, by y, then x.

    Raises:
        InvalidInput: A size or resolution is not positive, or the overlap is not smaller than the tile.
    """
    xs, ys = _corners(size_px, _scale(mpp, slide_mpp), tile_px, overlap_px, bounds_px)
    grid = np.empty((len(ys), len(xs), 2), np.int32)
    grid[..., 0] = xs[None, :]
    grid[..., 1] = ys[:, None]
    return grid.reshape(-1, 2)  # (n, 2)


def grid_capacity(
    size_px: tuple[int, int],
    *,
    mpp: float,
    slide_mpp: float,
    tile_px: int,
    overlap_px: int = 0,
    bounds_px: tuple[int, int, int, int] | None = None,
) -> int:
    """Count the tiles of :func:`tile_grid` (same arguments, same errors) without building them."""
    xs, ys = _corners(size_px, _scale(mpp, slide_mpp), tile_px, overlap_px, bounds_px)
    return len(xs) * len(ys)


def tissue_fraction(
    mask: NDArray[np.bool_],
    coords: NDArray[np.int32],
    *,
    mask_mpp: float,
    mpp: float,
    slide_mpp: float,
    tile_px: int,
    origin_px: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    """Return the share of each tile's footprint that a mask covers, exact to the fraction of a mask pixel.

    Mask pixel (row r, column c) is the level-0 square from ``origin + (c, r) * mask_mpp / slide_mpp``, as
    :meth:`gigacli.wsi.slide.Slide.thumbnail` makes it; there is no tissue outside the mask. Reads the corners of every
    footprint from the summed-area table (Crow, 1984), interpolated linearly, which is exact for a piecewise constant
    mask.

    Args:
        mask: bool (h, w).
        coords: int (n, 2), level-0 x and y of the tiles' top-left corners.
        mask_mpp: Microns per pixel of the mask.
        mpp: Microns per pixel of the tiles.
        slide_mpp: Microns per pixel of level 0.
        tile_px: Side of a tile, in pixels at `mpp`.
        origin_px: Level-0 x and y of the mask's top-left corner: the origin of the bounds it was made from.

    Returns:
        float32 (n,) in [0, 1].

    Raises:
        InvalidInput: The mask is not a picture, or a size or resolution is not positive.
    """
    if mask.ndim != 2 or 0 in mask.shape:
        raise InvalidInput(f"a tissue mask of shape {mask.shape}; expected rows x columns, neither of them zero")
    scale = _positive(slide_mpp, "slide_mpp") / _positive(mask_mpp, "mask_mpp")  # mask pixels per level-0 pixel
    side = _positive(tile_px, "tile_px") * _positive(mpp, "mpp") / mask_mpp  # of a footprint, in mask pixels
    low = (coords.astype(np.float64) - np.asarray(origin_px, np.float64)) * scale  # (n, 2)
    high = low + side
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.float64)
    table[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    covered = (
        _interpolate(table, high[:, 0], high[:, 1])
        - _interpolate(table, low[:, 0], high[:, 1])
        - _interpolate(table, high[:, 0], low[:, 1])
        + _interpolate(table, low[:, 0], low[:, 1])
    )
    return np.clip(covered / side**2, 0, 1).astype(np.float32)


def _corners(
    size_px: tuple[int, int], scale: float, tile_px: int, overlap_px: int, bounds_px: tuple[int, int, int, int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Level-0 x of the columns and y of the rows; `scale` is level-0 pixels per pixel of a tile."""
    _positive(tile_px, "tile_px")
    if not 0 <= overlap_px < tile_px:
        raise InvalidInput(
            f"tiles of {tile_px} px cannot overlap by {overlap_px} px; expected 0 to {tile_px - 1}",
            "Choose a smaller overlap: giga tile STORE --overlap PX.",
        )
    step = (tile_px - overlap_px) * scale
    if step < 1:
        raise InvalidInput(
            f"tiles {tile_px - overlap_px} px apart are {step:.3g} pixels of the slide apart; expected at least 1",
            "Choose a smaller overlap or a coarser resolution: giga tile STORE --overlap PX --mpp MPP.",
        )
    x, y, width, height = bounds_px or (0, 0, *size_px)
    left, top = max(x, 0), max(y, 0)
    across = _axis(min(x + width, size_px[0]) - left, step, tile_px * scale)
    down = _axis(min(y + height, size_px[1]) - top, step, tile_px * scale)
    return left + across, top + down


def _axis(extent: int, step: float, footprint: float) -> NDArray[np.int64]:
    """Offsets of the tiles along one axis of `extent` level-0 pixels."""
    most = max(0, math.floor((extent - footprint) / step) + 2)
    corners = np.floor(np.arange(most) * step + 0.5).astype(np.int64)
    return corners[corners + footprint <= extent + _EPSILON_PX]


def _interpolate(table: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """`table` at columns `x` and rows `y` (n,), linear between entries, clamped to its borders."""
    x, y = np.clip(x, 0, table.shape[1] - 1), np.clip(y, 0, table.shape[0] - 1)
    left = np.minimum(x.astype(np.int64), table.shape[1] - 2)
    top = np.minimum(y.astype(np.int64), table.shape[0] - 2)
    fx, fy = x - left, y - top
    upper = (1 - fx) * table[top, left] + fx * table[top, left + 1]
    lower = (1 - fx) * table[top + 1, left] + fx * table[top + 1, left + 1]
    result: NDArray[np.float64] = (1 - fy) * upper + fy * lower
    return result


def _scale(mpp: float, slide_mpp: float) -> float:
    """Level-0 pixels per pixel of a tile."""
    return _positive(mpp, "mpp") / _positive(slide_mpp, "slide_mpp")


def _positive(value: float, name: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{name} is {value}; expected more than 0")
    return value
