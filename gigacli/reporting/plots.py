"""Figures of a store: ``giga.plots``. Each draws into matplotlib axes, or a figure of its own, and returns the figure.

A notebook shows what a cell ends with, a figure too::

    giga.plots.vector_map(store, "giga", colour=labels)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.attribution import TileAttribution
from gigacli.probing.figures import Figure
from gigacli.store.groups import TrainedGroup
from gigacli.store.store import Store
from gigacli.wsi.overlay import Thumbnail

THUMBNAIL_PX = 1024  # the longer side of a slide under its tiles
MOST_COLOURS = 8  # groups that get a colour of their own: more cannot be told apart. The others are grey


def tile_counts(counts: NDArray[np.integer], axes: Axes | None = None) -> FigureBase:
    """How many slides have how many tiles, from tiles per slide (slides,), negative where not known."""
    axes, counts = _or_new(axes), counts[counts >= 0]
    axes.hist(counts, bins=min(40, max(5, round(2 * len(counts) ** 0.5))), rwidth=0.92)
    axes.set_xlabel("tiles of a slide")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("slides")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return axes.figure


def training_curve(trained: TrainedGroup, axes: Axes | None = None) -> FigureBase:
    """Loss of an encoder or a model over epochs, beside the loss of a network that has learnt nothing.

    Raises:
        NotFound: It has no history.
    """
    loss, chance = trained.history("loss"), trained.history("chance")
    if loss is None:
        raise NotFound(f"{trained.path} of {trained.store.url} has no history", "only what was trained in it has one")
    axes, epochs = _or_new(axes), np.arange(1, len(loss) + 1)
    axes.plot(epochs, loss, linewidth=1.2, label="loss", marker="o" if len(loss) < 4 else "", markersize=3)
    if chance is not None:
        axes.plot(epochs, chance, linewidth=1, linestyle="--", color="grey", label="chance", marker="")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(fontsize=7)
    return axes.figure


def vector_map(
    store: Store, embedding: str, axes: Axes | None = None, *, colour: Sequence[str] = (), method: str = "pca"
) -> FigureBase:
    """The slides of an embedding as points.

    Args:
        store: The cohort store.
        embedding: Its name.
        axes: To draw into; None: a figure of its own.
        colour: A label, lab or patient per slide of the store; the most frequent ones get a colour.
        method: "pca", or "t-sne" for a neighbour embedding.
    """
    from gigacli.reporting.neighbours import neighbour_map, pca

    axes, have = _or_new(axes, size=(4.6, 3.6)), store.embedding(embedding).done().filled
    vectors = store.embedding(embedding).read()[have]
    if method not in ("pca", "t-sne"):
        raise InvalidInput(f"method is {method!r}; it must be pca or t-sne")
    places, share = pca(vectors)
    if method == "t-sne":
        found = neighbour_map(vectors)
        if found is None:
            raise InvalidInput(f"{len(vectors)} slides are too few for t-SNE", "draw their principal components: pca")
        places = found
    values = np.asarray(colour, dtype=object)[have] if len(colour) else np.full(len(vectors), "")
    names, times = np.unique(values.astype(str), return_counts=True)
    shown = [str(name) for name in names[np.argsort(-times, kind="stable")] if name][:MOST_COLOURS]
    rest = ~np.isin(values.astype(str), shown)
    x, y = places.T
    axes.scatter(x[rest], y[rest], s=12, color="grey", alpha=0.6, label="others" if shown and rest.any() else None)
    for name in shown:
        mine = values.astype(str) == name
        axes.scatter(x[mine], y[mine], s=12, label=name)
    if method == "pca":
        axes.set_xlabel(f"component 1 ({100 * share[0]:.0f} % of the variance)")
        axes.set_ylabel(f"component 2 ({100 * share[1]:.0f} %)")
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if shown:
        axes.legend(fontsize=7)
    return axes.figure


def tiles(
    store: Store, slide: str, axes: Axes | None = None, *, attribution: TileAttribution | None = None
) -> FigureBase:
    """The tiles of a slide on its thumbnail.

    Args:
        store: The cohort store.
        slide: Its id.
        axes: To draw into; None: a figure of its own.
        attribution: Colours the tiles by how far they pull the score of a class; those within the noise stay empty.

    Raises:
        NotFound: There is no such slide, or it has not been tiled.
        SlideError: The slide file is gone or cannot be read.
    """
    from gigacli.wsi.overlay import thumbnail

    row = store.slides.index.get(slide)
    if row is None:
        raise NotFound(f"{store.url} holds no slide {slide!r}", f"it has: {', '.join(store.slides.ids[:3])}, ...")
    coords, edge_px = store.tiles.grid(row)
    small = thumbnail(store.slides[row].path, mpp=store.slides[row].mpp, long_px=THUMBNAIL_PX)
    high, wide = small.pixels.shape[:2]
    axes = _or_new(axes, size=(4.6 * min(1.0, wide / high), 4.6 * min(1.0, high / wide)))
    tile_squares(coords, edge_px, axes, small=small, attribution=attribution)
    return axes.figure


def tile_squares(
    coords: NDArray[np.int32],
    edge_px: float,
    axes: Axes,
    *,
    small: Thumbnail | None,
    attribution: TileAttribution | None = None,
) -> None:
    """Tiles as squares in level-0 pixels, over the slide where there is a picture of it.

    Args:
        coords: (n, 2), level-0 x and y of the tiles' top-left corners.
        edge_px: Edge of a tile in level-0 pixels.
        axes: To draw into.
        small: The slide.
        attribution: As for :func:`tiles`.
    """
    from matplotlib.collections import PolyCollection

    corners = coords[:, None, :] + edge_px * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # (n, 4, 2)
    if small is not None:
        (left, top), (height, width) = small.origin_px, small.pixels.shape[:2]
        extent = (left, left + width / small.scale, top + height / small.scale, top)
        axes.imshow(small.pixels, extent=extent, interpolation="bilinear")
    squares = PolyCollection(list(corners), facecolors="none", edgecolors=(0.1, 0.1, 0.35, 0.35), linewidths=0.3)
    if attribution is not None:
        axes.add_collection(squares)
        values = attribution.value[attribution.significant]
        most = float(np.quantile(np.abs(values), 0.98)) if len(values) else 1.0
        squares = PolyCollection(list(corners[attribution.significant]), cmap="PuOr_r", alpha=0.75, linewidths=0)
        squares.set_array(values)
        squares.set_clim(-most, most)
    axes.add_collection(squares)
    if small is None:
        axes.autoscale()
        axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_axis_off()


def _or_new(axes: Axes | None, *, size: tuple[float, float] = (4.2, 2.5)) -> Axes:
    """Axes, or those of a new figure of this size in inches."""
    return Figure(figsize=size, layout="constrained").add_subplot() if axes is None else axes
