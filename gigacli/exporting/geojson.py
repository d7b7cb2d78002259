"""Tiles as GeoJSON that QuPath (0.4 and later) reads; members that QuPath does not know are left out by it."""

from __future__ import annotations

from typing import Any


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
