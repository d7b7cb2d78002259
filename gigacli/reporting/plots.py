"""Figures: each draws into matplotlib axes and returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.scores import roc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from gigacli.probing.attribution import Pull
    from gigacli.probing.results import Judged, ProbeRow
    from gigacli.store.store import Store
    from gigacli.wsi.overlay import Thumbnail

DPI = 200
THUMBNAIL_PX = 1024
"""The longer side of a slide under its tiles."""

MOST_COLOURS = 8
"""Groups that get a colour of their own: more cannot be told apart. The others are grey."""

_GRID = np.linspace(0, 1, 201)
_ASIDE = 1.015
"""Factor between neighbouring lines of a learning curve along the number of labels."""
_APART = 1.15
"""Least factor between two numbers under its axis."""
_ACROSS = 3
"""Panels side by side."""


def learning_curve(rows: Sequence[ProbeRow], axes: Axes, *, difference: bool = False) -> Axes:
    """AUC over the number of training labels, a line per embedding and method (paper, figure 2).

    Args:
        rows: Of one target.
        axes: To draw into.
        difference: Draw how far the AUC is above the baseline instead, with its paired 95 % interval; else the bars
            are standard deviations over the splits.
    """
    lines: dict[str, list[ProbeRow]] = {}
    for row in rows:
        lines.setdefault(f"{row.embedding}, {row.judge}", []).append(row)
    for i, (name, line) in enumerate(lines.items()):
        points = sorted((r for r in line if not difference or r.difference is not None), key=lambda row: row.n_train)
        if not points:  # the baseline itself: it keeps its colour for the other panel
            continue
        aside = _ASIDE ** (i - (len(lines) - 1) / 2)  # so that bars of one budget stand side by side
        x = [row.n_train * aside for row in points]
        if difference:
            y = np.array([row.difference for row in points], dtype=float)
            ends = np.array([(row.difference_low, row.difference_high) for row in points], dtype=float).T  # (2, points)
            reach = np.abs(ends - y)
        else:
            y = np.array([row.auc_mean for row in points])
            reach = np.array([[row.auc_std or 0.0 for row in points]] * 2)
        style: dict[str, Any] = {
            "color": f"C{i}",
            "marker": "o",
            "markersize": 3,
            "capsize": 2,
            "linewidth": 1,
            "elinewidth": 0.7,
        }
        axes.errorbar(x, y, yerr=np.nan_to_num(reach), label=name, **style)
    if difference:
        baselines = " / ".join(dict.fromkeys(row.baseline for row in rows if row.baseline))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(f"AUC above {baselines}")
        axes.set_xlabel("training labels (bars: 95 % interval)")
    else:
        axes.set_ylabel("AUC")
        axes.set_xlabel("training labels (bars: standard deviation over splits)")
    ticks: list[int] = []
    for n in sorted({round(row.n_train) for row in rows}):
        ticks += [n] if not ticks or n >= _APART * ticks[-1] else []  # what is too close to be told apart has no label
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[str(n) for n in ticks])
    axes.minorticks_off()
    if axes.containers:
        axes.legend(fontsize=6)
    return axes


def roc_curves(judged: Sequence[Judged], axes: Axes) -> Axes:
    """Mean ROC curve over the splits, a line per embedding and method; for many classes the mean over them.

    Args:
        judged: Of one target and one budget.
        axes: To draw into.
    """
    for one in judged:
        curves = []
        place = {name: i for i, name in enumerate(one.score.classes)}
        for split, fold in zip(one.splits, one.score.folds, strict=True):
            truth = np.array([place[str(name)] for name in one.units.label[split.test]])
            curves += list(_curves(truth, fold.probabilities))
        mean = np.mean(curves, axis=0)  # (points,)
        axes.plot(_GRID, mean, linewidth=1, label=f"{one.name}: {one.score.auc_mean:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.6, linestyle=":")
    axes.set_aspect("equal")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.legend(fontsize=6, title="mean AUC", title_fontsize=6, loc="lower right")
    return axes


def _curves(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Iterable[NDArray[np.float64]]:
    classes = probabilities.shape[1]
    for c in [1] if classes == 2 else range(classes):
        false, true = roc(truth == c, probabilities[:, c])
        yield np.where(_GRID > 0, np.interp(_GRID, false, true), 0.0)


def tile_counts(store: Store, axes: Axes) -> Axes:
    """How many slides have how many tiles."""
    from gigacli.store.chunks import read_column

    counts = read_column(store.array("tiles/count"))
    counts = counts[counts >= 0]
    axes.hist(counts, bins=min(40, max(5, round(2 * len(counts) ** 0.5))), rwidth=0.92)
    axes.set_xlabel("tiles of a slide")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("slides")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def training_curve(store: Store, path: str, axes: Axes) -> Axes:
    """Loss over epochs, with the loss of a network that tells nothing from nothing.

    Args:
        store: The cohort store.
        path: ``encoders/NAME`` or ``models/NAME``.
        axes: To draw into.
    """
    from gigacli.store.trained import Trained

    trained = Trained(store, path)
    loss = trained.history("loss")
    epochs = np.arange(1, len(loss) + 1)
    axes.plot(epochs, loss, linewidth=1.2, label="loss", marker="o" if len(loss) < 4 else "", markersize=3)
    if f"{path}/history/chance" in store.root:
        chance = trained.history("chance")
        axes.plot(epochs, chance, linewidth=1, linestyle="--", color="grey", label="chance", marker="")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7)
    return axes


def vector_map(store: Store, embedding: str, axes: Axes, *, colour: Sequence[str] = (), method: str = "pca") -> Axes:
    """The slides of an embedding as points.

    Args:
        store: The cohort store.
        embedding: Its name.
        axes: To draw into.
        colour: A label, lab or patient per slide of the store; the most frequent ones get a colour.
        method: "pca", or "t-sne" for a neighbour embedding.
    """
    from gigacli.reporting.neighbours import neighbour_map, pca

    have = store.array(f"embeddings/{embedding}/done")[:] > 0
    vectors = store.array(f"embeddings/{embedding}/vectors")[:][have]
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
    return axes


def tiles(store: Store, slide: str, axes: Axes, *, pull: Pull | None = None) -> Axes:
    """The tiles of a slide on its thumbnail.

    Args:
        store: The cohort store.
        slide: Its id.
        axes: To draw into.
        pull: Colours the tiles by what they do to the score of a class; those within the noise stay empty.

    Raises:
        NotFound: There is no such slide, or it has not been tiled.
        SlideError: The slide file is gone or cannot be read.
    """
    from gigacli.store.bank import tile_grid_of
    from gigacli.wsi.overlay import thumbnail

    row = store.slides.index.get(slide)
    if row is None:
        raise NotFound(f"{store.url} holds no slide {slide!r}", f"it has: {', '.join(store.slides.ids[:3])}, ...")
    coords, edge_px = tile_grid_of(store, row)
    small = thumbnail(store.slides[row].path, mpp=store.slides[row].mpp, long_px=THUMBNAIL_PX)
    return tile_squares(coords, edge_px, axes, small=small, pull=pull)


def tile_squares(
    coords: NDArray[np.int32], edge_px: float, axes: Axes, *, small: Thumbnail | None, pull: Pull | None = None
) -> Axes:
    """Tiles as squares in level-0 pixels, over the slide where there is a picture of it.

    Args:
        coords: (n, 2), level-0 x and y of the tiles' top-left corners.
        edge_px: Edge of a tile in level-0 pixels.
        axes: To draw into.
        small: The slide.
        pull: As for :func:`tiles`.
    """
    from matplotlib.collections import PolyCollection

    corners = coords[:, None, :] + edge_px * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # (n, 4, 2)
    if small is not None:
        (left, top), (height, width) = small.origin_px, small.pixels.shape[:2]
        extent = (left, left + width / small.scale, top + height / small.scale, top)
        axes.imshow(small.pixels, extent=extent, interpolation="bilinear")
    squares = PolyCollection(list(corners), facecolors="none", edgecolors=(0.1, 0.1, 0.35, 0.35), linewidths=0.3)
    if pull is not None:
        axes.add_collection(squares)
        most = float(np.quantile(np.abs(pull.value[pull.significant]), 0.98)) if pull.significant.any() else 1.0
        squares = PolyCollection(list(corners[pull.significant]), cmap="PuOr_r", alpha=0.75, linewidths=0)
        squares.set_array(pull.value[pull.significant])
        squares.set_clim(-most, most)
    axes.add_collection(squares)
    if small is None:
        axes.autoscale()
        axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_axis_off()
    return axes


def write_probe(folder: Path, rows: Sequence[ProbeRow], judged: Sequence[Judged]) -> list[str]:
    """Write learning-curve.png and roc.png of every target; with several, their names end in the target's."""
    targets = list(dict.fromkeys(row.target for row in rows))
    files = []
    for target in targets:
        mine = [row for row in rows if row.target == target]
        ending = f"-{''.join(c if c.isalnum() else '_' for c in target)}" if len(targets) > 1 else ""
        compared = any(row.difference is not None for row in mine)
        figure = Figure(figsize=(4.5 * (1 + compared), 3.5), layout="constrained")
        for i in range(1 + compared):
            learning_curve(mine, figure.add_subplot(1, 1 + compared, i + 1, title=target), difference=i == 1)
        files.append(save(figure, folder / f"learning-curve{ending}.png"))
        budgets = list(dict.fromkeys(row.budget for row in sorted(mine, key=lambda row: row.n_train)))
        across, down = min(len(budgets), _ACROSS), -(-len(budgets) // _ACROSS)
        figure = Figure(figsize=(3.7 * across, 4.0 * down), layout="constrained")
        for i, budget in enumerate(budgets):
            panel = figure.add_subplot(down, across, i + 1, title=f"{target}, {_labels(budget)}")
            roc_curves([one for one in judged if (one.target, one.budget) == (target, budget)], panel)
        files.append(save(figure, folder / f"roc{ending}.png"))
    return files


def _labels(budget: str) -> str:
    """A budget in words: "all labels", "25 % of the labels", "50 labels"."""
    return f"{budget} of the labels" if budget.endswith("%") else f"{budget} labels"


def save(figure: Figure, path: Path) -> str:
    """Write a figure as PNG; its path."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return str(path)
