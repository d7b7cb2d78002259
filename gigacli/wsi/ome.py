"""What OME-XML says of the images of a file: their sizes, resolutions and planes (OME data model 2016-06)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from gigacli.errors import SlideError
from gigacli.wsi.advice import COPY

MICRONS = {
    unit: microns
    for microns, units in (
        (1e-4, "Å angstrom"),
        (1e-3, "nm nanometer"),
        (1.0, "µm μm um micrometer"),
        (1e3, "mm millimeter"),
        (1e4, "cm centimeter"),
        (1e6, "m meter"),
        (25_400.0, "in inch"),
    )
    for unit in units.split()
}
"""Microns per unit of length, as OME-XML and OME-Zarr spell it; what is not here (``pixel``) says no length."""

_COLOUR = re.compile(r"(?i)\s*(r|g|b|red|green|blue|rgb|(channel|ch|c)?[\s_:\d]*)\s*")
_RGB = (-16776961, 16711935, 65535)  # red, green and blue as OME-XML counts colours
_WHITE = -1  # or not stated


@dataclass(frozen=True)
class OmeImage:
    """One image of OME-XML."""

    size_px: tuple[int, int]  # width and height
    mpp: tuple[float, float] | None  # microns per pixel along x and y
    depth: int  # focal planes times moments
    channels: int  # values per pixel
    directories: tuple[int, ...]  # numbers of the directories of the TIFF that hold its planes
    fluorescence: bool  # its channels have colours, or names, that are not red, green and blue
    names: tuple[str, ...] = ()  # of its channels, "" where it gives none


def ome_images(text: str, path: Path) -> list[OmeImage]:
    """Read OME-XML.

    Args:
        text: The XML.
        path: Of the slide, for errors.

    Raises:
        SlideError: It is no OME-XML, or describes no image in this file.
    """
    try:
        root = ElementTree.fromstring(text.strip().encode())
        images, following = [], 0
        for pixels in root.iterfind("{*}Image/{*}Pixels"):
            image = _image(pixels, following)
            following = max(image.directories, default=following - 1) + 1
            images.append(image)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise SlideError(f"{path} has OME-XML that cannot be read: {error!r}", COPY) from error
    if not images:
        elsewhere = root.find("{*}BinaryOnly")
        file = "" if elsewhere is None else f"; it is in {elsewhere.get('MetadataFile')}"
        raise SlideError(
            f"{path} has OME-XML that describes no image{file}",
            "Save it as one file with its own OME-XML, for example: bfconvert IN.companion.ome OUT.ome.tiff.",
        )
    return images


def _image(pixels: ElementTree.Element, following: int) -> OmeImage:
    """Read one image; its directories are the `following` ones where nothing else is said."""
    width, height, depth, moments, channels = (int(pixels.attrib[f"Size{axis}"]) for axis in "XYZTC")
    stated = [(int(one.get("FirstC", 0)), int(one.attrib["IFD"])) for one in pixels.iterfind("{*}TiffData[@IFD]")]
    samples = [int(one.get("SamplesPerPixel", 1)) for one in pixels.iterfind("{*}Channel")]
    planes = depth * moments * (len(samples) if sum(samples) == channels else channels)
    first = min((number for _, number in stated), default=following)
    numbers = [number for _, number in sorted(stated)] if len(stated) == planes else range(first, first + planes)
    colours = tuple(int(one.get("Color", _WHITE)) for one in pixels.iterfind("{*}Channel"))
    names = tuple(one.get("Name", "") for one in pixels.iterfind("{*}Channel"))
    axes = [_microns(pixels, axis) for axis in "XY"]
    return OmeImage(
        size_px=(width, height),
        mpp=None if axes[0] is None else (axes[0], axes[1] or axes[0]),
        depth=depth * moments,
        channels=channels,
        directories=tuple(numbers),
        fluorescence=len(colours) > 1
        and ((set(colours) != {_WHITE} and colours != _RGB) or (colours != _RGB and are_stains(names))),
        names=names,
    )


def are_stains(names: Sequence[str]) -> bool:
    """Whether channels are called after something else than red, green and blue, or their number."""
    return any(name and not _COLOUR.fullmatch(name) for name in names)


def _microns(pixels: ElementTree.Element, axis: str) -> float | None:
    size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
    return None if size is None or unit not in MICRONS else float(size) * MICRONS[unit]
