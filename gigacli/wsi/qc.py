"""Pictures to judge tiling by: one per slide, and sheets of the whole cohort.

A picture is the thumbnail with the outline of the mask, the kept tiles as a thin grid and a caption; what no tile
covers is faded. Sizes and colours depend on nothing but the arguments, so equal slides make equal pictures.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

LONG_SIDE_PX = 1600  # a slide's picture is at most this long, without its caption
CAPTION_PX = 60  # height of the caption below a slide's picture; a contact sheet cuts it off
SHEET_SLIDES = 120  # slides on one contact sheet: a larger cohort gets several
_WIDEST_ZOOM = 4  # small slides are enlarged, in whole mask pixels
_LARGE_PX = 1200  # pictures from here on get a thicker outline, which a contact sheet must still show
_NARROWEST_PX = 640  # a caption has room
_SMALLEST_TILE_PX = 6  # lines of smaller tiles would hide the slide: only the border of all of them is drawn
_DARK = 90  # of 255, luminance of tissue: fluorescence lies below, stained tissue above
_FADE = 0.45  # of what no tile covers, towards the colour of the background
_PALE_COLOURS = ((0, 132, 60), (20, 20, 60), 0.55)  # outline, grid, opacity of the grid
_DARK_COLOURS = ((90, 255, 130), (255, 255, 255), 0.45)
_INK, _PAPER, _MUTED, _RED = (28, 30, 36), (250, 250, 250), (110, 114, 122), (176, 44, 36)
_FAILED = (222, 223, 227)
_ITEM_PX, _GAP_PX, _LABEL_PX = 240, 12, 42
_MOST_LINES = 11  # of a reason why there is no picture
_BARS_UM = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))  # a micron to half a metre
_BAR_PX = 120


@dataclass(frozen=True)
class SheetItem:
    """One slide on a contact sheet."""

    title: str  # its id
    # the second line, such as the number of tiles; without a picture, the reason why, shown in its place
    note: str = ""
    picture: Path | Image.Image | None = None  # what `qc_picture` made, or a file of it


def qc_picture(
    thumbnail: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    coords: NDArray[np.int32],
    *,
    tile_l0_px: float,
    scale: float,
    origin_px: tuple[int, int],
    title: str,
    mpp: float,
) -> Image.Image:
    """Draw what was found on a slide.

    A thumbnail up to 1600 px long is enlarged by the whole number that fits, at most 4, a longer one is averaged down.
    The outline is the outermost pixel of the mask and one outside, two in pictures from 1200 px on; the grid runs
    through the pixels ``floor(z (x - origin) scale + 0.5)`` for the borders x of the kept tiles and the zoom z.

    Args:
        thumbnail: uint8 (h, w, 3).
        mask: bool (h, w), tissue.
        coords: int (n, 2), level-0 x and y of the top-left corners of the kept tiles.
        tile_l0_px: Side of a tile in level-0 pixels.
        scale: Thumbnail pixels per level-0 pixel.
        origin_px: Level-0 x and y of the thumbnail's top-left corner.
        title: Name of the slide.
        mpp: Microns per pixel of the thumbnail.

    Returns:
        RGB, at most 1600 px wide, and at most 1600 px high with 60 px of caption below.
    """
    height, width = mask.shape
    zoom: float = min(LONG_SIDE_PX / max(height, width), _WIDEST_ZOOM)
    zoom = float(int(zoom)) if zoom >= 1 else zoom
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    picture = np.asarray(Image.fromarray(thumbnail).resize(size, _filter(zoom, Image.Resampling.BICUBIC)))
    shape = Image.fromarray(mask.astype(np.uint8) * 255)
    tissue = np.asarray(shape.resize(size, _filter(zoom, Image.Resampling.NEAREST))) >= 128  # (H, W)
    corners = (coords - np.asarray(origin_px)) * scale * zoom
    covered, lines = _tiles(tissue.shape, corners, tile_l0_px * scale * zoom)
    drawn = _draw(picture, tissue, covered, lines)
    canvas = Image.new("RGB", (max(size[0], _NARROWEST_PX), size[1] + CAPTION_PX), _PAPER)
    canvas.paste(Image.fromarray(drawn), ((canvas.width - size[0]) // 2, 0))
    slide_mpp = scale * mpp
    facts = (
        f"{len(coords):,} tiles of {tile_l0_px * slide_mpp:,.4g} microns · {_percent(mask)} tissue · scanned at "
        f"{slide_mpp:.3g} microns per px"
    )
    _caption(canvas, title, facts, bar_um_per_px=mpp / zoom)
    return canvas


def contact_sheets(items: Sequence[SheetItem], *, columns: int = 10) -> Iterator[Image.Image]:
    """Draw the slides of a cohort in their order, row by row, at most `columns` side by side, 120 on a sheet.

    Yields:
        RGB sheets; one with nothing on it for no slides.
    """
    pages = max(1, math.ceil(len(items) / SHEET_SLIDES))
    for page in range(pages):
        part = items[page * SHEET_SLIDES : (page + 1) * SHEET_SLIDES]
        across = max(1, min(columns, len(part) if pages == 1 else columns))
        down = max(1, math.ceil(len(part) / across))
        pitch = (_ITEM_PX + _GAP_PX, _ITEM_PX + _LABEL_PX + _GAP_PX)
        sheet = Image.new("RGB", (across * pitch[0] + _GAP_PX, down * pitch[1] + _GAP_PX), "white")
        for i, item in enumerate(part):
            corner = (_GAP_PX + i % across * pitch[0], _GAP_PX + i // across * pitch[1])
            sheet.paste(_draw_item(item), corner)
        yield sheet


def _filter(zoom: float, enlarge: Image.Resampling) -> Image.Resampling:
    return Image.Resampling.BOX if zoom < 1 else enlarge


def _tiles(
    shape: tuple[int, ...], corners: NDArray[np.float64], side: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels that tiles cover, and pixels of their grid, each (H, W); neighbours share a line."""
    covered, lines = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    low = np.clip(np.floor(corners + 0.5).astype(int), 0, None)  # (n, 2)
    high = np.maximum(np.floor(corners + side + 0.5).astype(int), low + 1)
    for left, top, right, bottom in np.hstack([low, high]).tolist():
        covered[top:bottom, left:right] = True
        if side >= _SMALLEST_TILE_PX:
            last, lowest = min(right, shape[1] - 1), min(bottom, shape[0] - 1)
            lines[top : lowest + 1, left] = lines[top : lowest + 1, last] = True
            lines[top, left : last + 1] = lines[lowest, left : last + 1] = True
    if side < _SMALLEST_TILE_PX:
        lines = covered & ~ndimage.binary_erosion(covered)
    return covered, lines


