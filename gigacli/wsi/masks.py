"""Tissue masks made elsewhere: a picture or a GeoJSON file per slide, brought onto the pixels of the thumbnail.

Pictures (PNG, TIFF, JPEG, BMP; of a file with several pages, the first) show the *whole* slide, level 0 from corner to
corner, at any size of the same shape. What is black or fully transparent is glass, anything else is tissue, whatever
the kind of pixel: 1 bit, 8 bits of 0/1 or 0/255, 16 bits, floats above 0, coloured or indexed labels. JPEG invents
values near black, so there tissue is what exceeds 127 of 255.

GeoJSON (RFC 7946 for the structure; its plain coordinates are level-0 pixels, x to the right and y downwards, as
OpenSlide counts them and TRIDENT and QuPath write them): all polygons of the file together, of any class, are tissue.
The rings of one polygon make holes by the even-odd rule; points and lines are passed over. QuPath crops slides that
state bounds (MIRAX): add ``openslide.bounds-x`` and ``-y`` to coordinates that it exported from such a slide.
"""

from __future__ import annotations

import json
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.errors import SlideError
from gigacli.wsi.area import Averages

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")  # endings of masks that are pictures
POLYGONS = (".geojson", ".json")  # endings of masks that are GeoJSON
_FORMATS = ("PNG", "TIFF", "JPEG", "BMP")  # told by the first bytes, so a wrong ending among these does no harm
_JPEG_TISSUE = 127
_SHAPE_TOLERANCE = 0.02  # of a side, and one pixel: thumbnails are rounded, levels lose rows
_SAMPLES = 5  # polygons are looked up at 5 x 5 points of a mask pixel; an even number has ties, which move borders
_BAND = 256  # rows of the mask whose points are in memory at a time
_FARTHEST = 1e9  # pixels; beyond lies no slide, and products of coordinates overflow
_HALF = 0.5 - 1e-6  # covered, up to the rounding of floats
# What Pillow's decoders raise on damaged files, and what json and numpy raise on lists that are no coordinates.
_BROKEN: tuple[type[BaseException], ...] = (
    *(OSError, ValueError, TypeError, LookupError, SyntaxError, EOFError, ArithmeticError, struct.error),
    *(AttributeError, RecursionError, MemoryError, Image.DecompressionBombWarning, Image.DecompressionBombError),
)
_OPENING = threading.Lock()  # filters of warnings belong to the process, not to a thread

Polygon = list["NDArray[np.float64]"]  # rings (n, 2) of level-0 x and y; the first is the border, the others are holes


