"""What would help with a file that OpenSlide does not read: another copy, or a conversion."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from gigacli.wsi.tiff import description_of

COPY = "Copy the file again."
RGB = (
    "Slides are read in red, green and blue of 8 bits: export it so, for example with QuPath (OME-TIFF, rendered RGB)."
)

PX_PER_S = 40e6
"""Pixels that a core decodes in a second."""

FLAT_PX = 2**25
"""Pixels of a slide without smaller levels that are worth a word: a second."""

_IMAGES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"BM": "a BMP image",
    b"GIF8": "a GIF image",
    b"RIFF": "a WebP image",
    b"\x00\x00\x00\x0cjP": "a JPEG 2000 image",
}
"""First bytes of images that are no slides, and that vips reads."""

_TIFFS = {"<OME ": "an OME-TIFF", "PerkinElmer-QPI": "a QPTIFF"}
"""What the descriptions of TIFFs hold that other programs read."""

_UNSUPPORTED = re.compile(r"unsupported|not supported|unrecognized", re.IGNORECASE)


def advice(path: Path, error: str = "") -> str:
    """Return what to do with a file that cannot be opened or read.

    Args:
        path: The file.
        error: What OpenSlide says; "" where it knows no format that the file might have.
    """
    with path.open("rb") as file:
        head = file.read(132)
    image = next((name for magic, name in _IMAGES.items() if head.startswith(magic)), "")
    tiff = description_of(path)
    if head[128:] == b"DICM" and (_UNSUPPORTED.search(error) or not error):
        return f"It is DICOM of a kind that OpenSlide does not read. {convert(path, flat=True)}"
    if error:
        return convert(path) if _UNSUPPORTED.search(error) else COPY
    if image:
        return f"It is {image} and no slide. {convert(path)}"
    if tiff is not None:
        kind = next((name for words, name in _TIFFS.items() if words in tiff), "a TIFF")
        return f"It is {kind} whose images OpenSlide does not read, such as one in strips. {convert(path)}"
    return "If it should be one, copy the file again, with the files that belong to it."


def convert(path: Path, *, flat: bool = False) -> str:
    """Return the commands of a conversion with libvips; of what it does not read, `flat` by Bio-Formats first."""
    source, commands = path.name, []
    if flat:
        source = f"{path.stem}-flat.tif"
        commands.append(shlex.join(["bfconvert", "-series", "0", "-bigtiff", path.name, source]))
    save = ["--tile", "--pyramid", "--bigtiff", "--compression", "jpeg", "--Q", "90"]
    commands.append(shlex.join(["vips", "tiffsave", source, f"{path.stem}-pyramid.tif", *save]))
    return (
        f"Convert it to a tiled pyramid, in its folder: {' && '.join(commands)}; if that says the file is broken, copy "
        "it again. "
        "Resolutions get lost easily: give it with --slide-mpp X, or in a column 'mpp' of a table."
    )


def flat_slides(pixels: Mapping[str, int]) -> str:
    """Say what it costs that slides have no smaller levels, "" where it is next to nothing.

    Args:
        pixels: Those of slides without smaller levels, by name.
    """
    flat = {name: px for name, px in pixels.items() if px >= FLAT_PX}
    if not flat:
        return ""
    worst = max(flat, key=flat.__getitem__)
    return (
        f"{len(flat)} slides have no smaller levels: to find the tissue of {worst}, all of its {flat[worst] / 1e6:.0f} "
        f"megapixels are decoded, {flat[worst] / PX_PER_S:.0f} s or more, and for coarse tiles again; a pyramid saves "
        "that: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff --compression jpeg"
    )
