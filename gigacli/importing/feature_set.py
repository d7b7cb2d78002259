"""What a file of another tool holds, as its header tells, and how to read the rest of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN_SIZE = (-1, -1)


@dataclass(frozen=True, kw_only=True)
class Content:
    """The inside of a file while it is open.

    Attributes:
        coords: (n, 2) top-left corners (x, y), in level-0 pixels or (see :attr:`FeatureSet.microns`) microns.
        vectors: (start, stop) -> the vectors of those tiles, (stop - start, width), as they are stored.
        tissue: (n,) share of tissue per tile, None where the tool does not keep it.
    """

    coords: NDArray[Any]
    vectors: Callable[[int, int], NDArray[Any]]
    tissue: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One set of features, of one slide.

    Attributes:
        id: Of the slide.
        path: The file.
        tool: Which tool wrote it.
        tool_version: Of that tool, "" where it does not say.
        encoder: Of the features, "" where it does not say.
        tiles: How many there are; 0 for a slide vector.
        width: Values per vector.
        read: Opens the file.
        tile_px: Edge of a tile, pixels at the resolution of the tiles; None, as all that follow, where it does not say.
        mpp: That resolution, microns per pixel.
        edge_px: Edge of a tile in level-0 pixels.
        overlap_px: Of neighbouring tiles, pixels at the resolution of the tiles.
        slide_mpp: Microns per level-0 pixel.
        nominal: Whether `mpp` is 10 / magnification rather than measured.
        size_px: Of level 0.
        slide_path: The slide file, "" where it does not say.
        microns: Whether coordinates are microns instead of level-0 pixels.
        vector: Whether it is one vector of the whole slide.
    """

    id: str
    path: Path
    tool: str
    encoder: str
    tiles: int
    width: int
    read: Callable[[], AbstractContextManager[Content]]
    tool_version: str = ""
    tile_px: float | None = None
    mpp: float | None = None
    edge_px: float | None = None
    overlap_px: float = 0.0
    slide_mpp: float | None = None
    nominal: bool = False
    size_px: tuple[int, int] = UNKNOWN_SIZE
    slide_path: str = ""
    microns: bool = False
    vector: bool = False


class NoFeatures(Exception):  # noqa: N818 - says what was found, and is caught by whoever looks through a folder
    """The file can be read but holds no features."""


def number(values: Any, key: str) -> float | None:
    """A positive number among attributes; tools write None as text, and 0 or -1 where they know nothing."""
    try:
        value = float(values.get(key))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def text(values: Any, key: str) -> str:
    """A text among attributes, "" where there is none."""
    value = values.get(key)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "" if value is None or str(value) == "None" else str(value)


def size_of(values: Any, width: str, height: str) -> tuple[int, int]:
    """A size among attributes, -1, -1 where it is not whole."""
    size = number(values, width), number(values, height)
    return UNKNOWN_SIZE if None in size else (int(size[0] or 0), int(size[1] or 0))


def whole(value: float) -> float:
    """An integer where the value is one: 256, not 256.0, in recipes and messages."""
    return int(value) if float(value).is_integer() else float(value)
