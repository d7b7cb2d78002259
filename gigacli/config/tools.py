"""Options of ``giga import``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - flags are made from the annotations
from typing import Any, Self

from gigacli.config.base import Config, one_resolution, option


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """Options of ``giga import``."""

    name: str | None = option(
        None, "Name in the store; default: the encoder's, else the folder's that holds the files.", result=False
    )
    encoder: str | None = option(None, "Whose features to take, where the files hold those of several.", result=False)
    csv: Path | None = option(
        None, "Table of slides: column slide_id or path, and any of mpp, patient_id.", result=False
    )
    mpp: float | None = option(
        None, "Resolution of the tiles, microns per pixel, for files that do not state it.", result=False
    )
    mag: float | None = option(None, "The same as a magnification: 10 means --mpp 1.0.", result=False)
    tile_px: int | None = option(
        None, "Edge of a tile, pixels at that resolution, for files that do not state it.", result=False
    )
    slide_mpp: float | None = option(
        None, "Microns per level-0 pixel of the slides, for files that do not state it.", result=False
    )
    workers: int | None = option(None, "Files read at once; default: the number of processors.", result=False)
    redo: bool = option(False, "Replace what was imported under this name.", result=False)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """As for every configuration; --mpp and --mag must not contradict each other."""
        one_resolution(options)
        return super().of(options)

    def __post_init__(self) -> None:
        self._path("csv")
        self._positive("mpp", "mag", "tile_px", "slide_mpp", "workers")
        if self.mag is not None:
            object.__setattr__(self, "mpp", 10 / self.mag)
        self._name("name")
