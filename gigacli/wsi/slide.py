"""One slide, read at any resolution. Pyramid levels stay inside this file."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import openslide
from PIL import Image

from gigacli.errors import InvalidInput, SlideError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

MAX_UPSAMPLING = 1.05
"""Pixels may be up to 5 % coarser than asked for: scanners sold as 0.5 micron really have 0.47 to 0.52, and 20 tiles
are better read from the level meant for them than from one four times as large."""

# A thumbnail is read in blocks of about this many pixels a side: 16 MiB whatever the slide, and few of the slide's own
# tiles are cut by a block's border and decoded twice.
_BLOCK_PX = 2048


class Slide:
    """A whole slide image, read in microns per pixel and level-0 coordinates.

    Use it in a `with` statement. One object may be read from several threads at a time: OpenSlide releases the
    interpreter lock and its handles are safe to share.

    Args:
        path: A file OpenSlide reads; of a DICOM series, any of its files.
        mpp: Microns per pixel of level 0, as :func:`gigacli.wsi.resolution.resolve_mpp` decided. Without it the slide
            has size and properties, but no pixels.

    Raises:
        SlideError: The file is missing, truncated, or no slide.

    Attributes:
        path: Where the slide is.
        size_px: Width and height of level 0.
        properties: Everything OpenSlide says about the slide.
        vendor: OpenSlide's name of the format, such as ``aperio``.
        bounds_px: The scanned region (x, y, width, height) in level-0 pixels; the whole slide where none is stated.
    """

    def __init__(self, path: str | Path, *, mpp: float | None = None) -> None:
        if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
            raise InvalidInput(f"{path}: a resolution of {mpp} microns per pixel; expected more than 0")
        self.path = Path(path)
        self._mpp = mpp
        self._lock = threading.Lock()
        self._handle = _open(self.path)
        self.size_px: tuple[int, int] = self._handle.dimensions
        self.properties: dict[str, str] = dict(self._handle.properties)
        self.vendor: str = self.properties.get("openslide.vendor", "")
        self.bounds_px = _bounds(self.properties, self.size_px)
        self._levels: list[tuple[tuple[int, int], float]] = list(
            zip(self._handle.level_dimensions, self._handle.level_downsamples, strict=True)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back. Nothing can be read afterwards."""
        self._handle.close()

    @property
    def mpp(self) -> float:
        """Microns per pixel of level 0, as given when the slide was opened."""
        if self._mpp is None:
            raise InvalidInput(f"{self.path} was opened without a resolution", "Open it with Slide(path, mpp=...).")
        return self._mpp

    def read(self, x: int, y: int, *, tile_px: int, mpp: float) -> NDArray[np.uint8]:
        """One square tile: the exact area average of the slide over every pixel of the tile.

        Reads the coarsest level that is fine enough (at most 5 % coarser than asked) and averages it down, with
        fractional positions and scales. What is transparent or outside the slide is white.

        Args:
            x: Level-0 pixel of the left border.
            y: Level-0 pixel of the top border.
            tile_px: Side of the tile in pixels at `mpp`.
            mpp: Microns per pixel of the tile.

        Returns:
            uint8 (tile_px, tile_px, 3), RGB.

        Raises:
            SlideError: The slide was scanned coarser than `mpp`, or the region cannot be decoded, not even with a
                fresh handle.
        """
        side = tile_px * mpp / self.mpp
        return self._average((x, y), (side, side), mpp=mpp, shape=(tile_px, tile_px))

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """The scanned region (`bounds_px`) at a fixed physical resolution.

        Pixel (row r, column c) is the area average of the level-0 square of side ``s = mpp / self.mpp`` whose top-left
        corner is ``(bounds x + c s, bounds y + r s)``; the last row and column average what is left inside the bounds.
        Flat files without a pyramid are read whole, but in blocks.

        Args:
            mpp: Microns per pixel of the thumbnail.

        Returns:
            uint8 (h, w, 3), RGB, with ``w = ceil(bounds width / s)`` and ``h = ceil(bounds height / s)``.

        Raises:
            SlideError: As for :meth:`read`.
        """
        x, y, width, height = self.bounds_px
        scale = mpp / self.mpp
        block = max(1, int(_BLOCK_PX * self._downsamples(self._level(mpp))[0] / scale))
        columns, rows = (max(1, math.ceil(side / scale - 1e-6)) for side in (width, height))
        result = np.empty((rows, columns, 3), np.uint8)
        for row in range(0, rows, block):
            for column in range(0, columns, block):
                part = result[row : row + block, column : column + block]
                left, top = column * scale, row * scale
                extent = (min(part.shape[1] * scale, width - left), min(part.shape[0] * scale, height - top))
                part[:] = self._average((x + left, y + top), extent, mpp=mpp, shape=part.shape[:2])
        return result

    def _average(
        self, origin: tuple[float, float], extent: tuple[float, float], *, mpp: float, shape: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """`shape` (rows, columns) pixels at `mpp` from `origin`, averaging nothing beyond `extent` (level-0 px)."""
        level = self._level(mpp)
        size, nominal = self._levels[level]
        location, spans = [], []
        for axis, (pixels, downsample) in enumerate(zip(size, self._downsamples(level), strict=True)):
            begin, end = origin[axis] / downsample, (origin[axis] + extent[axis]) / downsample
            first = math.floor(begin + 1e-6)
            inside = end < pixels + 1  # a level rounded down lacks up to one pixel that level 0 has
            if inside:
                first = min(first, pixels - 1)
            # OpenSlide places level-0 pixel X at X / nominal of the level and interpolates if that is a fraction.
            # The corner it is asked for lies on a pixel of the level as nearly as whole numbers allow.
            corner = math.floor(first * nominal + 1e-6)
            shift = corner / nominal
            if inside:  # a last pixel that is cut by the border of the level is half white
                end = min(end, shift + math.floor(pixels - shift + 1e-6))
            location.append(corner)
            spans.append((begin - shift, end - shift))
        region = self._region(
            (location[0], location[1]), level, (math.ceil(spans[0][1] - 1e-6), math.ceil(spans[1][1] - 1e-6))
        )
        across, down = (mpp / self.mpp / d for d in self._downsamples(level))
        low = _average_rows(region, spans[1], step=down, count=shape[0])  # (rows, W, 3)
        low = _average_rows(low.transpose(1, 0, 2), spans[0], step=across, count=shape[1])  # (columns, rows, 3)
        return (low.transpose(1, 0, 2) + 0.5).astype(np.uint8)  # (rows, columns, 3)

    def _level(self, mpp: float) -> int:
        """The coarsest level that is fine enough for `mpp`."""
        scale = mpp / self.mpp
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidInput(f"a resolution of {mpp} microns per pixel; expected more than 0")
        enough = [i for i in range(len(self._levels)) if max(self._downsamples(i)) <= scale * MAX_UPSAMPLING]
        if not enough:
            raise SlideError(
                f"{self.path} was scanned at {self.mpp:g} microns per pixel; {mpp:g} is finer than it can give",
                f"Choose --mpp {math.ceil(self.mpp * 100) / 100:g} or coarser.",
            )
        return max(enough, key=lambda i: max(self._downsamples(i)))

    def _downsamples(self, level: int) -> tuple[float, float]:
        """Level-0 pixels per pixel of a level, along x and y."""
        size = self._levels[level][0]
        return _downsample(self.size_px[0], size[0]), _downsample(self.size_px[1], size[1])

    def _region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Pixels of a level on white, uint8 (h, w, 3)."""
        handle = self._handle
        try:
            region = handle.read_region(location, level, size)
        except openslide.OpenSlideError:
            # An error poisons the handle for good: it may have been another thread's, so a fresh one has its own try.
            try:
                region = self._renew(handle).read_region(location, level, size)
            except openslide.OpenSlideError as error:
                raise SlideError(
                    f"{self.path} cannot be read at level-0 pixel {location}: {error}", "Copy the file again."
                ) from error
        if np.asarray(region.getchannel("A")).min() < 255:
            region = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region)
        return np.asarray(region.convert("RGB"))

    def _renew(self, poisoned: openslide.OpenSlide) -> openslide.OpenSlide:
        """A handle that works, opened once for all the threads that met the same broken one."""
        with self._lock:
            if self._handle is poisoned:
                # The old handle is not closed: other threads may be inside. It goes when the last of them lets go.
                self._handle = _open(self.path)
            return self._handle


def _open(path: Path) -> openslide.OpenSlide:
    if not path.is_file():
        raise SlideError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; expected a slide file")
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"{path} ({path.stat().st_size} bytes) is no slide that OpenSlide {openslide.__library_version__} reads, "
            "or is truncated",
            "If it should be one, copy the file again, with the files that belong to it.",
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path} cannot be opened: {error}", "Copy the file again.") from error


def _bounds(properties: dict[str, str], size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """The scanned region inside the slide."""
    names = ("openslide.bounds-x", "openslide.bounds-y", "openslide.bounds-width", "openslide.bounds-height")
    if not all(name in properties for name in names):
        return (0, 0, *size_px)
    x, y, width, height = (int(properties[name]) for name in names)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size_px[0]), min(y + height, size_px[1])
    if right <= left or bottom <= top:
        return (0, 0, *size_px)
    return left, top, right - left, bottom - top


def _downsample(full: int, reduced: int) -> float:
    """How many of `full` pixels one of `reduced` stands for.

    Writers halve and round down, so 4443 px become 2221: a factor of 2 and a lost pixel, not of 2.0005, which would
    shift the far end. OpenSlide goes further and averages the ratios of width and height.
    """
    whole = max(1, round(full / reduced))
    return float(whole) if abs(full / whole - reduced) < 1 else full / reduced


def _average_rows(
    pixels: NDArray[np.uint8] | NDArray[np.float32], span: tuple[float, float], *, step: float, count: int
) -> NDArray[np.float32]:
    """Area averages along axis 0: row i of the result averages `pixels` from ``span[0] + i step`` to ``+ (i+1) step``.

    Pixels are squares of one colour; nothing beyond ``span[1]`` counts. (Pillow's BOX filter takes or leaves whole
    pixels, which is exact for whole factors only.)

    Args:
        pixels: (n, m, 3), any number type.
        span: Begin and end in rows of `pixels`, fractions allowed.
        step: Rows of `pixels` per row of the result.
        count: Rows of the result.

    Returns:
        float32 (count, m, 3).
    """
    begin, end = span
    edges = np.minimum(begin + step * np.arange(count + 1), end)
    lower = np.minimum(edges[:-1], end - 1e-3)  # a last row that has lost its sliver still has a colour
    upper = np.maximum(edges[1:], lower + 1e-3)
    index = np.floor(lower).astype(np.int64)[:, None] + np.arange(math.ceil(step) + 1)  # (count, taps)
    weight = np.minimum(upper[:, None], index + 1) - np.maximum(lower[:, None], index)
    weight = np.maximum(weight, 0)
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    index = np.minimum(index, len(pixels) - 1)
    flat = pixels.reshape(len(pixels), -1)  # (n, m*3)
    result = np.zeros((count, flat.shape[1]), np.float32)
    for tap in np.flatnonzero(weight.any(0)):
        result += np.multiply(flat[index[:, tap]], weight[:, tap, None], dtype=np.float32)
    return result.reshape(count, *pixels.shape[1:])
