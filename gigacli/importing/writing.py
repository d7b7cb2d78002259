"""Imported features on their way into the store: compared with the tiles that are there, and checked value by value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError
from gigacli.importing.feature_set import Content, FeatureSet
from gigacli.importing.geometry import SLACK_PX, SlideScale, level0
from gigacli.store.features import TILES_AT_ONCE
from gigacli.store.groups import Features, TileGrid

LARGEST = float(np.finfo(np.float16).max)


def write_features(
    features: Features, row: int, one: FeatureSet, scale: SlideScale, *, tiled: bool, factor: float = 1.0
) -> None:
    """Write the features of a slide, and its tiles, if the store has not got them; what says "done" comes last.

    Args:
        features: Where they go.
        row: Of the slide.
        one: Its file.
        scale: How large its tiles are.
        tiled: Whether the store has its tiles.
        factor: What its values are multiplied by.

    Raises:
        SlideError: The file holds values that cannot be stored, or other tiles than the store.
    """
    with one.read() as content:
        corners = level0(np.asarray(content.coords), one, scale)  # (n, 2)
        if tiled:
            order = _order_of(features.store.tiles.grid(row), corners, edge_px=scale.edge_px)
            features.write_blocks(row, one.tiles, _blocks(one, content, order, factor))
        else:
            tissue = None if content.tissue is None else np.clip(content.tissue, 0, 1)
            blocks = _blocks(one, content, None, factor)
            features.write_blocks(row, one.tiles, blocks, corners=corners, tissue=tissue)


def _order_of(stored: TileGrid, corners: NDArray[np.int32], *, edge_px: float) -> NDArray[np.int64] | None:
    """Which tile of the file each tile of the store is, None where they come in the same order."""
    if abs(stored.edge_px - edge_px) > max(SLACK_PX, 0.01 * stored.edge_px):
        raise SlideError(
            f"its tiles measure {edge_px:g} level-0 pixels; those in the store {stored.edge_px:g}",
            "import them into a store of their own",
        )
    if np.array_equal(stored.coords, corners):
        return None
    if stored.coords.shape == corners.shape:
        mine, theirs = np.lexsort(stored.coords.T), np.lexsort(corners.T)
        if np.array_equal(stored.coords[mine], corners[theirs]):
            order = np.empty(len(mine), dtype=np.int64)
            order[mine] = theirs
            return order
    raise SlideError(
        f"it has {len(corners)} tiles, which are not the {len(stored.coords)} tiles that the store has of this slide",
        "features of other tiles go into a store of their own",
    )


def _blocks(
    one: FeatureSet, content: Content, order: NDArray[np.int64] | None, factor: float
) -> Iterator[NDArray[np.float16]]:
    """Vectors in the order of the store, (tiles, width) of at most :data:`TILES_AT_ONCE` tiles."""
    for start in range(0, one.tiles, TILES_AT_ONCE):
        stop = min(start + TILES_AT_ONCE, one.tiles)
        block = content.vectors(start, stop) if order is None else _picked(content.vectors, order[start:stop])
        yield as_float16(block, one.width, factor)


def _picked(vectors: Any, order: NDArray[np.int64]) -> NDArray[Any]:
    """Rows in another order than the file's, which is read from its first to its last row of them."""
    first, last = int(order.min()), int(order.max()) + 1
    return np.asarray(vectors(first, last)[order - first])


def as_float16(block: NDArray[Any], width: int, factor: float = 1.0) -> NDArray[np.float16]:
    """Convert vectors to the type that a store keeps, multiplied by a factor.

    Raises:
        SlideError: A value is not a number, or does not fit.
    """
    if block.ndim != 2 or block.shape[1] != width:
        raise SlideError(f"a vector has {block.shape[-1]} values; expected {width}")
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = block if factor == 1 else block.astype(np.float64) * factor
        half = scaled.astype(np.float16)
    if np.isfinite(half).all():
        return half
    if absent := int(np.isnan(block).sum()):
        raise SlideError(f"{absent} of its values are not numbers (NaN)", "extract the features of this slide again")
    if endless := int(np.isinf(block).sum()):
        raise SlideError(
            f"{endless} of its values are infinite, stored as {block.dtype}: most likely they were too large for the "
            "type they were written in",
            "extract the features of this slide again, as float32",
        )
    largest = float(np.abs(scaled).max())
    fits = factor * 2.0 ** -math.ceil(math.log2(largest / LARGEST))
    raise SlideError(
        f"{int(np.isinf(half).sum())} of its values are beyond what float16 holds, {LARGEST:g}: the largest found is "
        f"{largest / factor:g}",
        f"import all slides with their values made smaller: giga import STORE FILES --scale {fits:g} --redo",
    )
