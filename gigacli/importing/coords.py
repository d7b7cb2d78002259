"""Where another tool cut a slide into tiles: coordinates without features, or beside them, for ``giga tile --coords``.

TRIDENT's and CLAM's ``patches/``, hs2p's ``tiles/``, stores of LazySlide and raw2features, feature files that hold
coordinates, and GeoJSON of squares, such as ``giga export STORE tiles`` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.cohort.registration import Registration
from gigacli.config.tools import ImportConfig
from gigacli.config.verbs import TileConfig
from gigacli.errors import InvalidInput, Mismatch, NotFound, SlideError, reason_of
from gigacli.importing import geojson, h5, raw2features, tensors, wsidata
from gigacli.importing.discover import H5, files_of
from gigacli.importing.feature_set import UNKNOWN_SIZE, FeatureSet, NoFeatures
from gigacli.importing.geometry import TOLERANCE, SlideScale, Tiling, level0, scale_of, tiling_of
from gigacli.parallel import worker_count
from gigacli.progress import Progress
from gigacli.store.recipe import Recipe

BESIDE = "features"
"""Stands for an encoder that is not named, where coordinates lie beside features."""

ENDINGS = (*H5, ".npz", ".zarr", ".geojson")


@dataclass(frozen=True, eq=False)
class Laid:
    """The tiles that another tool laid on the slides of a cohort."""

    tool: str
    tiling: Tiling
    sets: dict[str, tuple[FeatureSet, SlideScale]]  # slide -> its file, and how large its tiles are
    failures: dict[str, str] = field(default_factory=dict)  # slide -> why its file cannot be used
    chosen: str | None = None  # which of several tilings it is, where one had to be chosen

    @property
    def recipe(self) -> dict[str, str]:
        """What the recipe of the tiles holds beside their configuration."""
        return {"coords": self.tool, **({"tiling": self.chosen} if self.chosen else {})}

    def count(self, slide: str) -> int:
        """Tiles of a slide; 0 where it has no file, or one that cannot be used."""
        return self.sets[slide][0].tiles if slide in self.sets else 0

    def corners(self, slide: str) -> NDArray[np.int32]:
        """Corners (n, 2) of the tiles of a slide, level-0 pixels, in the order of the file.

        Raises:
            SlideError: It has no file, or one that cannot be used.
        """
        if slide not in self.sets:
            raise SlideError(
                self.failures.get(slide, "no file says where its tiles are"), "name more of them with `coords`"
            )
        one, scale = self.sets[slide]
        with one.read() as content:
            return level0(np.asarray(content.coords), one, scale)

    def _configured(self, config: TileConfig) -> TileConfig:
        """The configuration of these tiles: all of them, unless a share of tissue is asked for."""
        least = config.min_tissue if "min_tissue" in config.given else 0.0
        tile_px, overlap = int(self.tiling.tile_px), round(self.tiling.overlap)
        return config.but(mpp=self.tiling.mpp, tile_px=tile_px, overlap=overlap, min_tissue=least)

    def _applied(self, registration: Registration) -> Registration:
        """The slides at the resolutions at which their tiles have the size that the store says."""
        rows, table, reasons = [], registration.table, dict(registration.reasons)
        for slide, (one, scale) in self.sets.items():
            row = table[table.index[slide]]
            if np.isfinite(scale.slide_mpp) and not np.isclose(scale.slide_mpp, row.mpp, rtol=1e-9):
                said = "nominal" if one.nominal else "import"
                rows.append(replace(row, mpp=scale.slide_mpp, mpp_source=said))
                if row.size_px[0] > 0 and not row.usable:  # it lacked a resolution, and nothing else
                    reasons[table.index[slide]] = ""
        return Registration(table.with_rows(rows), reasons)


def refuse_unnamed(config: TileConfig, made: Recipe | None) -> None:
    """Refuse to lay a grid of our own where another tool laid the tiles.

    Raises:
        InvalidInput: The store has such tiles, and no files of coordinates were named.
    """
    if made is not None and "coords" in made.config and not config.coords:
        raise InvalidInput(
            f"the tiles of this store are where {made.config['coords']} laid them, and no files of coordinates were "
            "named",
            "name them again: giga tile STORE --coords FILES; a grid of giga's own goes into a store of its own",
        )


def lay(
    config: TileConfig, registration: Registration, made: Recipe | None, progress: Progress
) -> tuple[TileConfig, Registration, Laid]:
    """Find the tiles of the slides of a cohort in files of other tools.

    Args:
        config: Names the files, and says what they do not.
        registration: The slides; their resolutions say how large squares of pixels are.
        made: The recipe of tiles that the store has, if any: more slides get tiles of that size.
        progress: Receives progress.

    Returns:
        The configuration that these tiles have; the slides at the resolutions at which their tiles have the size that
        it says; and the tiles.

    Raises:
        NotFound: There are no such files, or none of these slides.
        InvalidInput: A slide has several, they do not belong together, or do not say how large tiles are.
        Mismatch: The store has tiles of another size.
    """
    chosen = config.tiling or (made.config.get("tiling") if made is not None and not config.redo else None)
    found, broken = _read_headers(config, chosen, progress)
    table = registration.table
    mine = {slide: one for slide, one in found.items() if slide in table.index}
    if not mine:
        some = f", such as {next(iter(found))}" if found else f"; {next(iter(broken.values()), 'none holds tiles')}"
        raise NotFound(
            f"the files of `coords` are of {len(found)} slides{some}; none is of the {len(table)} slides here",
            "files are called after their slides: S1.h5 or S1_patches.h5 for S1.svs",
        )
    if others := len(found) - len(mine):
        progress.say(f"{others} files of `coords` are of slides that are not here, and left out")
    rows = {slide: table[table.index[slide]] for slide in mine}
    mpp = {slide: float(row.mpp) for slide, row in rows.items() if np.isfinite(row.mpp)}
    sets = [_on(mine[slide], rows[slide].size_px) for slide in sorted(mine)]
    full = next((one for one in sets if one.tiles), sets[0])
    sizes = {"mpp": config.mpp} if {"mpp", "mag"} & config.given else {}
    if "tile_px" in config.given or full.tile_px is None:
        sizes["tile_px"] = config.tile_px
    options = ImportConfig(**sizes)  # type: ignore[arg-type] # checked when it is made
    tiling = tiling_of(sets, options, mpp)
    if made is not None and not config.redo:
        stored = Tiling(**{key: made.config[key] for key in vars(tiling)})
        if abs(tiling.edge_um / stored.edge_um - 1) > TOLERANCE or tiling.tile_px != stored.tile_px:
            raise Mismatch(
                f"the store has tiles of {stored.tile_px:g} px at {stored.mpp:g} microns per pixel; those of "
                f"{full.path} are {tiling.tile_px:g} px at {tiling.mpp:g}",
                "lay them in a store of their own, or replace the ones there: --redo",
            )
        tiling = stored
    failures = {slide: why for slide, why in broken.items() if slide in table.index}
    laid = Laid(full.tool, tiling, {}, failures, chosen)
    for one in sets:
        try:
            size = rows[one.id].size_px
            if mine[one.id].size_px not in (UNKNOWN_SIZE, size) and size[0] > 0:
                raise SlideError(f"its tiles were laid on a slide of {mine[one.id].size_px} px; this one is {size}")
            laid.sets[one.id] = (one, scale_of(one, tiling, options, mpp.get(one.id)))
        except SlideError as error:
            laid.failures[one.id] = f"{one.path}: {reason_of(error)}"
    return laid._configured(config), laid._applied(registration), laid


def _on(one: FeatureSet, size_px: tuple[int, int]) -> FeatureSet:
    return replace(one, size_px=size_px if size_px[0] > 0 else one.size_px)


def _read_headers(
    config: TileConfig, chosen: str | None, progress: Progress
) -> tuple[dict[str, FeatureSet], dict[str, str]]:
    """Slide -> its tiles, and slide -> why its file cannot be used."""
    files = files_of(list(config.coords), endings=ENDINGS)
    progress.start("reading headers", len(files))
    found: dict[str, list[FeatureSet]] = {}
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(worker_count(config.workers)) as pool:
        for path, read in zip(files, pool.map(_tried, files), strict=True):
            progress.advance()
            for one in read if isinstance(read, list) else ():
                found.setdefault(one.id, []).append(one)
            if isinstance(read, Exception) and not isinstance(read, NoFeatures):
                broken[path.stem.removesuffix(h5.PATCHES)] = f"{path}: {reason_of(read)}"
    if chosen is not None:
        for slide, sets in list(found.items()):
            found[slide] = [one for one in sets if one.part == chosen]
            if not found[slide]:
                there = ", ".join(sorted({one.part or "one without a name" for one in sets}))
                broken[slide] = f"{sets[0].path} has no tiles {chosen!r}; it has {there}"
                del found[slide]
    return {slide: _one_of(slide, sets) for slide, sets in found.items()}, broken


def _tried(path: Path) -> list[FeatureSet] | Exception:
    try:
        return look_into(path)
    except Exception as error:  # a damaged file raises anything, and must not take the other slides with it
        return error


def look_into(path: Path) -> list[FeatureSet]:
    """The tiles in a file, as feature sets without features.

    Raises:
        NoFeatures: It holds none.
        OSError: It cannot be read.
        SlideError: It cannot be used.
    """
    if path.suffix == ".zarr":
        if raw2features.wrote(path):
            return _distinct([one for one in raw2features.look_into(path) if not one.vector])
        return wsidata.look_for_tiles(path)
    if path.suffix.lower() in H5:
        if (alone := h5.look_for_coordinates(path)) is not None:
            return [alone.as_set(path.stem.removesuffix(h5.PATCHES))]
        return _distinct([one for one in h5.look_into(path, None) if not one.vector])
    if path.name.endswith(tensors.TILES):
        return [tensors.tiles_of(path)]
    if path.suffix.lower() in (".geojson", ".json"):
        return [geojson.look_into(path)]
    raise NoFeatures(f"{path.name} is no format of coordinates")


def _distinct(sets: Sequence[FeatureSet]) -> list[FeatureSet]:
    """One set for each way to cut the slide: features of several encoders share their tiles."""
    return list({one.part: replace(one, width=0, encoder=one.encoder or BESIDE) for one in sets}.values())


def _one_of(slide: str, sets: Sequence[FeatureSet]) -> FeatureSet:
    """The tiles of a slide, where a file holds them alone and others hold them beside features."""
    alone = [one for one in sets if not one.encoder] or list(sets)
    if len(alone) > 1:
        names = sorted({one.part for one in alone})
        if len(names) > 1 and all(names):
            raise InvalidInput(
                f"slide {slide} is cut into tiles in {len(names)} ways, called {', '.join(names)}; the first is in "
                f"{alone[0].path}",
                f"choose one: `tiling` {names[0]}",
            )
        listed = ", ".join(str(one.path) for one in alone[:3])
        raise InvalidInput(f"slide {slide} is cut into tiles by {len(alone)} files: {listed}", "name one of them")
    return alone[0]
