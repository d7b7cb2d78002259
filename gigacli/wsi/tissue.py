"""Tissue of a slide, found on a thumbnail.

One algorithm with three constants to know (`FLOOR`, `SPECK_UM2`, `HOLE_UM2`) and no knobs; every size is in microns, so
that it does the same on any scanner.

Brightfield. Glass is the most common luminance among pixels that are bright, nearly without colour and smooth (tissue,
however pale, has texture). Optical densities ``log(glass / value)`` are taken against it. All stains of pathology
absorb green more than red, or more than blue: haematoxylin, eosin, DAB. So the score of a pixel is

    s = OD_green - min(OD_red, OD_blue)

which is 0 for every shade of grey (dust, bubbles, shadows, bars), for yellow glass and for green ink. What the score
has to reach is the largest of a floor, a share of the strongest score nearby, and a share of the slide's typical score:
the border then lies halfway between tissue and glass for pale and for dark tissue alike, in one slide, and the thin
walls of fat cells do not count. A pixel covers as much as its score is of twice that, at most all; it is tissue where
its neighbourhood is covered by half, so that tiles on a border hold neither more nor less than they are said to. Ink
(blue, green, red, black) and black borders are what no tissue looks like over a large connected area; they and a margin
around them are left out.

Fluorescence: the slide is dark and what is not dark has all values in between (brightfield inside a black frame has
not). Tissue is then where the smoothed log of the brightest channel exceeds Otsu's threshold (1979) and a floor.

Small pieces are removed and small holes filled. Large clear spaces, fields of fat among them, are not tissue.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gigacli.errors import InvalidInput

MASK_MPP = 16.0
"""Microns per pixel of the thumbnail the mask is made from: a tile of 256 microns has 256 of them, and most pyramids
have a level near it, so that a slide costs little more than decoding two megapixels."""

FLOOR = 0.025
"""Score below which nothing is tissue, as a natural optical density: six grey levels of tint on a white slide."""

SPECK_UM2 = 6_000.0  # pieces smaller than this (77 x 77 microns) are dust
HOLE_UM2 = 5_000.0  # holes smaller than this (70 x 70 microns) are lumens, vessels and cracks that belong to the tissue
_NEARBY_UM = 20.0  # radius of a neighbourhood: one pixel, the width of a blurred border
_SHARE = 0.35  # of the strongest score nearby; less keeps a halo of glass, more eats into uneven tissue
_TYPICAL = 0.3  # of the slide's median score; more loses pale tissue beside dark, less keeps walls of fat
_PALE = 0.08  # a share of the typical score asks for no more: pale tissue beside dark
_COVER = 0.5  # of a neighbourhood; at .45 tiles of 128 microns on a border held .03 too much (benchmarks/tissue.py)
_INK_UM2 = 20_000.0  # pools of blood and pigment that look like ink are smaller, strokes of a pen are larger
_INK_WIDTH_UM = 32.0  # opened with this, so that dark outlines of cells do not add up to a stroke
_INK_MARGIN_UM = 16.0  # strokes are out of focus and end in a halo
_CELL_UM = 16.0  # fluorescence: standard deviation that joins neighbouring nuclei into tissue
_DARK = 64  # of 255: fluorescence has half of its pixels below
_OFFSET = 4.0  # added to values before a logarithm: below it they are noise
_DEFAULT_GLASS = (245.0, 245.0, 245.0)
_SAMPLE = 2**16  # pixels that tell what is common in a slide as well as all of them do
_FOUR_NEIGHBOURS = ndimage.generate_binary_structure(2, 1)
_STRIP_PX = 2**16  # pixels worked on at a time: what stays in the processor's cache is several times faster


def tissue_mask(rgb: NDArray[np.uint8], *, mpp: float = MASK_MPP) -> NDArray[np.bool_]:
    """Find the tissue in a thumbnail, uint8 (h, w, 3) of `mpp` microns per pixel (see the module for how).

    Returns:
        bool (h, w), true on tissue. All false is a valid answer.

    Raises:
        InvalidInput: `rgb` is not such an array, or `mpp` is not positive.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise InvalidInput(f"a thumbnail of type {rgb.dtype} and shape {rgb.shape}; expected uint8 (h, w, 3)")
    if not mpp > 0:
        raise InvalidInput(f"a thumbnail of {mpp} microns per pixel; expected more than 0")
    mask = _bright_on_dark(rgb, mpp) if _is_fluorescence(rgb) else _stained_on_glass(rgb, mpp)
    mask = _large(mask, SPECK_UM2 / mpp**2)
    if not mask.any():
        return mask  # without tissue nothing is a hole in it
    return ~_large(~mask, HOLE_UM2 / mpp**2)