def read_mask(
    path: str | Path,
    *,
    size_px: tuple[int, int],
    slide_mpp: float,
    bounds_px: tuple[int, int, int, int],
    mask_mpp: float,
) -> NDArray[np.bool_]:
    """Read a mask onto the pixels of :meth:`gigacli.wsi.slide.Slide.thumbnail` (see the module for the formats).

    Pixel (row r, column c) is the level-0 square of side ``s = mask_mpp / slide_mpp`` from
    ``(bounds x + c s, bounds y + r s)``, cut at the end of the bounds, and true if at least half of it is tissue: of
    its area for pictures, of 5 x 5 points in it for polygons.

    Args:
        path: A picture or GeoJSON file, told apart by the ending.
        size_px: Width and height of level 0.
        slide_mpp: Microns per pixel of level 0.
        bounds_px: The scanned region (x, y, width, height) in level-0 pixels.
        mask_mpp: Microns per pixel of the result.

    Returns:
        bool (h, w), with ``w = ceil(bounds width / s)`` and ``h = ceil(bounds height / s)``. All false is a valid
        answer for a black picture and for a collection without any feature.

    Raises:
        SlideError: The file is missing, empty, damaged or of another type, a picture is too large for Pillow or has not
            the shape of the slide, or GeoJSON holds no polygon or none that covers any of the scanned region.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in PICTURES + POLYGONS:
        raise SlideError(
            f"the mask {path} ends in {kind or 'nothing'}; expected one of {' '.join(PICTURES + POLYGONS)}"
        )
    if not path.is_file():
        raise SlideError(
            f"the mask {path} is {'a folder' if path.is_dir() else 'not there'}; expected a picture or GeoJSON file",
            "Correct the column mask of the slide table.",
        )
    if path.stat().st_size == 0:
        raise SlideError(f"the mask {path} is empty (0 bytes)", "Write it again.")
    step = mask_mpp / slide_mpp
    x, y, width, height = bounds_px
    across, down = _edges(x, width, step), _edges(y, height, step)
    if kind in POLYGONS:
        return _from_polygons(path, size_px, bounds_px, across, down)
    tissue = _read_picture(path, size_px)
    cover = _average(tissue, down * (tissue.shape[0] / size_px[1]))  # (h, W)
    cover = _average(cover.T, across * (tissue.shape[1] / size_px[0])).T  # (h, w)
    return np.asarray(cover >= _HALF)


def _edges(origin: int, extent: int, step: float) -> NDArray[np.float64]:
    """Level-0 borders (n + 1,) of the n mask pixels along one axis, as the thumbnail places them."""
    count = max(1, math.ceil(extent / step - 1e-6))
    return origin + np.minimum(np.arange(count + 1) * step, extent)


def _average(values: NDArray[Any], edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """Means of the rows of `values` (n, m) between successive `edges` (k + 1,), in rows: float32 (k, m)."""
    lower, upper = edges[:-1], np.maximum(edges[1:], edges[:-1] + 1e-6)
    return Averages(lower, upper, longest=(upper - lower).max()).of(values)


def _read_picture(path: Path, size_px: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels that are tissue, (H, W) of the file."""
    smaller = 1 + max(size_px) // 4096
    hint = f"Save it as a picture of the whole slide, for example {size_px[0] // smaller} x {size_px[1] // smaller} px."
    try:
        # Only this lock keeps two threads from restoring each other's filters. Opening reads no more than a header.
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd tags of a TIFF
            opened = Image.open(path, formats=_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{Image.MAX_IMAGE_PIXELS or 0:,}"
        raise SlideError(f"the mask {path} has more than {limit} pixels, the most that Pillow reads", hint) from None
    except _BROKEN as error:
        raise SlideError(f"the mask {path} is no picture that can be read: {_said(error)}", hint) from error
    with opened as image:
        _check_shape(path, image.size, size_px, hint)
        try:
            image.load()
            return _tissue_of(path, image)
        except SlideError:
            raise
        except _BROKEN as error:
            raise SlideError(f"the mask {path} cannot be decoded: {_said(error)}", "Write it again.") from error


def _check_shape(path: Path, size: tuple[int, int], slide: tuple[int, int], hint: str) -> None:
    across, down = size[1] * slide[0] / slide[1], size[0] * slide[1] / slide[0]  # each from the other side
    fits = (abs(size[0] - across) <= 1 + _SHAPE_TOLERANCE * across, abs(size[1] - down) <= 1 + _SHAPE_TOLERANCE * down)
    if not any(fits):
        raise SlideError(
            f"the mask {path} is {size[0]} x {size[1]} px, {size[0] / size[1]:.3f} times as wide as high; the slide is "
            f"{slide[0]} x {slide[1]} px, {slide[0] / slide[1]:.3f} times",
            hint,
        )


def _tissue_of(path: Path, image: Image.Image) -> NDArray[np.bool_]:
    """Return the pixels that are neither black nor transparent."""
    jpeg = image.format in ("JPEG", "MPO")
    clear = "A" in image.getbands() or "transparency" in image.info
    if image.mode[0] not in "IF" and (clear or image.mode not in ("1", "L")):
        image = image.convert("RGBA" if clear else "RGB")
    tissue = np.zeros((image.height, image.width), np.bool_)
    brightest = 0
    for band in image.getbands():
        values = np.asarray(image if len(image.getbands()) == 1 else image.getchannel(band))
        brightest = max(brightest, int(values.max())) if jpeg else 0
        tissue = tissue & (values > 0) if band == "A" else tissue | (values > (_JPEG_TISSUE if jpeg else 0))
    if jpeg and 0 < brightest <= _JPEG_TISSUE:
        raise SlideError(
            f"the mask {path} is a JPEG whose brightest value is {brightest}; expected tissue above {_JPEG_TISSUE}",
            "Save it as PNG, or with 255 for tissue.",
        )
    return tissue


def _from_polygons(
    path: Path,
    size_px: tuple[int, int],
    bounds_px: tuple[int, int, int, int],
    across: NDArray[np.float64],
    down: NDArray[np.float64],
) -> NDArray[np.bool_]:
    try:
        polygons, others, empty = _read_polygons(path)
    except _BROKEN as error:
        raise SlideError(
            f"the mask {path} is no GeoJSON that can be read: {_said(error)}", "Export it again."
        ) from error
    mask = np.zeros((len(down) - 1, len(across) - 1), np.bool_)
    if empty:
        return mask
    if not polygons:
        raise SlideError(
            f"the mask {path} holds {', '.join(sorted(others)) or 'no geometry'}; expected Polygon or MultiPolygon",
            "Export the outlines of the tissue as GeoJSON.",
        )
    shapes = [np.concatenate([np.hstack([r, np.roll(r, -1, axis=0)]) for r in polygon]) for polygon in polygons]
    tops, bottoms = (np.array([reach(edges[:, 1]) for edges in shapes]) for reach in (np.min, np.max))
    for top in range(0, len(mask), _BAND):
        rows = down[top : top + _BAND + 1]
        here = np.flatnonzero((tops < rows[-1]) & (bottoms > rows[0]))
        mask[top : top + _BAND] = _rasterise([shapes[i] for i in here], across, rows)
    if not mask.any():
        low = np.min([ring.min(0) for polygon in polygons for ring in polygon], axis=0)
        high = np.max([ring.max(0) for polygon in polygons for ring in polygon], axis=0)
        x, y, width, height = bounds_px
        raise SlideError(
            f"the polygons of the mask {path} reach from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) and "
            f"cover nothing of the scanned region, ({x}, {y}) to ({x + width}, {y + height}) of {size_px[0]} x "
            f"{size_px[1]} px",
            "Export them in pixels of level 0, not in microns or as shares of the slide.",
        )
    return mask


def _rasterise(
    shapes: list[NDArray[np.float64]], across: NDArray[np.float64], down: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Mask pixels between borders `across` (w + 1,) and `down` (h + 1,) of which the shapes cover half: bool (h, w).

    A shape is the edges of one polygon, all its rings, (e, 4): x0, y0, x1, y1.
    """
    xs, ys = _sample(across), _sample(down)
    canvas = np.zeros((len(ys), len(xs)), np.uint8)
    for edges in shapes:
        _fill(canvas, edges, xs, ys)
    cells = canvas.reshape(len(down) - 1, _SAMPLES, len(across) - 1, _SAMPLES)
    return np.asarray(2 * cells.sum((1, 3), dtype=np.int64) > _SAMPLES**2)


def _sample(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centres of `_SAMPLES` equal parts of each mask pixel along one axis."""
    share = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    return np.asarray(edges[:-1, None] + np.diff(edges)[:, None] * share).ravel()


def _fill(
    canvas: NDArray[np.uint8], edges: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> None:
    """Set the points (`ys`, `xs`) of the canvas that lie inside by the even-odd rule.

    Every edge flips what lies to the right of where it crosses a row of points.
    """
    x0, y0, x1, y1 = edges.T
    first = np.searchsorted(ys, np.minimum(y0, y1))
    count = np.searchsorted(ys, np.maximum(y0, y1)) - first  # rows that each edge crosses; none if it is level
    if not count.any():
        return
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) + np.repeat(first - (np.cumsum(count) - count), count)
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    column = np.searchsorted(xs, x0[edge] + (ys[row] - y0[edge]) * slope)
    top, left, bottom, right = row.min(), column.min(), row.max() + 1, column.max()
    if left == right:
        return
    flips = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.add.at(flips, (row - top, column - left), 1)  # may wrap, 256 is even
    canvas[top:bottom, left:right] |= np.bitwise_xor.accumulate(flips, axis=1)[:, :-1] & 1


def _read_polygons(path: Path) -> tuple[list[Polygon], set[str], bool]:
    """Return polygons, the names of other geometries, and whether the file says that there is nothing."""
    content = json.loads(path.read_text("utf-8-sig"))
    if isinstance(content, list):  # scripts for QuPath write bare lists of features
        content = {"type": "FeatureCollection", "features": content}
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}; expected an object with a type")
    polygons: list[Polygon] = []
    others: set[str] = set()
    for geometry in _geometries(content):
        kind = str(geometry.get("type"))
        if kind in ("Polygon", "MultiPolygon"):
            parts = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
            polygons += [[_ring(ring) for ring in part] for part in parts if part]
        else:
            others.add(kind)
    return polygons, others, content.get("type") == "FeatureCollection" and not content["features"]


def _geometries(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = node.get("type")
    if kind == "FeatureCollection":
        for feature in node["features"]:
            yield from _geometries(feature)
    elif kind == "Feature":
        if node["geometry"] is not None:
            yield from _geometries(node["geometry"])
    elif kind == "GeometryCollection":
        for geometry in node["geometries"]:
            yield from _geometries(geometry)
    else:
        yield node


def _ring(points: Any) -> NDArray[np.float64]:
    ring = np.asarray(points, np.float64)
    if ring.ndim != 2 or ring.shape[0] < 3 or ring.shape[1] < 2:
        raise ValueError(f"a ring of shape {ring.shape}; expected at least 3 points of x and y")
    if not (np.abs(ring) <= _FARTHEST).all():  # NaN compares false
        raise ValueError("a coordinate that is no finite number of pixels")
    return ring[:, :2]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
