"""What the header of a slide says of its sizes: refused where it lies, and how much smaller each level is."""

from __future__ import annotations

from pathlib import Path

from gigacli.errors import SlideError
from gigacli.wsi.advice import COPY

MAX_SIDE_PX = 4_000_000
"""No scanner makes 4 million pixels a side (0.4 metres at 0.1 micron): a header that says so lies."""

_PADDING_PX = 512  # the largest tile of a scanner: how much longer than its part of the slide a level may be


def check_sizes(path: Path, sizes: list[tuple[int, int]]) -> None:
    """Refuse headers that lie: sizes that no slide has, and levels that are no picture of the first."""
    full = sizes[0]
    if not 1 <= min(full) <= max(full) <= MAX_SIDE_PX:
        raise SlideError(f"{path} says it is {full[0]} x {full[1]} px; expected 1 to {MAX_SIDE_PX} a side", COPY)
    for size in sizes[1:]:
        # Some scanners pad small levels to whole tiles, so only what cannot be padding is refused.
        x, y = (max(1, side) / whole for side, whole in zip(size, full, strict=True))
        slack = max(0.1 * max(size), _PADDING_PX)
        if min(size) < 1 or max(x, y) > 1 + slack / max(full) or abs(x - y) * max(full) > slack:
            raise SlideError(
                f"{path} has a level of {size[0]} x {size[1]} px for a slide of {full[0]} x {full[1]} px; expected the "
                "same proportions",
                COPY,
            )


def bounds(properties: dict[str, str], size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the scanned region inside the slide."""
    names = ("openslide.bounds-x", "openslide.bounds-y", "openslide.bounds-width", "openslide.bounds-height")
    if not all(name in properties for name in names):
        return (0, 0, *size_px)
    x, y, width, height = (int(properties[name]) for name in names)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size_px[0]), min(y + height, size_px[1])
    if right <= left or bottom <= top:
        return (0, 0, *size_px)
    return left, top, right - left, bottom - top


def reduction(full: int, reduced: int) -> float:
    """Return how many of `full` pixels one of `reduced` stands for.

    Writers halve and round down, so 4443 px become 2221: a factor of 2 and a lost pixel, not of 2.0005, which would
    shift the far end. OpenSlide goes further and averages the ratios of width and height.
    """
    whole = max(1, round(full / reduced))
    return float(whole) if abs(full / whole - reduced) < 1 else full / reduced
