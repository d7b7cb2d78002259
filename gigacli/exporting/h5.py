"""HDF5 files as TRIDENT lays them out: ``features`` and ``coords``, what they mean in attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.store.groups import TileGrid
from gigacli.store.table import SlideRow


def write_h5(
    path: Path, features: NDArray[Any], *, slide: SlideRow, encoder: str, grid: TileGrid | None, tiling: dict[str, Any]
) -> None:
    """Write one slide.

    Args:
        path: The file.
        features: (width,) of the slide, or (tiles, width); written as float32, which is what others feed to networks.
        slide: Its row of the slide table.
        encoder: What made the features.
        grid: Its tiles; without them, or a resolution of the slide, there are no ``coords``.
        tiling: Configuration in the recipe of the tiles.
    """
    import h5py

    with h5py.File(path, "w") as file:
        vectors = file.create_dataset("features", data=features.astype(np.float32))
        vectors.attrs.update({"name": slide.id, "encoder": encoder})
        if grid is not None and slide.mpp > 0:
            coords = file.create_dataset("coords", data=grid.coords.astype(np.int64))
            coords.attrs.update({"name": slide.id, **tile_attributes(grid.edge_px, tiling, slide)})


def tile_attributes(edge_px: float, tiling: dict[str, Any], slide: SlideRow) -> dict[str, Any]:
    """Attributes of TRIDENT, in whole pixels and nominal magnifications, then the exact values under our own names."""
    width, height = slide.size_px
    size = {"level0_width": width, "level0_height": height} if width > 0 else {}
    return {
        "patch_size": tiling["tile_px"],
        "patch_size_level0": round(edge_px),
        "level0_magnification": round(10 / slide.mpp) or 10 / slide.mpp,
        "target_magnification": _plain(10 / tiling["mpp"]),
        "overlap": tiling["overlap"],
        **size,
        "mpp": tiling["mpp"],
        "level0_mpp": slide.mpp,
        "edge_level0_px": edge_px,
    }


def _plain(value: float) -> float:
    return int(value) if value.is_integer() else value
