"""The pictures of ``giga tile --qc DIR``: one per slide, and contact sheets of the cohort."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gigacli.files import new_file
from gigacli.wsi.qc import SheetItem, contact_sheets

SHEET = "contact-sheet-{:02d}.png"


class QCFolder:
    """A folder of QC pictures, made with the first of them; without a folder it lacks none and writes none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _path(self, slide_id: str) -> Path | None:
        # an id comes from a table: it may hold anything, but a picture stays in its folder
        name = re.sub(r"[^\w.-]", "_", slide_id).lstrip(".") or "_"
        return None if self.folder is None else self.folder / f"{name}.png"

    def lacks(self, slide_id: str) -> bool:
        """Whether the picture of a slide is wanted and not there."""
        path = self._path(slide_id)
        return path is not None and not path.exists()

    def write(self, slide_id: str, picture: Image.Image | None) -> None:
        """Write the picture of a slide."""
        path = self._path(slide_id)
        if path is not None and picture is not None:
            _save(picture, path)

    def write_sheets(self, slides: Sequence[tuple[str, int, str]]) -> None:
        """Write the contact sheets of slides in the order of the table: id, tiles (-1: not done), reason of failure."""
        if self.folder is None:
            return
        items = []
        for slide_id, tiles, reason in slides:
            path = self._path(slide_id)
            there = path if path is not None and path.exists() and not reason else None
            items.append(SheetItem(slide_id, reason or (f"{tiles} tiles" if tiles >= 0 else "not done"), there))
        for i, sheet in enumerate(contact_sheets(items), start=1):
            _save(sheet, self.folder / SHEET.format(i))


def _save(picture: Image.Image, path: Path) -> None:
    with new_file(path) as partial:
        picture.save(partial, format="PNG")