def _stride(shape: tuple[int, ...]) -> int:
    """Return the step between the rows and columns that make up a sample of a picture."""
    return max(1, math.isqrt(shape[0] * shape[1] // _SAMPLE))


def _is_fluorescence(rgb: NDArray[np.uint8]) -> bool:
    stride = _stride(rgb.shape)
    brightest = rgb[::stride, ::stride].max(2)
    if np.median(brightest) >= _DARK:
        return False
    signal = brightest[brightest > _DARK / 2]
    # H&E in a black frame has nothing between the frame and tissue, whose red and blue stay above 100.
    return signal.size == 0 or float(np.percentile(signal, 25)) < 1.5 * _DARK


def _bright_on_dark(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    brightest = np.maximum(np.maximum(rgb[..., 0], rgb[..., 1]), rgb[..., 2])
    dark = float(np.bincount(brightest[brightest < _DARK], minlength=1).argmax())
    signal = np.log((brightest.astype(np.float32) + 2 * _OFFSET) / (dark + 2 * _OFFSET))
    signal = ndimage.gaussian_filter(signal, _CELL_UM / mpp)
    return np.asarray(signal > max(_otsu(signal), 0.5))


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold with the largest variance between the two classes it makes (Otsu, 1979)."""
    count, edges = np.histogram(values, 256)
    centre = (edges[:-1] + edges[1:]) / 2
    below = count.cumsum()[:-1]
    above = count.sum() - below
    first, total = (count * centre).cumsum()[:-1], (count * centre).sum()
    with np.errstate(invalid="ignore"):  # an empty class has no mean
        between = below * above * (first / below - (total - first) / above) ** 2
    return float(edges[1:-1][np.nan_to_num(between).argmax()])


def _stained_on_glass(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    radius = max(1, round(_NEARBY_UM / mpp))
    window = (2 * radius + 1) ** 2
    score, ink = _score(rgb, _glass(rgb))
    ink = _strokes(ink, mpp)
    score[ink] = 0
    stride = _stride(score.shape)
    sample = score[::stride, ::stride]
    sample = sample[sample > FLOOR]
    least = max(FLOOR, min(_PALE, _TYPICAL * float(np.median(sample))) if sample.size else 0.0)
    enough = np.maximum(_SHARE * _nearby(score, radius, np.maximum), np.float32(least))
    np.divide(score, 2 * enough, out=score)
    np.minimum(score, 1, out=score)
    covered = _nearby(score, radius, np.add)
    if not ink.any():
        return np.asarray(covered > _COVER * window)
    # Beside ink only what can be seen of a neighbourhood counts.
    seen = _nearby((~ink).astype(np.float32), radius, np.add)
    return np.asarray((covered > _COVER * seen) & ~ink)


def _glass(rgb: NDArray[np.uint8]) -> tuple[float, ...]:
    """Return red, green and blue of empty glass."""
    stride = _stride(rgb.shape)
    height, width = rgb.shape[:2]
    rows, columns = np.arange(0, height, stride), np.arange(0, width, stride)
    near = [
        rgb[np.ix_(np.clip(rows + y, 0, height - 1), np.clip(columns + x, 0, width - 1))]
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    ]  # nine times (m, n, 3)
    total = np.stack([np.add(n[..., 0], n[..., 1], dtype=np.int32) + n[..., 2] for n in near])
    grey = total / np.float32(3)  # (9, m, n): each pixel and its neighbours
    smooth = grey.var(0) < 1.5**2
    red, green, blue = (near[4][..., channel] for channel in range(3))  # each (m, n)
    darkest, brightest = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    stained = np.maximum(red, blue) > 1.065 * green.astype(np.float32)
    glass = (darkest > 170) & (brightest - darkest < 32) & smooth & ~stained
    # Regions that were never scanned are filled with pure white, next to glass that is not.
    scanned = glass & (darkest < 254)
    if scanned.mean() > 0.01:
        glass = scanned
    if glass.mean() < 0.02:
        return _DEFAULT_GLASS
    luminance = grey[4][glass].astype(np.int64)
    common = int(ndimage.uniform_filter1d(np.bincount(luminance, minlength=256).astype(float), 5).argmax())
    typical = near[4][glass][np.abs(luminance - common) <= 3]  # (n, 3)
    return tuple(float(value) for value in np.median(typical, axis=0))


def _score(rgb: NDArray[np.uint8], glass: tuple[float, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Score how stained every pixel is and whether it looks like ink or a black bar: float32 and bool, each (h, w)."""
    levels = np.arange(256, dtype=np.float32)
    density = [np.maximum(np.log((g + _OFFSET) / (levels + _OFFSET)), 0).astype(np.float32) for g in glass]
    score, ink = np.empty(rgb.shape[:2], np.float32), np.empty(rgb.shape[:2], np.bool_)
    step = max(1, _STRIP_PX // rgb.shape[1])
    for top in range(0, len(rgb), step):
        part = rgb[top : top + step]
        red, green, blue = (density[c].take(part[..., c]) for c in range(3))
        darkest = np.maximum(np.maximum(red, blue), green)
        stain = np.maximum(green - np.minimum(red, blue), 0)
        stain[stain < 0.15 * darkest] = 0  # a tint that only darkness amplified
        score[top : top + step] = stain
        # Stains absorb red at most about as much as green. Blue ink over tissue is told by the blue it lets through.
        found = ((red > 1.35 * green) & (red > 0.5)) | ((red > green) & (red - blue > 0.9))
        # Red ink absorbs blue like green, and no red. Eosin lets more blue through, saffron less.
        found |= (green > 1.2) & (red < 0.25 * green) & (blue > 0.75 * green) & (blue < 1.1 * green)
        found |= np.maximum(np.maximum(part[..., 0], part[..., 1]), part[..., 2]) < 70
        ink[top : top + step] = found
    return score, ink


def _strokes(ink: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Find pens and black bars with a margin, among the pixels that look like them."""
    least = _INK_UM2 / mpp**2
    if np.count_nonzero(ink) < least:
        return np.zeros_like(ink)
    times = max(1, round(_INK_WIDTH_UM / 2 / mpp))
    # An opening that does not erode from the picture's border, where a black frame lies.
    ink = ndimage.binary_erosion(ink, _FOUR_NEIGHBOURS, iterations=times, border_value=1)
    ink = ndimage.binary_dilation(ink, _FOUR_NEIGHBOURS, iterations=times)
    ink = _large(ink, least)
    return np.asarray(ndimage.binary_dilation(ink, _FOUR_NEIGHBOURS, iterations=max(1, round(_INK_MARGIN_UM / mpp))))


def _nearby(values: NDArray[np.float32], radius: int, combine: np.ufunc) -> NDArray[np.float32]:
    """Combine the square around every pixel, `radius` to each side: its sum or maximum; the border is repeated."""
    height, width = values.shape
    wide = np.pad(values, radius, mode="edge")
    rows = wide[:height].copy()  # (height, width + 2 radius)
    for i in range(1, 2 * radius + 1):
        combine(rows, wide[i : i + height], out=rows)
    result = rows[:, :width].copy()
    for i in range(1, 2 * radius + 1):
        combine(result, rows[:, i : i + width], out=result)
    return result


def _large(mask: NDArray[np.bool_], area_px: float) -> NDArray[np.bool_]:
    """Keep the connected pieces of at least `area_px` pixels."""
    pieces = np.empty(mask.shape, np.intp)  # what bincount and take convert other types to
    ndimage.label(mask, output=pieces)
    keep = np.bincount(pieces.ravel()) >= area_px
    keep[0] = False
    return np.asarray(keep.take(pieces))
