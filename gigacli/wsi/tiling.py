"""Tiles of one slide: thumbnail, tissue, grid, threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.errors import SlideError
from gigacli.wsi.grid import tile_grid, tissue_fraction
from gigacli.wsi.masks import read_mask
from gigacli.wsi.patches import Patches, open_slide
from gigacli.wsi.qc import qc_picture
from gigacli.wsi.slide import MAX_UPSAMPLING
from gigacli.wsi.tissue import MASK_MPP, tissue_mask

_ALL_TISSUE = (
    "100 % of it is tissue: fine where it was cut out of a section or has a mask that says so; if there is glass on "
    "it, none was found: look at it, giga tile STORE --qc FOLDER"
)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of one slide."""

    coords: NDArray[np.int32]  # (n, 2) level-0 corners, x and y
    tissue: NDArray[np.float32]  # (n,) share of each tile that is tissue
    empty: str = ""  # why there are no tiles, "" where there are some
    remark: str = ""  # what is odd about the tissue, "" where nothing is
    picture: Image.Image | None = None  # thumbnail with tissue and tiles drawn, where one was asked for


def find_tiles(
    path: str,
    *,
    slide_mpp: float,
    mpp: float,
    tile_px: int,
    overlap_px: int = 0,
    min_tissue: float = 0.5,
    upsample: bool = False,
    mask: str = "",
    laid: NDArray[np.int32] | None = None,
    title: str = "",
    draw: bool = False,
) -> Tiles:
    """Find the tiles of a slide that hold enough tissue.

    Args:
        path: The slide.
        slide_mpp: Microns per pixel of level 0.
        mpp: Microns per pixel of the tiles.
        tile_px: Edge of a tile, in pixels at `mpp`.
        overlap_px: Pixels at `mpp` that neighbours share.
        min_tissue: Least share of a tile that is tissue.
        upsample: Enlarge a slide that was scanned coarser than `mpp`, instead of refusing it.
        mask: Path of a tissue mask to use instead of looking for tissue, "" for none.
        laid: (n, 2) level-0 corners of tiles that were laid elsewhere, instead of a grid.
        title: Written below the picture.
        draw: Whether to draw a picture.

    Raises:
        SlideError: The slide or the mask cannot be read, or the slide was scanned too coarsely.
    """
    if not upsample and slide_mpp > mpp * MAX_UPSAMPLING:
        raise SlideError(
            f"{path} was scanned at {slide_mpp:g} microns per pixel, coarser than the {mpp:g} asked for",
            "take coarser tiles, leave this slide out, or enlarge such slides: giga tile STORE --upsample",
        )
    mask_mpp = max(MASK_MPP, slide_mpp)  # an overview is its own thumbnail
    with open_slide(path, mpp=slide_mpp, upsample=upsample) as slide:
        size_px, bounds = slide.size_px, slide.bounds_px
        thumbnail = slide.thumbnail(mask_mpp) if draw or not mask else None
        laid = slide.corners if isinstance(slide, Patches) else laid
    scale: dict[str, Any] = {"mpp": mpp, "slide_mpp": slide_mpp, "tile_px": tile_px}
    grid = laid is None
    coords = tile_grid(size_px, overlap_px=overlap_px, bounds_px=bounds, **scale) if laid is None else laid  # (n, 2)
    if mask:
        tissue = read_mask(mask, size_px=size_px, bounds_px=bounds, slide_mpp=slide_mpp, mask_mpp=mask_mpp)
    else:
        assert thumbnail is not None
        tissue = tissue_mask(thumbnail, mpp=mask_mpp)
    share = tissue_fraction(tissue, coords, mask_mpp=mask_mpp, origin_px=bounds[:2], **scale)  # (n,)
    keep = share >= min_tissue  # (n,)
    picture = None
    if draw:
        assert thumbnail is not None
        picture = qc_picture(
            thumbnail,
            tissue,
            coords[keep],
            tile_l0_px=tile_px * mpp / slide_mpp,
            scale=slide_mpp / mask_mpp,
            origin_px=bounds[:2],
            title=title,
            mpp=mask_mpp,
        )
    empty = ""
    if not len(share) and not grid:
        empty = "no tiles were laid on it"
    elif not len(share):
        empty = f"the slide is smaller than a tile of {tile_px} px at {mpp:g} microns per pixel"
    elif not keep.any() and not tissue.any():
        empty = "no tissue was found"
    elif not keep.any():
        empty = f"no tile is {100 * min_tissue:g} % tissue; the best is {100 * float(share.max()):.0f} %"
    return Tiles(coords[keep], share[keep], empty, _ALL_TISSUE if tissue.all() else "", picture)
