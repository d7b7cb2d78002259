"""Patches that were cut elsewhere, in the place of a slide: one file lists those of one slide, and where they lay.

Whoever has such patches has no slide to read. Of what a slide can do, this gives the patches themselves, pixel for
pixel, and a thumbnail that is put together from them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.errors import SlideError
from gigacli.wsi.area import area_average
from gigacli.wsi.foreign import open_foreign
from gigacli.wsi.picture import on_white
from gigacli.wsi.slide import Slide

ENDING = ".patches"
"""Of the files."""

FORMAT = "giga patches 1"
SAME = 1e-6  # of a resolution: rounding, not another one


def open_slide(path: str | Path, *, mpp: float | None = None, upsample: bool = False) -> Slide:
    """Open a slide of whatever kind, or the patches of one; arguments and errors are those of :class:`Slide`."""
    if Path(path).suffix == ENDING:
        return Patches(path, mpp=mpp)
    found = open_foreign(Path(path), mpp=mpp, upsample=upsample)
    return Slide(path, mpp=mpp, upsample=upsample) if found is None else found


def index_text(
    *, folder: Path, patch_px: int, edge_px: float, mpp: float, patches: list[tuple[str, int, int, int]]
) -> str:
    """What a file of patches says.

    Args:
        folder: Where the patches are.
        patch_px: Edge of a patch in its own pixels.
        edge_px: The same in level-0 pixels.
        mpp: Microns per level-0 pixel.
        patches: Name below the folder, level-0 x and y, and bytes of each, so that another patch makes another file.
    """
    about = {"format": FORMAT, "folder": str(folder), "patch_px": patch_px, "edge_px": edge_px, "mpp": mpp}
    lines = ",\n".join(
        json.dumps(patch, ensure_ascii=False) for patch in sorted(patches, key=lambda one: (one[2], one[1]))
    )
    return json.dumps(about, ensure_ascii=False)[:-1] + f', "patches": [\n{lines}\n]}}\n'


class Patches(Slide):
    """The patches of one slide, read like the slide.

    Raises:
        SlideError: The file is missing, or says something else.

    Attributes:
        corners: (n, 2) int32, level-0 x and y of the patches, by y, then x.
    """

    def __init__(self, path: str | Path, *, mpp: float | None = None) -> None:
        self.path = Path(path)
        try:
            about = json.loads(self.path.read_text(encoding="utf-8"))
            self._folder, self._patch_px = Path(about["folder"]), int(about["patch_px"])
            self._edge_px, stated = float(about["edge_px"]), float(about["mpp"])
            self._names = {(int(x), int(y)): str(name) for name, x, y, _ in about["patches"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SlideError(f"{path} is no list of patches: {error}", _AGAIN) from error
        if about["format"] != FORMAT or not self._names:
            raise SlideError(f"{path} lists no patches in the format {FORMAT!r}", _AGAIN)
        self._mpp = mpp
        self.corners = np.array(sorted(self._names, key=lambda xy: xy[::-1]), dtype=np.int32)
        width, height = np.ceil(self.corners.max(axis=0) + self._edge_px - SAME).astype(int).tolist()
        self.size_px, self.bounds_px = (width, height), (0, 0, width, height)
        self.vendor, self.properties = "patches", {"giga.mpp": repr(stated)}

    @property
    def flat_px(self) -> int:
        """None: a thumbnail is put together from the patches, which are read anyway."""
        return 0

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def read(
        self, x: int, y: int, *, tile_px: int, mpp: float, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read the patch whose corner is (`x`, `y`), as it is or averaged down.

        Returns:
            uint8 (tile_px, tile_px, 3), RGB, which is `out` if that is given.

        Raises:
            SlideError: There is no such patch, it is damaged, or other pixels than its own are asked for.
        """
        patch = self._patch(x, y)
        if abs(tile_px * mpp / (self._edge_px * self.mpp) - 1) > SAME or tile_px > self._patch_px:
            raise SlideError(
                f"its patches are {self._patch_px} px of {self._edge_px * self.mpp:g} microns; asked for were "
                f"{tile_px} px of {tile_px * mpp:g}",
                "patches are read as they are: leave out `tile_px`, or cut others",
            )
        if tile_px < self._patch_px:
            spans, step = ((0.0, float(self._patch_px)),) * 2, self._patch_px / tile_px
            patch = area_average(patch, (spans[0], spans[1]), step=(step, step), shape=(tile_px, tile_px))
        if out is None:
            return patch
        out[:] = patch
        return out

    def thumbnail(self, mpp: float) -> NDArray[np.uint8]:
        """Put the patches together at `mpp` microns per pixel, on white.

        Returns:
            uint8 (h, w, 3), RGB, of the size that a slide's thumbnail has.

        Raises:
            SlideError: A patch is missing or damaged.
        """
        scale = mpp / self.mpp
        width, height = (max(1, math.ceil(side / scale - SAME)) for side in self.size_px)
        return self.mosaic(0, 0, size=(width, height), mpp=mpp)

    def mosaic(self, x: int, y: int, *, size: tuple[int, int], mpp: float) -> NDArray[np.uint8]:
        """Put the patches that touch a rectangle together, on white.

        Args:
            x: Level-0 pixel of its left border.
            y: The same of its upper border.
            size: Columns and rows of the result.
            mpp: Its resolution.

        Returns:
            uint8 (rows, columns, 3), RGB.

        Raises:
            SlideError: A patch is missing or damaged.
        """
        scale, origin = mpp / self.mpp, np.array([x, y])
        canvas = Image.new("RGB", size, "white")
        end = origin + scale * np.array(size)
        touched = ((self.corners < end) & (self.corners + self._edge_px > origin)).all(axis=1)
        for corner in self.corners[touched].tolist():
            ends = (corner[0] - x, corner[1] - y, corner[0] + self._edge_px - x, corner[1] + self._edge_px - y)
            left, top, right, bottom = (round(at / scale) for at in ends)
            small = Image.fromarray(self._patch(*corner)).resize(
                (max(1, right - left), max(1, bottom - top)), Image.Resampling.BOX
            )
            canvas.paste(small, (left, top))
        return np.asarray(canvas)

    def _patch(self, x: int, y: int) -> NDArray[np.uint8]:
        """(patch_px, patch_px, 3) the pixels of a patch; what is transparent is white."""
        name = self._names.get((x, y))
        if name is None:
            raise SlideError(f"{self.path} has no patch at level-0 pixel ({x}, {y})", "only its patches can be read")
        try:
            with Image.open(self._folder / name) as image:
                if image.size != (self._patch_px, self._patch_px):
                    raise SlideError(f"{self._folder / name} is {image.size} px; expected {self._patch_px} a side")
                return on_white(image)
        except (OSError, ValueError) as error:
            if isinstance(error, SlideError):
                raise
            raise SlideError(f"{self._folder / name} cannot be read: {error}", _AGAIN) from error


_AGAIN = "list the patches again: giga tile STORE --patches FOLDER"


def count_patches(path: str) -> int:
    """How many patches a file lists.

    Raises:
        SlideError: As for :class:`Patches`.
    """
    return len(Patches(path).corners)
