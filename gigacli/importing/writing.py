"""Imported features on their way into the store: compared with the tiles that are there, and checked value by value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.errors import Mismatch, SlideError
from gigacli.importing.geometry import SLACK_PX, Placement, level0
from gigacli.store.layout import FEATURE_TILES_PER_CHUNK, NOT_DONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gigacli.importing.found import Found
    from gigacli.store.store import Recipe, Store
    from gigacli.store.table import SlideRow

TILES_AT_ONCE = 4 * FEATURE_TILES_PER_CHUNK
"""Vectors of a slide that are in memory at once: whole chunks, so that none is written twice."""

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Target:
    """The group that features or slide vectors go to.

    Attributes:
        store: Where it is looked for, None for a store that is not there yet.
        path: ``features/<name>`` or ``embeddings/<name>``.
        recipe: What it will have.
    """

    store: Store | None
    path: str
    recipe: Recipe

    def check(self, *, redo: bool) -> None:
        """Refuse to replace what was not imported, and to mix what was imported otherwise.

        Raises:
            Mismatch: There is such a group.
        """
        if self.store is None:
            return
        kind, _, name = self.path.partition("/")
        there = self.store.recipe(self.path)
        made = there is not None and there.stage != "import"
        if made or (kind == "features" and self.store.recipe(f"banks/{name}") is not None):
            raise Mismatch(
                f"{self.store.url} has {kind} or a bank of the name {name!r} of its own", "choose another --name"
            )
        self.store.check(self.path, self.recipe, redo=redo)

    def begin(self, store: Store, shape: tuple[int, ...], *, redo: bool) -> None:
        """Make room; with `redo` what is there goes first."""
        if redo and store.recipe(self.path) is not None:
            store.discard(self.path)
        store.begin(self.path, self.recipe, {"vectors": shape, "done": shape[:1]})


def recipe_for(known: Store | None, path: str, recipe: Recipe, *, redo: bool) -> Recipe:
    """The recipe of a group, which tells one import under a name from the next one that replaced it.

    Nothing else would: files of other content may have the same encoder, tool and tiles. So what was trained on the
    vectors that were replaced is seen to be stale. The version of the tool stays that of the first files.
    """
    there = known.recipe(path) if known is not None else None
    if there is None or there.stage != "import":
        return replace(recipe, config={**recipe.config, "generation": 1})
    generation = int(there.config.get("generation", 1))
    if redo:
        return replace(recipe, config={**recipe.config, "generation": generation + 1})
    kept = {key: there.config[key] for key in ("tool_version",) if key in recipe.config}
    return replace(recipe, config={**recipe.config, **kept, "generation": generation})


class Arrays:
    """The arrays that tiles and features are written to, opened once: opening one costs more than writing into it."""

    def __init__(self, store: Store, path: str) -> None:
        self.coords, self.tissue, self.count = (store.array(f"tiles/{name}") for name in ("coords", "tissue", "count"))
        self.vectors, self.done = store.array(f"{path}/vectors"), store.array(f"{path}/done")
        config = store.require("tiles").config
        self.edge_um: float = config["tile_px"] * config["mpp"]


def write_tiles(arrays: Arrays, row: int, one: Found, placement: Placement, slide: SlideRow, count: int) -> None:
    """Write the tiles of a slide, if the store has not got them, and their features; what says "done" comes last.

    Args:
        arrays: Of the store.
        row: Of the slide.
        one: Its file.
        placement: How large its tiles are.
        slide: What the table says of it.
        count: Tiles the store has of it, -1 for none yet.

    Raises:
        SlideError: The file holds values that cannot be stored, or other tiles than the store.
    """
    with one.read() as content:
        corners = level0(np.asarray(content.coords), one, placement)  # (n, 2)
        order = None
        if count != NOT_DONE:
            _same_edge(arrays.edge_um / slide.mpp, placement.edge_px)
            order = _order_of(arrays.coords[row, : max(0, count)], corners)
        elif len(corners):
            arrays.coords[row, : len(corners)] = corners
            if content.tissue is not None:
                arrays.tissue[row, : len(corners)] = np.clip(content.tissue, 0, 1)
        capacity = arrays.vectors.shape[1]
        for start in range(0, one.tiles, TILES_AT_ONCE):
            stop = min(start + TILES_AT_ONCE, one.tiles)
            block = content.vectors(start, stop) if order is None else _picked(content.vectors, order[start:stop])
            whole = min(capacity, start + -(-(stop - start) // FEATURE_TILES_PER_CHUNK) * FEATURE_TILES_PER_CHUNK)
            padded = np.full((whole - start, one.width), np.nan, dtype=np.float16)
            padded[: stop - start] = as_float16(block, one.width)
            arrays.vectors[row, start:whole] = padded
    if count == NOT_DONE:
        arrays.count[row] = one.tiles
    arrays.done[row] = one.tiles


def _same_edge(stored_px: float, edge_px: float) -> None:
    if abs(stored_px - edge_px) > max(SLACK_PX, 0.01 * stored_px):
        raise SlideError(
            f"its tiles measure {edge_px:g} level-0 pixels; those in the store {stored_px:g}",
            "import them into a store of their own",
        )


def _order_of(stored: NDArray[np.int32], corners: NDArray[np.int32]) -> NDArray[np.int64] | None:
    """Which tile of the file each tile of the store is, None where they come in the same order."""
    if np.array_equal(stored, corners):
        return None
    if stored.shape == corners.shape:
        mine, theirs = np.lexsort(stored.T), np.lexsort(corners.T)
        if np.array_equal(stored[mine], corners[theirs]):
            order = np.empty(len(mine), dtype=np.int64)
            order[mine] = theirs
            return order
    raise SlideError(
        f"it has {len(corners)} tiles, which are not the {len(stored)} tiles that the store has of this slide",
        "features of other tiles go into a store of their own",
    )


def _picked(vectors: Any, order: NDArray[np.int64]) -> NDArray[Any]:
    """Rows in another order than the file's, which is read from its first to its last row of them."""
    first, last = int(order.min()), int(order.max()) + 1
    return np.asarray(vectors(first, last)[order - first])


