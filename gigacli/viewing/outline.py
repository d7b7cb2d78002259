"""The tissue of a slide as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from gigacli.wsi.masks import read_mask
from gigacli.wsi.slide import Slide
from gigacli.wsi.tissue import MASK_MPP, tissue_mask


def outline_of(slide: Slide, *, mask: str) -> list[list[int]]:
    """The borders of a slide's tissue, as ``giga tile`` takes it: from its mask, or found on the slide.

    Args:
        slide: Open, with a resolution.
        mask: Path of its mask, "" for none.

    Returns:
        Closed lines, of holes too, as x, y, x, y, ... in level-0 pixels from the corner of the scanned region on.

    Raises:
        SlideError: The slide or the mask cannot be read.
    """
    mpp = max(MASK_MPP, slide.mpp)
    if mask:
        tissue = read_mask(mask, size_px=slide.size_px, slide_mpp=slide.mpp, bounds_px=slide.bounds_px, mask_mpp=mpp)
    else:
        tissue = tissue_mask(slide.thumbnail(mpp), mpp=mpp)
    return lines_of(tissue, step=mpp / slide.mpp)


def lines_of(mask: NDArray[np.bool_], *, step: float) -> list[list[int]]:
    """Closed lines between the true and the false pixels of a mask (h, w), each `step` wide, cutting corners."""
    padded = np.pad(mask, 1).astype(np.float32)
    # whole numbers are the middles of pixels, and the first of these is padding
    lines: Any = contour_generator(z=padded).lines(0.5)  # (n, 2) each
    return [np.rint((_corners(line) - 0.5) * step).astype(int).ravel().tolist() for line in lines]


def _corners(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """A line (n, 2) without the points that lie straight between their neighbours."""
    ahead = np.diff(line, axis=0)
    turns = ahead[:-1, 0] * ahead[1:, 1] != ahead[:-1, 1] * ahead[1:, 0]
    return line[np.concatenate([[True], turns, [True]])]
