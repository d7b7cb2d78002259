"""Tiles as GeoJSON that QuPath (0.4 and later) reads; members that QuPath does not know are left out by it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_COMPACT = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_collection(path: Path, features: Iterable[dict[str, Any]], **members: Any) -> None:
    """Write features as a FeatureCollection with further members, one feature after the other.

    A slide may have a million tiles, which as one object in memory take several gigabytes.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(_COMPACT.encode({"type": "FeatureCollection", **members})[:-1] + ',"features":[')
        for number, feature in enumerate(features):
            file.write("," * bool(number) + _COMPACT.encode(feature))
        file.write("]}\n")


def tile_feature(number: int, box: tuple[float, float, float, float], **properties: Any) -> dict[str, Any]:
    """One tile as a square that QuPath shows as a tile object.

    Args:
        number: Of the tile in its slide.
        box: Left, top, right and bottom in level-0 pixels.
        properties: Further members: ``measurements`` by name, ``isLocked``, ``classification``.
    """
    left, top, right, bottom = box
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "tile", "name": f"tile {number}", **properties},
    }