def as_float16(block: NDArray[Any], width: int) -> NDArray[np.float16]:
    """Vectors as the format keeps them.

    Raises:
        SlideError: A value is not a number, or does not fit.
    """
    if block.ndim != 2 or block.shape[1] != width:
        raise SlideError(f"a vector has {block.shape[-1]} values; expected {width}")
    with np.errstate(over="ignore"):
        half = block.astype(np.float16)
    wrong = ~np.isfinite(half)
    if wrong.any():
        value = float(block[wrong].ravel()[0])
        if not np.isfinite(value):
            raise SlideError(f"{wrong.sum()} of its values are not numbers")
        raise SlideError(f"{wrong.sum()} of its values do not fit float16, whose largest is {LARGEST:g}: {value:g}")
    return half


def write_vectors(
    store: Store, target: Target, vectors: Mapping[str, NDArray[Any]], *, width: int, redo: bool
) -> tuple[int, dict[str, str]]:
    """Write one vector per slide; how many, and why others could not be."""
    target.begin(store, (store.registered, width), redo=redo)
    held, done = store.array(f"{target.path}/vectors"), store.array(f"{target.path}/done")
    mark, index, failures = done[:], store.slides.index, {}
    rows, values = [], []
    for slide, vector in vectors.items():
        if not np.isfinite(vector).all():
            failures[slide] = "its vector holds values that are not numbers"
        elif mark[index[slide]] == NOT_DONE:
            rows.append(index[slide])
            values.append(vector)
    if rows:
        order = np.argsort(rows)
        held.oindex[np.array(rows)[order]] = np.stack(values).astype(np.float32)[order]
        done.oindex[np.array(rows)[order]] = 1
    return len(rows), failures
