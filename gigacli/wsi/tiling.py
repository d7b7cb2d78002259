"""From one slide to its tiles: thumbnail, tissue, grid, threshold. Nothing of the store is known here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gigacli.errors import SlideError
from gigacli.wsi.grid import tile_grid, tissue_fraction
from gigacli.wsi.masks import read_mask
from gigacli.wsi.qc import qc_picture
from gigacli.wsi.slide import MAX_UPSAMPLING, Slide
from gigacli.wsi.tissue import MASK_MPP, tissue_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from gigacli.config.verbs import TileConfig


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of one slide.

    Attributes:
        coords: (n, 2) level-0 corners, x and y.
        tissue: (n,) share of each tile that is tissue.
        empty: Why there are no tiles, "" where there are some.
        picture: Thumbnail with tissue and tiles drawn, where one was asked for.
    """

    coords: NDArray[np.int32]
    tissue: NDArray[np.float32]
    empty: str = ""
    picture: Image.Image | None = None


def find_tiles(
    path: str, config: TileConfig, *, slide_mpp: float, mask: str = "", title: str = "", draw: bool = False
) -> Tiles:
    """Find the tiles of a slide that hold enough tissue.

    Args:
        path: The slide.
        config: Resolution, size and overlap of the tiles, and the least share of tissue.
        slide_mpp: Microns per pixel of level 0.
        mask: Path of a tissue mask to use instead of looking for tissue, "" for none.
        title: Written below the picture.
        draw: Whether to draw a picture.

    Raises:
        SlideError: The slide or the mask cannot be read, or the slide was scanned too coarsely.
    """
    if not config.upsample and slide_mpp > config.mpp * MAX_UPSAMPLING:
        raise SlideError(
            f"{path} was scanned at {slide_mpp:g} microns per pixel, coarser than the {config.mpp:g} asked for",
            "choose a larger --mpp, leave this slide out, or enlarge such slides with --upsample",
        )
    grid = {"mpp": config.mpp, "slide_mpp": slide_mpp}
    with Slide(path, mpp=slide_mpp, upsample=config.upsample) as slide:
        bounds = slide.bounds_px
        coords = tile_grid(
            slide.size_px, tile_px=config.tile_px, overlap_px=config.overlap, bounds_px=bounds, **grid
        )  # (n, 2)
        size_px = slide.size_px
        thumbnail = slide.thumbnail(MASK_MPP) if draw or not mask else None
    if mask:
        tissue = read_mask(mask, size_px=size_px, bounds_px=bounds, slide_mpp=slide_mpp, mask_mpp=MASK_MPP)
    else:
        assert thumbnail is not None
        tissue = tissue_mask(thumbnail, mpp=MASK_MPP)
    share = tissue_fraction(
        tissue, coords, mask_mpp=MASK_MPP, tile_px=config.tile_px, origin_px=bounds[:2], **grid
    )  # (n,)
    keep = share >= config.min_tissue
    picture = None
    if draw:
        assert thumbnail is not None
        picture = qc_picture(
            thumbnail,
            tissue,
            coords[keep],
            tile_l0_px=config.tile_px * config.mpp / slide_mpp,
            scale=slide_mpp / MASK_MPP,
            origin_px=bounds[:2],
            title=title,
            mpp=MASK_MPP,
        )
    return Tiles(coords[keep], share[keep], _why_empty(share, config, found=bool(tissue.any())), picture)


def _why_empty(share: NDArray[np.float32], config: TileConfig, *, found: bool) -> str:
    if (share >= config.min_tissue).any():
        return ""
    if not len(share):
        return f"the slide is smaller than a tile of {config.tile_px} px at {config.mpp:g} microns per pixel"
    if not found:
        return "no tissue was found"
    return f"no tile is {100 * config.min_tissue:g} % tissue; the best is {100 * float(share.max()):.0f} %"