def _draw(
    picture: NDArray[np.uint8], tissue: NDArray[np.bool_], covered: NDArray[np.bool_], lines: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    inside = picture[tissue] if tissue.any() else picture.reshape(-1, 3)  # (n, 3)
    dark = float(np.median(inside @ np.array([0.299, 0.587, 0.114]))) < _DARK
    outline, grid, opacity = _DARK_COLOURS if dark else _PALE_COLOURS
    result = picture.astype(np.float32)
    background = np.float32(0 if dark else 255)
    result[~covered] += _FADE * (background - result[~covered])
    result[lines] += np.float32(opacity) * (np.asarray(grid, np.float32) - result[lines])
    outside = 1 if max(tissue.shape) < _LARGE_PX else 2
    result[ndimage.binary_dilation(tissue, iterations=outside) & ~ndimage.binary_erosion(tissue)] = outline
    return (result + 0.5).astype(np.uint8)


def _percent(mask: NDArray[np.bool_]) -> str:
    share = 100 * float(mask.mean())
    return f"{share:.2g} %" if share < 10 else f"{share:.0f} %"


def _caption(canvas: Image.Image, title: str, facts: str, *, bar_um_per_px: float) -> None:
    """Write two lines of text at the left, a scale bar at the right."""
    draw = ImageDraw.Draw(canvas)
    top = canvas.height - CAPTION_PX
    draw.rectangle((0, top, canvas.width, canvas.height), fill=_INK)
    length = max((um for um in _BARS_UM if um / bar_um_per_px <= _BAR_PX), default=_BARS_UM[0])
    right, bar = canvas.width - 16, round(length / bar_um_per_px)
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length} microns"
    half = max(bar, _font(15).getlength(label)) / 2  # the label is centred above the bar, and ends where it may
    draw.text((right - half, top + 30), label, fill=_PAPER, font=_font(15), anchor="ms")
    draw.rectangle((right - half - bar / 2, top + 38, right - half + bar / 2 - 1, top + 42), fill=_PAPER)
    room = canvas.width - 16 - _BAR_PX - 16 - 24
    draw.text((16, top + 26), fit_text(title, _font(20), room), fill=_PAPER, font=_font(20), anchor="ls")
    draw.text((16, top + 48), fit_text(facts, _font(15), room), fill=(190, 194, 202), font=_font(15), anchor="ls")


