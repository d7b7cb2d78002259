"""Microns per level-0 pixel of a slide, and where they come from.

The chain, first source that speaks wins:

1. ``csv``: the column 'mpp' of the slide table. A person wrote it, so it wins over everything.
2. ``ome``: the physical size of a pixel in OME-XML or the metadata of OME-Zarr.
3. ``openslide``: ``openslide.mpp-x`` and ``openslide.mpp-y``.
4. ``tiff``: ``tiff.XResolution`` and ``tiff.YResolution`` with their unit.
5. ``objective``: 10 / ``openslide.objective-power``, the convention that 10x is one micron per pixel.
6. ``option``: what the caller says slides without a resolution have.

Nothing is guessed beyond it, and a value that contradicts itself is refused, not passed over for the next source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gigacli.errors import SlideError

MPP_RANGE = (0.08, 5.0)
"""Microns per pixel of a real slide: finer than any objective resolves, or coarser than cells, is a broken header.
Where still coarser tiles are wanted an overview is as good as a slide."""

MAX_ANISOTROPY = 1.05  # pixels are square; scanners calibrate x and y apart by up to a few percent

MAX_POWER_FACTOR = 3.0
"""How far mpp x power / 10 may lie from 1. Camera adaptors legitimately give a factor of 2 (a 3DHISTECH scanner at 20x
writes 0.2325), units mixed up give 10 or 100."""

MAX_SCREEN_DPI = 2400.0
"""Image software writes 72, 96, 300, ... dots per inch into TIFF tags where nothing was measured. Any of them would
mean a pixel of more than 10 microns."""

_FIX = "Give the right value in a column 'mpp' of a table: giga tile STORE --csv TABLE."
_LEVEL_0 = (
    "What is wanted is the largest image of the file, at which it was scanned: about 0.25 at 40x, 0.5 at 20x. If that "
    "is what it has, it is an overview and no slide: leave it out."
)
_IN_TABLE = f"Correct the table, and give it again. {_LEVEL_0}"


@dataclass(frozen=True)
class Resolution:
    """The resolution of a slide's level 0."""

    mpp: float  # microns per pixel
    source: str  # ``csv``, ``ome``, ``openslide``, ``tiff``, ``objective``, ``option``, or ``import`` of patches


def resolve_mpp(
    properties: Mapping[str, str],
    *,
    csv_mpp: float | None = None,
    slide_mpp: float | None = None,
    tile_mpp: float = 0.0,
) -> Resolution:
    """Decide the microns per pixel of a slide by the documented chain (see the module).

    Args:
        properties: The slide's properties as OpenSlide reports them, or under its names.
        csv_mpp: The slide's value in the table, if it has one.
        slide_mpp: What slides without a resolution have, if the caller says so.
        tile_mpp: What tiles shall have: a slide may be as coarse as that.

    Returns:
        The resolution and its source.

    Raises:
        SlideError: There is no resolution; or it lies outside `MPP_RANGE`, differs between x and y by more than 5 %, or
            contradicts the objective power by more than a factor of 3.
    """
    most = max(MPP_RANGE[1], tile_mpp)
    if csv_mpp is not None:
        return Resolution(_in_range(float(csv_mpp), "the column 'mpp' of the table", most, _IN_TABLE), "csv")
    if (stated := _number(properties, "giga.mpp")) is not None:  # of patches, which giga lists itself
        return Resolution(_in_range(stated, "the list of its patches", most), "import")
    power = _number(properties, "openslide.objective-power")
    ome = _pair(_number(properties, "ome.mpp-x"), _number(properties, "ome.mpp-y"))
    for source, axes in (("ome", ome), ("openslide", _openslide_mpp(properties)), ("tiff", _tiff_mpp(properties))):
        if axes is not None:
            mpp = _in_range(_isotropic(axes, source), f"its {source} properties", most)
            return Resolution(_agreeing(mpp, power), source)
    if power is not None:
        return Resolution(_in_range(10.0 / power, f"its objective power of {power:g}", most), "objective")
    if slide_mpp is not None:
        return Resolution(_in_range(float(slide_mpp), "giga tile --slide-mpp", most, _LEVEL_0), "option")
    raise SlideError(
        "there is no resolution in the slide: no microns per pixel, no TIFF resolution tags, no objective power",
        "Give it for all slides without one, giga tile STORE --slide-mpp X, or slide by slide in a column 'mpp' of a "
        "table, giga tile STORE --csv TABLE.",
    )


def _number(properties: Mapping[str, str], key: str) -> float | None:
    """Return a positive finite property. Writers leave fields empty, or at zero, where they know nothing."""
    try:
        value = float(properties.get(key, "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _pair(x: float | None, y: float | None) -> tuple[float, float] | None:
    """Return both axes; one alone stands for both."""
    if x is None or y is None:
        x = y = x if y is None else y
    return None if x is None or y is None else (x, y)


def _openslide_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    axes = _pair(_number(properties, "openslide.mpp-x"), _number(properties, "openslide.mpp-y"))
    dpi = _tiff_dpi(properties)
    # OpenSlide turns the tags of a generic TIFF into mpp without asking whether anybody measured them.
    if axes and dpi and dpi[0] <= MAX_SCREEN_DPI and math.isclose(axes[0], 25_400 / dpi[0], rel_tol=1e-3):
        return None
    return axes


def _tiff_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    dpi = _tiff_dpi(properties)
    return None if dpi is None or dpi[0] <= MAX_SCREEN_DPI else (25_400 / dpi[0], 25_400 / dpi[1])


def _tiff_dpi(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the TIFF resolution tags in pixels per inch."""
    per_inch = {"inch": 1.0, "centimeter": 2.54}.get(properties.get("tiff.ResolutionUnit", ""))
    axes = _pair(_number(properties, "tiff.XResolution"), _number(properties, "tiff.YResolution"))
    return None if per_inch is None or axes is None else (axes[0] * per_inch, axes[1] * per_inch)


def _isotropic(axes: tuple[float, float], source: str) -> float:
    if max(axes) > MAX_ANISOTROPY * min(axes):
        raise SlideError(
            f"its {source} properties say {axes[0]:g} microns per pixel along x and {axes[1]:g} along y; "
            "they should differ by at most 5 %",
            _FIX,
        )
    return (axes[0] + axes[1]) / 2


def _in_range(mpp: float, source: str, most: float, fix: str = _FIX) -> float:
    low = MPP_RANGE[0]
    if not low <= mpp <= most * (1 + 1e-9):  # also refuses NaN
        raise SlideError(f"{source}: {mpp:g} microns per pixel; expected {low:g} to {most:g}", fix)
    return mpp


def _agreeing(mpp: float, power: float | None) -> float:
    """Return `mpp`, unless the objective says something else altogether."""
    if power is not None and not 1 / MAX_POWER_FACTOR <= mpp * power / 10 <= MAX_POWER_FACTOR:
        raise SlideError(
            f"it says {mpp:g} microns per pixel at an objective power of {power:g}; "
            f"expected {10 / power / MAX_POWER_FACTOR:.3g} to {10 / power * MAX_POWER_FACTOR:.3g}",
            _FIX,
        )
    return mpp
