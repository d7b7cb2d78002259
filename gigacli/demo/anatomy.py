"""How the tissue of a drawn slide is laid out: its outline, its regions, and the glands, nests and fat cells in them.

Maps are (row, column) images; points and corners are (x, y) in cells of the image they lie on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

Floats = NDArray[np.float32]

CLASSES = ("glandular", "solid")
TILE_TYPES = ("background", "stroma", "glandular", "solid", "fat")  # meaning of the values of a tile-type map
BACKGROUND, STROMA, GLANDULAR, SOLID, FAT = range(5)
VOID, OPEN, GLAND, NEST, WHITE = range(5)
"""What a cell of the structure grid is: no tissue, loose tissue, epithelium of a gland or a nest, a white gap."""

_DIRECTIONS = 32  # corners of an outline


@dataclass(frozen=True)
class Units:
    """Closed outlines around centres, on the structure grid: glands, nests or fat cells."""

    centres: Floats  # (unit, xy) float32
    radii: Floats  # (unit, direction) float32: distance from the centre to the outline in equally spaced directions
    kind: NDArray[np.uint8]  # (unit,) uint8: the tile type around the centre

    def outlines(self, scale: float | Floats = 1.0, *, inset: float = 0.0) -> Floats:
        """Corners (unit, direction, xy) of the outlines, shrunk towards the centres by `scale`, then by `inset` cells.

        Pillow also fills the cells under the edge of a polygon: with an inset of half a cell the areas come out right.
        """
        angle = np.linspace(0, 2 * np.pi, _DIRECTIONS, endpoint=False, dtype=np.float32)
        ray = np.stack((np.cos(angle), np.sin(angle)), -1)  # (direction, xy)
        radii = self.radii * np.reshape(np.float32(scale), (-1, 1)) - np.float32(inset)
        return self.centres[:, None] + radii[..., None] * ray

    def area(self) -> Floats:
        """Area (unit,) inside each outline, in cells: the sum of the triangles between neighbouring directions."""
        triangles = self.radii * np.roll(self.radii, -1, axis=1)
        return np.float32(0.5 * np.sin(2 * np.pi / _DIRECTIONS)) * triangles.sum(1)


def field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Floats:
    """Draw smooth noise of about unit variance whose bumps are `scale` cells apart."""
    rows, columns = shape
    scale = max(scale, 1.0)
    small = rng.standard_normal((int(rows / scale) + 5, int(columns / scale) + 5), dtype=np.float32)
    box = (1.5, 1.5, 1.5 + columns / scale, 1.5 + rows / scale)
    large = Image.fromarray(small).resize((columns, rows), Image.Resampling.BICUBIC, box=box)
    return np.float32(1.35) * np.asarray(large)


def scatter(rng: np.random.Generator, shape: tuple[int, int], spacing: float, *, jitter: float = 0.3) -> Floats:
    """Draw points (n, xy) of a disturbed hexagonal lattice, those that lie in an image of this shape."""
    y = np.arange(0, shape[0] + spacing, spacing * np.sqrt(0.75), dtype=np.float32)
    x = np.arange(0, shape[1] + spacing, spacing, dtype=np.float32)
    lattice = np.stack(np.meshgrid(x, y), -1)  # (row, column, xy)
    lattice[1::2, :, 0] += spacing / 2
    points = lattice.reshape(-1, 2)
    points += rng.uniform(-jitter * spacing, jitter * spacing, points.shape).astype(np.float32)
    return points[((points >= 0) & (points < (shape[1] - 1, shape[0] - 1))).all(1)]


def under(image: NDArray[Any], points: Floats) -> NDArray[Any]:
    """Return values (n,) of an image under points (n, xy); a point beside the image gets the value of the border."""
    column, row = np.clip(points.astype(np.int32), 0, (image.shape[1] - 1, image.shape[0] - 1)).T
    return image[row, column]


def outline(rng: np.random.Generator, shape: tuple[int, int], cell_um: float) -> NDArray[np.bool_]:
    """Draw where there is tissue: a lobed piece of 40 to 58 % of the slide, fragments beside it, holes in it."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    (middle_x, middle_y), (wide, high) = rng.uniform(-0.1, 0.1, 2), rng.uniform(0.75, 1.0, 2)
    depth = 1 - np.hypot((x - middle_x) / wide, (y - middle_y) / high)
    for scale_um, weight in ((600, 0.17), (200, 0.06), (60, 0.02)):
        depth += weight * field(rng, shape, scale_um / cell_um)
    depth -= 12 * np.clip(np.maximum(abs(x), abs(y)) - 0.72, 0, None) ** 2  # keep off the slide's border
    inside = depth > np.quantile(depth, 1 - rng.uniform(0.40, 0.58))
    rough = 0.3 * field(rng, shape, 80 / cell_um)
    for count, reach, smallest_um, largest_um, holes in (
        (rng.integers(1, 5), 0.85, 40, 130, False),
        (rng.integers(2, 7), 0.6, 20, 90, True),
    ):
        for _ in range(count):
            (at_x, at_y), radius = rng.uniform(-reach, reach, 2), rng.uniform(smallest_um, largest_um) / cell_um
            distance = np.hypot((x - at_x) * shape[1] / 2, (y - at_y) * shape[0] / 2)  # in cells
            inside[distance / radius + rough < 1] = not holes
    inside[[0, -1]] = inside[:, [0, -1]] = False
    return inside


