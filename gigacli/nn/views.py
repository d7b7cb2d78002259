"""Views of slides: which tiles, where they lie, on which cells of the sparse map (paper, section 3.1, steps 3 and 4).

Positions are float64 (x, y) in *tile units*: (level-0 coordinate - the slide's smallest) / edge of a tile in level-0
pixels, the integers subtracted first. Everything random comes from the numpy Generator of the caller, who can key it by
(seed, epoch, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gigacli.errors import InvalidInput

Cells = Callable[[NDArray[np.float64]], NDArray[np.int64]]

QUANTA = 64  # steps per tile that positions are rounded to before they become cells

CELL_QUANTA = 56
"""Steps per cell. The paper divides coordinates by d = 224 px of the target magnification, with 256-px tiles: one cell
is 224/256 = 56/64 of a tile. Other tile sizes keep that proportion."""

CELL = CELL_QUANTA / QUANTA  # edge of a cell in tile units: 0.875


@dataclass(frozen=True)
class ViewBatch:
    """A batch of b views of t tiles each: the input of an aggregator."""

    features: Tensor  # (b, t, c), floating point
    cells: Tensor  # (b, t, 2) int64, (y, x), relative to the smallest of each view; from :func:`cells_of`
    # (b, t, 2) floating point, (x, y) in tile units, relative to the same; None where only cells are known
    positions: Tensor | None = None

    def part(self, start: int, stop: int) -> ViewBatch:
        """Views `start` to `stop`, as Python counts them."""
        positions = None if self.positions is None else self.positions[start:stop]
        return ViewBatch(self.features[start:stop], self.cells[start:stop], positions)


@dataclass(frozen=True)
class SlideAugmentation:
    """The geometric augmentation of b views (paper, step 4)."""

    flip: NDArray[np.bool_]  # (b, 2) bool, along x and y
    angle_rad: NDArray[np.float64]  # (b,) in [0, 2 pi)
    scale: NDArray[np.float64]  # (b, 2) of x and y, after the rotation; of the paper in [0.5, 2]


def draw_slide_augmentation(n: int, rng: np.random.Generator, *, log_scale: float | None = None) -> SlideAugmentation:
    """Draw an augmentation per view, for `n`: flips with probability 1/2, angles uniform.

    Scales are uniform in [0.5, 2] (paper), or exp(u) with u uniform in [-log_scale, log_scale].
    """
    flip, angle_rad = rng.random((n, 2)) < 0.5, rng.uniform(0.0, 2 * np.pi, n)
    if log_scale is None:
        return SlideAugmentation(flip, angle_rad, rng.uniform(0.5, 2.0, (n, 2)))
    return SlideAugmentation(flip, angle_rad, np.exp(rng.uniform(-log_scale, log_scale, (n, 2))))


def augment_positions(positions: NDArray[np.float64], augmentation: SlideAugmentation) -> NDArray[np.float64]:
    """Flip, then rotate, then scale the positions (b, t, 2) of each view about its origin; same shape, same units.

    The result may be negative and lie anywhere: :func:`cells_of` looks at differences within a view only.
    """
    sign = np.where(augmentation.flip, -1.0, 1.0)  # (b, 2)
    cos, sin = np.cos(augmentation.angle_rad), np.sin(augmentation.angle_rad)
    rotation = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)  # (b, 2, 2)
    matrix = augmentation.scale[:, :, None] * rotation * sign[:, None, :]  # scale @ rotation @ flip, both diagonal
    # Summed by hand: a matrix product may round a view differently with the number of views.
    moved = matrix[:, None, :, 0] * positions[..., 0, None] + matrix[:, None, :, 1] * positions[..., 1, None]
    return np.asarray(moved, dtype=np.float64)  # (b, t, 2)


def cells_of(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cell of each tile, relative to the view's smallest position on each axis: floor(position / CELL).

    Tile i of a regular grid belongs to cell floor(i / (7/8)) = floor(8 i / 7). Every seventh tile lies exactly on an
    edge between cells, where a division of floats is a coin toss. So the view's minimum is subtracted, the rest rounded
    to 1/64 tile, and the floor taken in integers: 64 i // 56 = 8 i // 7, exactly. Rounding to 1/64 forgives errors
    below 1/128 tile. A grid stored in whole level-0 pixels is off by half a pixel at the tile and half a pixel at the
    minimum, which is less than that for tiles of more than 128 level-0 pixels.

    Args:
        positions: (b, t, 2) in tile units, (x, y).

    Returns:
        (b, t, 2) int64, **(y, x)**; the smallest is 0 on each axis of each view.

    Raises:
        InvalidInput: A position is not finite.
    """
    if not np.isfinite(positions).all():
        raise InvalidInput(
            "positions of tiles contain values that are not finite", "Check the coordinates of the slide."
        )
    relative = positions - positions.min(axis=1, keepdims=True)
    quanta = np.rint(relative * QUANTA).astype(np.int64)
    return np.ascontiguousarray(quanta[..., ::-1] // CELL_QUANTA)


def draw_rows(rng: np.random.Generator, counts: NDArray[np.int64], t: int) -> NDArray[np.int64]:
    """Draw `t` rows of each slide, uniformly.

    Without replacement where a slide has at least `t` rows (every subset equally likely; the order within a view is not
    random), with replacement where it has fewer. Floyd's algorithm, over all slides at once: memory and time grow with
    b and t, not with the number of rows.

    Args:
        rng: The result depends on its state and on `counts`, in order, alone.
        counts: (b,) int64, the rows of each slide.
        t: Rows to draw.

    Returns:
        (b, t) int64, row numbers in [0, counts).

    Raises:
        InvalidInput: A slide has no rows, or `t` is not positive.
    """
    if t < 1:
        raise InvalidInput(f"cannot draw {t} tiles per view", "Draw at least one.")
    if (counts < 1).any():
        first = int(np.flatnonzero(counts < 1)[0])
        raise InvalidInput(f"slide {first} of the batch has no tiles to draw from", "Leave out slides without tissue.")
    distinct = counts >= t
    rows = np.empty((len(counts), t), dtype=np.int64)
    for k in range(t):
        # Floyd: a number below `top`; if it was drawn before, take top - 1, which cannot have been.
        top = np.where(distinct, counts - t + k + 1, counts)
        drawn = rng.integers(0, top)
        seen = (rows[:, :k] == drawn[:, None]).any(axis=1)
        rows[:, k] = np.where(seen & distinct, top - 1, drawn)
    return rows


def make_views(
    features: NDArray[np.float16] | NDArray[np.float32] | Tensor,
    positions: NDArray[np.float64],
    *,
    augmentation: SlideAugmentation | None,
    device: torch.device,
    cells: Cells = cells_of,
) -> ViewBatch:
    """Views from drawn tiles: move their positions (paper, step 4) if there is an augmentation, put them on cells.

    Args:
        features: (b, t, c).
        positions: (b, t, 2) in tile units.
        augmentation: The augmentations of the b views; ``None`` leaves the slides as they lie.
        device: Where the views go.
        cells: Computes the cells from positions; ``gigassl`` models have a rule of their own.
    """
    if augmentation is not None:
        positions = augment_positions(positions, augmentation)
    relative = positions - positions.min(
        axis=1, keepdims=True
    )  # before float32: a slide may be thousands of tiles wide
    return ViewBatch(
        features=torch.as_tensor(features).to(device, torch.float32),
        cells=torch.from_numpy(cells(positions)).to(device),
        positions=torch.from_numpy(relative).to(device, torch.float32),
    )


def slide_views(
    features: Iterable[NDArray[np.float16]],
    positions: TilePositions,
    tiles: NDArray[np.int64],
    *,
    device: torch.device,
    cells: Cells = cells_of,
) -> ViewBatch:
    """Views of whole slides as they lie, from un-augmented features: those a slide is embedded or explained by.

    Args:
        features: Per slide (n, c), the features of all its tiles. May be a generator: one slide is held at a time.
        positions: Positions of the tiles of these slides.
        tiles: (s, r, t) numbers of the tiles in the r views of each of s slides.
        device: Where the views go.
        cells: As in :func:`make_views`.

    Returns:
        s * r views, one slide after the other.
    """
    s, r, t = tiles.shape
    drawn = np.concatenate([slide[rows] for slide, rows in zip(features, tiles, strict=True)])  # (s * r, t, c)
    placed = positions(np.arange(s).repeat(r), tiles.reshape(-1, t))  # (s * r, t, 2)
    return make_views(drawn, placed, augmentation=None, device=device, cells=cells)


class TilePositions:
    """Positions of all tiles of many slides, packed one slide after the other.

    A grid is the level-0 corners (n, 2) of a slide's tiles, and their edge in level-0 px.

    Attributes:
        counts: (s,) number of tiles of each slide.
    """

    def __init__(self, grids: Iterable[tuple[NDArray[np.int32], float]]) -> None:
        corners, edges = [], []
        for coords, edge_px in grids:
            lowest = coords.min(axis=0) if len(coords) else 0
            corners.append((coords.astype(np.int64) - lowest).astype(np.uint32))  # int32 corners are < 2^32 apart
            edges.append(edge_px)
        counts = [len(c) for c in corners]
        self.counts = np.array(counts, dtype=np.int64)  # (s,)
        self._start = np.concatenate([[0], np.cumsum(self.counts)])  # (s + 1,)
        self._corners = np.concatenate([np.zeros((0, 2), dtype=np.uint32), *corners])  # (all tiles, 2)
        self._edges_px = np.array(edges, dtype=np.float64)

    def __call__(self, slides: NDArray[np.int64], tiles: NDArray[np.int64] | NDArray[np.int32]) -> NDArray[np.float64]:
        """Positions (b, t, 2) of tiles (b, t) of slides (b,), in tile units."""
        corners = self._corners[self._start[slides][:, None] + tiles]  # (b, t, 2)
        return corners / self._edges_px[slides][:, None, None]