def _draw_item(item: SheetItem) -> Image.Image:
    """Draw a square with the picture or the reason why there is none, over two lines of text."""
    canvas = Image.new("RGB", (_ITEM_PX, _ITEM_PX + _LABEL_PX), "white")
    draw = ImageDraw.Draw(canvas)
    small, reason = _load(item.picture), item.note
    if item.picture is not None and small is None:
        reason = f"the picture {item.picture} cannot be read"
    if small is not None:
        canvas.paste(small, ((_ITEM_PX - small.width) // 2, (_ITEM_PX - small.height) // 2))
        draw.rectangle((0, 0, _ITEM_PX - 1, _ITEM_PX - 1), outline=(228, 229, 232))
    else:
        draw.rectangle((0, 0, _ITEM_PX - 1, _ITEM_PX - 1), fill=_FAILED)
        # what was wrong and what to do next are sentences of their own
        parts = (reason or "no picture").splitlines()
        lines = [line for part in parts for line in wrap_text(part, _font(14), _ITEM_PX - 32, lines=6)]
        for i, line in enumerate(lines[:_MOST_LINES]):
            draw.text((16, 32 + 18 * i), line, fill=_INK, font=_font(14), anchor="ls")
    note, colour = (item.note, _MUTED) if item.picture is not None else ("no picture", _RED)
    draw.text((2, _ITEM_PX + 18), fit_text(item.title, _font(15), _ITEM_PX - 4), fill=_INK, font=_font(15), anchor="ls")
    draw.text((2, _ITEM_PX + 35), fit_text(note, _font(13), _ITEM_PX - 4), fill=colour, font=_font(13), anchor="ls")
    return canvas


def _load(picture: Path | Image.Image | None) -> Image.Image | None:
    """A slide's picture without its caption, scaled to fit a place on a sheet; none if its file cannot be read."""
    if picture is None:
        return None
    if isinstance(picture, Path):
        try:
            with Image.open(picture) as opened:
                picture = opened.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
    left, right = _without_margins(picture)
    box = (left, 0, right, max(1, picture.height - CAPTION_PX))
    zoom = _ITEM_PX / max(right - left, box[3])
    size = (max(1, round((right - left) * zoom)), max(1, round(box[3] * zoom)))
    return picture.resize(size, _filter(zoom, Image.Resampling.BICUBIC), box=box)


def _without_margins(picture: Image.Image) -> tuple[int, int]:
    """Where the slide begins and ends in its picture, which is wider than a narrow slide, for its caption's sake."""
    drawn = np.asarray(picture.crop((0, 0, picture.width, max(1, picture.height - CAPTION_PX))).convert("RGB"))
    columns = np.flatnonzero((drawn != np.asarray(_PAPER, np.uint8)).any(axis=(0, 2)))
    if picture.width > _NARROWEST_PX or not len(columns):
        return 0, picture.width
    margin = min(int(columns[0]), picture.width - 1 - int(columns[-1]))  # the slide stands in the middle
    return margin, picture.width - margin


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Fit a text on one line of at most `width` pixels: of a longer one beginning and end, an ellipsis between.

    The font knows little but ASCII: accents are dropped, and other letters become question marks.
    """
    text = _plain(text)
    if font.getlength(text) <= width:
        return text
    return _shortened(text, _most(len(text), lambda n: font.getlength(_shortened(text, n)) <= width))


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: float, *, lines: int) -> list[str]:
    """Break a text into at most `lines` lines of at most `width` pixels, at spaces, or in words that are too long."""
    result: list[str] = []
    rest = _plain(text)
    while rest and len(result) < lines - 1 and font.getlength(rest) > width:
        fits = max(1, _fitting(rest, font, width))
        space = rest.rfind(" ", 0, fits + 1)
        cut = space if space > 0 else fits
        result.append(rest[:cut])
        rest = rest[cut:].lstrip()
    return [*result, fit_text(rest, font, width)] if rest else result


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    return _most(len(text), lambda n: font.getlength(text[:n]) <= width)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number below `limit` that fits, if all smaller ones do; 0 if none does."""
    low, high = 0, limit
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _shortened(text: str, keep: int) -> str:
    return text[: (keep + 1) // 2].rstrip() + "…" + text[len(text) - keep // 2 :].lstrip()


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.replace("µ", "u").replace("…", "..."))
    kept = "".join(c for c in letters if not unicodedata.combining(c))
    return " ".join("".join(c if c.isascii() or c == "·" else "?" for c in kept).split())


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType")
    return font