def regions(rng: np.random.Generator, inside: NDArray[np.bool_], label: str, cell_um: float) -> NDArray[np.uint8]:
    """Divide the slide into patches of about 350 microns, each of one tile type; the tissue in given proportions.

    The map goes on beyond the tissue, so that glands and nests at its edge are cut like everything else: were only
    those drawn whose centre is inside, the edge would be richer in lumens than in clefts.
    """
    seeds = scatter(rng, inside.shape, 350 / cell_um)
    warp = np.stack([field(rng, inside.shape, 90 / cell_um) * 25 / cell_um for _ in range(2)], -1)
    y, x = np.indices(inside.shape, dtype=np.float32)
    patch = cKDTree(seeds).query(np.stack((x, y), -1) + warp)[1]  # (row, column)
    stroma, fat, own = rng.uniform(0.16, 0.28), rng.uniform(0.03, 0.09), rng.uniform(0.68, 0.82)
    pattern = 1 - stroma - fat
    mine, other = (GLANDULAR, SOLID) if label == CLASSES[0] else (SOLID, GLANDULAR)
    lacking = {STROMA: stroma, FAT: fat, mine: own * pattern, other: (1 - own) * pattern}
    area = np.bincount(patch[inside], minlength=len(seeds)) / max(1, inside.sum())
    types = np.zeros(len(seeds), np.uint8)
    for seed in rng.permutation(len(seeds)):  # every patch goes to the type that lacks most
        types[seed] = max(lacking, key=lambda kind: lacking[kind])
        lacking[types[seed]] -= area[seed]
    return types[patch]


def tessellate(
    rng: np.random.Generator,
    types: NDArray[np.uint8],
    wanted: tuple[int, ...],
    spacing: float,
    *,
    gap: float,
    corners: float,
) -> Units:
    """Draw rounded Voronoi cells `spacing` apart that leave `gap` of the area free; more `corners`, less round.

    Centres and outlines do not depend on `types`: that only says which are kept.
    """
    points = scatter(rng, types.shape, spacing)
    distance, near = cKDTree(points).query(points, k=9)
    step = points[near[:, 1:]] - points[:, None]  # (unit, neighbour, xy)
    towards = np.arctan2(step[..., 1], step[..., 0])
    angle = np.linspace(0, 2 * np.pi, _DIRECTIONS, endpoint=False)
    facing = np.clip(np.cos(angle - towards[..., None]), 0.2, None)  # (unit, neighbour, direction)
    # A cell ends halfway to its neighbours; a sum of high powers in place of the maximum rounds its corners.
    radii = ((facing / (distance[:, 1:, None] / 2)) ** corners).sum(1) ** (-1 / corners)
    wave, shift = rng.normal(0, 0.05, (2, len(points), 1)), rng.uniform(0, 2 * np.pi, (2, len(points), 1))
    radii *= 1 + wave[0] * np.cos(2 * angle + shift[0]) + wave[1] * np.cos(3 * angle + shift[1])
    everywhere = Units(points, radii.astype(np.float32), under(types, points))
    shrink = np.sqrt((1 - gap) * spacing**2 * np.sqrt(0.75) / np.median(everywhere.area()))
    keep = np.isin(everywhere.kind, wanted)
    return Units(points[keep], everywhere.radii[keep] * np.float32(shrink), everywhere.kind[keep])


def structure(rng: np.random.Generator, tissue: Floats, units: Units, fat: Units, white: float) -> NDArray[np.uint8]:
    """Say what every cell of the structure grid is (`VOID` to `WHITE`).

    Args:
        rng: Draws the share of white of every unit and the side on which a nest has come away from its bed.
        tissue: (row, column), above one half where there is tissue.
        units: Glands and nests.
        fat: Fat cells.
        white: Mean share of a unit that is white: the lumen of a gland, a cleft along one side of every third nest.
    """
    count, gland = len(units.kind), units.kind == GLANDULAR
    share = np.where(gland, rng.uniform(0.4, 1.6, count), rng.permutation(np.arange(count) % 3 // 2 * 3.0))
    hollow = (white * share).astype(np.float32)
    side = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    inner = units.outlines(np.sqrt(np.where(gland, hollow, 1 - hollow)), inset=0.5)
    away = (1 - np.sqrt(1 - hollow)) * units.radii.min(1) * ~gland
    inner += (away * np.stack((np.cos(side), np.sin(side)))).T[:, None]
    image = Image.new("L", (tissue.shape[1], tissue.shape[0]), OPEN)
    draw = ImageDraw.Draw(image)
    for corners in fat.outlines(inset=0.5):
        draw.polygon(corners.ravel().tolist(), fill=WHITE)
    for is_gland, corners, inner_corners in zip(gland, units.outlines(inset=0.5), inner, strict=True):
        draw.polygon(corners.ravel().tolist(), fill=GLAND if is_gland else WHITE)
        draw.polygon(inner_corners.ravel().tolist(), fill=WHITE if is_gland else NEST)
    return np.where(tissue > 0.5, np.asarray(image), VOID).astype(np.uint8)
