"""What a file of another tool holds, as its header tells, and how to read the rest of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError
from gigacli.store.bounds import MOST, MOST_DOCUMENT_BYTES

UNKNOWN_SIZE = (-1, -1)
UNPACKED_BYTES, UNPACKED_RATIO = 2**26, 64
"""What compressed values may become: 64 MiB, and 64 times their bytes in the file beyond that."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Coordinates and vectors of a file while it is open."""

    # (n, 2) top-left corners (x, y), in level-0 pixels or (see `microns`) microns
    coords: NDArray[Any]
    # (start, stop) -> the vectors of those tiles, (stop - start, width), as they are stored
    vectors: Callable[[int, int], NDArray[Any]]
    tissue: NDArray[np.float32] | None = None  # (n,) share of tissue per tile, None where the tool does not keep it


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One set of features, of one slide."""

    id: str  # of the slide
    path: Path
    tool: str  # which tool wrote it
    encoder: str  # of the features, "" where it does not say
    tiles: int  # how many there are; 0 for a slide vector
    width: int  # values per vector
    read: Callable[[], AbstractContextManager[Content]]  # opens the file
    tool_version: str = ""  # of that tool, "" where it does not say
    # edge of a tile, pixels at the resolution of the tiles; None, as all that follow, where it does not say
    tile_px: float | None = None
    mpp: float | None = None  # that resolution, microns per pixel
    edge_px: float | None = None  # edge of a tile in level-0 pixels
    overlap_px: float = 0.0  # of neighbouring tiles, pixels at the resolution of the tiles
    slide_mpp: float | None = None  # microns per level-0 pixel
    nominal: bool = False  # whether `mpp` is 10 / magnification rather than measured
    size_px: tuple[int, int] = UNKNOWN_SIZE  # of level 0
    slide_path: str = ""  # the slide file, "" where it does not say
    microns: bool = False  # whether coordinates are microns instead of level-0 pixels
    vector: bool = False  # whether it is one vector of the whole slide
    patient: str = ""  # whose slide it is, "" where it does not say
    part: str = ""  # which of the slide's tiles they are, where the tool keeps several kinds of them apart

    def __post_init__(self) -> None:
        if self.tiles > MOST["tile"] or self.width > MOST["feature"]:
            most = f"at most {MOST['tile']} of {MOST['feature']} are read"
            raise SlideError(f"it states {self.tiles} tiles of {self.width} values; {most}")


def check_stored(name: str, size: int, stored: int) -> None:
    """Refuse values that are far more than the bytes they are stored in: features hardly compress.

    Args:
        name: Of the values in the file.
        size: Their bytes in memory.
        stored: Their bytes in the file.
    """
    if size > UNPACKED_BYTES + UNPACKED_RATIO * stored:
        raise SlideError(f"{name} states {size} bytes of values, but {stored} bytes are stored", "it is damaged")


class NoFeatures(Exception):  # noqa: N818 - says what was found, and is caught by whoever looks through a folder
    """The file can be read but holds no features."""


def tile_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(n, c) of the features of n tiles, also where they are stored as (n, 1, c) or (1, n, c).

    Raises:
        SlideError: They are neither.
    """
    if shape == (0,):  # a slide without tissue, of which some tools keep no width
        return 0, 0
    if len(shape) == 2 or (len(shape) == 3 and 1 in shape[:2]):
        return math.prod(shape[:-1]), shape[-1]
    raise SlideError(f"its features have the shape {shape}; expected (tiles, values)")


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


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file that says what a file of features is of; an empty one where it holds something else.

    Raises:
        SlideError: It is too large, or no JSON.
    """
    if path.stat().st_size > MOST_DOCUMENT_BYTES:
        raise SlideError(f"{path} has {path.stat().st_size} bytes; expected at most {MOST_DOCUMENT_BYTES}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SlideError(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}
