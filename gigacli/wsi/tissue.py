"""Which parts of a slide are tissue, from a thumbnail.

One algorithm with no knobs; every size is in microns, so that it does the same on any scanner.

Brightfield. Glass is the most common luminance among pixels that are bright, nearly without colour and smooth (tissue,
however pale, has texture). Optical densities ``log(glass / value)`` are taken against it. All stains of pathology
absorb green more than red, or more than blue: haematoxylin, eosin, DAB. So the score of a pixel is

    s = OD_green - min(OD_red, OD_blue)

which is 0 for every shade of grey (dust, bubbles, shadows, bars), for yellow glass and for green ink. A pixel is tissue
where the slightly smoothed score exceeds both a floor and a share of the strongest score nearby: the border then lies
halfway between tissue and glass for pale and for dark tissue alike, in one slide. Ink (blue, green, red, black) and
black borders are what no tissue looks like over a large connected area; they and a margin around them are left out.

Fluorescence: the slide is dark and what is not dark has all values in between (brightfield inside a black frame has
not). Tissue is then where the smoothed log of the brightest channel exceeds Otsu's threshold (1979) and a floor.

Small pieces are removed and small holes filled. Large clear spaces, fat cells among them, are not tissue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from gigacli.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK_MPP = 8.0
"""Microns per pixel of the thumbnail the mask is made from: a nucleus is one pixel, a tile of 256 microns 1,024."""

FLOOR = 0.025
"""Score below which nothing is tissue, as a natural optical density: six grey levels of tint on a white slide."""

SPECK_UM2 = 10_000.0
"""Pieces smaller than this (100 x 100 microns) are dust."""

HOLE_UM2 = 5_000.0
"""Holes smaller than this (70 x 70 microns) are lumens, vessels and cracks that belong to the tissue."""

_NEARBY_UM = 20.0  # how far the strongest score reaches: 2 pixels, the width of a blurred border
_SHARE = 0.35  # of the strongest score nearby; less keeps a halo of glass, more eats into uneven tissue
_SMOOTH_UM = 5.6  # standard deviation: JPEG blocks and single pixels, not borders
_INK_UM2 = 20_000.0  # pools of blood and pigment that look like ink are smaller, strokes of a pen are larger
_INK_WIDTH_UM = 32.0  # opened with this, so that dark outlines of cells do not add up to a stroke
_INK_MARGIN_UM = 16.0  # strokes are out of focus and end in a halo
_CELL_UM = 16.0  # fluorescence: standard deviation that joins neighbouring nuclei into tissue
_DARK = 64  # of 255: fluorescence has half of its pixels below
_OFFSET = 4.0  # added to values before a logarithm: below it they are noise
_DEFAULT_GLASS = (245.0, 245.0, 245.0)


def tissue_mask(rgb: NDArray[np.uint8], *, mpp: float = MASK_MPP) -> NDArray[np.bool_]:
    """Find the tissue in a thumbnail (see the module for how).

    Args:
        rgb: uint8 (h, w, 3).
        mpp: Microns per pixel of `rgb`.

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


def _is_fluorescence(rgb: NDArray[np.uint8]) -> bool:
    brightest = rgb.max(2)
    if np.median(brightest) >= _DARK:
        return False
    signal = brightest[brightest > _DARK / 2]
    # H&E in a black frame has nothing between the frame and tissue, whose red and blue stay above 100.
    return signal.size == 0 or float(np.percentile(signal, 25)) < 1.5 * _DARK


