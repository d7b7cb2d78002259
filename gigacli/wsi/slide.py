"""One slide, read at any resolution. Pyramid levels stay inside this file."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from gigacli.errors import InvalidInput, SlideError
from gigacli.wsi.advice import COPY, advice
from gigacli.wsi.area import area_average
from gigacli.wsi.header import bounds, check_sizes, reduction
from gigacli.wsi.jpeg_tiles import JpegLevel, jpeg_levels
from gigacli.wsi.tiff import lacking_tiles
from gigacli.wsi.tile_level import TileLevel

MAX_UPSAMPLING = 1.05
"""Pixels may be up to 5 % coarser than asked for: scanners sold as 0.5 micron really have 0.47 to 0.52, and 20 tiles
are better read from the level meant for them than from one four times as large."""

MAX_DECODED_PX = 2**34
"""Pixels decoded for one thumbnail (131,072 x 131,072 without a pyramid): at 40 million a second, seven minutes."""

MAX_THUMBNAIL_PX = 2**27
"""Pixels of one thumbnail: at 16 microns, 185 x 185 mm of glass. More is a wrong size or resolution, and a gigabyte."""

# A thumbnail is read in blocks of about this many pixels a side, 64 MiB whatever the slide. Where a block begins at a
# fraction of a level's pixel OpenSlide interpolates, four times as slowly: one large block is read sooner than many.
_BLOCK_PX = 4096
_DIRECT = ("aperio", "generic-tiff")  # formats whose levels are nothing but images of a TIFF
_COMPARED = 3  # tiles of a level, those with the most detail, that decoding must give as OpenSlide gives them
_COMPARED_PX = 64  # of their sides
_ALIKE = 4  # grey levels: OpenSlide interpolates along both axes with weights of seven bits


class Slide:
    """A whole slide image, read in microns per pixel and level-0 coordinates.

    Use it in a `with` statement. One object may be read from several threads at a time: OpenSlide releases the
    interpreter lock and its handles are safe to share.

    Args:
        path: A file OpenSlide reads; of a DICOM series, any of its files.
        mpp: Microns per pixel of level 0, as :func:`gigacli.wsi.resolution.resolve_mpp` decided. Without it the slide
            has size and properties, but no pixels.
        upsample: Enlarge a slide that was scanned coarser than what is read, instead of refusing.

    Raises:
        SlideError: The file is missing, truncated, or no slide.

    Attributes:
        path: Where the slide is.
        size_px: Width and height of level 0.
        properties: Everything OpenSlide says about the slide.
        vendor: OpenSlide's name of the format, such as ``aperio``.
        bounds_px: The scanned region (x, y, width, height) in level-0 pixels; the whole slide where none is stated.
    """

    def __init__(self, path: str | Path, *, mpp: float | None = None, upsample: bool = False) -> None:
        self.path = Path(path)
        self._mpp = check_mpp(path, mpp)
        self._upsample = upsample
        self._lock = threading.Lock()
        self._handle = _open(self.path)
        self.size_px: tuple[int, int] = self._handle.dimensions
        found = self._handle.properties
        # A name that is no UTF-8 cannot be looked up, and nothing that matters has one.
        self.properties: dict[str, str] = {name: found[name] for name in found if "\ufffd" not in name}
        self.vendor: str = self.properties.get("openslide.vendor", "")
        self.bounds_px = bounds(self.properties, self.size_px)
        self._levels: list[tuple[tuple[int, int], float]] = list(
            zip(self._handle.level_dimensions, self._handle.level_downsamples, strict=True)
        )
        try:
            check_sizes(self.path, [size for size, _ in self._levels])
        except SlideError:
            self._handle.close()
            raise
        self._factors = [
            (reduction(self.size_px[0], size[0]), reduction(self.size_px[1], size[1])) for size, _ in self._levels
        ]
        self._looking = threading.Lock()
        self._jpeg: list[JpegLevel | None] | None = None  # by level, once one was looked for
        self._decided: dict[int, JpegLevel | None] = {}  # level -> its tiles, where they are what OpenSlide gives

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Nothing can be read afterwards."""
        self._handle.close()
        for level in self._jpeg or ():
            if level is not None:
                level.close()

    @property
    def mpp(self) -> float:
        """Microns per pixel of level 0, as given when the slide was opened."""
        if self._mpp is None:
            raise InvalidInput(f"{self.path} was opened without a resolution", "Open it with Slide(path, mpp=...).")
        return self._mpp

    @property
    def flat_px(self) -> int:
        """Pixels of a slide without smaller levels, all of which a thumbnail decodes; 0 where there are some."""
        return self.size_px[0] * self.size_px[1] if len(self._levels) == 1 else 0

    def read(
        self, x: int, y: int, *, tile_px: int, mpp: float, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read a square tile: the exact area average of the slide over every pixel of the tile.

        Reads the coarsest level that is fine enough (at most 5 % coarser than asked) and averages it down, with
        fractional positions and scales. What is transparent or outside the slide is white. (`x`, `y`) is the level-0
        pixel of the top-left corner, `mpp` the microns per pixel of the tile. `out`, if given, is where it goes:
        uint8 (tile_px, tile_px, 3), contiguous.

        Returns:
            uint8 (tile_px, tile_px, 3), RGB.

        Raises:
            SlideError: The slide was scanned coarser than `mpp`, or the region cannot be decoded, not even with a
                fresh handle.
        """
        side = tile_px * mpp / self.mpp
        found = self._average((x, y), (side, side), mpp=mpp, shape=(tile_px, tile_px), out=out)
        if out is None or np.may_share_memory(found, out):
            return found
        out[:] = found
        return out

    def decodes(self, mpp: float) -> bool:
        """Whether tiles of `mpp` are decoded from the JPEG tiles of the file, without OpenSlide."""
        return self._direct(self._level(mpp)) is not None

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """Read the scanned region (`bounds_px`) at `mpp` microns per pixel.

        Pixel (row r, column c) is the area average of the level-0 square of side ``s = mpp / self.mpp`` whose top-left
        corner is ``(bounds x + c s, bounds y + r s)``; the last row and column average what is left inside the bounds.
        Flat files without a pyramid are read whole, but in blocks.

        Returns:
            uint8 (h, w, 3), RGB, with ``w = ceil(bounds width / s)`` and ``h = ceil(bounds height / s)``.

        Raises:
            SlideError: As for :meth:`read`.
        """
        x, y, width, height = self.bounds_px
        scale = mpp / self.mpp
        block = max(1, int(_BLOCK_PX * self._downsamples(self._level(mpp))[0] / scale))
        columns, rows = (max(1, math.ceil(side / scale - 1e-6)) for side in (width, height))
        self._check_budget(columns * rows, mpp)
        result = np.empty((rows, columns, 3), np.uint8)
        for row in range(0, rows, block):
            for column in range(0, columns, block):
                part = result[row : row + block, column : column + block]
                left, top = column * scale, row * scale
                extent = (min(part.shape[1] * scale, width - left), min(part.shape[0] * scale, height - top))
                part[:] = self._average((x + left, y + top), extent, mpp=mpp, shape=part.shape[:2])
        return result

    def _check_budget(self, thumbnail_px: int, mpp: float) -> None:
        """Refuse a thumbnail that no slide needs before memory or hours are spent on it."""
        (width, height), size = self.bounds_px[2:], self._levels[self._level(mpp)][0]
        if thumbnail_px > MAX_THUMBNAIL_PX:
            raise SlideError(
                f"{self.path} would be {width * self.mpp / 1000:.0f} x {height * self.mpp / 1000:.0f} mm, {width} x "
                f"{height} px of {self.mpp:g} microns; its thumbnail at {mpp:g} would have {thumbnail_px} pixels, "
                f"expected at most {MAX_THUMBNAIL_PX}",
                "The size or the resolution in its header is wrong: give the right one in a column 'mpp' of a table: "
                "giga tile STORE --csv TABLE.",
            )
        if size[0] * size[1] > MAX_DECODED_PX:
            raise SlideError(
                f"{self.path} has no level coarser than {size[0]} x {size[1]} px for a thumbnail; expected at most "
                f"{MAX_DECODED_PX} pixels",
                "Convert it to a pyramid, for example with: vips tiffsave --tile --pyramid.",
            )

    def _average(
        self,
        origin: tuple[float, float],
        extent: tuple[float, float],
        *,
        mpp: float,
        shape: tuple[int, int],
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """`shape` (rows, columns) pixels at `mpp` from `origin`, averaging nothing beyond `extent` (level-0 px)."""
        level = self._level(mpp)
        across, down = (mpp / self.mpp / d for d in self._downsamples(level))
        tiles = self._direct(level)
        if tiles is not None:
            first, spans = self._place(level, origin, extent, whole=True)
            size = _size(spans)
            region = tiles.region(first, size, out if out is not None and out.shape[1::-1] == size else None)
            if region is not None:
                return area_average(region, spans, step=(across, down), shape=shape)
        corner, spans = self._place(level, origin, extent, whole=False)
        region = self._region(corner, level, _size(spans))
        return area_average(region, spans, step=(across, down), shape=shape)

    def _place(
        self, level: int, origin: tuple[float, float], extent: tuple[float, float], *, whole: bool
    ) -> tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]:
        """Where to read a level, and begin and end of what is wanted along x and y in pixels of what is read there.

        Where to read is a `whole` pixel of the level, or what OpenSlide is asked for, a level-0 pixel.
        """
        size, nominal = self._levels[level]
        corners, spans = [], []
        for axis, (pixels, downsample) in enumerate(zip(size, self._downsamples(level), strict=True)):
            begin, end = origin[axis] / downsample, (origin[axis] + extent[axis]) / downsample
            first = math.floor(begin + 1e-6)
            inside = end < pixels + 1  # a level rounded down lacks up to one pixel that level 0 has
            if inside:
                first = min(first, pixels - 1)
            # OpenSlide places level-0 pixel X at X / nominal of the level and interpolates if that is a fraction.
            # The corner it is asked for lies on a pixel of the level as nearly as whole numbers allow.
            corner = first if whole else math.floor(first * nominal + 1e-6)
            shift = first if whole else corner / nominal
            if inside:  # a last pixel that is cut by the border of the level is half white
                end = min(end, shift + math.floor(pixels - shift + 1e-6))
            corners.append(corner)
            spans.append((begin - shift, end - shift))
        return (corners[0], corners[1]), (spans[0], spans[1])

    def _direct(self, level: int) -> TileLevel | None:
        """Return the tiles of a level that are read without OpenSlide, None where they are not what it gives.

        A function of the file alone, so that no pixel depends on who reads it.
        """
        if self.vendor not in _DIRECT:
            return None
        if level not in self._decided:
            with self._looking:
                if self._jpeg is None:
                    self._jpeg = jpeg_levels(self.path, [size for size, _ in self._levels])
                jpeg = self._jpeg[level]
                alike = jpeg is not None and all(self._is_alike(jpeg, level, c) for c in jpeg.richest(_COMPARED))
                self._decided[level] = jpeg if alike else None
        return self._decided[level]

    def _is_alike(self, jpeg: JpegLevel, level: int, corner: tuple[int, int]) -> bool:
        """Whether pixels of a tile from `corner` on are decoded to what OpenSlide gives."""
        side, nominal = _COMPARED_PX, self._levels[level][1]
        location = [math.ceil(c * nominal) for c in corner]
        places = [x / nominal for x in location]  # in pixels of the level, where OpenSlide interpolates
        first = [math.floor(p + 1e-6) for p in places]
        ours = jpeg.region((first[0], first[1]), (side + 1, side + 1))
        try:
            theirs = self._region((location[0], location[1]), level, (side, side))
        except SlideError:
            return False
        if ours is None:
            return False
        across, down = (max(0.0, p - f) for p, f in zip(places, first, strict=True))
        mixed = ours[:-1] * (1 - down) + ours[1:] * down
        mixed = mixed[:, :-1] * (1 - across) + mixed[:, 1:] * across
        return bool(np.abs(mixed - theirs).max() <= _ALIKE)

    def _level(self, mpp: float) -> int:
        """Return the coarsest level that is fine enough for `mpp`."""
        scale = mpp / self.mpp
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidInput(f"a resolution of {mpp} microns per pixel; expected more than 0")
        enough = [i for i in range(len(self._levels)) if max(self._downsamples(i)) <= scale * MAX_UPSAMPLING]
        if not enough and self._upsample:
            return 0
        if not enough:
            raise SlideError(
                f"{self.path} was scanned at {self.mpp:g} microns per pixel; {mpp:g} is finer than it can give",
                f"Take coarser tiles: giga tile STORE --mpp {math.ceil(self.mpp * 100) / 100:g}.",
            )
        return max(enough, key=lambda i: max(self._downsamples(i)))

    def _downsamples(self, level: int) -> tuple[float, float]:
        """Level-0 pixels per pixel of a level, along x and y."""
        return self._factors[level]

    def _region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read pixels of a level on white, uint8 (h, w, 3)."""
        handle = self._handle
        try:
            region = handle.read_region(location, level, size)
        except openslide.OpenSlideError:
            # An error poisons the handle for good: it may have been another thread's, so a fresh one has its own try.
            try:
                region = self._renew(handle).read_region(location, level, size)
            except openslide.OpenSlideError as error:
                raise SlideError(
                    f"{self.path} cannot be read at level-0 pixel {location}: {error}", advice(self.path, str(error))
                ) from error
        if np.asarray(region.getchannel("A")).min() < 255:
            region = Image.alpha_composite(Image.new("RGBA", region.size, "white"), region)
        return np.asarray(region.convert("RGB"))

    def _renew(self, poisoned: openslide.OpenSlide) -> openslide.OpenSlide:
        """Return a handle that works, opened once for all the threads that met the same broken one."""
        with self._lock:
            if self._handle is poisoned:
                # The old handle is not closed: other threads may be inside. It goes when the last of them lets go.
                self._handle = _open(self.path)
            return self._handle


def check_mpp(path: str | Path, mpp: float | None) -> float | None:
    """Return the microns per pixel of a slide, refused if they are no number that is."""
    if mpp is not None and not (math.isfinite(mpp) and mpp > 0):
        raise InvalidInput(f"{path}: a resolution of {mpp} microns per pixel; expected more than 0")
    return mpp


def _open(path: Path) -> openslide.OpenSlide:
    if not path.is_file():
        raise SlideError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; expected a slide file")
    if lacking := lacking_tiles(path):
        raise SlideError(f"{path} is broken: {lacking}", COPY)
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"{path} ({path.stat().st_size} bytes) is no slide that OpenSlide {openslide.__library_version__} reads, "
            "or is truncated",
            advice(path),
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path} cannot be opened: {error}", advice(path, str(error))) from error


def _size(spans: tuple[tuple[float, float], tuple[float, float]]) -> tuple[int, int]:
    """Whole pixels that spans along x and y need."""
    return math.ceil(spans[0][1] - 1e-6), math.ceil(spans[1][1] - 1e-6)
