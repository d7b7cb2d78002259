"""Tiles as squares in GeoJSON, in level-0 pixels: what giga exports for QuPath, and the like of other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError
from gigacli.importing.feature_set import Content, FeatureSet, NoFeatures
from gigacli.importing.geometry import SLACK_PX
from gigacli.store.bounds import MOST

ENDINGS = (".patches.geojson", ".geojson", ".json")
"""What follows a slide's id in the name of a file; the first is raw2features'."""

MOST_BYTES = 2**28  # a square takes some 200


def look_into(path: Path) -> FeatureSet:
    """The squares of a file.

    Raises:
        NoFeatures: It holds no squares.
        OSError: It cannot be read.
        SlideError: They are not all of one size, or too many.
    """
    boxes = _boxes(path)  # (n, 4)
    sides = np.concatenate([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]])
    edge_px = float(np.median(sides))
    if (np.abs(sides - edge_px) > SLACK_PX).any():
        raise SlideError(
            f"its polygons are {sides.min():g} to {sides.max():g} px a side; expected squares of one size",
            "tiles are squares; other outlines can be a tissue mask: a column mask in a table, giga tile STORE --csv",
        )

    @contextmanager
    def read() -> Iterator[Content]:
        yield Content(coords=_boxes(path)[:, :2], vectors=lambda a, b: np.empty((b - a, 0), dtype=np.float16))

    ending = next(ending for ending in ENDINGS if path.name.lower().endswith(ending))
    slide = path.name[: -len(ending)]
    return FeatureSet(
        id=slide, path=path, tool="GeoJSON", encoder="", tiles=len(boxes), width=0, read=read, edge_px=edge_px
    )


def _boxes(path: Path) -> NDArray[np.float64]:
    """(n, 4) left, top, right and bottom of the squares, level-0 pixels of the whole slide."""
    if path.stat().st_size > MOST_BYTES:
        raise SlideError(f"it has {path.stat().st_size} bytes; at most {MOST_BYTES} are read")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        features = held["features"] if isinstance(held, dict) else held
        origin = np.array(held.get("origin_px", (0, 0)) if isinstance(held, dict) else (0, 0), dtype=np.float64)
        boxes = [_box(feature["geometry"]) for feature in features]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoFeatures(f"it is no GeoJSON of polygons: {error}") from None
    if not boxes or len(boxes) > MOST["tile"]:
        raise NoFeatures(f"it has {len(boxes)} polygons; expected 1 to {MOST['tile']}")
    return np.array(boxes) + np.tile(origin, 2)


def _box(geometry: dict[str, Any]) -> tuple[float, float, float, float]:
    """The box of a polygon that is one.

    Raises:
        ValueError: It is none.
    """
    if geometry["type"] != "Polygon" or len(geometry["coordinates"]) != 1:
        raise ValueError(f"a {geometry['type']}; expected polygons of one ring")
    ring = np.array(geometry["coordinates"][0], dtype=np.float64)[:, :2]
    low, high = ring.min(axis=0), ring.max(axis=0)
    on_a_corner = ((ring == low) | (ring == high)).all(axis=1)
    if len({tuple(point) for point in ring.tolist()}) != 4 or not on_a_corner.all():
        raise ValueError(f"a polygon of {len(ring)} points from {low.tolist()} is no square along the axes")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
