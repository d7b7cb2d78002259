"""The configurations of the tools beside the six verbs, from info to demo.

None of their options decides what a store holds, so that none belongs to a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from gigacli.config import base
from gigacli.config.base import SEEDS, SHARES, WORKERS, Config, one_resolution
from gigacli.config.options import DEVICE, MAG, SEED, SYNC

ValidationLevel = Literal["attributes", "hierarchy", "consistency", "values"]
"""In the order in which they are looked at; each one takes the ones before it for granted."""

Format = Literal["npy", "csv", "parquet", "h5", "h5ad", "geojson", "safetensors"]

option = partial(base.option, result=False)


@dataclass(frozen=True, kw_only=True)
class InfoConfig(Config):
    """Options of ``giga info``."""

    slides: bool = option(False, "How far every slide is, one a line.")


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(Config):
    """Options of ``giga validate``."""

    level: ValidationLevel = option("values", "The last level to check, after those before it; values reads all data.")


@dataclass(frozen=True, kw_only=True)
class PackConfig(Config):
    """Options of ``giga pack``."""

    sync: bool = option(True, SYNC)


@dataclass(frozen=True, kw_only=True)
class CopyConfig(Config):
    """Options of ``giga merge`` and ``giga subset``."""

    sync: bool = option(True, SYNC)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """Options of ``giga export``."""

    format: Format | None = option(
        None, "Default: what the name of the file ends in; of a folder npy, for features h5, for tiles geojson."
    )
    redo: bool = option(False, "Replace what an earlier export wrote there.")


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """Options of ``giga import``."""

    name: str | None = option(
        None, "Name in the store; default: the encoder's, else that of the folder with the files."
    )
    encoder: str | None = option(
        None, "Whose features to take, where the files hold those of several, as the refusal lists them."
    )
    csv: Path | None = option(None, "Table of slides: column slide_id or path, and any of mpp, patient_id.")
    allow_missing: bool = option(False, "Go on where that table names slides that are not there.")
    mpp: float | None = option(
        None, "Resolution of the tiles, microns per pixel, for files that do not state it.", (0.01, 1000)
    )
    mag: float | None = option(None, MAG, (0.01, 1000))
    tile_px: int | None = option(
        None, "Edge of a tile, pixels at that resolution, for files that do not state it.", (1, 100_000)
    )
    slide_mpp: float | None = option(
        None, "Microns per level-0 pixel of the slides, for files that do not state it.", (0.01, 1000)
    )
    scale: float = option(
        1.0, "Multiply tile features by this, where they hold values that float16 does not.", (1e-30, 1)
    )
    workers: int | None = option(None, "Files read at once; default: the number of processors.", WORKERS)
    redo: bool = option(False, "Replace what was imported under this name.")
    sync: bool = option(True, SYNC)

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Build from keyword arguments; `mpp` and `mag` must not contradict each other."""
        return super().of(one_resolution(options))

    def _check(self) -> None:
        if self.mag is not None:
            object.__setattr__(self, "mpp", 10 / self.mag)
        self._name("name")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Options of ``giga report``."""

    target: tuple[str, ...] = option((), "Column to probe, repeatable; default: label.")
    embedding: tuple[str, ...] = option((), "Embedding to show, repeatable; default: all.")
    fraction: tuple[float, ...] = option(
        (), "Share of training labels to probe with, repeatable; default: 0.25, 0.5, 1.", SHARES
    )
    splits: Path | None = option(None, "Folder of split_*.csv with columns train and test, used as they are.")
    allow_missing: bool = option(False, "Go on where these name slides without a label or vector.")
    site: str | None = option(None, "Column of sites, as for giga probe.")
    out: Path | None = option(None, "The page; default: STORE-report.html here. A report that is there is replaced.")
    thumbnails: int = option(96, "Slides of which a picture is drawn, at most, spread over the cohort.", (0, 100_000))
    workers: int | None = option(None, "Threads that read slides; default: the number of processors.", WORKERS)
    seed: int = option(0, "Seed of the probe's splits and of the map of neighbours.", SEEDS)


@dataclass(frozen=True, kw_only=True)
class TileMapConfig(Config):
    """Options of ``giga tile-map``."""

    target: str | None = option(None, "Column of the labels; default: label.")
    positive: str | None = option(
        None, "The class to explain, against all others; default: the slide's.", flag="--class"
    )
    embedding: str | None = option(None, "The embedding; may be left out when there is one.")
    views: int = option(100, "Views that every tile is in, at least 10; more of them, less noise.", (10, 100_000))
    out: Path = option(Path(), "Folder for the picture and the GeoJSON, which replace those of an earlier run.")
    device: str = option("auto", DEVICE)
    seed: int = option(0, SEED, SEEDS)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """Options of ``giga search``."""

    embedding: str | None = option(None, "The embedding; may be left out when there is one of a slide encoder.")
    k: int = option(5, "How many slides to find.", (1, 100))
    image: Path | None = option(None, "PNG to write: the slide and those found. A file that is there is replaced.")


@dataclass(frozen=True, kw_only=True)
class ViewConfig(Config):
    """Options of ``giga view``."""

    target: str | None = option(None, "Column of the labels whose classes tiles are mapped for; default: label.")
    embedding: tuple[str, ...] = option((), "Embedding to show, repeatable; default: all.")
    port: int = option(0, "Port on 127.0.0.1; default: any that is free.", (0, 65535))
    browser: bool = option(
        False,
        "Open the page in the browser of this machine, too; its link is then among the processes that others see.",
        flag="--open",
    )


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Options of ``giga predict``."""

    embedding: str | None = option(None, "The embedding; default: the one that the head goes with.")
    out: Path | None = option(None, "CSV of all predictions; default: only the first ones are shown.")
    redo: bool = option(False, "Replace the CSV that is there.")


@dataclass(frozen=True, kw_only=True)
class EncodersConfig(Config):
    """Options of ``giga encoders``."""

    here: bool = option(False, "Only those whose weights are on this machine.")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(Config):
    """Options of ``giga doctor``."""

    self_test: bool = option(True, "Take a few drawn slides through the verbs.")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Config):
    """Options of ``giga demo``."""

    quick: bool = option(False, "Few small slides and short training: only to see that it runs.")
    seed: int = option(0, SEED, SEEDS)
