"""How many tiles a slide may have: the room that a store makes for them."""

from __future__ import annotations

from typing import Any

from gigacli.store.table import SlideRow
from gigacli.wsi.grid import grid_capacity
from gigacli.wsi.patches import ENDING, count_patches


def room_for(row: SlideRow, tiles: dict[str, Any]) -> int:
    """Positions of the grid of a slide, or patches that its file lists.

    Args:
        row: The slide, of a known size and resolution.
        tiles: What the recipe of the tiles says: `mpp`, `tile_px` and `overlap`.

    Raises:
        SlideError: It is a file of patches that cannot be read.
    """
    if row.path.endswith(ENDING):
        return count_patches(row.path)
    grid = {"mpp": tiles["mpp"], "tile_px": tiles["tile_px"], "overlap_px": tiles["overlap"]}
    return grid_capacity(row.size_px, slide_mpp=row.mpp, **grid)
