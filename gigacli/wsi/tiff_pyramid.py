"""TIFFs that OpenSlide does not read, or only the first level of: OME-TIFF, QPTIFF, images in strips.

OME-TIFF keeps the smaller levels of an image in directories below its own (SubIFDs), and the resolution in OME-XML.
QPTIFF has one directory after another, each of which says what it holds. Other TIFFs, and those of libvips, mark the
smaller copies of their first image as such.
"""

from __future__ import annotations

import re
from pathlib import Path

from gigacli.errors import SlideError
from gigacli.wsi.advice import COPY, RGB
from gigacli.wsi.ome import OmeImage, ome_images
from gigacli.wsi.pyramid import Pyramid
from gigacli.wsi.tiff_images import TiffImage, tiff_images, tiff_level

OME, QPI = "<OME", "PerkinElmer-QPI"
"""What the descriptions of OME-TIFFs and QPTIFFs hold."""

_KIND = re.compile(r"<ImageType>(\w+)</ImageType>")  # of the image of a directory of a QPTIFF

Planes = tuple[TiffImage, ...]  # one image, or red, green and blue


def open_tiff(path: Path, *, mpp: float | None = None, upsample: bool = False) -> Pyramid:
    """Open a TIFF with whatever pyramid it has; arguments and errors are those of :class:`~gigacli.wsi.slide.Slide`."""
    images = tiff_images(path)
    if not images:
        raise SlideError(f"{path} is a TIFF without an image, or one that ends before its last directory", COPY)
    text, stated = images[0].description, dict[str, str]()
    if OME in text:
        vendor, image = "ome-tiff", _slide_of(ome_images(text, path), images, path)
        first = tuple(images[number] for number in image.directories)
        if image.mpp is not None:
            stated = {"ome.mpp-x": repr(image.mpp[0]), "ome.mpp-y": repr(image.mpp[1])}
        levels = _levels(first, images)
    elif QPI in text:
        vendor, levels = "qptiff", _levels_of_qptiff(images, path)
    else:
        vendor, levels = "tiff", _levels((images[0],), images)
        alike = [one for one in images if one.grey and not one.reduced and one.size_px == images[0].size_px]
        if len(alike) > 1:
            width, height = images[0].size_px
            raise SlideError(
                f"{path} has {len(alike)} grey images of {width} x {height} px, as of several stains; expected one in "
                "red, green and blue",
                RGB,
            )
    for planes in levels:
        if problem := next((one.problem for one in planes if one.problem), ""):
            size = planes[0].size_px
            raise SlideError(f"{path} has an image of {size[0]} x {size[1]} px with {problem}", RGB)
    properties = stated | _resolution(levels[0][0])
    pyramid = [tiff_level(path, planes) for planes in levels]
    return Pyramid(path, pyramid, vendor=vendor, properties=properties, mpp=mpp, upsample=upsample)


def _slide_of(described: list[OmeImage], images: list[TiffImage], path: Path) -> OmeImage:
    """Return the slide among images that OME-XML describes, the largest: others are its label and an overview."""
    image = max(described, key=lambda one: one.size_px[0] * one.size_px[1])
    width, height = image.size_px
    if image.depth > 1:
        raise SlideError(f"{path} is a stack of {image.depth} images of {width} x {height} px; expected one", RGB)
    if len(image.directories) not in (1, 3) or image.fluorescence:
        named = f": {', '.join(image.names)}" if any(image.names) else " of its own colours"
        raise SlideError(f"{path} has {image.channels} channels{named}; expected red, green and blue", RGB)
    if max(image.directories) >= len(images):
        raise SlideError(
            f"{path} has {len(images)} images; its OME-XML puts {width} x {height} px in number "
            f"{max(image.directories)}, counted from 0",
            "If they are in other files, save it as one: bfconvert IN.ome.tiff OUT.ome.tiff. Else copy it again.",
        )
    found = {images[number].size_px for number in image.directories}
    if found != {image.size_px}:
        raise SlideError(f"{path} has an image of {min(found)} px where its OME-XML says {image.size_px}", COPY)
    return image


def _levels(first: Planes, images: list[TiffImage]) -> list[Planes]:
    """Return the levels of an image: its own copies, or those that follow it."""
    if len(counts := {len(image.smaller) for image in first}) == 1 and counts != {0}:
        below = list(zip(*(image.smaller for image in first), strict=True))
    else:
        width, height = first[0].size_px
        below = [
            (one,)
            for one in images
            if one.reduced
            and len(first) == 1
            and one.size_px[0] < width
            and abs(one.size_px[0] * height - one.size_px[1] * width) <= max(width, height)  # a pixel is rounded away
        ]
    return [first, *sorted(below, key=lambda planes: -planes[0].size_px[0])]


def _levels_of_qptiff(images: list[TiffImage], path: Path) -> list[Planes]:
    by_kind: dict[str, list[TiffImage]] = {}
    for image in images:
        kind = _KIND.search(image.description)
        by_kind.setdefault(kind[1] if kind else "", []).append(image)
    full = by_kind.get("FullResolution", [])
    if len(full) != 1:
        raise SlideError(f"{path} is a QPTIFF of {len(full)} channels; expected one image in red, green and blue", RGB)
    smaller = [image for image in by_kind.get("ReducedResolution", []) if image.size_px[0] < full[0].size_px[0]]
    return [(image,) for image in (full[0], *sorted(smaller, key=lambda image: -image.size_px[0]))]


def _resolution(image: TiffImage) -> dict[str, str]:
    """What the tags of an image say of its resolution, under the names of OpenSlide."""
    if not image.unit or not all(image.resolution):
        return {}
    across, down = image.resolution
    return {"tiff.XResolution": repr(across), "tiff.YResolution": repr(down), "tiff.ResolutionUnit": image.unit}
