"""Slides drawn to look like haematoxylin and eosin (H&E), with everything about them known.

The stains are drawn as concentrations and turned into light by Beer-Lambert's law, so a laboratory is two stain
vectors and a white point. The two classes differ only in how the tissue is built: "glandular" has nuclei in rings
around lumens, "solid" has nests filled with larger, irregular nuclei. Both spend the same shares of area on nuclei,
cytoplasm, stroma and white, so that neither the mean colour of the tissue nor its spread tells them apart; everything
else (outline, holes, pens, strength of the stains) is drawn before the class is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from gigacli.demo import anatomy
from gigacli.demo.anatomy import BACKGROUND, CLASSES, FAT, GLANDULAR, SOLID, Floats, Units, field, scatter, under
from gigacli.errors import InvalidInput

MAP_UM = 8.0  # side of a cell of the truth maps in microns, up to rounding to an even number of level-0 pixels
MIN_SLIDE_UM = 500  # a slide is at least this wide and high
_COLUMNAR_UM, _LARGE_UM, _SPINDLE_UM, _SMALL_UM = (9.5, 5.6), (10.5, 8.0), (13.0, 3.4), (6.0, 5.6)
_TURNS, _VARIANTS = 24, 6  # sprites of every kind of nucleus
_MARGIN_PX = 64  # around the canvas of nuclei, so that none needs cutting
_BLOCK_PX = 256
_INKS = ((1.6, 0.45, 1.3), (1.9, 1.1, 0.25), (1.7, 1.6, 1.5))  # optical densities: green, blue, black


@dataclass(frozen=True)
class Lab:
    """How one laboratory stains and scans."""

    # optical density (base e) of one unit of concentration, for red, green and blue
    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]  # the same for eosin
    white: tuple[float, float, float]  # red, green and blue of the empty slide, 0 to 255


LABS = (
    Lab(haematoxylin=(1.10, 1.22, 0.62), eosin=(0.16, 0.74, 0.42), white=(243, 241, 244)),
    Lab(haematoxylin=(1.35, 1.30, 0.54), eosin=(0.12, 0.52, 0.22), white=(236, 238, 246)),
    Lab(haematoxylin=(0.80, 1.12, 0.66), eosin=(0.12, 0.84, 0.62), white=(247, 244, 238)),
    Lab(haematoxylin=(1.00, 1.15, 0.48), eosin=(0.26, 0.66, 0.30), white=(238, 243, 240)),
)
"""The laboratories a cohort can come from."""


@dataclass(frozen=True)
class Drawing:
    """A slide and the truth about it."""

    image: NDArray[np.uint8]  # (height, width, 3) uint8, RGB
    tissue: NDArray[np.bool_]  # (height / downsample, width / downsample) bool: stained tissue, without holes and fat
    tile_type: NDArray[np.uint8]  # the same shape, uint8: index into `anatomy.TILE_TYPES`
    pen: NDArray[np.bool_]  # the same shape, bool: touched by a felt pen. Tissue under a pen still counts as tissue
    downsample: int  # side of a cell of the two maps in level-0 pixels


@dataclass(frozen=True)
class _Look:
    """What varies from slide to slide and has nothing to do with the class."""

    unit_um: float  # between the centres of neighbouring glands or nests
    gap: float  # share of the patterned area that is stroma between them
    white: float  # share of a gland that is lumen, and of a nest's place that is cleft
    nuclei: float  # share of the epithelium covered by nuclei
    strength: Floats  # (stain,) factor on the concentrations of haematoxylin and eosin

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Look:
        return cls(
            unit_um=rng.uniform(100, 140),
            gap=rng.uniform(0.24, 0.34),
            white=rng.uniform(0.10, 0.18),
            nuclei=rng.uniform(0.36, 0.44),
            strength=np.exp(rng.normal(0, 0.07, 2)).astype(np.float32),
        )


def draw_slide(
    rng: np.random.Generator, *, label: str, lab: Lab, size_px: tuple[int, int] = (4096, 3072), mpp: float = 0.5
) -> Drawing:
    """Draw one slide.

    Args:
        rng: Source of everything random. Generators in the same state give the same slide; with the other label, a
            slide of the same outline, pens, look and proportions.
        label: One of `CLASSES`: 68 to 82 % of the patterned tissue is of this pattern, the rest of the other.
        lab: How it is stained and scanned.
        size_px: (width, height), rounded down to a whole number of cells of the truth maps.
        mpp: Microns per pixel. Everything is drawn to scale; at 2 a nucleus is 3 to 5 pixels long.

    Raises:
        InvalidInput: Unknown label, or a slide that `check_size` refuses.
    """
    if label not in CLASSES:
        raise InvalidInput(f"label = {label!r}, expected one of {', '.join(CLASSES)}")
    check_size(size_px, mpp)
    cell_px = 2 * max(1, round(MAP_UM / mpp / 2))
    columns, rows = (int(side) // cell_px for side in size_px)
    outline_rng, region_rng, look_rng, pen_rng, unit_rng, ground_rng, nuclei_rng, light_rng = rng.spawn(8)
    inside = anatomy.outline(outline_rng, (rows, columns), cell_px * mpp)
    region = anatomy.regions(region_rng, inside, label, cell_px * mpp)
    look = _Look.draw(look_rng)

    um = 2 * mpp  # the structure grid has cells of 2 x 2 pixels
    shape = (rows * cell_px // 2, columns * cell_px // 2)
    types = np.asarray(Image.fromarray(region).resize(shape[::-1], Image.Resampling.NEAREST))
    tissue = _soft_edge(unit_rng, inside, shape, um)
    units = anatomy.tessellate(unit_rng, types, (GLANDULAR, SOLID), look.unit_um / um, gap=look.gap, corners=6)
    fat = anatomy.tessellate(unit_rng, types, (FAT,), 65 / um, gap=0.07, corners=14)
    owner = anatomy.structure(unit_rng, tissue, units, fat, look.white)

    ground, phase = _ground(ground_rng, tissue, owner, um)
    nuclei = _nuclei(nuclei_rng, owner, phase, units, look, mpp)
    ink = _pens(pen_rng, shape, um)
    image = _light(light_rng, nuclei, ground, ink, lab, look)
    tile_type = np.where(inside, region, BACKGROUND).astype(np.uint8)
    stained = (tile_type != BACKGROUND) & (tile_type != FAT)
    pen = ink[0].reshape(rows, cell_px // 2, columns, cell_px // 2).max((1, 3)) > 0
    return Drawing(image=image, tissue=stained, tile_type=tile_type, pen=pen, downsample=cell_px)


def check_size(size_px: tuple[int, int], mpp: float) -> None:
    """Refuse a slide too small to draw anything in.

    Raises:
        InvalidInput: `mpp` is not positive, or a side is under `MIN_SLIDE_UM`.
    """
    if not mpp > 0:
        raise InvalidInput(f"mpp = {mpp}, expected microns per pixel above 0", "A 20x scan has 0.5.")
    if min(size_px) * mpp < MIN_SLIDE_UM:
        found = f"a slide of {size_px[0]} x {size_px[1]} px at {mpp} microns per pixel"
        raise InvalidInput(f"{found}, expected at least {MIN_SLIDE_UM} microns on each side", "Draw a larger one.")


def _soft_edge(rng: np.random.Generator, inside: NDArray[np.bool_], shape: tuple[int, int], um: float) -> Floats:
    """The outline on the structure grid, frayed by a few microns: 0 outside, 1 inside, a slope of one cell between."""
    mask = Image.fromarray(inside.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC)
    frayed = np.asarray(mask) - 0.5 + 0.15 * np.clip(field(rng, shape, 14 / um), -2, 2)
    return np.clip(frayed * np.float32(MAP_UM / um) + np.float32(0.5), 0, 1)


def _ground(
    rng: np.random.Generator, tissue: Floats, owner: NDArray[np.uint8], um: float
) -> tuple[list[Floats], Floats]:
    """Everything but nuclei: concentrations of the two stains, and the phase along whose contours the fibres run."""
    shape = owner.shape[0], owner.shape[1]
    y, x = np.indices(shape, dtype=np.float32, sparse=True)
    angle = np.float32(rng.uniform(0, np.pi))
    phase = um * (np.cos(angle) * x + np.sin(angle) * y)
    for scale_um, weight in ((400, 180), (70, 14), (12, 2.5)):
        phase += weight * field(rng, shape, scale_um / um)
    profile = ndimage.gaussian_filter1d(rng.standard_normal(4096), 2.2, mode="wrap")
    fibre = (profile / profile.std()).astype(np.float32)[(phase / 0.75).astype(np.int32) & 4095]
    patchy, grain = field(rng, shape, 110 / um), field(rng, shape, 6 / um)

    epithelium, white = _smooth((owner == anatomy.GLAND) | (owner == anatomy.NEST)), _smooth(owner == anatomy.WHITE)
    stroma = np.clip(0.52 + 0.15 * fibre + 0.09 * patchy, 0.05, None)
    eosin = stroma + epithelium * (0.52 + 0.05 * grain + 0.05 * patchy - stroma)
    haematoxylin = (0.08 + 0.14 * epithelium) * (1 + 0.2 * grain)
    present = tissue * (1 - 0.97 * white)
    return [haematoxylin * present, eosin * present], np.asarray(phase, np.float32)


def _smooth(mask: NDArray[np.bool_]) -> Floats:
    """A mask without stairs along its edge, 0 to 1."""
    blurred = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(1))
    return np.asarray(blurred, np.float32) / np.float32(255)


def _nuclei(
    rng: np.random.Generator, owner: NDArray[np.uint8], phase: Floats, units: Units, look: _Look, mpp: float
) -> Floats:
    """Haematoxylin of all nuclei, (height, width) in level-0 pixels."""
    um, shape = 2 * mpp, (owner.shape[0], owner.shape[1])
    canvas = np.zeros((2 * shape[0] + 2 * _MARGIN_PX, 2 * shape[1] + 2 * _MARGIN_PX), np.float32)

    rings, outwards = _rings(rng, units, look, um)
    keep = under(owner, rings) == anatomy.GLAND
    _stamp(canvas, _sprites(rng, _COLUMNAR_UM, 0.1, mpp), rng, rings[keep], outwards[keep])

    one_um2 = np.pi / 4 * _LARGE_UM[0] * _LARGE_UM[1]
    crowded = scatter(rng, shape, np.sqrt(one_um2 / look.nuclei / np.sqrt(0.75)) / um, jitter=0.36)
    crowded = crowded[under(owner, crowded) == anatomy.NEST]
    _stamp(canvas, _sprites(rng, _LARGE_UM, 0.22, mpp), rng, crowded, rng.uniform(0, np.pi, len(crowded)))

    sparse = scatter(rng, shape, 24 / um, jitter=0.45)
    sparse = sparse[under(owner, sparse) == anatomy.OPEN]
    slope_x = under(phase, sparse + np.array((1, 0))) - under(phase, sparse)
    slope_y = under(phase, sparse + np.array((0, 1))) - under(phase, sparse)
    _stamp(canvas, _sprites(rng, _SPINDLE_UM, 0.1, mpp), rng, sparse, np.arctan2(-slope_x, slope_y))

    immune = scatter(rng, shape, 8.5 / um)
    immune = immune[(under(owner, immune) == anatomy.OPEN) & (under(field(rng, shape, 110 / um), immune) > 2)]
    _stamp(canvas, _sprites(rng, _SMALL_UM, 0.1, mpp), rng, immune, rng.uniform(0, np.pi, len(immune)))
    return canvas[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]


def _rings(rng: np.random.Generator, units: Units, look: _Look, um: float) -> tuple[Floats, NDArray[np.float64]]:
    """Nuclei side by side along the inside of every gland, in up to three rows: centres (n, xy), directions (n,)."""
    long, wide = _COLUMNAR_UM
    wanted = look.nuclei * (1 - look.white) * units.area() * um**2 / (np.pi / 4 * long * wide)
    outlines = units.outlines() @ np.array((1, 1j))  # (unit, direction), x + iy
    points, outwards = [np.empty(0, complex)], [np.empty(0, complex)]
    for gland in np.flatnonzero(units.kind == GLANDULAR):
        corners, left = outlines[gland], wanted[gland]
        along = np.cumsum(np.abs(corners - np.roll(corners, 1)))  # length of the outline up to each corner
        for row in range(3):
            inset = (long / 2 + 0.5 + 9 * row) / um  # rows 9 microns apart, the first just inside the outline
            fits = (along[-1] - 2 * np.pi * inset) * um / (1.02 * wide)
            count = int(max(0, min(left, fits)) + rng.random())
            left -= count
            place = (np.arange(count) + row / 2 + rng.uniform(-0.2, 0.2, count)) / max(1, count) * along[-1]
            behind, ahead = np.interp(place + np.array([[-3], [3]]) / um, along, corners, period=along[-1])
            outward = (ahead - behind) / (1j * np.abs(ahead - behind))
            points.append((behind + ahead) / 2 - (inset + rng.normal(0, 0.9 / um, count)) * outward)
            outwards.append(outward)
    spots = np.concatenate(points)
    return np.stack((spots.real, spots.imag), -1).astype(np.float32), np.angle(np.concatenate(outwards))


def _sprites(rng: np.random.Generator, size_um: tuple[float, float], ragged: float, mpp: float) -> Floats:
    """(turn x variant, side, side) nuclei of one kind, whose values add up to their area in pixels."""
    scale, dark = (
        rng.permutation(np.linspace(1 - by, 1 + by, _VARIANTS))[:, None, None] for by in (0.15, 1.6 * ragged)
    )
    long, wide = (side_um / 2 / mpp * scale for side_um in size_um)
    half = int(np.ceil(1.5 * size_um[0] / 2 / mpp)) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    turn = (np.arange(_TURNS) * np.pi / _TURNS)[:, None, None, None]
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)  # (turn, 1, side, side)
    radius, direction = np.hypot(u / long, v / wide), np.arctan2(v / wide, u / long)  # (turn, variant, side, side)
    shift = rng.uniform(0, 2 * np.pi, (2, _VARIANTS, 1, 1))
    edge = 1 + ragged * (0.6 * np.cos(2 * direction + shift[0]) + 0.4 * np.cos(3 * direction + shift[1]))
    chromatin = ndimage.gaussian_filter(rng.standard_normal((_VARIANTS, *x.shape)), (0, 0.7 / mpp, 0.7 / mpp))
    membrane = np.exp(-(((radius / edge - 0.85) / 0.18) ** 2))
    body = np.clip((edge - radius) * wide * 0.8 + 0.5, 0, 1)
    body *= np.clip(1 + 0.3 * chromatin / chromatin.std() + 0.35 * membrane, 0.3, None)
    body *= dark * np.pi * long * wide / body.sum((-2, -1), keepdims=True)
    return body.reshape(-1, *x.shape).astype(np.float32)


def _stamp(
    canvas: Floats, sprites: Floats, rng: np.random.Generator, spots: Floats, angles: NDArray[np.floating]
) -> None:
    """Add a sprite at each of `spots` (n, xy), cells of the structure grid, its long axis along `angles` (n,)."""
    side = sprites.shape[-1]
    turn = (angles / np.pi * _TURNS).round().astype(int) % _TURNS
    which = turn * _VARIANTS + rng.integers(0, _VARIANTS, len(spots))
    corners = (2 * spots).astype(int) + _MARGIN_PX - side // 2
    for (x, y), sprite in zip(corners.tolist(), which.tolist(), strict=True):
        canvas[y : y + side, x : x + side] += sprites[sprite]


def _pens(rng: np.random.Generator, shape: tuple[int, int], um: float) -> tuple[Floats, tuple[float, float, float]]:
    """On four slides of ten, one to three strokes of a felt pen: the amount of ink, and its optical density."""
    image = Image.new("L", shape[::-1])
    ink = _INKS[rng.integers(len(_INKS))]
    for _ in range(rng.integers(1, 4) if rng.random() < 0.4 else 0):
        points = [rng.uniform(0.05, 0.95, 2) * shape[::-1]]
        heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.04)
        for _ in range(rng.integers(25, 80)):
            heading += bend + rng.normal(0, 0.03)
            points.append(points[-1] + 30 / um * np.array((np.cos(heading), np.sin(heading))))
        width = int(rng.uniform(50, 130) / um)
        ImageDraw.Draw(image).line([(x, y) for x, y in points], fill=255, width=width, joint="curve")
    amount = np.asarray(image.filter(ImageFilter.BoxBlur(4 / um)), np.float32) / 255
    return amount * (0.8 + 0.12 * field(rng, shape, 30 / um)), ink


def _light(
    rng: np.random.Generator,
    nuclei: Floats,
    ground: list[Floats],
    ink: tuple[Floats, tuple[float, float, float]],
    lab: Lab,
    look: _Look,
) -> NDArray[np.uint8]:
    """Light through stains and ink, white x exp(-concentration x density), and the camera's noise."""
    height, width = nuclei.shape
    layers = [Image.fromarray(layer) for layer in (*ground, ink[0])]
    density = np.array((lab.haematoxylin, lab.eosin), np.float32) * look.strength[:, None]
    density = np.vstack((density * rng.normal(1, 0.02, (2, 3)), ink[1])).astype(np.float32)  # (layer, channel)
    white = (np.array(lab.white) + rng.normal(0, 1, 3)).astype(np.float32)
    grain = 2.5 * ndimage.gaussian_filter(rng.standard_normal((640, 640), dtype=np.float32), 0.8, mode="wrap")
    image = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, _BLOCK_PX):  # in blocks that stay in the processor's cache
        for x in range(0, width, _BLOCK_PX):
            block = slice(y, y + _BLOCK_PX), slice(x, x + _BLOCK_PX)
            rows, columns = image[(*block, 0)].shape
            at_y, at_x = rng.integers(0, 640 - _BLOCK_PX, 2)
            noise = grain[at_y : at_y + rows, at_x : at_x + columns]
            box = (x / 2, y / 2, (x + columns) / 2, (y + rows) / 2)
            stains = [np.asarray(layer.resize((columns, rows), Image.Resampling.BILINEAR, box=box)) for layer in layers]
            stains[0] = stains[0] + nuclei[block]
            for channel in range(3):
                light = white[channel]
                if max(amount.max() for amount in stains) > 0:
                    light = light * np.exp(-sum(a * d for a, d in zip(stains, density[:, channel], strict=True)))
                image[(*block, channel)] = np.clip(light + noise, 0, 255)
    return image
