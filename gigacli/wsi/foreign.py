"""Slides that OpenSlide does not read, or not as they are: which those are, and who reads them."""

from __future__ import annotations

from pathlib import Path

import openslide

from gigacli.wsi.flat import PICTURES, open_picture
from gigacli.wsi.ome_zarr import is_image, open_zarr
from gigacli.wsi.slide import Slide
from gigacli.wsi.tiff import first_image
from gigacli.wsi.tiff_pyramid import OME, QPI, open_tiff

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_foreign(path: Path, *, mpp: float | None = None, upsample: bool = False) -> Slide | None:
    """Open a slide without OpenSlide, None where OpenSlide shall; arguments and errors are those of :class:`Slide`."""
    if path.is_dir() and is_image(path):
        return open_zarr(path, mpp=mpp, upsample=upsample)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(tuple(PICTURES)):
        return open_picture(path, mpp=mpp, upsample=upsample)
    if head.startswith(_TIFF) and _is_ours(path):
        return open_tiff(path, mpp=mpp, upsample=upsample)
    return None


def _is_ours(path: Path) -> bool:
    """Whether a TIFF has a pyramid that OpenSlide does not see, is none of those that it reads, or not of 8 bits."""
    first = first_image(path)
    if first is None:  # cut short: OpenSlide says so
        return False
    if OME in first.description or QPI in first.description:
        return True
    if first.description.startswith("Aperio"):
        return False
    ours = (None, "generic-tiff") if first.below or not first.plain else (None,)
    return openslide.OpenSlide.detect_format(path) in ours