def _bright_on_dark(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    brightest = rgb.max(2)
    dark = float(np.bincount(brightest[brightest < _DARK], minlength=1).argmax())
    signal = np.log((brightest.astype(np.float32) + 2 * _OFFSET) / (dark + 2 * _OFFSET))
    signal = ndimage.gaussian_filter(signal, _CELL_UM / mpp)
    return np.asarray(signal > max(_otsu(signal), 0.5))


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold with the largest variance between the two classes it makes (Otsu, 1979)."""
    count, edges = np.histogram(values, 256)
    centre = (edges[:-1] + edges[1:]) / 2
    below = count.cumsum()[:-1]
    above = count.sum() - below
    first, total = (count * centre).cumsum()[:-1], (count * centre).sum()
    with np.errstate(invalid="ignore"):  # an empty class has no mean
        between = below * above * (first / below - (total - first) / above) ** 2
    return float(edges[1:-1][np.nan_to_num(between).argmax()])


def _stained_on_glass(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    levels = np.arange(256, dtype=np.float32)
    red, green, blue = (
        np.maximum(np.log((glass + _OFFSET) / (levels + _OFFSET)), 0).astype(np.float32)[rgb[..., channel]]
        for channel, glass in enumerate(_glass(rgb))
    )  # each (h, w)
    ink = _ink(rgb, red, green, blue, mpp)
    score = np.maximum(green - np.minimum(red, blue), 0)
    grey = score < 0.15 * np.maximum(np.maximum(red, blue), green)  # a tint that only darkness amplified
    score[ink | grey] = 0
    score = ndimage.gaussian_filter(score, _SMOOTH_UM / mpp)
    strongest = ndimage.maximum_filter(score, 2 * round(_NEARBY_UM / mpp) + 1)
    return np.asarray((score > np.maximum(_SHARE * strongest, FLOOR)) & ~ink)


def _glass(rgb: NDArray[np.uint8]) -> tuple[float, ...]:
    """Red, green and blue of empty glass."""
    grey = rgb.mean(2, dtype=np.float32)
    mean = ndimage.uniform_filter(grey, 3)
    smooth = ndimage.uniform_filter(grey * grey, 3) - mean * mean < 1.5**2
    darkest, brightest = rgb.min(2), rgb.max(2)
    stained = np.maximum(rgb[..., 0], rgb[..., 2]) > 1.065 * rgb[..., 1].astype(np.float32)
    glass = (darkest > 170) & (brightest - darkest < 32) & smooth & ~stained
    # Regions that were never scanned are filled with pure white, next to glass that is not.
    scanned = glass & (darkest < 254)
    if scanned.mean() > 0.01:
        glass = scanned
    if glass.mean() < 0.02:
        return _DEFAULT_GLASS
    luminance = grey[glass].astype(np.int64)
    common = int(ndimage.uniform_filter1d(np.bincount(luminance, minlength=256).astype(float), 5).argmax())
    typical = rgb[glass][np.abs(luminance - common) <= 3]  # (n, 3)
    return tuple(float(value) for value in np.median(typical, axis=0))


def _ink(
    rgb: NDArray[np.uint8],
    red: NDArray[np.float32],
    green: NDArray[np.float32],
    blue: NDArray[np.float32],
    mpp: float,
) -> NDArray[np.bool_]:
    """Pens and black bars with a margin; `red`, `green` and `blue` are optical densities."""
    black = rgb.max(2) < 70
    # Stains absorb red at most about as much as green. Blue ink over tissue is told by the blue it lets through.
    cold = ((red > 1.35 * green) & (red > 0.5)) | ((red > green) & (red - blue > 0.9))
    # Red ink absorbs blue like green, and no red. Eosin lets more blue through, saffron less.
    warm = (green > 1.2) & (red < 0.25 * green) & (blue > 0.75 * green) & (blue < 1.1 * green)
    cross = ndimage.generate_binary_structure(2, 1)
    ink = ndimage.binary_opening(black | cold | warm, cross, iterations=max(1, round(_INK_WIDTH_UM / 2 / mpp)))
    ink = _large(ink, _INK_UM2 / mpp**2)
    if not ink.any():
        return ink
    return np.asarray(ndimage.binary_dilation(ink, cross, iterations=max(1, round(_INK_MARGIN_UM / mpp))))


def _large(mask: NDArray[np.bool_], area_px: float) -> NDArray[np.bool_]:
    """The connected pieces of at least `area_px` pixels."""
    pieces, _ = ndimage.label(mask)
    keep = np.bincount(pieces.ravel()) >= area_px
    keep[0] = False
    return np.asarray(keep[pieces])
