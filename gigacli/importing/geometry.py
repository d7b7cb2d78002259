"""How large tiles are, in three units that must agree: tile_px * mpp = edge_px * slide_mpp, all in microns.

`tile_px` and `mpp` are one pair for all slides of a store; `edge_px` and `slide_mpp` are those of a slide. Tools state
some of them; a fourth follows from three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.config.tools import ImportConfig
from gigacli.errors import InvalidInput, SlideError
from gigacli.importing.feature_set import UNKNOWN_SIZE, FeatureSet, whole

TOLERANCE = 0.1
"""How far resolutions may lie apart that are meant to be one: scanners of one nominal magnification differ by a few
percent, magnifications by a factor of 2."""

SLACK_PX = 1.0  # tools round the edge of a tile to whole level-0 pixels
LARGEST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Tiling:
    """How slides are cut into tiles; the fields are those of the recipe of tiles."""

    mpp: float  # microns per pixel
    tile_px: float  # edge, pixels at `mpp`
    overlap: float  # pixels at `mpp`

    @property
    def edge_um(self) -> float:
        """Edge of a tile, microns."""
        return self.tile_px * self.mpp


@dataclass(frozen=True)
class SlideScale:
    """How large the tiles are on one slide."""

    slide_mpp: float  # microns per level-0 pixel at which its tiles have the size that the store says
    source: str  # who says so, as in the column ``mpp_source``
    edge_px: float  # edge of a tile in level-0 pixels


def tiling_of(chosen: Sequence[FeatureSet], config: ImportConfig, table: Mapping[str, float]) -> Tiling:
    """The tile size and resolution that all files share.

    Args:
        chosen: Files of tile features.
        config: What the user says of those that do not say it.
        table: Slide -> microns per level-0 pixel, from the user's table.

    Raises:
        InvalidInput: They do not share one, or do not state it.
    """
    full = [one for one in chosen if one.tiles]  # of a slide without tiles, some tools say nothing
    if not full:
        raise InvalidInput(
            f"none of {len(chosen)} files holds a tile, such as {chosen[0].path}", "import others with them"
        )
    reference, first = full[0], _tiling_of(full[0], config, table.get(full[0].id))
    for one in full:
        tiling = _tiling_of(one, config, table.get(one.id))
        if (tiling.tile_px, round(tiling.overlap)) != (first.tile_px, round(first.overlap)) or not _alike(
            tiling.mpp, first.mpp
        ):
            raise InvalidInput(
                f"the files do not belong together: tiles of {_named(reference)} are {_described(first)}, "
                f"of {_named(one)} {_described(tiling)}",
                "import those of one kind into one store",
            )
        if one.width != reference.width:
            raise InvalidInput(
                f"the files do not belong together: {_named(reference)} has {reference.width} values per tile, "
                f"{_named(one)} has {one.width}",
                "import the features of one encoder at a time",
            )
    return first


def _tiling_of(one: FeatureSet, config: ImportConfig, table_mpp: float | None) -> Tiling:
    tile_px = one.tile_px or config.tile_px
    if tile_px is None:
        raise InvalidInput(
            f"{one.path} does not say how large its tiles are",
            "name the folder with the coordinates, too (CLAM: patches/), or give `tile_px`, `mpp` and `slide_mpp`",
        )
    if config.tile_px is not None and config.tile_px != tile_px:
        raise InvalidInput(f"`tile_px` is {config.tile_px}, but {one.path} says {tile_px:g}", "leave out `tile_px`")
    mpp, slide_mpp = one.mpp, table_mpp or one.slide_mpp or config.slide_mpp
    if mpp is not None and config.mpp is not None and not _alike(mpp, config.mpp):
        raise InvalidInput(f"`mpp` is {config.mpp:g}, but {one.path} says {mpp:g}", "leave out `mpp`")
    mpp = config.mpp or mpp
    if mpp is None and one.edge_px is not None and slide_mpp is not None:
        mpp = slide_mpp * one.edge_px / tile_px
    if mpp is None:
        raise InvalidInput(
            f"{one.path} does not say the resolution of its tiles of {tile_px:g} px",
            "give it with `mpp` or `mag`, or that of the slides: `slide_mpp`, or a column mpp in `csv`",
        )
    return Tiling(float(mpp), whole(tile_px), whole(one.overlap_px))


def scale_of(one: FeatureSet, tiling: Tiling, config: ImportConfig, table_mpp: float | None) -> SlideScale:
    """How large the tiles are on their slide.

    Raises:
        InvalidInput: Nothing says so: it is the same for all files of this tool.
        SlideError: What is said of this slide contradicts itself.
    """
    stated, source = one.slide_mpp, "import"
    if table_mpp is not None:
        stated, source = table_mpp, "csv"
    elif stated is None and config.slide_mpp is not None:
        stated, source = config.slide_mpp, "option"
    edge = one.edge_px
    if not one.tiles and (edge is None or stated is None):
        return SlideScale(float("nan"), "", float("nan"))
    if edge is None and stated is None:
        raise InvalidInput(
            f"{one.path} does not say the resolution of its slide, in which "
            + ("its coordinates, in microns, could become pixels" if one.microns else "its tiles could be placed"),
            "give it with `slide_mpp`, or slide by slide in a column mpp of `csv`; the vectors of slides hardly depend "
            "on it, but the places of tiles do",
        )
    if edge is None or one.microns:
        return SlideScale(float(stated or 0), source, tiling.edge_um / float(stated or 1))
    if stated is not None and abs(tiling.edge_um / stated - edge) <= SLACK_PX:
        return SlideScale(stated, source, edge)
    implied = tiling.edge_um / edge
    if stated is not None and not _alike(stated, implied):
        raise SlideError(
            f"its tiles of {edge:g} level-0 pixels measure {edge * stated:g} microns at {stated:g} microns per pixel; "
            f"expected {tiling.edge_um:g}"
        )
    nominal = one.nominal and config.mpp is None
    return SlideScale(implied, "nominal" if nominal else "option" if config.mpp is not None else source, edge)


def level0(coords: NDArray[Any], one: FeatureSet, scale: SlideScale) -> NDArray[np.int32]:
    """Corners (n, 2) in whole level-0 pixels.

    Raises:
        SlideError: They are not numbers, lie outside the slide, or one of them stands there twice.
    """
    if coords.shape != (one.tiles, 2):
        raise SlideError(f"its coordinates have the shape {coords.shape}; expected {(one.tiles, 2)}")
    values = coords / scale.slide_mpp if one.microns else coords
    if not np.isfinite(values).all():
        raise SlideError("its coordinates hold values that are not numbers")
    corners = np.rint(values) if values.dtype.kind == "f" else values
    limit = np.array(one.size_px if one.size_px != UNKNOWN_SIZE else (LARGEST, LARGEST), dtype=np.int64)
    outside = ((corners < 0) | (corners >= limit)).any(axis=1)
    if outside.any():
        first = corners[outside][0].tolist()
        size = "" if one.size_px == UNKNOWN_SIZE else f" of {one.size_px[0]} x {one.size_px[1]} px"
        raise SlideError(f"{outside.sum()} tiles lie outside the slide{size}, the first at {first}")
    _refuse_twins(corners)
    return corners.astype(np.int32)


def _refuse_twins(corners: NDArray[Any]) -> None:
    """Refuse tiles that are there twice: which of their vectors is meant nobody knows, and they would count twice."""
    order = np.lexsort(corners.T)  # stable: twins stay in the order of the file
    twins = np.flatnonzero((corners[order[1:]] == corners[order[:-1]]).all(axis=1))
    if len(twins):
        a, b = order[twins[0]], order[twins[0] + 1]
        raise SlideError(
            f"{len(twins)} of its {len(corners)} tiles are there twice: tiles {a} and {b} both lie at "
            f"{corners[a].tolist()}",
            "write each tile once; a file that was appended to by two runs looks like this",
        )


def _alike(a: float, b: float) -> bool:
    return abs(a / b - 1) <= TOLERANCE


def _described(tiling: Tiling) -> str:
    overlap = f", overlapping by {tiling.overlap:g}" if tiling.overlap else ""
    return f"{tiling.tile_px:g} px at {tiling.mpp:g} microns per pixel{overlap}"


def _named(one: FeatureSet) -> str:
    return f"{one.id} ({one.path.name})"
